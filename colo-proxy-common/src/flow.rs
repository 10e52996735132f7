//! The life of a TCP connection whose numbers are translated on the secondary host.
//!
//! The code here only decides: what happens to a frame, and to its connection's entry. The kernel
//! programs own the maps, the clock and the frame. The tests drive the same code with plain values.
//!
//! Each guest chooses its initial sequence numbers and timestamps by itself. The secondary's are in
//! its own SYN or SYN/ACK. The primary's are in the peer's answer, which acknowledges them. The
//! difference is the offset. It is valid until the connection ends, or until a checkpoint makes both
//! guests equal (a new epoch). Then both count as the network does, and the offset is 0. A connection
//! that an earlier pair translated is the exception: both guests then count as the guest that
//! survived. Its offset at that time is the entry's *base*.
//!
//! | | guest's number | network's number |
//! |---|---|---|
//! | peer opens | guest's SYN/ACK | peer's first ACK |
//! | guest opens | guest's SYN | peer's SYN/ACK (or RST/ACK: connection refused) |
//!
//! Either number may come first, because the primary may be faster than the secondary, or slower. A
//! peer's segment that comes before the guest's own number is parked. A guest's segment that needs an
//! offset and has none is dropped; the guest repeats it.
//!
//! The peer can be hostile or forged. So its SYN and its RST change no entry of an established
//! connection: the guest's answer decides. If the peer opens a connection, only a segment with the
//! number that follows the SYN can reveal the offset, and nobody off the path knows that number. A
//! client that opens connections still chooses the number of entries. Entries of connections in which
//! the guest has not yet sent anything of its own are therefore in maps of their own
//! ([`known::CONFIRMED`]).

mod entry;
mod from_guest;
mod to_guest;

pub use crate::record::{known, state};
pub use entry::FlowEntry;

use crate::decode::{Tcp, Timestamps, flag};
use crate::record::FlowRecord;
use crate::rewrite::Translation;

/// The circumstances of a frame.
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
    /// Give it to the daemon, which parks it until the offset is known.
    Park,
    /// Drop it: the offset is not known, and the sender will repeat it.
    Drop,
}

/// The change of the connection's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowChange {
    /// No change, or it was changed in place.
    Keep,
    /// The record goes into `half_open`, and its other entries go.
    Open,
    /// The record goes into `flows` if it is [`known::CONFIRMED`] and there is room. Otherwise it
    /// loses that bit and goes into `unconfirmed`. Its other entries go.
    Establish,
    /// The entry goes.
    Forget,
}

/// The result of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowStep {
    pub verdict: FlowVerdict,
    pub change: FlowChange,
    /// The offset in the record has become known, and the daemon may have parked frames for it.
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

/// The parts of a segment that decide.
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

/// Handles a segment of the peer on its way to the guest. Fills `record` if the entry has to go into
/// a map.
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

/// Handles a segment of the guest on its way out. Fills `record` if the entry has to go into a map,
/// or to the daemon.
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

/// Counts a translated frame if its entry stays. A translation that changes nothing is a pass.
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

/// Computes the offset from the numbers of both sides. Unless both sides have timestamps, they need
/// no translation.
#[inline(always)]
fn settle(record: &mut FlowRecord) {
    record.seq_offset = record.wire_isn.wrapping_sub(record.guest_isn);
    let both = known::GUEST_TS | known::WIRE_TS;
    record.ts_offset =
        if record.known & both == both { record.wire_ts.wrapping_sub(record.guest_ts) } else { 0 };
    record.known |= known::OFFSET;
    record.state = state::ESTABLISHED;
}

/// Makes it an established connection in which both guests count alike.
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
