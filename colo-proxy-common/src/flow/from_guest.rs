//! Segments of this guest, which has chosen its own numbers.

use super::{
    FlowContext, FlowEntry, FlowSegment, FlowStep, FlowVerdict, PASS, begin, known, settle,
    settle_identity, state, translation_of,
};
use crate::decode::flag;
use crate::record::FlowRecord;

/// RFC 9293, section 3.1: sixteen bits.
const WINDOW_MAX: u32 = 0xffff;

/// No entry.
#[inline(always)]
pub(super) fn unknown(
    now: &FlowContext,
    segment: &FlowSegment,
    record: &mut FlowRecord,
) -> FlowStep {
    if now.failed_over || segment.is_rst() {
        return PASS;
    }
    if segment.is_opening() {
        opened(now, segment, record);
        return FlowStep::open(FlowVerdict::Pass);
    }
    // Only a guest that has the connection sends this segment, so the connection is older than
    // protection. The entry is there so that a forged SYN of the peer is not taken for its start.
    begin(record, now, state::ESTABLISHED);
    settle_identity(record, now.epoch);
    record.known |= known::CONFIRMED;
    if segment.has(flag::FIN) {
        record.state = state::FIN_GUEST;
    }
    FlowStep::establish(FlowVerdict::Pass)
}

/// The connection is being opened.
#[inline(always)]
pub(super) fn opening(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    record: &mut FlowRecord,
) -> FlowStep {
    entry.rebase(now.epoch);
    if segment.is_opening() {
        return answer(now, segment, entry, record);
    }
    if segment.is_rst() {
        entry.set_state(state::CLOSED);
        return PASS;
    }
    entry.copy_to(record);
    if record.known & known::GUEST != 0 {
        return FlowStep::keep(FlowVerdict::Drop);
    }
    // The guest has not answered this SYN. Its segment belongs to an older connection of the same
    // tuple, and the peer's numbers belong to another one.
    record.known = 0;
    settle_identity(record, now.epoch);
    record.known |= known::CONFIRMED;
    FlowStep::establish(FlowVerdict::Pass).releasing()
}

/// The guest's SYN or SYN/ACK.
#[inline(always)]
fn answer(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    record: &mut FlowRecord,
) -> FlowStep {
    if now.failed_over && entry.known() & known::GUEST != 0 && entry.guest_isn() != segment.seq {
        return FlowStep::forget();
    }
    if segment.is_syn() {
        entry.set_state(state::OPENING_ACTIVE);
    }
    let parked = entry.known() & (known::WIRE | known::PARKED) != 0;
    learn_guest(segment, entry);
    entry.copy_to(record);
    if record.known & known::WIRE == 0 {
        // The parked segment may be the one that follows the SYN that the guest answers here.
        return if parked { PASS.releasing() } else { PASS };
    }
    settle(record);
    FlowStep::establish(translation_of(record)).releasing()
}

/// The connection is or was established, or was closed while it was opened.
#[inline(always)]
pub(super) fn established(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    record: &mut FlowRecord,
) -> FlowStep {
    let translation = FlowVerdict::Translate(entry.translation(now.epoch));
    let is = entry.state();
    if segment.is_opening() {
        return if is_its_own(now, segment, entry) {
            FlowStep::keep(translation)
        } else {
            replace(now, segment, entry, record)
        };
    }
    // RFC 9293, section 3.5.2: a reset that answers a segment without ACK has the number 0, which is
    // no number of this connection.
    let stray = segment.is_rst() && segment.has(flag::ACK) && segment.seq == 0;
    let verdict = if stray { FlowVerdict::Pass } else { translation };
    match is {
        _ if entry.is_claimed() => return still_closed(segment, entry, verdict, record),
        _ if stray => {}
        _ if segment.is_rst() => entry.set_state(state::CLOSED),
        state::RESET => entry.set_state(state::ESTABLISHED),
        state::ESTABLISHED if segment.has(flag::FIN) => entry.set_state(state::FIN_GUEST),
        state::FIN_PEER if segment.has(flag::FIN) => entry.set_state(state::CLOSED),
        _ => {}
    }
    let unconfirmed = entry.known() & (known::OFFSET | known::CONFIRMED) == known::OFFSET;
    if unconfirmed && !segment.is_rst() {
        entry.copy_to(record);
        record.known |= known::CONFIRMED;
        return FlowStep::establish(verdict);
    }
    FlowStep::keep(verdict)
}

