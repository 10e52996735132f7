//! The flows that are remembered, and which one is forgotten for a new one.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use super::chain::{Chain, ChainEnds, ChainKey};
use super::classify::ClassifiedFrame;
use super::datagram::DatagramFlow;
use super::hashing::{self, HashState, state};
use super::index::FlowIndex;
use super::ledger::Ledger;
use super::tcp::{Resting, TcpFlow};
use super::wheel::TimerKey;

/// Flows looked at in each class for one that may go.
const CANDIDATES_MAX: usize = 8;

/// A flow and its place in the table. It lies in memory in this order: the fields that a frame needs
/// of an awake flow lie together.
#[derive(Debug)]
#[repr(C)]
pub(super) struct TableEntry {
    /// Its place among those that are awake.
    awake: Option<ChainKey>,
    pub(super) name: FlowKey,
    epoch: u64,
    /// On the ledger's clock.
    last_seen_ns: u64,
    pub(super) kind: FlowKind,
    /// The facts of a connection at rest. They lie here to be written in place: moving is dear.
    resting: Resting,
    timer: Option<TimerKey>,
    class: Class,
    /// It has been seen since it was queued in its class.
    is_active: bool,
}

/// With its links it takes three lines of memory. With many flows, these are most of the cost.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<TableEntry>() + 2 * size_of::<u32>() <= 3 * 64);

/// The state by kind of flow.
#[derive(Debug)]
pub(super) enum FlowKind {
    Tcp(Box<TcpFlow>),
    Datagram(Box<DatagramFlow>),
    /// A connection of which nothing is held. The table wakes a flow before it hands it out.
    AtRest,
    /// Likewise datagrams, of which nothing is to be remembered then.
    Silent,
}

/// States that no flow has, to be used again with the memory that they have.
#[derive(Debug, Default)]
#[allow(clippy::vec_box, reason = "they go into flows as they are, without being moved")]
struct Spare {
    tcp: Vec<Box<TcpFlow>>,
    datagram: Vec<Box<DatagramFlow>>,
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
    key: ChainKey,
    is_idle: bool,
}

/// All flows: found by key, queued by class.
#[derive(Debug)]
pub(super) struct FlowTable {
    awake_max: usize,
    index: FlowIndex,
    state: HashState,
    flows: Chain<TableEntry>,
    /// Where the flow of the frame in hand probably is.
    expected: Option<ChainKey>,
    classes: [ChainEnds; CLASSES.len()],
    /// Flows that are not at rest, those that have been awake for long in front.
    awake: Chain<ChainKey>,
    awake_ends: ChainEnds,
    spare: Spare,
    /// Flows for which there was no room. Their output is held for the checkpoint, and later output
    /// of theirs must not leave before it. Each has one held frame at least.
    refused: HashSet<FlowKey, HashState>,
    /// The epoch that those are of.
    refused_in: u64,
}

