//! Client, guests, hosts and links in virtual time.
//!
//! Each event has a time. Events of the same time happen in the order in which they were queued.
//! Nothing else decides anything, so one seed is one run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::colo::{CheckpointProgress, Checkpointer};
use super::digests::DigestWire;
use super::endpoint::Nature;
use super::hosts::{GateKernel, HostedGuest, PrimaryHost, SecondaryHost};
use super::machine::Station;
use super::oracle::Oracle;
use super::plan::{DaemonWire, RunPlan, RunSabotage, Site};
use super::random::{Digest, SeededRandom};
use super::wire::{Body, TalkEnd, read};
use crate::digest::ReturnedRecord;
use crate::frame::Frame;
use crate::pair::message::ControlMessage;

/// A run with more events than this does not end by itself.
const EVENTS_MAX: u64 = 30_000;
/// Virtual time in which all conversations must end.
const PATIENCE_US: u64 = 180_000_000;
/// Lines of a trace that are shown, unless `COLO_PROXY_TRACE` has another number.
const SHOWN: usize = 120;

/// The cargo of a connection between the daemons.
#[derive(Clone, Debug)]
pub(super) enum WireCargo {
    Frame(Frame),
    Returned(ReturnedRecord),
    ToSecondary(ControlMessage),
    ToPrimary(ControlMessage),
}

#[derive(Clone, Debug)]
pub(super) enum WorldEvent {
    /// A frame leaves the LAN at the client, or at the host where the guest is.
    AtClient(Frame),
    AtGuest(Frame),
    /// A guest takes a frame.
    Receive(Site, Frame),
    ClientTimer,
    GuestTimer(Site),
    DaemonTimer(Site),
    /// A daemon reads captured output.
    ReadOutput(Site),
    /// The primary's daemon has another turn, for frames that may leave.
    Releases,
    /// The secondary's daemon reads early input, and its kernel's events about offsets.
    ReadEarlyInput,
    /// A front end reads its sockets.
    ReadReturned,
    Arrives(DaemonWire, u32, WireCargo),
    /// A connection is made, or its end is noticed.
    Wire(DaemonWire, u32, bool),
    Checkpoint(CheckpointProgress),
    Starts(Site),
    FailOver,
    Returns,
}

/// A connection between the daemons.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WireState {
    pub(super) generation: u32,
    pub(super) is_up: bool,
    /// When the last cargo arrives, at the secondary and at the primary.
    pub(super) busy_until: [u64; 2],
    /// Frames that were sent since it came up.
    pub(super) sent: u64,
}

pub(super) struct PairWorld {
    pub(super) plan: RunPlan,
    pub(super) now: u64,
    start: Instant,
    pub(super) random: SeededRandom,
    queue: BTreeMap<(u64, u64), WorldEvent>,
    numbers: u64,
    /// Events that happened.
    pub(super) events: u64,
    timers: BTreeMap<u8, u64>,
    pub(super) client: Station,
    client_nature: Nature,
    pub(super) primary: PrimaryHost,
    pub(super) secondary: SecondaryHost,
    pub(super) mirror: WireState,
    pub(super) output: WireState,
    pub(super) control: WireState,
    pub(super) digests: DigestWire,
    /// The secondary's host cannot be reached.
    pub(super) is_lost: bool,
    pub(super) checkpoints: Checkpointer,
    pub(super) oracle: Oracle,
    pub(super) requests: u64,
    pub(super) has_failed_over: bool,
    /// A failover is to happen at the next moment at which it must succeed.
    pub(super) fail_over_due: bool,
    pub(super) digest: Digest,
    trace: Option<Vec<String>>,
}

