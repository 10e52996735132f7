//! The compare engine between QEMU's sockets: what QEMU's own `colo-compare` object is, as a
//! program of its own. It touches no interface and needs no privilege.
//!
//! ```text
//!   filter-redirector ──► primary_in   ┐                ┌► outdev ──► filter-redirector
//!                                      ├► the engine ───┤
//!   filter-redirector ──► secondary_in ┘                └► COLO-frame
//! ```
//!
//! Whatever the primary has sent when a checkpoint begins leaves when it is done, and whatever the
//! secondary has sent by then is void, read or not ([`Comparer::checkpoint_done`]).
//!
//! The frames that leave are the primary's and no others: the acknowledgments of its own making
//! that the engine offers are for those who own the guest's TAP.

mod counters;
mod inbound;
mod outdev;

use std::collections::VecDeque;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use self::counters::Counters;
use self::inbound::{Inbound, InboundEvent};
use self::outdev::Outdev;
use crate::colo_frame::{self, ColoFrame, ColoFrameError, Command, Event, Terms};
use crate::compare::{Engine, Limits, Output, Reason, Side};
use crate::config::{ColoFrameKind, OnSecondaryLost, Role};
use crate::endpoint::{Endpoint, Port};
use crate::frame::Frame;
use crate::log_limit::LogLimit;
use crate::protection::{Action, Protection, State};

/// How long the end waits for a peer to take what was released.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two looks whether the secondary is still there, while its output is not read.
const WATCH: Duration = Duration::from_millis(100);

/// What QEMU's object is configured with, under its names.
#[derive(Clone, Debug)]
pub struct Options {
    pub primary_in: Endpoint,
    pub secondary_in: Endpoint,
    pub outdev: Endpoint,
    /// Who makes checkpoints; QEMU's `notify_dev` is one.
    pub colo_frame: Option<ColoFrameKind>,
    pub vnet_hdr_support: bool,
    pub compare_timeout: Duration,
    /// Frames of one flow held, on either side.
    pub max_queue_size: usize,
    /// Not QEMU's: how long the secondary may be gone before the guest goes on alone.
    pub secondary_timeout: Duration,
}

