//! The claim of a primary frame on its connection: its place in the stream, and its control bits.

use colo_proxy_common::seq::Seq;

use super::opening::Opening;

/// The claim of one primary frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::compare) struct SegmentClaim {
    /// Its place in the stream, data only.
    pub(super) start: i64,
    pub(super) end: i64,
    /// The place where the primary's stream starts, or was met.
    pub(super) origin: i64,
    /// Where the data starts in the Ethernet frame.
    pub(super) payload_at: u32,
    /// The acknowledgment; `None` without one.
    pub(super) ack: Option<i64>,
    /// The place to which it points as urgent. Like an acknowledgment it only ever grows, and the
    /// split of the stream into segments does not move it.
    pub(super) urgent: Option<i64>,
    /// The value of the header, not scaled.
    pub(super) window: u16,
    pub(super) opening: Option<Opening>,
    pub(super) fin: bool,
    pub(super) reset: Option<ResetClaim>,
}

impl SegmentClaim {
    /// It opens, ends or resets the connection.
    pub(super) fn has_control_bits(&self) -> bool {
        self.opening.is_some() || self.fin || self.reset.is_some()
    }

    /// Its control bits. Call it only where it has some.
    pub(super) fn signal(&self) -> ControlSignal {
        match (&self.opening, self.reset) {
            (Some(opening), _) if opening.ack.is_some() => ControlSignal::SynAck,
            (Some(_), _) => ControlSignal::Syn,
            // An acknowledgment that is not of this stream has to be the very same.
            (None, Some(reset)) => {
                ControlSignal::Reset { reset, is_exact: reset.ack.is_some() && self.ack.is_none() }
            }
            (None, None) => ControlSignal::Fin,
        }
    }

    /// Where the frame lies in the stream, counted from the start of the primary's.
    pub(in crate::compare) fn offset(&self) -> i64 {
        self.start - self.origin
    }
}

/// A reset as it was sent: it names a place, but need not lie in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResetClaim {
    pub(super) seq: Seq,
    pub(super) ack: Option<Seq>,
}

impl ResetClaim {
    /// The guest ends the connection by itself. Without an acknowledgment it answers a segment of
    /// the peer.
    pub(super) fn is_own(&self) -> bool {
        self.ack.is_some() && self.seq != Seq(0)
    }

    /// The acknowledgment, if it lies in the stream. A reset with the number 0 answers a refused SYN
    /// (RFC 9293, section 3.10.7.1). It acknowledges that SYN, which may have any number.
    pub(super) fn ack_of_stream(&self) -> Option<Seq> {
        self.ack.filter(|_| self.is_own())
    }
}

/// The control bits that a held frame needs, or that the secondary sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlSignal {
    Syn,
    SynAck,
    Fin,
    Reset {
        reset: ResetClaim,
        /// The very same reset is needed, its acknowledgment included.
        is_exact: bool,
    },
}

impl ControlSignal {
    /// The secondary's `other` is the one that a frame with this needs, or it shows that the frame
    /// differs. Either way the frame stops waiting for control bits.
    pub(super) fn is_settled_by(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Reset { reset, is_exact }, Self::Reset { reset: theirs, .. }) => {
                let is_same = if *is_exact { reset == theirs } else { reset.seq == theirs.seq };
                is_same || (reset.is_own() && theirs.is_own())
            }
            _ => self == other,
        }
    }
}
