//! Segments of the peer, which use the primary guest's numbers.

use super::{
    FlowContext, FlowEntry, FlowSegment, FlowStep, FlowVerdict, PASS, begin, known, settle,
    settle_identity, state, translation_of,
};
use crate::decode::flag;
use crate::record::FlowRecord;
use crate::rewrite::Translation;

/// No entry. Unless it is an opening, the segment belongs to a connection that is older than
/// protection, in which both guests count alike.
#[inline(always)]
pub(super) fn unknown(
    now: &FlowContext,
    segment: &FlowSegment,
    record: &mut FlowRecord,
) -> FlowStep {
    if now.failed_over || !segment.is_opening() {
        return PASS;
    }
    if segment.is_syn() {
        begin(record, now, state::OPENING_PASSIVE);
        record.peer_isn = segment.seq;
        record.peer_early = segment.payload_len;
        record.known = known::PEER;
        return FlowStep::open(FlowVerdict::Pass);
    }
    // The primary guest was faster: the peer answers a SYN that this guest has not sent yet.
    begin(record, now, state::OPENING_ACTIVE);
    put_wire(record, segment);
    FlowStep::open(FlowVerdict::Park)
}

/// The connection is in the middle of its opening.
#[inline(always)]
pub(super) fn opening(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    record: &mut FlowRecord,
) -> FlowStep {
    entry.rebase(now.epoch);
    if entry.state() == state::OPENING_PASSIVE {
        if segment.is_syn() {
            return syn_again(segment, entry);
        }
        if !follows_syn(segment, entry) {
            return stray(now, segment, entry);
        }
        if segment.is_rst() {
            entry.set_state(state::CLOSED);
        }
        if segment.is_rst() || !segment.has(flag::ACK) {
            return PASS;
        }
    } else if !(segment.has(flag::ACK) && (segment.is_syn_ack() || segment.is_rst())) {
        if segment.is_rst() {
            entry.set_state(state::CLOSED);
        }
        return PASS;
    }
    learn_wire(segment, entry);
    entry.copy_to(record);
    if record.known & known::GUEST != 0 {
        settle(record);
    } else if record.known & known::IDENTITY != 0 {
        settle_identity(record, now.epoch);
    } else {
        return FlowStep::keep(unanswered(now));
    }
    if segment.is_rst() {
        record.state = state::CLOSED;
    }
    let step = FlowStep::establish(translation_of(record));
    if record.known & known::PARKED != 0 { step.releasing() } else { step }
}

/// A SYN for a tuple that already has one: a repetition, or a new attempt. The guest's answer shows
/// which one it has taken.
#[inline(always)]
fn syn_again(segment: &FlowSegment, entry: &FlowEntry<'_>) -> FlowStep {
    let known = entry.known();
    if known & known::GUEST == 0 && entry.peer_isn() != segment.seq {
        entry.set_known(known & !(known::WIRE | known::WIRE_TS));
        learn_peer(segment, entry);
    }
    PASS
}

/// RFC 9293, section 3.10.7.4: the segment is the first one behind the peer's SYN, if that SYN is
/// known. A forger who is not on the path does not know its number.
#[inline(always)]
fn follows_syn(segment: &FlowSegment, entry: &FlowEntry<'_>) -> bool {
    let behind = segment.seq.wrapping_sub(entry.peer_isn()).wrapping_sub(1);
    entry.known() & known::PEER == 0 || behind <= entry.peer_early()
}

/// A forged segment, or one that has overtaken the first one. It reveals no offset, and is parked
/// until another segment does.
#[inline(always)]
fn stray(now: &FlowContext, segment: &FlowSegment, entry: &FlowEntry<'_>) -> FlowStep {
    if segment.is_rst() || !segment.has(flag::ACK) {
        return PASS;
    }
    entry.add_known(known::PARKED);
    FlowStep::keep(unanswered(now))
}

#[inline(always)]
fn learn_peer(segment: &FlowSegment, entry: &FlowEntry<'_>) {
    entry.set_peer_isn(segment.seq);
    entry.set_peer_early(segment.payload_len);
    entry.add_known(known::PEER);
}

