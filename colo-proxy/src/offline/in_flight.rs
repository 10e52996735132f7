//! What one guest was ahead of the other when a checkpoint was made.
//!
//! A real checkpoint makes the guests equal: the secondary's lead is taken back, and it produces it
//! once more; its arrears are settled, and it never produces them. Captured guests know nothing of
//! it. So a datagram that the secondary was late with is dropped as stale when it comes at last,
//! and what the secondary was early with is handed in once more. Otherwise every checkpoint would
//! be the reason for the next.
//!
//! Only what is younger than [`LEAD_MAX_NS`] counts as lead or arrears; what is older is missing.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Duration;

use colo_proxy_common::decode::Tcp;
use colo_proxy_common::record::FlowKey;

use colo_proxy_engine::compare::{DatagramContent, Side};
use colo_proxy_engine::frame::Frame;

/// The longest lead, in nanoseconds of capture time.
pub(super) const LEAD_MAX_NS: u64 = 200_000_000;
/// Frames of which one guest's is there and the other's is not.
const PENDING_MAX: usize = 65536;
/// Frames of TCP that may have to be handed in once more.
const RECENT_MAX: usize = 65536;
/// The octets of either.
const BYTES_MAX: usize = 64 << 20;

/// What makes datagrams the same: two hashes with seeds of their own.
type Likeness = [u64; 2];

/// A frame of the secondary, as it may be handed in once more.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    pub(super) number: u64,
    pub(super) at_ns: u64,
    pub(super) frame: Frame,
    /// What TCP says in it.
    pub(super) tcp: Option<(FlowKey, Tcp)>,
}

/// A datagram that waits for its like.
#[derive(Debug)]
enum Pending {
    Primary { at_ns: u64 },
    Secondary(Lead),
}

impl Pending {
    fn side(&self) -> Side {
        match self {
            Self::Primary { .. } => Side::Primary,
            Self::Secondary(_) => Side::Secondary,
        }
    }

    fn at_ns(&self) -> u64 {
        match self {
            Self::Primary { at_ns } | Self::Secondary(Lead { at_ns, .. }) => *at_ns,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Primary { .. } => 0,
            Self::Secondary(lead) => lead.frame.len(),
        }
    }
}

/// What one guest has sent and the other has not.
#[derive(Debug)]
pub(super) struct InFlight {
    hashers: [foldhash::fast::RandomState; 2],
    /// How long a datagram may wait for its like.
    keep_ns: u64,
    pending: HashMap<Likeness, VecDeque<Pending>>,
    /// When something began to wait, in order; it may have been found since.
    order: VecDeque<(u64, Likeness)>,
    pending_bytes: usize,
    /// TCP frames of the secondary.
    recent: VecDeque<Lead>,
    recent_bytes: usize,
    /// Datagrams of the primary that a checkpoint has settled, by when they no longer count.
    settled: HashMap<Likeness, VecDeque<u64>>,
    settled_order: VecDeque<(u64, Likeness)>,
}

