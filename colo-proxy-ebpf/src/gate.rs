//! The gates: TAPs of the daemon, by which frames leave the kernel and come back.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::access::SkBuff;
use crate::maps::{count, settings};
use crate::verdict::{DROP, NEXT, let_arrive};

/// Ingress of the output gate: what the daemon writes arrives at the guest's TAP as if the guest
/// had just sent it, so that bridge, VLAN filter and firewall see nothing unusual.
#[classifier]
pub fn colo_release(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    SkBuff::new(&ctx).set_mark(settings.mark);
    let_arrive(settings.netdev_ifindex)
}

/// Egress of each gate: what carries no mark was sent by the host itself (IPv6 neighbour
/// discovery, LLDP) and is nothing to the daemon.
#[classifier]
pub fn colo_gate_guard(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    if SkBuff::new(&ctx).mark() == settings.mark {
        return NEXT;
    }
    count(|c| &mut c.dropped_foreign);
    DROP
}
