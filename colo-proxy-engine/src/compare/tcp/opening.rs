//! The opening of a connection: SYN and SYN/ACK, and the options on which the peer relies.

use colo_proxy_common::decode::{Tcp, decode_tcp_options, flag};
use colo_proxy_common::seq::Seq;

use crate::compare::reason::Reason;

/// Bytes of data with a SYN: as many as fit a segment (RFC 7413, section 4.2).
const EARLY_MAX: u32 = 1460;

/// A SYN or SYN/ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// The initial sequence number; the secondary's may be one of its own.
    pub(super) isn: Seq,
    /// The acknowledgment of a SYN/ACK: a number of the peer's, so the same for both guests.
    pub(super) ack: Option<Seq>,
    mss: Option<u16>,
    window_scale: Option<u8>,
    sack_permitted: bool,
    timestamps: bool,
}

impl Opening {
    pub(super) fn read(octets: &[u8], tcp: &Tcp) -> Self {
        let options = decode_tcp_options::<[u8]>(octets, tcp);
        Self {
            isn: Seq(tcp.seq),
            ack: (tcp.flags & flag::ACK != 0).then_some(Seq(tcp.ack)),
            mss: options.mss,
            window_scale: options.window_scale,
            sack_permitted: options.sack_permitted,
            timestamps: options.timestamps.is_some(),
        }
    }

    /// The differences that the peer would notice, as reasons for a checkpoint.
    pub(super) fn differences(&self, other: &Self) -> impl Iterator<Item = Reason> {
        [
            (self.mss != other.mss, Reason::SynMss),
            (self.window_scale != other.window_scale, Reason::SynWindowScale),
            (self.sack_permitted != other.sack_permitted, Reason::SynSackPermitted),
            (self.timestamps != other.timestamps, Reason::SynTimestamps),
        ]
        .into_iter()
        .filter_map(|(differs, reason)| differs.then_some(reason))
    }
}

/// One or no opening, in as little as it takes; every connection that is woken has some.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Packed {
    isn: u32,
    ack: u32,
    mss: u16,
    window_scale: u8,
    has: u8,
}

/// The contents of a [`Packed`], by bit.
mod has {
    pub(super) const OPENING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const MSS: u8 = 4;
    pub(super) const WINDOW_SCALE: u8 = 8;
    pub(super) const SACK: u8 = 16;
    pub(super) const TIMESTAMPS: u8 = 32;
}

impl Packed {
    fn new(opening: &Opening) -> Self {
        let Opening { isn, ack, mss, window_scale, sack_permitted, timestamps } = *opening;
        let bits = [
            (true, has::OPENING),
            (ack.is_some(), has::ACK),
            (mss.is_some(), has::MSS),
            (window_scale.is_some(), has::WINDOW_SCALE),
            (sack_permitted, has::SACK),
            (timestamps, has::TIMESTAMPS),
        ];
        Self {
            isn: isn.0,
            ack: ack.map_or(0, |ack| ack.0),
            mss: mss.unwrap_or_default(),
            window_scale: window_scale.unwrap_or_default(),
            has: bits.iter().map(|(is_set, bit)| u8::from(*is_set) * bit).sum(),
        }
    }

    #[inline]
    fn has(self, bit: u8) -> bool {
        self.has & bit != 0
    }

    fn opening(self) -> Option<Opening> {
        self.has(has::OPENING).then(|| Opening {
            isn: Seq(self.isn),
            ack: self.has(has::ACK).then_some(Seq(self.ack)),
            mss: self.has(has::MSS).then_some(self.mss),
            window_scale: self.has(has::WINDOW_SCALE).then_some(self.window_scale),
            sack_permitted: self.has(has::SACK),
            timestamps: self.has(has::TIMESTAMPS),
        })
    }

    #[inline]
    pub(super) fn openings(self) -> Openings {
        let none = Self::default();
        let (syn, syn_ack) = if self.has(has::ACK) { (none, self) } else { (self, none) };
        Openings { syn, syn_ack }
    }
}

/// The openings that one guest sent: a SYN or a SYN/ACK, or both in a simultaneous open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Openings {
    syn: Packed,
    syn_ack: Packed,
}

impl Openings {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        (self.syn.has | self.syn_ack.has) == 0
    }

    /// The one that is here, or none; `None` where both are.
    #[inline]
    pub(super) fn pack(&self) -> Option<Packed> {
        match (self.syn.has(has::OPENING), self.syn_ack.has(has::OPENING)) {
            (_, false) => Some(self.syn),
            (false, true) => Some(self.syn_ack),
            (true, true) => None,
        }
    }

    pub(super) fn set(&mut self, opening: Opening) {
        let packed = Packed::new(&opening);
        match opening.ack {
            Some(_) => self.syn_ack = packed,
            None => self.syn = packed,
        }
    }

    /// The counterpart of `opening`: SYN for SYN, SYN/ACK for SYN/ACK.
    pub(super) fn like(&self, opening: &Opening) -> Option<Opening> {
        match opening.ack {
            Some(_) => self.syn_ack.opening(),
            None => self.syn.opening(),
        }
    }

    /// The later one: a guest that sent both sent the SYN/ACK behind its SYN.
    pub(super) fn last(&self) -> Option<Opening> {
        self.syn_ack.opening().or_else(|| self.syn.opening())
    }

    /// It answers no other SYN of the peer than `opening` does.
    pub(super) fn may_answer(&self, opening: &Opening) -> bool {
        self.ack().zip(opening.ack).is_none_or(|(ours, theirs)| {
            // RFC 7413: of the data that come with a SYN a guest need not take any.
            ours.since(theirs).unsigned_abs() <= EARLY_MAX
        })
    }

    /// The acknowledgment of the SYN/ACK.
    #[inline]
    pub(super) fn ack(&self) -> Option<Seq> {
        self.syn_ack.has(has::ACK).then_some(Seq(self.syn_ack.ack))
    }

    /// The shift of the windows; `None` where it is not known what the peer answered to a SYN.
    #[inline]
    pub(super) fn window_scale(&self) -> Option<u8> {
        if self.syn_ack.has(has::OPENING) {
            return Some(self.syn_ack.window_scale);
        }
        let offers_none = self.syn.has(has::OPENING) && !self.syn.has(has::WINDOW_SCALE);
        offers_none.then_some(0)
    }

    #[inline]
    pub(super) fn isn(&self) -> Option<Seq> {
        let first = if self.syn.has(has::OPENING) { self.syn } else { self.syn_ack };
        first.has(has::OPENING).then_some(Seq(first.isn))
    }

    /// `opening` repeats or completes what is here.
    pub(super) fn belongs(&self, opening: &Opening) -> bool {
        let is_its = |own: Packed| own.has(has::OPENING) && Seq(own.isn) == opening.isn;
        is_its(self.syn) || is_its(self.syn_ack)
    }
}