impl InFlight {
    pub(super) fn new(keep: Duration) -> Self {
        Self {
            hashers: Default::default(),
            keep_ns: u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX),
            pending: HashMap::new(),
            order: VecDeque::new(),
            pending_bytes: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            settled: HashMap::new(),
            settled_order: VecDeque::new(),
        }
    }

    /// A datagram of the primary.
    pub(super) fn on_primary(&mut self, at_ns: u64, content: &DatagramContent<'_>) {
        let likeness = self.likeness(content);
        self.expire(at_ns);
        if !self.find(likeness, Side::Secondary) {
            self.wait(likeness, Pending::Primary { at_ns });
        }
    }

    /// A datagram of the secondary; `false` where it is what a checkpoint has settled.
    pub(super) fn on_secondary(&mut self, content: &DatagramContent<'_>, lead: Lead) -> bool {
        let likeness = self.likeness(content);
        self.expire(lead.at_ns);
        if let Some(settled) = self.settled.get_mut(&likeness) {
            settled.pop_front();
            if settled.is_empty() {
                self.settled.remove(&likeness);
            }
            return false;
        }
        if !self.find(likeness, Side::Primary) {
            self.wait(likeness, Pending::Secondary(lead));
        }
        true
    }

    /// A TCP frame of the secondary, translated.
    pub(super) fn on_secondary_tcp(&mut self, lead: Lead) {
        let oldest = lead.at_ns.saturating_sub(LEAD_MAX_NS);
        self.recent_bytes += lead.frame.len();
        self.recent.push_back(lead);
        while self.recent.front().is_some_and(|first| {
            first.at_ns < oldest || self.recent.len() > RECENT_MAX || self.recent_bytes > BYTES_MAX
        }) {
            let gone = self.recent.pop_front().map_or(0, |first| first.frame.len());
            self.recent_bytes -= gone;
        }
    }

    /// A checkpoint at `now_ns`: gives what the secondary was ahead with, in the order in which it
    /// sent it. Of TCP that is everything recent: the caller knows what the primary has said.
    pub(super) fn on_checkpoint(&mut self, now_ns: u64) -> Vec<Lead> {
        self.expire(now_ns);
        let oldest = now_ns.saturating_sub(LEAD_MAX_NS);
        let mut leads: Vec<Lead> =
            self.recent.iter().filter(|lead| lead.at_ns >= oldest).cloned().collect();
        let mut settled = Vec::new();
        self.pending.retain(|likeness, waiting| {
            waiting.retain(|pending| match pending {
                Pending::Primary { at_ns } => {
                    if *at_ns >= oldest {
                        settled.push(*likeness);
                    }
                    false
                }
                Pending::Secondary(lead) => lead.at_ns >= oldest,
            });
            leads.extend(waiting.iter().filter_map(|pending| match pending {
                Pending::Secondary(lead) => Some(lead.clone()),
                Pending::Primary { .. } => None,
            }));
            !waiting.is_empty()
        });
        self.pending_bytes = self.pending.values().flatten().map(Pending::len).sum();
        let until = now_ns.saturating_add(LEAD_MAX_NS);
        for likeness in settled {
            self.settled.entry(likeness).or_default().push_back(until);
            self.settled_order.push_back((until, likeness));
        }
        leads.sort_by_key(|lead| lead.number);
        leads
    }

    fn likeness(&self, content: &DatagramContent<'_>) -> Likeness {
        let like = (&content.name, content.parts, content.label);
        [self.hashers[0].hash_one(like), self.hashers[1].hash_one(like)]
    }

    /// Takes the like that `side` has sent before, if it has.
    fn find(&mut self, likeness: Likeness, side: Side) -> bool {
        let Some(waiting) = self.pending.get_mut(&likeness) else { return false };
        let found = waiting.pop_front_if(|first| first.side() == side);
        if waiting.is_empty() {
            self.pending.remove(&likeness);
        }
        self.pending_bytes -= found.as_ref().map_or(0, Pending::len);
        found.is_some()
    }

    fn wait(&mut self, likeness: Likeness, pending: Pending) {
        self.pending_bytes += pending.len();
        self.order.push_back((pending.at_ns(), likeness));
        self.pending.entry(likeness).or_default().push_back(pending);
        while self.order.len() > PENDING_MAX || self.pending_bytes > BYTES_MAX {
            if !self.forget_oldest() {
                break;
            }
        }
    }

    fn expire(&mut self, now_ns: u64) {
        let oldest = now_ns.saturating_sub(self.keep_ns);
        while self.order.front().is_some_and(|(at_ns, _)| *at_ns < oldest) {
            self.forget_oldest();
        }
        let is_over = |(until, _): &mut (u64, Likeness)| *until < now_ns;
        while let Some((until, likeness)) = self.settled_order.pop_front_if(is_over) {
            if let Some(settled) = self.settled.get_mut(&likeness) {
                settled.pop_front_if(|first| *first == until);
                if settled.is_empty() {
                    self.settled.remove(&likeness);
                }
            }
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((at_ns, likeness)) = self.order.pop_front() else { return false };
        if let Some(waiting) = self.pending.get_mut(&likeness) {
            let gone = waiting.pop_front_if(|first| first.at_ns() == at_ns);
            self.pending_bytes -= gone.as_ref().map_or(0, Pending::len);
            if waiting.is_empty() {
                self.pending.remove(&likeness);
            }
        }
        true
    }
}