/// Compares until `stop` is done, then lets go what is held. Calls `started` when every listening
/// endpoint can be connected to; the others are connected to from then on, again and again.
pub async fn run(
    options: Options,
    started: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ColoFrameError> {
    let mut sockets = Sockets::open(&options).await?;
    let mut comparer = Comparer::new(&options, Instant::now());
    started();
    tokio::select! {
        never = comparer.serve(&mut sockets) => match never {},
        () = stop => {}
    }
    comparer.end(&mut sockets).await;
    Ok(())
}

struct Sockets {
    primary: Inbound,
    secondary: Inbound,
    outdev: Outdev,
    frame: Box<dyn ColoFrame>,
}

impl Sockets {
    async fn open(options: &Options) -> Result<Self, ColoFrameError> {
        let vnet_hdr = options.vnet_hdr_support;
        let primary = Port::open(options.primary_in.clone()).await?;
        let secondary = Port::open(options.secondary_in.clone()).await?;
        let outdev = Port::open(options.outdev.clone()).await?;
        let terms = Terms::of_part("colo-compare", Role::Primary, vnet_hdr);
        let frame = colo_frame::start(options.colo_frame.as_ref(), terms).await?;
        Ok(Self {
            primary: Inbound::new("primary-in", primary, vnet_hdr),
            secondary: Inbound::new("secondary-in", secondary, vnet_hdr),
            outdev: Outdev::new(outdev, vnet_hdr),
            frame,
        })
    }
}

/// The engine, and what it depends on.
#[derive(Debug)]
struct Comparer {
    engine: Engine,
    out: Output,
    /// Frames that were read and for which the engine has had no room yet.
    primary: VecDeque<Frame>,
    secondary: VecDeque<Frame>,
    protection: Protection,
    secondary_up: bool,
    /// The COLO-frame has not said that it has no pair.
    has_pair: bool,
    /// A checkpoint has begun and is not done yet.
    checkpoint_running: bool,
    /// The primary's guest is on its own: the COLO-frame is to be told.
    is_unprotected: bool,
    counters: Counters,
    request_log: LogLimit,
}

impl Comparer {
    fn new(options: &Options, now: Instant) -> Self {
        let limits = Limits {
            compare_timeout: options.compare_timeout,
            flow_frames_max: options.max_queue_size,
            ..Limits::default()
        };
        Self {
            engine: Engine::new(limits, RandomState::new().hash_one(now)),
            out: Output::default(),
            primary: VecDeque::new(),
            secondary: VecDeque::new(),
            protection: Protection::new(now, options.secondary_timeout, OnSecondaryLost::Release),
            secondary_up: false,
            has_pair: true,
            checkpoint_running: false,
            is_unprotected: false,
            counters: Counters::default(),
            request_log: LogLimit::default(),
        }
    }

    async fn serve(&mut self, sockets: &mut Sockets) -> std::convert::Infallible {
        loop {
            self.feed(sockets);
            self.carry_out(sockets);
            sockets.outdev.write_now();
            let reads_secondary = self.secondary.is_empty();
            let deadline = self.deadline(reads_secondary);
            let is_ahead = self.is_secondary_ahead();
            let Sockets { primary, secondary, outdev, frame } = sockets;
            let reads_primary = self.primary.is_empty() && outdev.has_room();
            let primary = when(reads_primary, primary.next(&mut self.primary));
            tokio::select! {
                // Who is always ready comes last, so that nobody has to wait for ever.
                biased;
                event = frame.next_event() => self.on_frame_event(&event, sockets).await,
                () = sleep_until(deadline) => self.on_timeout(secondary, reads_secondary),
                () = outdev.advance() => {}
                event = in_order(
                    is_ahead,
                    primary,
                    when(reads_secondary, secondary.next(&mut self.secondary)),
                ) => {
                    if let Some(event) = event {
                        self.on_secondary_event(event);
                    }
                }
            }
        }
    }

    /// Hands in what was read, for as long as the engine has room for it: what one guest sent can
    /// make room for the other's.
    fn feed(&mut self, sockets: &Sockets) {
        loop {
            let left = (self.primary.len(), self.secondary.len());
            while !self.primary.is_empty() && self.engine.has_room() && sockets.outdev.has_room() {
                self.take_primary();
            }
            while !self.secondary.is_empty() && self.engine.has_room_for(Side::Secondary) {
                self.take_secondary();
            }
            if left == (self.primary.len(), self.secondary.len()) {
                return;
            }
        }
    }

    /// More of the secondary's output waits for the primary's than the other way round: it is for
    /// the primary to speak next. Otherwise chance would take one of them far ahead of the other,
    /// and what is between them has to be kept.
    fn is_secondary_ahead(&self) -> bool {
        let stats = self.engine.stats();
        stats.secondary_waiting.frames > stats.held.frames
    }

    fn deadline(&self, reads_secondary: bool) -> Option<Instant> {
        let watch = (!reads_secondary).then(|| Instant::now() + WATCH);
        let engine = self.engine.poll_timeout();
        [engine, self.protection.poll_timeout(), watch].into_iter().flatten().min()
    }

    fn on_timeout(&mut self, secondary: &mut Inbound, reads_secondary: bool) {
        if !reads_secondary && secondary.give_up_if_hung_up() {
            self.on_secondary_event(InboundEvent::Down);
        }
        let now = Instant::now();
        self.engine.on_timeout(now, &mut self.out);
        let action = self.protection.on_timeout(now);
        self.act(action);
    }

    /// Hands in what the primary has sent, for as long as there is room.
    fn take_primary(&mut self) {
        if self.protection.state() == State::Unprotected {
            self.pass_primary();
            return;
        }
        self.engine.on_frames(Instant::now(), Side::Primary, &mut self.primary, &mut self.out);
    }

    /// Lets the primary's next frame go, unprotected.
    fn pass_primary(&mut self) {
        let Some(frame) = self.primary.pop_front() else { return };
        if self.engine.is_compared(&frame) {
            self.protection.expose();
        }
        self.counters.passed_unprotected += 1;
        self.out.release.push(frame);
    }

    /// Hands in what the secondary has sent, likewise.
    fn take_secondary(&mut self) {
        if self.protection.state() == State::Unprotected {
            self.counters.secondary_ignored += self.secondary.len() as u64;
            self.secondary.clear();
            return;
        }
        self.engine.on_frames(Instant::now(), Side::Secondary, &mut self.secondary, &mut self.out);
    }

    /// Hands in everything that the primary has sent by now, room or not: all of it leaves.
    fn take_all_of_primary(&mut self, sockets: &mut Sockets) {
        sockets.primary.begin_now();
        sockets.primary.drain(&mut self.primary);
        let is_unprotected = self.protection.state() == State::Unprotected;
        while !self.primary.is_empty() {
            if is_unprotected {
                self.pass_primary();
            } else if let Some(frame) = self.primary.pop_front() {
                self.engine.on_frame(Instant::now(), Side::Primary, frame, &mut self.out);
            }
        }
    }

    fn on_secondary_event(&mut self, event: InboundEvent) {
        let is_up = match event {
            InboundEvent::Frames => return,
            InboundEvent::Up => true,
            InboundEvent::Down => false,
        };
        self.secondary_up = is_up;
        self.on_pair();
    }

    fn on_pair(&mut self) {
        let up = self.secondary_up && self.has_pair;
        let action = self.protection.on_peer(Instant::now(), up);
        self.act(action);
    }

    async fn on_frame_event(&mut self, event: &Event, sockets: &mut Sockets) {
        match event {
            Event::CheckpointBegan => {
                // What the peers did before this was said is seen first: one that has just connected
                // is waiting at the door of another task.
                tokio::task::yield_now().await;
                self.checkpoint_began(sockets);
            }
            Event::CheckpointDone { .. } if self.checkpoint_running => {
                self.checkpoint_done(sockets);
            }
            Event::CheckpointDone { .. } => {}
            Event::CheckpointFailed { reason } => {
                log::warn!("colo-compare: no checkpoint was made: {reason}");
                self.checkpoint_running = false;
                self.engine.checkpoint_failed(Instant::now());
            }
            Event::Failover => {
                let action = self.protection.end();
                self.act(action);
            }
            Event::PairReady => {
                self.has_pair = true;
                self.on_pair();
            }
            Event::PairLost { reason } | Event::Gone { reason } => {
                log::warn!("colo-compare: the COLO-frame has no pair: {reason}");
                self.has_pair = false;
                self.protection.expose();
                self.on_pair();
            }
            Event::Alone { reason } => {
                log::info!("colo-compare: {reason}");
                self.has_pair = false;
                let action = self.protection.on_alone();
                self.act(action);
            }
        }
    }

    /// What the primary has sent so far leaves when the checkpoint is done.
    fn checkpoint_began(&mut self, sockets: &mut Sockets) {
        if sockets.secondary.begin_now() {
            self.on_secondary_event(InboundEvent::Up);
        }
        self.take_all_of_primary(sockets);
        self.checkpoint_running = true;
        self.engine.checkpoint_began(Instant::now());
    }

    /// The secondary has the primary's state: what it has sent so far vouches for nothing that comes.
    fn checkpoint_done(&mut self, sockets: &mut Sockets) {
        let has_ended = sockets.secondary.drain(&mut self.secondary);
        sockets.secondary.skip_record();
        self.engine.dropped_stale(self.secondary.len() as u64);
        self.secondary.clear();
        if has_ended {
            self.on_secondary_event(InboundEvent::Down);
        }
        // What came up just now is settled by this very checkpoint.
        self.out.requests.clear();
        self.checkpoint_running = false;
        self.counters.checkpoints += 1;
        self.engine.checkpoint_done(Instant::now(), &mut self.out);
        let action = self.protection.on_checkpoint_done();
        self.act(action);
    }

    fn act(&mut self, action: Option<Action>) {
        let Some(action) = action else { return };
        let text = self.protection.state().description();
        if action != Action::Announce {
            // A checkpoint of before covers nothing that is held from here on.
            self.checkpoint_running = false;
        }
        match action {
            Action::Announce => log::info!("colo-compare: {text}"),
            Action::Unprotect => {
                log::warn!("colo-compare: {text}");
                self.is_unprotected = true;
                if self.engine.stats().held.frames > 0 {
                    self.protection.expose();
                }
                if self.protection.is_exposed() {
                    self.release_all();
                }
            }
            // Nothing here is told to.
            Action::Fence => {}
            Action::Resync => {
                log::info!("colo-compare: {text}");
                self.engine.request_checkpoint(Instant::now(), Reason::Resync, &mut self.out);
            }
        }
    }

    /// Rule (c): protection is off.
    fn release_all(&mut self) {
        self.out.requests.clear();
        self.engine.release_all(Instant::now(), &mut self.out);
    }

    /// Does what the engine decided.
    fn carry_out(&mut self, sockets: &mut Sockets) {
        for frame in self.out.release.drain(..) {
            sockets.outdev.push(frame);
        }
        self.out.acknowledgments.clear();
        let instance = || "colo-compare".to_owned();
        if std::mem::take(&mut self.is_unprotected) {
            sockets.frame.command(&Command::PeerLost { instance: instance() });
        }
        for reason in self.out.requests.drain(..) {
            // The guest decides how often this is: the counters have all of them.
            if let Some(more) = self.request_log.admit(Instant::now()) {
                log::info!("colo-compare: asking for a checkpoint ({reason}){more}");
            }
            sockets.frame.command(&Command::RequestCheckpoint {
                instance: instance(),
                epoch: self.counters.checkpoints,
                reasons: vec![reason.to_string()],
            });
        }
    }

    /// The operator ends protection: what is held leaves, then what the primary has sent since.
    async fn end(&mut self, sockets: &mut Sockets) {
        // That protection had ended already is as good.
        let _ = self.protection.end();
        let held = self.engine.stats().held.frames;
        log::info!("colo-compare: ending, protection is off; releasing {held} held frames");
        self.release_all();
        // A primary that has just connected is waiting at the door of another task.
        tokio::task::yield_now().await;
        self.take_all_of_primary(sockets);
        self.carry_out(sockets);
        let outdev = &mut sockets.outdev;
        let written = tokio::time::timeout(END_TIMEOUT, async {
            while outdev.waiting() > 0 {
                outdev.advance().await;
            }
        });
        if written.await.is_err() {
            log::warn!("outdev: nobody took the last {} frames; they are lost", outdev.waiting());
        }
        log::info!("colo-compare: ended: {}", self.counters.line(self.engine.stats(), sockets));
    }
}

/// Never, unless `is_wanted`.
async fn when<T>(is_wanted: bool, event: impl Future<Output = T>) -> T {
    if is_wanted { event.await } else { std::future::pending().await }
}

/// The first of the two sockets on which something happens, asking the primary's first where
/// `primary_first` says so: the secondary's event, if it is that.
async fn in_order(
    primary_first: bool,
    primary: impl Future<Output = InboundEvent>,
    secondary: impl Future<Output = InboundEvent>,
) -> Option<InboundEvent> {
    if primary_first {
        tokio::select! {
            biased;
            _ = primary => None,
            event = secondary => Some(event),
        }
    } else {
        tokio::select! {
            biased;
            event = secondary => Some(event),
            _ = primary => None,
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
