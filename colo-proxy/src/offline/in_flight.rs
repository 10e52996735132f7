//! The lead and the arrears of the secondary at a checkpoint.
//!
//! A real checkpoint makes the guests equal. The secondary's lead is undone, and the secondary sends
//! it again. Its arrears are settled, and the secondary never sends them. Captured guests do neither.
//! So a datagram that the secondary was late with is dropped as stale when it comes, and output that
//! the secondary was early with goes to the engine once more. Otherwise every checkpoint would cause
//! the next one.
//!
//! Only output that is younger than [`LEAD_MAX_NS`] counts as lead or arrears. Older output is
//! missing.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Duration;

use colo_proxy_common::decode::Tcp;
use colo_proxy_common::record::FlowKey;

use colo_proxy_engine::compare::{DatagramContent, Side};
use colo_proxy_engine::frame::Frame;

/// The longest lead, in nanoseconds of capture time.
pub(super) const LEAD_MAX_NS: u64 = 200_000_000;
/// Frames of one guest without a counterpart of the other.
const PENDING_MAX: usize = 65536;
/// Frames of TCP that may go to the engine once more.
const RECENT_MAX: usize = 65536;
/// The bytes of either kind.
const BYTES_MAX: usize = 64 << 20;

/// Identifies datagrams with the same content: two hashes with seeds of their own.
type DatagramLikeness = [u64; 2];

/// A frame of the secondary that may go to the engine once more.
#[derive(Clone, Debug)]
pub(super) struct LeadFrame {
    pub(super) number: u64,
    pub(super) at_ns: u64,
    pub(super) frame: Frame,
    /// Its flow and its TCP header.
    pub(super) tcp: Option<(FlowKey, Tcp)>,
}

/// A datagram that waits for its counterpart.
#[derive(Debug)]
enum PendingDatagram {
    Primary { at_ns: u64 },
    Secondary(LeadFrame),
}

impl PendingDatagram {
    fn side(&self) -> Side {
        match self {
            Self::Primary { .. } => Side::Primary,
            Self::Secondary(_) => Side::Secondary,
        }
    }

    fn at_ns(&self) -> u64 {
        match self {
            Self::Primary { at_ns } | Self::Secondary(LeadFrame { at_ns, .. }) => *at_ns,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Primary { .. } => 0,
            Self::Secondary(lead) => lead.frame.len(),
        }
    }
}

/// Output that one guest has sent and the other has not.
#[derive(Debug)]
pub(super) struct InFlight {
    hashers: [foldhash::fast::RandomState; 2],
    /// Time that a datagram may wait for its counterpart.
    keep_ns: u64,
    pending: HashMap<DatagramLikeness, VecDeque<PendingDatagram>>,
    /// The times at which datagrams began to wait, in order. The counterpart may have come since.
    order: VecDeque<(u64, DatagramLikeness)>,
    pending_bytes: usize,
    /// TCP frames of the secondary.
    recent: VecDeque<LeadFrame>,
    recent_bytes: usize,
    /// Datagrams of the primary that a checkpoint has settled, with the time at which they no longer
    /// count.
    settled: HashMap<DatagramLikeness, VecDeque<u64>>,
    settled_order: VecDeque<(u64, DatagramLikeness)>,
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
            self.wait(likeness, PendingDatagram::Primary { at_ns });
        }
    }

    /// A datagram of the secondary; `false` if a checkpoint has settled it.
    pub(super) fn on_secondary(&mut self, content: &DatagramContent<'_>, lead: LeadFrame) -> bool {
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
            self.wait(likeness, PendingDatagram::Secondary(lead));
        }
        true
    }

    /// A TCP frame of the secondary, translated.
    pub(super) fn on_secondary_tcp(&mut self, lead: LeadFrame) {
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

    /// A checkpoint at `now_ns`: gives the secondary's lead, in the order in which the secondary sent
    /// it. That includes all recent frames of TCP: the caller knows which of them the primary has
    /// sent.
    pub(super) fn on_checkpoint(&mut self, now_ns: u64) -> Vec<LeadFrame> {
        self.expire(now_ns);
        let oldest = now_ns.saturating_sub(LEAD_MAX_NS);
        let mut leads: Vec<LeadFrame> =
            self.recent.iter().filter(|lead| lead.at_ns >= oldest).cloned().collect();
        let mut settled = Vec::new();
        self.pending.retain(|likeness, waiting| {
            waiting.retain(|pending| match pending {
                PendingDatagram::Primary { at_ns } => {
                    if *at_ns >= oldest {
                        settled.push(*likeness);
                    }
                    false
                }
                PendingDatagram::Secondary(lead) => lead.at_ns >= oldest,
            });
            leads.extend(waiting.iter().filter_map(|pending| match pending {
                PendingDatagram::Secondary(lead) => Some(lead.clone()),
                PendingDatagram::Primary { .. } => None,
            }));
            !waiting.is_empty()
        });
        self.pending_bytes = self.pending.values().flatten().map(PendingDatagram::len).sum();
        let until = now_ns.saturating_add(LEAD_MAX_NS);
        for likeness in settled {
            self.settled.entry(likeness).or_default().push_back(until);
            self.settled_order.push_back((until, likeness));
        }
        leads.sort_by_key(|lead| lead.number);
        leads
    }

    fn likeness(&self, content: &DatagramContent<'_>) -> DatagramLikeness {
        let like = (&content.name, content.parts, content.label);
        [self.hashers[0].hash_one(like), self.hashers[1].hash_one(like)]
    }

    /// Takes the counterpart that `side` has sent before, if it has.
    fn find(&mut self, likeness: DatagramLikeness, side: Side) -> bool {
        let Some(waiting) = self.pending.get_mut(&likeness) else { return false };
        let found = waiting.pop_front_if(|first| first.side() == side);
        if waiting.is_empty() {
            self.pending.remove(&likeness);
        }
        self.pending_bytes -= found.as_ref().map_or(0, PendingDatagram::len);
        found.is_some()
    }

    fn wait(&mut self, likeness: DatagramLikeness, pending: PendingDatagram) {
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
        let is_over = |(until, _): &mut (u64, DatagramLikeness)| *until < now_ns;
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
            self.pending_bytes -= gone.as_ref().map_or(0, PendingDatagram::len);
            if waiting.is_empty() {
                self.pending.remove(&likeness);
            }
        }
        true
    }
}
