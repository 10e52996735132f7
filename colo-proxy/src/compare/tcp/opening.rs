//! How a connection is opened: SYN and SYN/ACK, and what the peer will rely on.

use colo_proxy_common::decode::{Tcp, decode_tcp_options, flag};
use colo_proxy_common::seq::Seq;

use crate::compare::reason::Reason;

/// A SYN or SYN/ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// The initial sequence number; the secondary's may be one of its own.
    pub(super) isn: Seq,
    /// What a SYN/ACK acknowledges: the peer's, so the same for both guests.
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

    /// What the peer would rely on differently.
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

/// What one guest sent to open a connection: one of them, or both in a simultaneous open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Openings {
    syn: Option<Opening>,
    syn_ack: Option<Opening>,
}

impl Openings {
    pub(super) fn is_empty(&self) -> bool {
        self.syn.is_none() && self.syn_ack.is_none()
    }

    pub(super) fn set(&mut self, opening: Opening) {
        match opening.ack {
            Some(_) => self.syn_ack = Some(opening),
            None => self.syn = Some(opening),
        }
    }

    /// The counterpart of `opening`: SYN for SYN, SYN/ACK for SYN/ACK.
    pub(super) fn like(&self, opening: &Opening) -> Option<&Opening> {
        match opening.ack {
            Some(_) => self.syn_ack.as_ref(),
            None => self.syn.as_ref(),
        }
    }

    /// What is here, unless it answers another SYN of the peer than the primary's `opening` does.
    pub(super) fn answering(self, opening: &Opening) -> Self {
        let differs = self.ack().zip(opening.ack).is_some_and(|(ours, theirs)| ours != theirs);
        if differs { Self::default() } else { self }
    }

    /// What the SYN/ACK acknowledges.
    pub(super) fn ack(&self) -> Option<Seq> {
        self.syn_ack.as_ref()?.ack
    }

    /// The shift of the windows; `None` where it is not known what the peer answered to a SYN.
    pub(super) fn window_scale(&self) -> Option<u8> {
        match (&self.syn_ack, &self.syn) {
            (Some(syn_ack), _) => Some(syn_ack.window_scale.unwrap_or_default()),
            (None, Some(syn)) if syn.window_scale.is_none() => Some(0),
            _ => None,
        }
    }

    pub(super) fn isn(&self) -> Option<Seq> {
        self.syn.as_ref().or(self.syn_ack.as_ref()).map(|opening| opening.isn)
    }

    /// `opening` repeats or completes what is here.
    pub(super) fn belongs(&self, opening: &Opening) -> bool {
        [&self.syn, &self.syn_ack].into_iter().flatten().any(|own| own.isn == opening.isn)
    }
}
