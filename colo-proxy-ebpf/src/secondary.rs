//! The guest's TAP on the secondary host.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use colo_proxy_common::record::mode;
use colo_proxy_common::segment::Direction;

use crate::access::SkBuff;
use crate::lane::{epoch_of, route_out};
use crate::maps::{count, settings};
use crate::translate::{TranslationFate, translate};
use crate::verdict::{DROP, NEXT, send_out};

/// Ingress of the input gate: mirrored input goes to the guest, by way of [`colo_to_guest`].
#[classifier]
pub fn colo_input(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    SkBuff::new(&ctx).set_mark(settings.mark);
    send_out(settings.netdev_ifindex)
}

/// Egress of the guest's TAP.
#[classifier]
pub fn colo_to_guest(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let mut frame = SkBuff::new(&ctx);
    let ours = frame.mark() == settings.mark;
    if settings.mode == mode::OFF {
        count(|c| &mut c.passed);
        return NEXT;
    }
    if settings.mode == mode::PROTECTED && !ours {
        count(|c| &mut c.dropped_lan_input);
        return DROP;
    }
    match translate(
        &mut frame,
        settings.epoch,
        settings.mode == mode::FAILED_OVER,
        Direction::ToGuest,
    ) {
        TranslationFate::Go => NEXT,
        TranslationFate::Park => {
            count(|c| &mut c.input_to_daemon);
            frame.set_mark(settings.mark);
            send_out(settings.input_gate_ifindex)
        }
        TranslationFate::Drop => DROP,
    }
}

/// Ingress of the guest's TAP.
#[classifier]
pub fn colo_from_guest(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let mut frame = SkBuff::new(&ctx);
    if frame.mark() == settings.mark {
        frame.set_mark(0);
        count(|c| &mut c.released);
        return NEXT;
    }
    if settings.mode == mode::OFF {
        count(|c| &mut c.passed);
        return NEXT;
    }
    let epoch = epoch_of(settings);
    match translate(&mut frame, epoch, settings.mode == mode::FAILED_OVER, Direction::FromGuest) {
        TranslationFate::Go if settings.mode == mode::PROTECTED => {
            count(|c| &mut c.captured);
            let route = route_out(&frame, settings, epoch, settings.output_gate_ifindex);
            frame.set_mark(route.mark);
            send_out(route.ifindex)
        }
        TranslationFate::Go => NEXT,
        // Only frames towards the guest are parked.
        TranslationFate::Park | TranslationFate::Drop => DROP,
    }
}
