//! The rewriter alone on a guest's TAP. It translates the frames that pass and captures none. The rest
//! is for the filters around it.
//!
//! Early input goes to the daemon, which parks it and later writes it to the input gate. The frame
//! then resumes *at* the rewriter, with the rewriter's token: the filters before it have seen it.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use colo_proxy_common::filter::is_token;
use colo_proxy_common::record::mode;
use colo_proxy_common::segment::Direction;

use crate::access::SkBuff;
use crate::maps::{count, settings};
use crate::translate::{TranslationFate, translate};
use crate::verdict::{DROP, NEXT, send_out};

/// Egress of the guest's TAP: the network's numbers become the guest's.
#[classifier]
pub fn colo_rewrite_tx(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let mut frame = SkBuff::new(&ctx);
    let mark = frame.mark();
    if mark == settings.mark {
        frame.set_mark(0);
    } else if is_token(mark) {
        return NEXT;
    }
    if settings.mode == mode::OFF {
        count(|c| &mut c.passed);
        return NEXT;
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

/// Ingress of the guest's TAP: the guest's numbers become the network's.
#[classifier]
pub fn colo_rewrite_rx(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let mut frame = SkBuff::new(&ctx);
    // The rewriter itself injects no frames here.
    if is_token(frame.mark()) {
        return NEXT;
    }
    if settings.mode == mode::OFF {
        count(|c| &mut c.passed);
        return NEXT;
    }
    match translate(
        &mut frame,
        settings.epoch,
        settings.mode == mode::FAILED_OVER,
        Direction::FromGuest,
    ) {
        TranslationFate::Go => NEXT,
        // Only frames towards the guest are parked.
        TranslationFate::Park | TranslationFate::Drop => DROP,
    }
}
