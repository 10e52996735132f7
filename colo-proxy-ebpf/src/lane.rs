//! The kernel lane: the tunnel to the other host, in which frames go past the daemons.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use colo_proxy_common::decode::{decode, decode_tcp, protocol};
use colo_proxy_common::lane;
use colo_proxy_common::record::{Settings, mode};

use crate::access::SkBuff;
use crate::maps::{count, lane_counters, settings};
use crate::speakers;
use crate::verdict::{DROP, NEXT, send_out};

/// RFC 768.
const UDP_HEADER: u32 = 8;

/// The interface and the mark of a frame for the other host.
pub struct FrameRoute {
    pub ifindex: u32,
    pub mark: u32,
}

/// The epoch, read once. The settings are the map itself, and the daemon may change them between two
/// reads.
#[inline(always)]
pub fn epoch_of(settings: &Settings) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(&raw const settings.epoch) }
}

/// The tunnel, if there is one and it takes the frame; otherwise `gate`. The frame was translated by
/// `epoch`. It must never carry a newer one.
#[inline(always)]
pub fn route_out(frame: &SkBuff, settings: &Settings, epoch: u32, gate: u32) -> FrameRoute {
    if settings.lane_ifindex == 0 || !is_taken(frame, settings) {
        return FrameRoute { ifindex: gate, mark: settings.mark };
    }
    let mark = lane::mark(settings.mark, epoch, settings.lane_slot);
    FrameRoute { ifindex: settings.lane_ifindex, mark }
}

/// Egress of the tunnel on the primary: the guest's input.
#[classifier]
pub fn colo_lane_copy(ctx: TcContext) -> i32 {
    send(&ctx, &SkBuff::new(&ctx))
}

/// Egress of the tunnel on the secondary: the guest's output, which the daemon does not see.
#[classifier]
pub fn colo_lane_reply(ctx: TcContext) -> i32 {
    let frame = SkBuff::new(&ctx);
    let verdict = send(&ctx, &frame);
    if verdict == NEXT {
        speakers::look(&frame);
    }
    verdict
}

/// Counts the frames that our programs send. Frames that the host itself sends are not for the other
/// host, and are dropped.
#[inline(always)]
fn send(ctx: &TcContext, frame: &SkBuff) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let mark = frame.mark();
    if !lane::is_ours(mark, settings.mark) {
        count(|c| &mut c.dropped_foreign);
        return DROP;
    }
    if !is_taken(frame, settings) {
        count(|c| &mut c.lane_too_long);
        return DROP;
    }
    let segments = segments(ctx, frame);
    if let Some(counters) = lane_counters()
        && let Some(sent) = counters.sent.get_mut(lane::slot_index(mark))
    {
        *sent = sent.wrapping_add(segments);
    }
    NEXT
}

/// The tunnel takes the frame, whole or in segments. [`route_out`] asks this, and the program at the
/// tunnel asks again: a frame that the tunnel does not take must not count as sent.
#[inline(always)]
fn is_taken(frame: &SkBuff, settings: &Settings) -> bool {
    let (len, size, max) = (frame.wire_len(), frame.gso_size(), settings.lane_frame_max);
    if lane::fits(len, size, max) {
        return true;
    }
    size != 0 && payload(frame).is_some_and(|payload| lane::segment_fits(len, size, payload, max))
}

/// Ingress of the tunnel on the primary: the secondary's output, for the daemon.
#[classifier]
pub fn colo_lane_back(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let frame = SkBuff::new(&ctx);
    let Some(tag) = received(&ctx, &frame, settings) else { return DROP };
    if settings.mode != mode::PROTECTED {
        count(|c| &mut c.lane_ignored);
        return DROP;
    }
    if lane::is_stale(tag, settings.lane_epoch) {
        count(|c| &mut c.lane_stale);
        return DROP;
    }
    frame.set_mark(settings.mark);
    let [even, odd] = settings.return_gate_ifindex;
    send_out(if lane::parity(tag) == 0 { even } else { odd })
}

/// Ingress of the tunnel on the secondary: the primary's input, which goes to the guest by way of
/// [`crate::secondary::colo_to_guest`]. While the guest is stopped, its next state is not known, and
/// the input goes to the daemon.
#[classifier]
pub fn colo_lane_input(ctx: TcContext) -> i32 {
    let Some(settings) = settings() else { return DROP };
    let frame = SkBuff::new(&ctx);
    if received(&ctx, &frame, settings).is_none() {
        return DROP;
    }
    if settings.mode != mode::PROTECTED {
        count(|c| &mut c.lane_ignored);
        return DROP;
    }
    frame.set_mark(settings.mark);
    if settings.lane_input_to_gate != 0 {
        count(|c| &mut c.input_to_daemon);
        return send_out(settings.input_gate_ifindex);
    }
    send_out(settings.netdev_ifindex)
}

/// Counts a frame that came, and returns its tag; `None` if it is too late for its slot.
#[inline(always)]
fn received(ctx: &TcContext, frame: &SkBuff, settings: &Settings) -> Option<u32> {
    let tag = frame.mark();
    if lane::is_late(tag, settings.lane_reported) {
        count(|c| &mut c.lane_late);
        return None;
    }
    let segments = segments(ctx, frame);
    if let Some(counters) = lane_counters()
        && let Some(received) = counters.received.get_mut(lane::slot_index(tag))
    {
        *received = received.wrapping_add(segments);
    }
    Some(tag)
}

/// The number of frames that this is on a wire. On the way, segmentation and GRO change the number of
/// buffers.
#[inline(always)]
fn segments(ctx: &TcContext, frame: &SkBuff) -> u64 {
    // SAFETY: the kernel's context is valid for the run of the program.
    let (segments, size) = unsafe { ((*ctx.skb.skb).gso_segs, (*ctx.skb.skb).gso_size) };
    if size == 0 {
        return 1;
    }
    if segments != 0 {
        return u64::from(segments);
    }
    // The kernel has not counted the segments of a guest's frame yet. It will count as here.
    payload(frame).map_or(1, |payload| u64::from(payload.div_ceil(size)).max(1))
}

/// Bytes of payload that segmentation divides.
#[inline(always)]
fn payload(frame: &SkBuff) -> Option<u32> {
    let ip = decode(frame, frame.outer_tag()).ok()?.ip?;
    if ip.protocol == protocol::TCP {
        return Some(decode_tcp(frame, &ip).ok()?.payload_len);
    }
    Some(ip.end.saturating_sub(ip.payload_at).saturating_sub(UDP_HEADER))
}
