//! The gates: the daemon's TAPs, by which frames leave the kernel and come back.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::access::SkBuff;
use crate::maps::{count, settings};
use crate::verdict::{DROP, NEXT, let_arrive};

/// Ingress of the output gate: a frame that the daemon writes arrives at the guest's TAP as if the
/// guest had just sent it. So it is an ordinary frame to bridge, VLAN filter and firewall.
#[classifier]
pub fn colo_release(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    SkBuff::new(&ctx).set_mark(settings.mark);
    let_arrive(settings.netdev_ifindex)
}

/// Egress of each gate: the host itself sends frames without our mark (IPv6 neighbour discovery,
/// LLDP). They are not for the daemon.
#[classifier]
pub fn colo_gate_guard(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    if SkBuff::new(&ctx).mark() == settings.mark {
        return NEXT;
    }
    count(|c| &mut c.dropped_foreign);
    DROP
}