/// The connection is or was established, or was closed while it was opened.
#[inline(always)]
pub(super) fn established(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    record: &mut FlowRecord,
) -> FlowStep {
    let is = entry.state();
    let over = is == state::CLOSED || is == state::RESET;
    let translation = entry.translation(now.epoch);
    if segment.is_syn() {
        let repeated = entry.is_claimed() && entry.peer_isn() == segment.seq;
        let anew = over && !now.failed_over && !repeated;
        return if anew { again(now, segment, entry, record) } else { PASS };
    }
    if is == state::REOPENING || is == state::RESET && claims(now, segment, entry) {
        return reopening(now, segment, entry, translation);
    }
    if over && !now.failed_over && segment.is_syn_ack() && is_another(segment, entry) {
        return again(now, segment, entry, record);
    }
    if segment.is_rst() {
        if !over {
            // From here on, these bits belong to a SYN behind the reset.
            entry.set_known(entry.known() & !(known::PEER | known::PARKED));
            entry.set_state(state::RESET);
        }
    } else if segment.has(flag::FIN) {
        if is == state::ESTABLISHED {
            entry.set_state(state::FIN_PEER);
        } else if is == state::FIN_GUEST {
            entry.set_state(state::CLOSED);
        }
    }
    FlowStep::keep(FlowVerdict::Translate(translation))
}

/// A SYN or SYN/ACK for the tuple of a connection that is over. The old translation stays until the
/// guest takes the new connection: it may be in `TIME_WAIT` and refuse it.
#[inline(always)]
fn again(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    record: &mut FlowRecord,
) -> FlowStep {
    if entry.known() & known::OFFSET == 0 {
        return unknown(now, segment, record);
    }
    entry.rebase(now.epoch);
    entry.set_known(entry.known() & !(known::WIRE | known::WIRE_TS | known::PEER | known::PARKED));
    // The peer's reset may be forged, and so may this SYN. A segment that does not follow it is
    // handled as before, and the guest's answer decides.
    if segment.is_syn_ack() || entry.state() != state::RESET {
        entry.set_state(state::REOPENING);
    }
    if segment.is_syn_ack() {
        learn_wire(segment, entry);
        return FlowStep::keep(FlowVerdict::Park);
    }
    learn_peer(segment, entry);
    PASS
}

/// The peer has sent a reset and then a SYN, and the segment is the first one behind that SYN.
#[inline(always)]
fn claims(now: &FlowContext, segment: &FlowSegment, entry: &FlowEntry<'_>) -> bool {
    let may = !now.failed_over && !segment.is_rst() && !segment.is_syn_ack();
    may && entry.is_claimed() && follows_syn(segment, entry)
}

/// Before the guest has answered, a segment may belong to the old connection or to the new one.
#[inline(always)]
fn reopening(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: &FlowEntry<'_>,
    old: Translation,
) -> FlowStep {
    if segment.is_rst() {
        entry.close_again();
        return FlowStep::keep(FlowVerdict::Translate(old));
    }
    if !segment.has(flag::ACK) {
        return PASS;
    }
    if entry.epoch() != now.epoch {
        // There was a checkpoint since the SYN. A guest has answered the peer, so both guests have
        // the new connection and count alike. This guest need not answer any more.
        learn_wire(segment, entry);
        entry.equalize(now.epoch);
        return PASS;
    }
    if follows_syn(segment, entry) {
        learn_wire(segment, entry);
    } else {
        entry.add_known(known::PARKED);
    }
    FlowStep::keep(unanswered(now))
}

/// The SYN/ACK answers the SYN of another connection.
#[inline(always)]
fn is_another(segment: &FlowSegment, entry: &FlowEntry<'_>) -> bool {
    entry.known() & known::WIRE == 0 || entry.wire_isn() != segment.ack.wrapping_sub(1)
}

/// The guest's number is not known yet. After a failover there may be no daemon that parks a frame,
/// and the peer repeats it.
#[inline(always)]
fn unanswered(now: &FlowContext) -> FlowVerdict {
    if now.failed_over { FlowVerdict::Drop } else { FlowVerdict::Park }
}

/// RFC 9293, section 3.5: the first acknowledgment is the initial sequence number plus one. Later
/// ones acknowledge data and do not count.
#[inline(always)]
fn learn_wire(segment: &FlowSegment, entry: &FlowEntry<'_>) {
    if entry.known() & known::WIRE != 0 {
        return;
    }
    entry.set_wire_isn(segment.ack.wrapping_sub(1));
    let mut bits = known::WIRE;
    if let Some(timestamps) = segment.timestamps {
        entry.set_wire_ts(timestamps.echo);
        bits |= known::WIRE_TS;
    }
    entry.add_known(bits);
}

#[inline(always)]
fn put_wire(record: &mut FlowRecord, segment: &FlowSegment) {
    record.wire_isn = segment.ack.wrapping_sub(1);
    record.known |= known::WIRE;
    if let Some(timestamps) = segment.timestamps {
        record.wire_ts = timestamps.echo;
        record.known |= known::WIRE_TS;
    }
}
