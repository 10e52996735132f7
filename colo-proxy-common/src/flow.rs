//! The life of a TCP connection whose numbers are translated on the secondary host.
//!
//! Pure decisions: what happens to a frame, and what becomes of its connection's entry. The kernel
//! programs own the maps, the clock and the frame; the tests drive the same code with plain values.
//!
//! The two guests choose their initial sequence numbers and timestamps each for itself. What the
//! secondary chose is in its own SYN or SYN/ACK; what the primary chose is in the peer's answer,
//! which acknowledges it. The difference is the offset, for as long as the connection lives or
//! until a checkpoint makes both guests equal (a new epoch). Both then count as the network does,
//! offset 0; or, on a connection that an earlier pair translated, as the guest did that survived:
//! its offset of then is the entry's *base*.
//!
//! | | guest's number | network's number |
//! |---|---|---|
//! | peer opens | guest's SYN/ACK | peer's first ACK |
//! | guest opens | guest's SYN | peer's SYN/ACK (or RST/ACK: connection refused) |
//!
//! Either may come first, because the primary may be faster than the secondary or slower. A peer's
//! segment that comes before the guest's own number is held. A guest's segment that needs an
//! offset and has none is dropped; the guest repeats it.
//!
//! The peer can be hostile or forged, so its SYN and its RST disturb no entry of an established
//! connection: it is the guest's answer that decides. And what is to tell the offset of a
//! connection that the peer opens must have the number that follows the SYN, which nobody off the
//! path knows. Even so, whoever opens connections chooses how many entries there are; those in
//! which the guest has not yet said anything of its own are kept apart ([`known::CONFIRMED`]).

mod entry;
mod from_guest;
mod to_guest;

pub use crate::record::{known, state};
pub use entry::FlowEntry;

use crate::decode::{Tcp, Timestamps, flag};
use crate::record::FlowRecord;
use crate::rewrite::Translation;

/// The circumstances in which a frame is seen.
#[derive(Clone, Copy, Debug)]
pub struct FlowContext {
    /// The mode is `FAILED_OVER`, not `PROTECTED`.
    pub failed_over: bool,
    /// `settings.epoch`.
    pub epoch: u32,
    /// `CLOCK_MONOTONIC`.
    pub ns: u64,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowVerdict {
    /// Let it go on as it is.
    Pass,
    /// Translate it, then let it go on.
    Translate(Translation),
    /// Give it back to the daemon until the offset is known.
    Park,
    /// Drop it: the offset is not known, and the sender will repeat it.
    Drop,
}

/// What becomes of the connection's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowChange {
    /// Nothing, or it has been changed in place.
    Keep,
    /// The record goes into `half_open`, and its other entries go.
    Open,
    /// The record goes into `flows` where it is [`known::CONFIRMED`] and there is room, else into
    /// `unconfirmed` without that, and its other entries go.
    Establish,
    /// The entry goes.
    Forget,
}

/// What a frame leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowStep {
    pub verdict: FlowVerdict,
    pub change: FlowChange,
    /// The record tells of an offset that has become known, and frames may be held that wait for
    /// it.
    pub frees_parked: bool,
}

impl FlowStep {
    #[inline(always)]
    const fn keep(verdict: FlowVerdict) -> Self {
        Self { verdict, change: FlowChange::Keep, frees_parked: false }
    }

    #[inline(always)]
    const fn open(verdict: FlowVerdict) -> Self {
        Self { verdict, change: FlowChange::Open, frees_parked: false }
    }

    #[inline(always)]
    const fn establish(verdict: FlowVerdict) -> Self {
        Self { verdict, change: FlowChange::Establish, frees_parked: false }
    }

    #[inline(always)]
    const fn forget() -> Self {
        Self { verdict: FlowVerdict::Pass, change: FlowChange::Forget, frees_parked: false }
    }

    #[inline(always)]
    const fn releasing(self) -> Self {
        Self { frees_parked: true, ..self }
    }
}

const PASS: FlowStep = FlowStep::keep(FlowVerdict::Pass);

/// What matters of a segment.
#[derive(Clone, Copy, Debug)]
pub struct FlowSegment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub payload_len: u32,
    pub timestamps: Option<Timestamps>,
}

