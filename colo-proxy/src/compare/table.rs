//! The flows that are remembered, and which one is forgotten for a new one.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use colo_proxy_common::record::FlowKey;

use super::chain::{Chain, Ends, Key};
use super::datagram::DatagramFlow;
use super::hashing::{State, state};
use super::ledger::Ledger;
use super::tcp::TcpFlow;
use super::wheel::TimerKey;

/// Flows looked at in each class for one that may go.
const CANDIDATES_MAX: usize = 8;

/// A flow and its place in the table.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) name: FlowKey,
    pub(super) kind: Kind,
    class: Class,
    timer: Option<TimerKey>,
    epoch: u64,
    last_seen: Instant,
    /// `last_seen` at the time when it was queued in its class.
    queued: Instant,
}

/// The state by kind of flow.
#[derive(Debug)]
pub(super) enum Kind {
    Tcp(Box<TcpFlow>),
    Datagram(DatagramFlow),
}

/// Flows of a class are forgotten before those of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Closed,
    /// One that holds nothing is worth little: met again, it starts afresh.
    Datagram,
    HalfOpen,
    Established,
}

const CLASSES: [Class; 4] = [Class::Closed, Class::Datagram, Class::HalfOpen, Class::Established];

/// A flow that may be forgotten.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    key: Key,
    is_idle: bool,
}

/// All flows: found by key, queued by class.
#[derive(Debug)]
pub(super) struct Table {
    index: HashMap<FlowKey, Key, State>,
    flows: Chain<Flow>,
    classes: [Ends; CLASSES.len()],
    /// Flows for which there was no room, of which output waits for the checkpoint: what comes
    /// later of them must not leave before it. Each has a held frame at least.
    refused: HashSet<FlowKey, State>,
    /// The epoch that those are of.
    refused_in: u64,
}

impl Flow {
    /// Forgets what the last checkpoint made void, the first time that the flow is met after it.
    fn catch_up(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            // All timers were stopped.
            self.timer = None;
            match &mut self.kind {
                Kind::Tcp(flow) => flow.begin_epoch(),
                Kind::Datagram(flow) => flow.begin_epoch(),
            }
        }
    }

    fn holds_nothing(&self) -> bool {
        match &self.kind {
            Kind::Tcp(flow) => flow.holds_nothing(),
            Kind::Datagram(flow) => flow.holds_nothing(),
        }
    }

    fn drop_waiting(&mut self, ledger: &mut Ledger) {
        match &mut self.kind {
            Kind::Tcp(flow) => flow.drop_waiting(ledger),
            Kind::Datagram(flow) => flow.drop_waiting(ledger),
        }
    }

    fn class_now(&self) -> Class {
        match &self.kind {
            Kind::Datagram(_) => Class::Datagram,
            Kind::Tcp(flow) if flow.is_closed() => Class::Closed,
            Kind::Tcp(flow) if flow.is_half_open() => Class::HalfOpen,
            Kind::Tcp(_) => Class::Established,
        }
    }
}

