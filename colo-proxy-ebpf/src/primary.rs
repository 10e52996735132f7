//! The guest's TAP on the primary host.
//!
//! The network uses this guest's numbers. A guest that has survived an earlier pair is the exception:
//! it was the secondary there, and its connections from that time stay translated.

use aya_ebpf::helpers::bpf_clone_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use colo_proxy_common::record::{Settings, mode};
use colo_proxy_common::segment::Direction;

use crate::access::SkBuff;
use crate::lane::route_out;
use crate::maps::{count, settings};
use crate::translate::{TranslationFate, translate};
use crate::verdict::{DROP, NEXT, send_out};

/// Egress: a frame for the guest is copied to the input gate or into the tunnel, for the secondary. The
/// copy is as the network sent it.
#[classifier]
pub fn colo_mirror(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let mut frame = SkBuff::new(&ctx);
    if settings.mode == mode::PROTECTED {
        let mark = frame.mark();
        let route = route_out(&frame, settings, settings.epoch, settings.input_gate_ifindex);
        frame.set_mark(route.mark);
        // SAFETY: a helper on the program's own frame.
        let failed = unsafe { bpf_clone_redirect(ctx.skb.skb, route.ifindex, 0) };
        frame.set_mark(mark);
        if failed == 0 {
            count(|c| &mut c.mirrored);
        } else {
            count(|c| &mut c.mirror_failed);
        }
    } else {
        count(|c| &mut c.passed);
    }
    if goes_on(&mut frame, settings, Direction::ToGuest) { NEXT } else { DROP }
}

/// Ingress: the guest's output goes to the output gate. The daemon decides when it leaves.
#[classifier]
pub fn colo_capture(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let mut frame = SkBuff::new(&ctx);
    if frame.mark() == settings.mark {
        frame.set_mark(0);
        count(|c| &mut c.released);
        return NEXT;
    }
    if !goes_on(&mut frame, settings, Direction::FromGuest) {
        return DROP;
    }
    if settings.mode != mode::PROTECTED {
        count(|c| &mut c.passed);
        return NEXT;
    }
    frame.set_mark(settings.mark);
    count(|c| &mut c.captured);
    send_out(settings.output_gate_ifindex)
}

/// Translates a frame of a connection that an earlier pair has translated.
#[inline(always)]
fn goes_on(frame: &mut SkBuff, settings: &Settings, direction: Direction) -> bool {
    // No frame is parked here: the peer knows the numbers of this very guest.
    settings.translates == 0
        || matches!(translate(frame, settings.epoch, true, direction), TranslationFate::Go)
}