impl TableEntry {
    /// Forgets what the last checkpoint made void, the first time that the flow is met after it.
    #[inline]
    fn catch_up(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.begin_epoch(epoch);
        }
    }

    #[cold]
    fn begin_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        // All timers were stopped.
        self.timer = None;
        match &mut self.kind {
            FlowKind::Tcp(flow) => flow.begin_epoch(),
            FlowKind::Datagram(flow) => flow.begin_epoch(),
            FlowKind::AtRest | FlowKind::Silent => {}
        }
    }

    /// Something of all the lines of memory that it lies in.
    fn touch(&self) -> u64 {
        let state = self.resting.touch();
        state ^ u64::from(self.is_active) ^ u64::from(self.name.peer_port)
    }

    /// Lays it to rest, unless it has facts that rest cannot keep. Its state is then free.
    #[inline(always)]
    fn rest(&mut self) -> Option<FlowKind> {
        let at_rest = match &self.kind {
            FlowKind::Tcp(state) => state.rest(&mut self.resting).then_some(FlowKind::AtRest),
            FlowKind::Datagram(state) => state.is_new().then_some(FlowKind::Silent),
            FlowKind::AtRest | FlowKind::Silent => None,
        };
        Some(std::mem::replace(&mut self.kind, at_rest?))
    }

    fn holds_nothing(&self) -> bool {
        match &self.kind {
            FlowKind::Tcp(flow) => flow.holds_nothing(),
            FlowKind::Datagram(flow) => flow.holds_nothing(),
            FlowKind::AtRest | FlowKind::Silent => true,
        }
    }

    fn drop_waiting(&mut self, ledger: &mut Ledger) {
        match &mut self.kind {
            FlowKind::Tcp(flow) => flow.drop_waiting(ledger),
            FlowKind::Datagram(flow) => flow.drop_waiting(ledger),
            FlowKind::AtRest | FlowKind::Silent => {}
        }
    }

    /// It is in the class that its state belongs to.
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.class == self.class_now()
    }

    fn class_now(&self) -> Class {
        match &self.kind {
            // It has changed nothing since it was looked at.
            FlowKind::AtRest => self.class,
            FlowKind::Datagram(_) | FlowKind::Silent => Class::Datagram,
            FlowKind::Tcp(flow) if flow.is_closed() => Class::Closed,
            FlowKind::Tcp(flow) if flow.is_half_open() => Class::HalfOpen,
            FlowKind::Tcp(_) => Class::Established,
        }
    }
}

impl Spare {
    /// The state of `flow`, which is at rest.
    #[inline]
    fn wake(&mut self, flow: &TableEntry) -> Option<FlowKind> {
        match &flow.kind {
            FlowKind::AtRest => {
                let mut state = self.tcp.pop().unwrap_or_default();
                state.wake(&flow.resting);
                Some(FlowKind::Tcp(state))
            }
            FlowKind::Silent => {
                let mut state = self.datagram.pop().unwrap_or_default();
                state.rename(&flow.name);
                Some(FlowKind::Datagram(state))
            }
            FlowKind::Tcp(_) | FlowKind::Datagram(_) => None,
        }
    }

    /// Takes the state of a flow at rest for the next use.
    #[inline]
    fn take(&mut self, kind: FlowKind, states_max: usize) {
        match kind {
            FlowKind::Tcp(state) if self.tcp.len() < states_max => self.tcp.push(state),
            FlowKind::Datagram(state) if self.datagram.len() < states_max => {
                self.datagram.push(state);
            }
            _ => {}
        }
    }
}

impl FlowTable {
    /// `seed` keeps the guest, which chooses the keys, from choosing collisions.
    /// `awake_max` is that of [`Limits::awake_flows_max`].
    ///
    /// [`Limits::awake_flows_max`]: super::Limits::awake_flows_max
    pub(super) fn new(seed: u64, awake_max: usize) -> Self {
        Self {
            awake_max,
            index: FlowIndex::default(),
            state: state(seed),
            flows: Chain::default(),
            expected: None,
            classes: [ChainEnds::default(); CLASSES.len()],
            awake: Chain::default(),
            awake_ends: ChainEnds::default(),
            spare: Spare::default(),
            refused: HashSet::with_hasher(state(seed)),
            refused_in: 0,
        }
    }

    /// Finds the flow `name` or makes it; `None` where the table is full of what must stay.
    #[inline]
    pub(super) fn find(
        &mut self,
        name: &FlowKey,
        ledger: &mut Ledger,
        new: impl FnOnce() -> FlowKind,
    ) -> Option<(ChainKey, &mut TableEntry)> {
        let expected = self.expected.filter(|key| self.is_at(*key, name));
        let key = match expected.or_else(|| self.key_of(name)) {
            Some(key) => key,
            None => self.add(name, ledger, new())?,
        };
        let flow = self.awake(key)?;
        flow.is_active |= flow.last_seen_ns != ledger.now_ns();
        flow.last_seen_ns = ledger.now_ns();
        flow.catch_up(ledger.epoch);
        Some((key, flow))
    }

