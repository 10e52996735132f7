//! The rewriter alone on a guest's TAP: it translates what passes, captures nothing, and leaves the
//! rest to the filters around it.
//!
//! Input that came too early goes to the daemon, which writes it to the input gate again. It resumes
//! *at* the rewriter, with its token: the filters before it have seen the frame.

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
    // The rewriter injects nothing here itself.
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
        // Only what goes to the guest is held.
        TranslationFate::Park | TranslationFate::Drop => DROP,
    }
}
