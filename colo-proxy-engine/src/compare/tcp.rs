//! One TCP connection: the output of the primary, and how far the secondary vouches for it.
//!
//! Places in the stream are 64-bit numbers ([`SequenceSpace`]). Place 0 is the first byte of data; in
//! a stream met in its middle, it is the first byte seen from either guest. A held frame of the
//! primary needs one thing at a time: its bytes, then its control bits (SYN, FIN, RST), then the
//! place to which it points as urgent, then its acknowledgment. Each of these has a queue. An event
//! of the secondary finds there the frames that it concerns, and no others.

mod ahead;
pub(super) mod claim;
mod connection_order;
mod data;
mod difference_frame;
mod headers;
mod maybe_empty;
mod opening;
mod partial;
mod primary;
mod queues;
mod ranges;
mod resting;
mod secondary;
mod segments;
mod space;
mod windows;

use colo_proxy_common::decode::{Tcp, flag};
use colo_proxy_common::record::FlowKey;
use colo_proxy_common::seq::Seq;

use self::ahead::ConnectionsAhead;
use self::claim::ResetClaim;
pub(super) use self::claim::SegmentClaim;
use self::difference_frame::ControlWitness;
use self::headers::NotedHeaders;
use self::maybe_empty::MaybeEmpty;
use self::opening::Openings;
pub(crate) use self::partial::bare_acknowledgment;
use self::queues::{HeldQueues, Unverified};
use self::ranges::StreamRanges;
pub(super) use self::resting::Resting;
use self::segments::StreamPieces;
use self::space::SequenceSpace;
use self::windows::OfferedWindows;
use super::Side;
use super::chain::ChainKey;
use super::divergence::WaitsFor;
use super::ledger::{FlowAccount, Ledger};

/// Places whose difference is reported; further ones in the same flow are only counted.
const REPORTED_MAX: usize = 16;
/// Resets of the secondary that are remembered. A guest that gives a connection up answers each
/// segment still on its way with a reset, each with a number of its own. It may do so earlier than
/// the other guest.
const RESETS_MAX: usize = 32;

/// The next thing that a primary frame needs from the secondary, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentNeed {
    Nothing,
    Data,
    ControlBits,
    Urgent,
    Ack,
}

/// The secondary's side of the connection in this epoch.
#[derive(Debug, Default)]
struct SecondarySide {
    /// Its highest acknowledgment.
    ack: Option<i64>,
    /// The highest place that it pointed to as urgent.
    urgent: Option<i64>,
    opening: Openings,
    fin: Option<i64>,
    headers: Option<NotedHeaders>,
    segments: StreamPieces,
}

/// State that most connections do not have at most times.
#[derive(Debug, Default)]
struct RareState {
    reset: Option<ResetClaim>,
    /// Where the primary reset the connection by itself, a ring, newest last.
    own_resets: Vec<Seq>,
    /// The resets of the secondary, a ring likewise.
    resets: Vec<ResetClaim>,
    /// Output of the secondary in connections that the primary has not opened yet.
    ahead: ConnectionsAhead,
    /// Connections that the primary has left for the next one while frames of them are held, oldest
    /// first.
    older: Vec<TcpFlow>,
    witness: Option<ControlWitness>,
    /// A frame lay outside of the stream: after the next checkpoint it is anchored anew.
    strayed: bool,
    reported: Vec<i64>,
}

/// The state of one connection. It lies in memory in this order: fields that an ordinary frame does
/// not need come last.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct TcpFlow {
    /// Unwraps sequence numbers; of the secondary's making until the primary is seen.
    seqs: Option<SequenceSpace>,
    /// Unwraps acknowledgments of both guests: they name the peer's numbers.
    acks: Option<SequenceSpace>,
    /// The primary was seen in this connection.
    anchored: bool,
    closed: bool,
    /// There is something in [`RareState::ahead`] or in [`RareState::older`].
    is_apart: bool,
    /// The primary's initial sequence number; `None` where the stream was met in its middle.
    isn: Option<Seq>,
    opening: Openings,
    verified: StreamRanges,
    /// The places that the primary has sent.
    produced: StreamRanges,
    /// Where the primary's stream starts, or where it was met.
    start: i64,
    /// The primary's lowest and highest place so far, and its highest acknowledgment.
    low: i64,
    high: i64,
    ack: Option<i64>,
    urgent: Option<i64>,
    /// How far the peer may send: by the primary's frames, and by those that have left.
    offered: Option<i64>,
    edge: Option<i64>,
    /// The highest acknowledgment that has left.
    told: Option<i64>,
    windows: OfferedWindows,
    headers: Option<NotedHeaders>,
    fin: Option<i64>,
    /// Both guests ended the stream there; a guest that goes on after its end is on its own.
    matched_fin: Option<i64>,
    secondary: SecondarySide,
    /// The initial number of the secondary's previous connection.
    previous_isn: Option<Seq>,
    account: FlowAccount,
    queues: HeldQueues,
    rare: MaybeEmpty<RareState>,
}