    /// Makes the flow `name`.
    #[cold]
    fn add(&mut self, name: &FlowKey, ledger: &mut Ledger, kind: FlowKind) -> Option<ChainKey> {
        let (now_ns, epoch) = (ledger.now_ns(), ledger.epoch);
        if self.is_refused(name, epoch)
            || (self.flows.len() >= ledger.limits.flows_max && !self.evict(ledger))
        {
            return None;
        }
        let class =
            if matches!(kind, FlowKind::Silent) { Class::Datagram } else { Class::HalfOpen };
        let flow = TableEntry {
            name: *name,
            kind,
            resting: Resting::default(),
            class,
            timer: None,
            awake: None,
            epoch,
            last_seen_ns: now_ns,
            is_active: false,
        };
        let ends = self.classes.get_mut(flow.class as usize)?;
        let key = self.flows.push_back(ends, flow);
        self.index.insert(self.hash(name), key);
        ledger.stats.flows_opened += 1;
        ledger.stats.flows = self.flows.len() as u64;
        Some(key)
    }

    /// Finds where the flows of `ahead` probably are, and fetches the memory of all of them at once.
    /// Nothing depends on it but the time that [`Self::find`] takes for each of them then.
    pub(super) fn fetch(&self, ahead: &mut [ClassifiedFrame]) {
        const MANY: usize = 1024;
        // Few are at hand anyway.
        let are_many = self.flows.len() >= MANY;
        // Each loop waits for what the one before it has asked for; within one, nothing waits.
        for seen in &mut *ahead {
            seen.hash = seen.subject.name().map_or(0, |name| self.hash(name));
        }
        if are_many {
            let places = ahead.iter().map(|seen| self.index.touch(seen.hash));
            std::hint::black_box(places.fold(0, |sum, place| sum ^ place));
        }
        for seen in &mut *ahead {
            seen.place = self.index.guess(seen.hash);
        }
        if are_many {
            let flows = ahead.iter().filter_map(|seen| self.flows.get(seen.place?));
            std::hint::black_box(flows.fold(0, |sum, flow| sum ^ flow.touch()));
        }
    }

    /// The flow of the frame in hand is probably at `place`.
    #[inline]
    pub(super) fn expect(&mut self, place: Option<ChainKey>) {
        self.expected = place;
    }

    fn hash(&self, name: &FlowKey) -> u32 {
        let hash = hashing::of_name(&self.state, name);
        (hash ^ hash >> 32) as u32
    }

    fn key_by(&self, hash: u32, name: &FlowKey) -> Option<ChainKey> {
        self.index.find(hash, |key| self.is_at(key, name))
    }

    #[inline]
    fn is_at(&self, key: ChainKey, name: &FlowKey) -> bool {
        self.flows.get(key).is_some_and(|flow| flow.name == *name)
    }

    /// The flow, awake.
    #[inline]
    fn awake(&mut self, key: ChainKey) -> Option<&mut TableEntry> {
        if self.flows.get(key)?.awake.is_none() {
            self.wake(key);
        }
        self.flows.get_mut(key)
    }

    /// Apart, so that those that are awake cost no more than a look.
    #[inline(never)]
    fn wake(&mut self, key: ChainKey) {
        self.lay_to_rest();
        let Some(flow) = self.flows.get_mut(key) else { return };
        if let Some(kind) = self.spare.wake(flow) {
            flow.kind = kind;
            flow.awake = Some(self.awake.push_back(&mut self.awake_ends, key));
        }
    }

