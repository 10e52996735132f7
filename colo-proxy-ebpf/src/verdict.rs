//! The answers of a TC program.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::bpf_redirect;

/// `TCX_NEXT`: on to the host's other programs, and the clsact filters behind them.
pub const NEXT: i32 = -1;
pub const DROP: i32 = TC_ACT_SHOT;

/// Sends the frame out of the interface `ifindex`.
#[inline(always)]
pub fn send_out(ifindex: u32) -> i32 {
    // SAFETY: a helper without memory arguments. An unknown interface drops the frame.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Lets the frame arrive at the interface `ifindex`.
#[inline(always)]
pub fn let_arrive(ifindex: u32) -> i32 {
    // SAFETY: see above.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}