impl RareState {
    fn is_empty(&self) -> bool {
        let Self { reset, own_resets, resets, ahead, older, witness, strayed, reported } = self;
        reset.is_none()
            && own_resets.is_empty()
            && resets.is_empty()
            && ahead.is_empty()
            && older.is_empty()
            && witness.is_none()
            && !strayed
            && reported.is_empty()
    }

    /// A checkpoint was made: the secondary's state is the primary's.
    fn begin_epoch(&mut self) {
        self.reported.clear();
        self.ahead = ConnectionsAhead::default();
        self.older.clear();
        self.witness = None;
        self.resets.clear();
        self.resets.extend(self.reset);
    }
}

/// A flow during one event: its key, its name, and the ledger that all flows share.
#[derive(Debug)]
pub(super) struct FlowScope<'a> {
    pub(super) ledger: &'a mut Ledger,
    pub(super) name: &'a FlowKey,
    pub(super) flow: ChainKey,
}

impl TcpFlow {
    /// No primary frame of it is held.
    pub(super) fn holds_nothing(&self) -> bool {
        self.account.is_empty() && self.rare.used().is_none_or(|rare| rare.older.is_empty())
    }

    /// Reset, or the guest has sent its last.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The guest has sent nothing but SYN or SYN/ACK yet.
    #[inline]
    pub(super) fn is_half_open(&self) -> bool {
        !self.anchored || (self.isn.is_some() && self.high == 0 && self.ack == self.opening_ack())
    }

    fn opening_ack(&self) -> Option<i64> {
        self.acks.zip(self.opening.ack()).and_then(|(acks, ack)| acks.place(ack))
    }

    /// A checkpoint was made: both guests have the primary's state at the cut. The primary's output
    /// and acknowledgments up to the cut count for both. Other output of the secondary is void.
    pub(super) fn begin_epoch(&mut self) {
        self.queues.clear();
        self.account = FlowAccount::default();
        self.previous_isn = None;
        self.is_apart = false;
        self.secondary.segments.reset();
        if !self.anchored || self.rare.strayed {
            let segments = std::mem::take(&mut self.secondary.segments);
            *self = Self::default();
            self.secondary.segments = segments;
            return;
        }
        if let Some(rare) = self.rare.used_mut() {
            rare.begin_epoch();
        }
        self.closed |= self.fin.is_some() || self.rare.reset.is_some();
        // Places that the primary skipped are not verified: data there came after the cut.
        self.verified.clone_from(&self.produced);
        self.told = self.ack;
        self.edge = self.offered;
        self.windows.begin_epoch();
        self.secondary.headers = None;
        self.secondary.ack = self.ack;
        self.secondary.urgent = self.urgent;
        self.secondary.opening = self.opening;
        self.secondary.fin = self.fin;
        self.matched_fin = self.fin;
    }

    /// Drops the waiting frames of the secondary, before the flow itself is forgotten.
    pub(super) fn drop_waiting(&mut self, ledger: &mut Ledger) {
        ledger.stats.secondary_dropped.no_flow += self.secondary.segments.drop_all(ledger);
        if let Some(rare) = self.rare.used_mut() {
            ledger.stats.secondary_dropped.no_flow += rare.ahead.drop_all(ledger);
            self.is_apart = !rare.older.is_empty();
        }
    }

    /// The thing that the held frame `key` needs; `None` where it differs, and only a checkpoint can
    /// release it.
    pub(super) fn waits_for(&self, key: ChainKey, segment: &SegmentClaim) -> Option<WaitsFor> {
        match self.holder_of(key).needs(segment) {
            SegmentNeed::Nothing => None,
            SegmentNeed::Data => Some(WaitsFor::Data),
            SegmentNeed::ControlBits => Some(WaitsFor::ControlBits),
            SegmentNeed::Urgent => Some(WaitsFor::Urgent),
            SegmentNeed::Ack => Some(WaitsFor::Ack),
        }
    }

    /// Drops waiting pieces that lie before everything seen of the primary, in a stream that was met
    /// in its middle. Returns whether there were any.
    pub(super) fn drop_old(&mut self, ledger: &mut Ledger) -> bool {
        if !self.anchored || self.isn.is_some() {
            return false;
        }
        let dropped = self.secondary.segments.drop_before(ledger, self.low);
        ledger.stats.secondary_dropped.before_start += dropped;
        dropped > 0
    }