impl PairWorld {
    pub(super) fn new(plan: RunPlan) -> Self {
        let mut random = SeededRandom::new(plan.seed ^ 0x3a1d);
        let client_nature = Nature {
            random: random.fork(),
            segment_max: 1448,
            delayed_ack_us: 20_000,
            buffer: 65_535,
            numbers: None,
        };
        let [first, second] = plan.natures.clone();
        let primary = PrimaryHost {
            guest: HostedGuest::new(plan.guest.clone(), first),
            kernel: GateKernel::new(&plan),
            daemon: None,
            is_alive: true,
            reads_at: None,
        };
        let guest = HostedGuest::new(plan.guest.clone(), second);
        let mut secondary = SecondaryHost::new(guest, plan.sabotage == RunSabotage::OldOffsets);
        secondary.kernel.programs.translates = plan.natures.iter().all(|n| n.numbers.is_none());
        let mut world = Self {
            client: plan.client.clone(),
            now: 0,
            start: Instant::now(),
            random,
            queue: BTreeMap::new(),
            numbers: 0,
            events: 0,
            timers: BTreeMap::new(),
            client_nature,
            primary,
            secondary,
            mirror: WireState::default(),
            output: WireState::default(),
            control: WireState::default(),
            digests: DigestWire::default(),
            is_lost: false,
            checkpoints: Checkpointer::default(),
            oracle: Oracle::default(),
            requests: 0,
            has_failed_over: false,
            fail_over_due: false,
            digest: Digest::EMPTY,
            trace: None,
            plan,
        };
        world.start_primary_daemon();
        for wire in [DaemonWire::Mirror, DaemonWire::Output, DaemonWire::Control] {
            world.connect(wire, world.plan.connect_us.clone());
        }
        world.arm_all();
        world
    }

    // Time.

    /// The virtual time, for the daemons' code.
    pub(super) fn instant(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_micros() as u64
    }

    pub(super) fn at(&mut self, time: u64, event: WorldEvent) {
        self.numbers += 1;
        self.queue.insert((time.max(self.now), self.numbers), event);
    }

    pub(super) fn after(&mut self, delay: std::ops::Range<u64>, event: WorldEvent) {
        let time = self.now + self.random.within(delay);
        self.at(time, event);
    }

    /// Makes sure that every timer that runs has its event.
    pub(super) fn arm_all(&mut self) {
        let primary = &self.primary;
        let guest = timer_of(&primary.guest).filter(|_| primary.is_alive);
        let daemon = primary.daemon.as_ref().and_then(crate::pair::Primary::poll_timeout);
        self.arm(0, self.client.next_timer(), WorldEvent::ClientTimer);
        self.arm(1, guest, WorldEvent::GuestTimer(Site::Primary));
        self.arm(2, timer_of(&self.secondary.guest), WorldEvent::GuestTimer(Site::Secondary));
        self.arm(3, daemon.map(|at| self.micros(at)), WorldEvent::DaemonTimer(Site::Primary));
        let daemon = self.secondary.next_timer();
        self.arm(4, daemon.map(|at| self.micros(at)), WorldEvent::DaemonTimer(Site::Secondary));
    }

    /// One of the timers, by its number.
    fn arm(&mut self, number: u8, time: Option<u64>, event: WorldEvent) {
        let Some(time) = time.map(|time| time.max(self.now)) else { return };
        if self.timers.get(&number).is_none_or(|armed| *armed > time) {
            self.timers.insert(number, time);
            self.at(time, event);
        }
    }

    // Running.

    /// Runs to the end. `Err`: what went wrong.
    pub(super) fn run(&mut self) -> Result<(), String> {
        while !self.is_settled() {
            if self.now > PATIENCE_US || self.events > EVENTS_MAX {
                return Err(Oracle::unfinished(&self.client, &self.primary, &self.secondary));
            }
            self.step()?;
        }
        let survivor =
            if self.has_failed_over { &self.secondary.guest } else { &self.primary.guest };
        Oracle::end(&self.client, &survivor.machine)
    }

    /// All conversations are over, and no frame waits or is held.
    fn is_settled(&self) -> bool {
        let held =
            |d: &crate::pair::Primary| d.engine().stats().held.frames > 0 || d.is_releasing();
        let guest = if self.has_failed_over { &self.secondary.guest } else { &self.primary.guest };
        let is_over = |machine: &Station| {
            machine.calls.is_empty()
                && machine.scripts().all(|(_, script)| script.is_done())
                && machine.questions.iter().all(|q| q.answered)
                && machine.connections.values().all(|c| c.endpoint.is_over())
        };
        is_over(&self.client)
            && is_over(&guest.machine)
            && !self.fail_over_due
            && !guest.paused
            && !self.primary.daemon.as_ref().is_some_and(held)
    }