/// A SYN or SYN/ACK of the connection that the entry knows, sent again.
#[inline(always)]
fn is_its_own(now: &FlowContext, segment: &FlowSegment, entry: &FlowEntry<'_>) -> bool {
    let known = entry.known();
    if known & known::OFFSET == 0 {
        return false;
    }
    let has_number = known & known::GUEST != 0;
    if has_number && entry.epoch() == now.epoch {
        return entry.guest_isn() == segment.seq;
    }
    if entry.is_claimed() {
        // The peer wants the tuple again, and its acknowledgments since belong to the new connection.
        return false;
    }
    let behind = entry.isn_since_checkpoint().wrapping_sub(segment.seq);
    if has_number {
        return behind == 0;
    }
    // Opened before a checkpoint and answered after it: the peer's first acknowledgment may include
    // data, but no more than a window without scale.
    known & known::WIRE != 0 && behind <= WINDOW_MAX
}

/// The guest uses the tuple for a new connection.
#[inline(always)]
fn replace(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    record: &mut FlowRecord,
) -> FlowStep {
    if now.failed_over {
        return FlowStep::forget();
    }
    opened(now, segment, record);
    let told = entry.known() & (known::WIRE | known::WIRE_TS | known::PARKED);
    let step = FlowStep::open(FlowVerdict::Pass);
    if !entry.is_claimed() || told == 0 {
        return step;
    }
    if told & known::WIRE != 0 && answers_same_syn(segment, entry) {
        record.wire_isn = entry.wire_isn();
        record.wire_ts = entry.wire_ts();
        record.known |= told;
        settle(record);
        return FlowStep::establish(translation_of(record)).releasing();
    }
    step.releasing()
}

/// The guest does not take the new connection. It refuses it, or repeats a segment of the old one.
/// The old one may still be open, if the peer's reset was forged.
#[inline(always)]
fn still_closed(
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    translation: FlowVerdict,
    record: &mut FlowRecord,
) -> FlowStep {
    let parked = entry.known() & (known::WIRE | known::PARKED) != 0;
    let open = entry.state() == state::RESET && !segment.is_rst();
    entry.close_again();
    if open {
        entry.set_state(state::ESTABLISHED);
    }
    if !parked {
        return FlowStep::keep(translation);
    }
    entry.copy_to(record);
    FlowStep::keep(translation).releasing()
}

/// An entry for a connection for which the guest has sent its SYN or SYN/ACK.
#[inline(always)]
fn opened(now: &FlowContext, segment: &FlowSegment, record: &mut FlowRecord) {
    let opening = if segment.is_syn() { state::OPENING_ACTIVE } else { state::OPENING_PASSIVE };
    begin(record, now, opening);
    record.guest_isn = segment.seq;
    record.known = known::GUEST;
    if segment.is_syn_ack() {
        record.peer_isn = segment.ack.wrapping_sub(1);
        record.known |= known::PEER;
    }
    if let Some(timestamps) = segment.timestamps {
        record.guest_ts = timestamps.value;
        record.known |= known::GUEST_TS;
    }
}

/// The last one counts, because the guest repeats its SYN with another timestamp.
#[inline(always)]
fn learn_guest(segment: &FlowSegment, entry: &FlowEntry<'_>) {
    entry.set_guest_isn(segment.seq);
    let mut bits = known::GUEST;
    if segment.is_syn_ack() {
        learn_peer(segment, entry);
        bits |= known::PEER;
    }
    if let Some(timestamps) = segment.timestamps {
        entry.set_guest_ts(timestamps.value);
        bits |= known::GUEST_TS;
    }
    entry.add_known(bits);
}

/// Learns which SYN of the peer the guest has taken. The network's answers to another SYN are void.
#[inline(always)]
fn learn_peer(segment: &FlowSegment, entry: &FlowEntry<'_>) {
    if entry.known() & known::PEER == 0 {
        entry.set_peer_isn(segment.ack.wrapping_sub(1));
        entry.set_peer_early(0);
    } else if !answers_same_syn(segment, entry) {
        entry.set_known(entry.known() & !(known::WIRE | known::WIRE_TS));
        entry.set_peer_isn(segment.ack.wrapping_sub(1));
        entry.set_peer_early(0);
    }
}

/// The segment is no SYN/ACK, or it acknowledges the SYN of the peer that the entry knows. A guest's
/// number for the peer is the same on both sides.
#[inline(always)]
fn answers_same_syn(segment: &FlowSegment, entry: &FlowEntry<'_>) -> bool {
    let ahead = segment.ack.wrapping_sub(entry.peer_isn()).wrapping_sub(1);
    !segment.is_syn_ack() || entry.known() & known::PEER == 0 || ahead <= entry.peer_early()
}
