//! The guest's TAP on the primary host.

use aya_ebpf::helpers::bpf_clone_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use colo_proxy_common::record::mode;

use crate::access::SkBuff;
use crate::maps::{count, settings};
use crate::verdict::{DROP, NEXT, send_out};

/// Egress: what goes to the guest is copied to the input gate, for the secondary.
#[classifier]
pub fn colo_mirror(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    if settings.mode != mode::PROTECTED {
        count(|c| &mut c.passed);
        return NEXT;
    }
    let frame = SkBuff::new(&ctx);
    let mark = frame.mark();
    frame.set_mark(settings.mark);
    // SAFETY: a helper on the program's own frame.
    let failed = unsafe { bpf_clone_redirect(ctx.skb.skb, settings.input_gate_ifindex, 0) };
    frame.set_mark(mark);
    if failed == 0 {
        count(|c| &mut c.mirrored);
    } else {
        count(|c| &mut c.mirror_failed);
    }
    NEXT
}

/// Ingress: what the guest sends goes to the output gate, and the daemon decides when it leaves.
#[classifier]
pub fn colo_capture(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let frame = SkBuff::new(&ctx);
    if frame.mark() == settings.mark {
        frame.set_mark(0);
        count(|c| &mut c.released);
        return NEXT;
    }
    if settings.mode != mode::PROTECTED {
        count(|c| &mut c.passed);
        return NEXT;
    }
    frame.set_mark(settings.mark);
    count(|c| &mut c.captured);
    send_out(settings.output_gate_ifindex)
}