    fn step(&mut self) -> Result<(), String> {
        self.strike();
        let Some(((time, _), event)) = self.queue.pop_first() else {
            let unfinished = Oracle::unfinished(&self.client, &self.primary, &self.secondary);
            return Err(format!("nothing happens any more: {unfinished}"));
        };
        self.now = time;
        self.events += 1;
        self.note(&event);
        self.handle(event);
        self.arm_all();
        self.oracle.verdict(&self.primary)
    }

    fn strike(&mut self) {
        if self.fail_over_due {
            self.try_fail_over();
        }
        while let Some((_, fault)) = self.plan.faults.pop_front_if(|(at, _)| *at <= self.events) {
            self.say(|| format!("fault: {fault:?}"));
            self.on_fault(fault);
        }
    }

    fn handle(&mut self, event: WorldEvent) {
        match event {
            WorldEvent::AtClient(frame) => {
                if let Some(body) = read(&frame) {
                    self.on_client(|client, now, nature, out| {
                        client.on_body(now, body, nature, out);
                    });
                }
            }
            WorldEvent::ClientTimer => {
                self.timers.remove(&0);
                self.on_client(Station::on_timer);
            }
            WorldEvent::AtGuest(frame) => self.input(&frame),
            WorldEvent::Receive(at, frame) => self.on_receive(at, frame),
            WorldEvent::GuestTimer(at) => {
                self.timers.remove(&(1 + at as u8));
                self.on_guest(at, Station::on_timer);
            }
            WorldEvent::DaemonTimer(at) => {
                self.timers.remove(&(3 + at as u8));
                self.on_daemon_timer(at);
            }
            WorldEvent::ReadOutput(Site::Primary) => self.read_primary_output(),
            WorldEvent::ReadOutput(Site::Secondary) => self.read_secondary_output(),
            WorldEvent::Releases => self.settle_primary(),
            WorldEvent::ReadEarlyInput => self.read_early_input(),
            WorldEvent::ReadReturned => self.read_sockets(),
            WorldEvent::Arrives(wire, generation, cargo) => self.on_cargo(wire, generation, cargo),
            WorldEvent::Wire(wire, generation, up) => self.on_wire(wire, generation, up),
            WorldEvent::Checkpoint(progress) => self.on_progress(progress),
            WorldEvent::Starts(Site::Primary) => self.start_primary_daemon(),
            WorldEvent::Starts(Site::Secondary) => self.start_secondary_daemon(),
            WorldEvent::FailOver => self.fail_over(),
            WorldEvent::Returns => self.on_return(),
        }
    }

    fn on_client(&mut self, act: impl FnOnce(&mut Station, u64, &mut Nature, &mut Vec<Body>)) {
        let mut out = Vec::new();
        act(&mut self.client, self.now, &mut self.client_nature, &mut out);
        for body in out {
            let frame = self.plan.net.frame(TalkEnd::Client, &body);
            self.send_on_lan(&frame, WorldEvent::AtGuest);
        }
    }

    // A guest.

    fn on_receive(&mut self, at: Site, frame: Frame) {
        let guest = self.guest(at);
        if guest.paused {
            guest.backlog.push_back(frame);
        } else if let Some(body) = read(&frame) {
            self.on_guest(at, |guest, now, nature, out| guest.on_body(now, body, nature, out));
        }
    }

    pub(super) fn guest(&mut self, at: Site) -> &mut HostedGuest {
        match at {
            Site::Primary => &mut self.primary.guest,
            Site::Secondary => &mut self.secondary.guest,
        }
    }

    fn on_guest(
        &mut self,
        at: Site,
        act: impl FnOnce(&mut Station, u64, &mut Nature, &mut Vec<Body>),
    ) {
        if at == Site::Primary && !self.primary.is_alive {
            return;
        }
        let now = self.now;
        let guest = self.guest(at);
        if guest.paused {
            return;
        }
        let mut out = Vec::new();
        act(&mut guest.machine, now, &mut guest.nature, &mut out);
        for body in out {
            let frame = self.plan.net.frame(TalkEnd::Guest, &body);
            match at {
                Site::Primary => self.primary_output(frame),
                Site::Secondary => self.secondary_output(&frame),
            }
        }
    }