    /// If many flows are awake, lays those to rest that have been awake longest. It lays down more
    /// than wake meanwhile: flows with held frames stay awake, and must not crowd out the others.
    fn lay_to_rest(&mut self) {
        for _ in 0..2 {
            if self.awake.len() < self.awake_max {
                return;
            }
            let Some(place) = self.awake_ends.front() else { return };
            let flow = self.awake.get(place).copied().and_then(|key| self.flows.get_mut(key));
            let Some(flow) = flow else { return };
            let Some(state) = flow.rest() else {
                self.awake.requeue(&mut self.awake_ends, place);
                continue;
            };
            flow.awake = None;
            self.awake.remove(&mut self.awake_ends, place);
            self.spare.take(state, self.awake_max);
        }
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
    pub(super) fn get_by_name(&mut self, name: &FlowKey) -> Option<&mut TableEntry> {
        self.get_mut(self.key_of(name)?)
    }

    /// Where the flow `name` is, if it is remembered.
    pub(super) fn key_of(&self, name: &FlowKey) -> Option<ChainKey> {
        self.key_by(self.hash(name), name)
    }

    pub(super) fn get_mut(&mut self, key: ChainKey) -> Option<&mut TableEntry> {
        self.awake(key)
    }

    /// Has the flow looked at when `at` has come, unless it will be before.
    pub(super) fn start_timer(&mut self, key: ChainKey, at: Instant, ledger: &mut Ledger) {
        if let Some(flow) = self.flows.get_mut(key).filter(|flow| flow.timer.is_none()) {
            flow.timer = Some(ledger.timers.start(ledger.now(), at, key));
        }
    }

    /// A flow whose timer has run out.
    pub(super) fn pop_due(&mut self, ledger: &mut Ledger) -> Option<(ChainKey, &mut TableEntry)> {
        let key = ledger.timers.pop_due(ledger.now())?;
        let flow = self.awake(key)?;
        flow.timer = None;
        Some((key, flow))
    }

    /// Moves the flow to the class that its state now belongs to.
    pub(super) fn settle(&mut self, key: ChainKey) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let (was, is) = (flow.class, flow.class_now());
        if was == is {
            return;
        }
        flow.class = is;
        flow.is_active = false;
        if let Ok([from, to]) = self.classes.get_disjoint_mut([was as usize, is as usize]) {
            self.flows.move_back(from, to, key);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, ledger: &mut Ledger) {
        self.index.clear();
        for class in CLASSES {
            while let Some(flow) = self.pop(class) {
                self.leave(flow, ledger);
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
            let silent = Duration::from_nanos(ledger.now_ns().saturating_sub(flow.last_seen_ns));
            let is_idle = silent >= ledger.limits.flow_idle;
            let may_go = holds_nothing && (class != Class::Established || is_idle || is_covered);
            let candidate = may_go.then_some(Candidate { key, is_idle });
            if may_go && !flow.is_active {
                return candidate;
            }
            fallback = fallback.or(candidate);
            flow.is_active = false;
            self.flows.requeue(ends, key);
        }
        fallback
    }

    fn pop(&mut self, class: Class) -> Option<TableEntry> {
        self.flows.pop_front(self.classes.get_mut(class as usize)?)
    }

    /// Takes leave of a flow that is not in the table any more.
    fn leave(&mut self, mut flow: TableEntry, ledger: &mut Ledger) {
        // Its frames of an older epoch have left the ledger already.
        flow.catch_up(ledger.epoch);
        flow.drop_waiting(ledger);
        if let Some(timer) = flow.timer {
            ledger.timers.stop(timer);
        }
        if let Some(place) = flow.awake {
            self.awake.remove(&mut self.awake_ends, place);
        }
        if let Some(state) = flow.rest() {
            self.spare.take(state, self.awake_max);
        }
    }

    fn remove(&mut self, candidate: Candidate, class: Class, ledger: &mut Ledger) {
        let Candidate { key, is_idle } = candidate;
        let Some(ends) = self.classes.get_mut(class as usize) else { return };
        let Some(flow) = self.flows.remove(ends, key) else { return };
        let hash = self.hash(&flow.name);
        self.index.remove(hash, key);
        self.leave(flow, ledger);
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