    /// Where a waiting piece lies, counted from the start of the primary's stream.
    pub(super) fn offset_of_waiting(&self, key: ChainKey) -> i64 {
        self.secondary.segments.find(key).map_or(0, |piece| piece.start - self.start)
    }

    /// The next thing that `segment` needs from the secondary.
    #[inline]
    fn needs(&self, segment: &SegmentClaim) -> SegmentNeed {
        if !self.verified.covers(segment.start, segment.end) {
            return SegmentNeed::Data;
        }
        if let Some(opening) = &segment.opening
            && self.secondary.opening.like(opening).is_none()
        {
            return SegmentNeed::ControlBits;
        }
        if segment.fin && self.secondary.fin != Some(segment.end) {
            return SegmentNeed::ControlBits;
        }
        if let Some(reset) = segment.reset {
            if self.rare.resets.contains(&reset) {
                return SegmentNeed::Nothing;
            }
            let same_place = self.rare.resets.iter().any(|own| own.seq == reset.seq);
            let is_exact = reset.ack.is_some() && segment.ack.is_none();
            if !same_place || is_exact {
                return SegmentNeed::ControlBits;
            }
        }
        if segment.urgent > self.secondary.urgent {
            return SegmentNeed::Urgent;
        }
        match (segment.ack, self.secondary.ack) {
            (Some(ack), Some(known)) if ack <= known => SegmentNeed::Nothing,
            (None, _) => SegmentNeed::Nothing,
            _ => SegmentNeed::Ack,
        }
    }

    /// Puts a held frame where the event that it needs will find it.
    fn enqueue(
        &mut self,
        ledger: &mut Ledger,
        key: ChainKey,
        segment: &SegmentClaim,
        needs: SegmentNeed,
    ) {
        let SegmentClaim { start, end, .. } = *segment;
        let is_watched = match needs {
            SegmentNeed::Nothing => return,
            SegmentNeed::Data => self.queues.push_unverified(Unverified { start, end, key }),
            SegmentNeed::ControlBits => self.queues.push_awaiting_control(segment.signal(), key),
            SegmentNeed::Urgent => {
                self.queues.unpointed().push(segment.urgent.unwrap_or_default(), key);
                Ok(())
            }
            SegmentNeed::Ack => {
                self.queues.unacknowledged.push(segment.ack.unwrap_or_default(), key);
                Ok(())
            }
        };
        // Held all the same: the compare timeout finds it.
        ledger.stats.unwatched += u64::from(is_watched.is_err());
    }

    /// Notes the fields that are only recorded. A RST has none, and a SYN has its own options.
    fn note_headers(&mut self, scope: &FlowScope<'_>, side: Side, octets: &[u8], tcp: &Tcp) {
        if tcp.flags & flag::RST != 0 || tcp.flags & flag::ACK == 0 {
            return;
        }
        self.windows.note(side, tcp.window, scope.ledger.now());
        if tcp.flags & flag::SYN != 0 {
            return;
        }
        if let Some(headers) = NotedHeaders::read(octets, tcp) {
            match side {
                Side::Primary => self.headers = Some(headers),
                Side::Secondary => self.secondary.headers = Some(headers),
            }
        }
    }

    /// The guests differ at `place`: `true` where that is to be reported, once for each.
    fn is_first_report(&mut self, place: i64) -> bool {
        let reported = &mut self.rare.reported;
        if reported.contains(&place) || reported.len() >= REPORTED_MAX {
            return false;
        }
        reported.push(place);
        true
    }
}

/// The place that `tcp`, whose number lies at `place`, points to as urgent (RFC 6093, section 4).
fn urgent(place: i64, tcp: &Tcp) -> Option<i64> {
    (tcp.flags & flag::URG != 0).then(|| place + i64::from(tcp.urgent))
}

/// Remembers a reset in a ring, newest last.
fn note<T: PartialEq>(ring: &mut Vec<T>, reset: T) {
    if ring.contains(&reset) {
        return;
    }
    if ring.len() >= RESETS_MAX {
        ring.remove(0);
    }
    ring.push(reset);
}

/// The first place at which `a` and `b` differ, of those that both have.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// The part `from..to` of bytes whose first lies at `start`.
fn part(octets: &[u8], start: i64, from: i64, to: i64) -> &[u8] {
    octets.get((from - start) as usize..(to - start) as usize).unwrap_or_default()
}