impl FlowSegment {
    #[inline(always)]
    pub fn new(tcp: &Tcp, timestamps: Option<Timestamps>) -> Self {
        let Tcp { flags, seq, ack, payload_len, .. } = *tcp;
        Self { flags, seq, ack, payload_len, timestamps }
    }

    #[inline(always)]
    fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    #[inline(always)]
    fn is_rst(&self) -> bool {
        self.has(flag::RST)
    }

    /// SYN or SYN/ACK.
    #[inline(always)]
    fn is_opening(&self) -> bool {
        self.flags & (flag::SYN | flag::RST) == flag::SYN
    }

    #[inline(always)]
    fn is_syn(&self) -> bool {
        self.is_opening() && !self.has(flag::ACK)
    }

    #[inline(always)]
    fn is_syn_ack(&self) -> bool {
        self.is_opening() && self.has(flag::ACK)
    }
}

/// Handles a segment of the peer on its way to the guest. `record` is filled where the entry is to
/// be put into a map.
#[inline(always)]
pub fn to_guest(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: Option<FlowEntry<'_>>,
    record: &mut FlowRecord,
) -> FlowStep {
    let Some(entry) = entry else {
        return to_guest::unknown(now, segment, record);
    };
    entry.set_last_seen_ns(now.ns);
    let step = if entry.is_opening() {
        to_guest::opening(now, segment, &entry, record)
    } else {
        to_guest::established(now, segment, &entry, record)
    };
    count(step, &entry, true)
}

/// Handles a segment of the guest on its way out. `record` is filled where the entry is to be put
/// into a map, or the daemon to be told of it.
#[inline(always)]
pub fn from_guest(
    now: &FlowContext,
    segment: &FlowSegment,
    entry: Option<FlowEntry<'_>>,
    record: &mut FlowRecord,
) -> FlowStep {
    let Some(entry) = entry else {
        return from_guest::unknown(now, segment, record);
    };
    entry.set_last_seen_ns(now.ns);
    let step = if entry.is_opening() {
        from_guest::opening(now, segment, &entry, record)
    } else {
        from_guest::established(now, segment, &entry, record)
    };
    count(step, &entry, false)
}

/// Counts a translated frame where its entry stays, and lets an identity pass.
#[inline(always)]
fn count(mut step: FlowStep, entry: &FlowEntry<'_>, to_guest: bool) -> FlowStep {
    if let FlowVerdict::Translate(translation) = step.verdict {
        if translation.is_identity() {
            step.verdict = FlowVerdict::Pass;
        } else {
            entry.count(to_guest);
        }
    }
    step
}

/// An entry for a connection that begins now.
#[inline(always)]
fn begin(record: &mut FlowRecord, now: &FlowContext, state: u32) {
    *record = FlowRecord { epoch: now.epoch, state, last_seen_ns: now.ns, ..FlowRecord::default() };
}

/// The offset, from what both sides chose. Without timestamps on both sides there is nothing to
/// translate in them.
#[inline(always)]
fn settle(record: &mut FlowRecord) {
    record.seq_offset = record.wire_isn.wrapping_sub(record.guest_isn);
    let both = known::GUEST_TS | known::WIRE_TS;
    record.ts_offset =
        if record.known & both == both { record.wire_ts.wrapping_sub(record.guest_ts) } else { 0 };
    record.known |= known::OFFSET;
    record.state = state::ESTABLISHED;
}

/// An established connection, both guests of which count alike.
#[inline(always)]
fn settle_identity(record: &mut FlowRecord, epoch: u32) {
    record.epoch = epoch;
    let told = record.known & (known::WIRE | known::WIRE_TS);
    record.known = known::OFFSET | known::IDENTITY | told;
    record.seq_offset = 0;
    record.ts_offset = 0;
    record.state = state::ESTABLISHED;
}

#[inline(always)]
fn translation_of(record: &FlowRecord) -> FlowVerdict {
    FlowVerdict::Translate(Translation { seq: record.seq_offset, ts: record.ts_offset })
}

#[cfg(test)]
mod tests;