    /// The guest goes on, with the frames that came meanwhile.
    pub(super) fn resume(&mut self, at: Site) {
        let guest = self.guest(at);
        guest.paused = false;
        for frame in std::mem::take(&mut guest.backlog) {
            self.give(at, frame);
        }
    }

    /// A frame is in the guest's TAP.
    pub(super) fn give(&mut self, at: Site, frame: Frame) {
        let needed = self.random.within(self.plan.guest_us[at as usize].clone());
        let loss = self.plan.input_loss[at as usize];
        if self.random.chance(loss) {
            return self.say(|| format!("{at:?} guest loses input"));
        }
        let now = self.now;
        let guest = self.guest(at);
        let time = guest.busy_until.max(now + needed);
        guest.busy_until = time;
        self.at(time, WorldEvent::Receive(at, frame));
    }

    // The trace of a run.

    /// Writes a trace from here on.
    pub(super) fn traced(mut self) -> Self {
        self.trace = Some(Vec::new());
        self
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let line = line();
            trace.push(format!("{:>10} {:>6}  {line}", self.now, self.events));
        }
    }

    fn note(&mut self, event: &WorldEvent) {
        self.digest.add(&self.now.to_be_bytes());
        if let WorldEvent::AtClient(frame)
        | WorldEvent::AtGuest(frame)
        | WorldEvent::Receive(_, frame) = event
        {
            self.digest.add(frame.bytes());
        }
        self.say(|| describe(event));
    }

    /// The last lines of the trace.
    pub(super) fn last_events(&self) -> String {
        let trace = self.trace.as_deref().unwrap_or_default();
        let shown = super::tests::number("COLO_PROXY_TRACE").map_or(SHOWN, |lines| lines as usize);
        trace[trace.len().saturating_sub(shown)..].join("\n")
    }
}

fn timer_of(guest: &HostedGuest) -> Option<u64> {
    guest.machine.next_timer().filter(|_| !guest.paused)
}

fn describe(event: &WorldEvent) -> String {
    match event {
        WorldEvent::AtClient(frame) => format!("at the client: {}", brief(frame)),
        WorldEvent::AtGuest(frame) => format!("at the guest's TAP: {}", brief(frame)),
        WorldEvent::Receive(at, frame) => format!("{at:?} guest takes {}", brief(frame)),
        WorldEvent::Arrives(
            wire,
            _,
            WireCargo::Frame(frame) | WireCargo::Returned(ReturnedRecord::Whole(frame)),
        ) => {
            format!("arrives by {wire:?}: {}", brief(frame))
        }
        other => format!("{other:?}"),
    }
}

/// A frame in a few words.
pub(super) fn brief(frame: &Frame) -> String {
    match read(frame) {
        Some(Body::Udp(tuple, payload)) => {
            format!("UDP {}>{} len {}", tuple.own_port, tuple.peer_port, payload.len())
        }
        Some(Body::Tcp(s)) => {
            let flags = [(s.syn, 'S'), (s.fin, 'F'), (s.rst, 'R'), (s.ack.is_some(), '.')];
            let flags: String =
                flags.iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
            let ports = (s.tuple.own_port, s.tuple.peer_port);
            let ack = s.ack.unwrap_or_default();
            let (len, ts) = (s.payload.len(), s.timestamps.unwrap_or_default());
            format!("{}>{} {flags} seq {} ack {ack} len {len} ts {ts:?}", ports.0, ports.1, s.seq)
        }
        None => "a frame with a wrong checksum".into(),
    }
}

/// Runs `plan`. A failure has the seed, its reason and the last events.
pub(super) fn play(plan: &RunPlan) -> Result<PairWorld, String> {
    let mut world = PairWorld::new(plan.clone());
    match world.run() {
        Ok(()) => Ok(world),
        Err(wrong) => {
            let mut again = PairWorld::new(plan.clone()).traced();
            let same = again.run().err();
            let events = again.last_events();
            let differs = if same.as_ref() == Some(&wrong) { "" } else { " (NOT REPEATABLE)" };
            Err(format!(
                "{events}\nfaults {:?}\nagain with COLO_PROXY_SEED={}{differs}: {wrong}",
                plan.faults, plan.seed
            ))
        }
    }
}