impl Table {
    /// `seed` keeps the guest, which chooses the keys, from choosing collisions.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            index: HashMap::with_hasher(state(seed)),
            flows: Chain::default(),
            classes: [Ends::default(); CLASSES.len()],
            refused: HashSet::with_hasher(state(seed)),
            refused_in: 0,
        }
    }

    /// Finds the flow `name` or makes it; `None` where the table is full of what must stay.
    pub(super) fn find(
        &mut self,
        name: &FlowKey,
        ledger: &mut Ledger,
        new: impl FnOnce() -> Kind,
    ) -> Option<Key> {
        let (now, epoch) = (ledger.now(), ledger.epoch);
        if let Some(key) = self.index.get(name).copied() {
            if let Some(flow) = self.flows.get_mut(key) {
                flow.last_seen = now;
                flow.catch_up(epoch);
            }
            return Some(key);
        }
        if self.is_refused(name, epoch)
            || (self.flows.len() >= ledger.limits.flows_max && !self.evict(ledger))
        {
            return None;
        }
        let kind = new();
        let mut flow = Flow {
            name: *name,
            kind,
            class: Class::Closed,
            timer: None,
            epoch,
            last_seen: now,
            queued: now,
        };
        flow.class = flow.class_now();
        let ends = self.classes.get_mut(flow.class as usize)?;
        let key = self.flows.push_back(ends, flow);
        self.index.insert(*name, key);
        ledger.stats.flows_opened += 1;
        ledger.stats.flows = self.flows.len() as u64;
        Some(key)
    }

    /// Output of `name` waits for the checkpoint, because there was no room for the flow.
    pub(super) fn refuse(&mut self, name: &FlowKey, epoch: u64) {
        self.is_refused(name, epoch);
        self.refused.insert(*name);
    }

    fn is_refused(&mut self, name: &FlowKey, epoch: u64) -> bool {
        if self.refused_in != epoch {
            self.refused.clear();
            self.refused_in = epoch;
        }
        self.refused.contains(name)
    }

    /// The flow `name`, if it is remembered.
    pub(super) fn get_by_name(&mut self, name: &FlowKey) -> Option<&mut Flow> {
        self.flows.get_mut(*self.index.get(name)?)
    }

    /// Where the flow `name` is, if it is remembered.
    pub(super) fn key_of(&self, name: &FlowKey) -> Option<Key> {
        self.index.get(name).copied()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Flow> {
        self.flows.get_mut(key)
    }

    /// Has the flow looked at when `at` has come, unless it will be before.
    pub(super) fn start_timer(&mut self, key: Key, at: Instant, ledger: &mut Ledger) {
        if let Some(flow) = self.flows.get_mut(key).filter(|flow| flow.timer.is_none()) {
            flow.timer = Some(ledger.timers.start(ledger.now(), at, key));
        }
    }

    /// A flow whose timer has run out.
    pub(super) fn pop_due(&mut self, ledger: &mut Ledger) -> Option<(Key, &mut Flow)> {
        let key = ledger.timers.pop_due(ledger.now())?;
        let flow = self.flows.get_mut(key)?;
        flow.timer = None;
        Some((key, flow))
    }

    /// Moves the flow to the class that its state now belongs to.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let (was, is) = (flow.class, flow.class_now());
        if was == is {
            return;
        }
        flow.class = is;
        flow.queued = flow.last_seen;
        if let Ok([from, to]) = self.classes.get_disjoint_mut([was as usize, is as usize]) {
            self.flows.move_back(from, to, key);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, ledger: &mut Ledger) {
        self.index.clear();
        for ends in &mut self.classes {
            while let Some(mut flow) = self.flows.pop_front(ends) {
                flow.catch_up(ledger.epoch);
                flow.drop_waiting(ledger);
            }
        }
        ledger.stats.flows = 0;
    }

    /// Forgets one flow, closed before datagrams before half-open before idle; never one of which
    /// output is held, and no established one that spoke since the last checkpoint, unless long ago.
    fn evict(&mut self, ledger: &mut Ledger) -> bool {
        for class in CLASSES {
            if let Some(candidate) = self.candidate(class, ledger) {
                self.remove(candidate, class, ledger);
                return true;
            }
        }
        false
    }

    /// A flow of `class` that may go: the longest silent one, or nearly so. One that was active
    /// since it was queued gets a second chance, so that no frame has to move its flow.
    fn candidate(&mut self, class: Class, ledger: &Ledger) -> Option<Candidate> {
        let ends = self.classes.get_mut(class as usize)?;
        let mut fallback = None;
        for _ in 0..CANDIDATES_MAX {
            let key = ends.front()?;
            let flow = self.flows.get_mut(key)?;
            // Silent since the last checkpoint: nothing but that vouches for it, and that holds
            // when it is met again.
            let is_covered = flow.epoch != ledger.epoch;
            let holds_nothing = is_covered || flow.holds_nothing();
            let is_idle =
                ledger.now().saturating_duration_since(flow.last_seen) >= ledger.limits.flow_idle;
            let may_go = holds_nothing && (class != Class::Established || is_idle || is_covered);
            let candidate = may_go.then_some(Candidate { key, is_idle });
            if may_go && flow.queued == flow.last_seen {
                return candidate;
            }
            fallback = fallback.or(candidate);
            flow.queued = flow.last_seen;
            self.flows.requeue(ends, key);
        }
        fallback
    }

    fn remove(&mut self, candidate: Candidate, class: Class, ledger: &mut Ledger) {
        let Candidate { key, is_idle } = candidate;
        let Some(ends) = self.classes.get_mut(class as usize) else { return };
        let Some(mut flow) = self.flows.remove(ends, key) else { return };
        // What it has of an older epoch is gone from the ledger already.
        flow.catch_up(ledger.epoch);
        flow.drop_waiting(ledger);
        if let Some(timer) = flow.timer {
            ledger.timers.stop(timer);
        }
        self.index.remove(&flow.name);
        ledger.stats.flows = self.flows.len() as u64;
        let evicted = &mut ledger.stats.flows_evicted;
        match class {
            Class::Closed => evicted.closed += 1,
            Class::Datagram => evicted.datagram += 1,
            Class::HalfOpen => evicted.half_open += 1,
            Class::Established if is_idle => evicted.idle += 1,
            Class::Established => evicted.covered += 1,
        }
    }
}
