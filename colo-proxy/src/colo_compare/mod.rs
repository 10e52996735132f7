//! The compare engine between QEMU's sockets: what QEMU's own `colo-compare` object is, as a
//! program of its own. It touches no interface and needs no privilege.
//!
//! ```text
//!   filter-redirector ──► primary_in   ┐                ┌► outdev ──► filter-redirector
//!                                      ├► the engine ───┤
//!   filter-redirector ──► secondary_in ┘                └► notify_dev ◄─► COLO-frame
//! ```
//!
//! Nothing on these sockets says when a checkpoint begins, so the moment at which its message is
//! read is the cut. QEMU sends it while the guests are stopped and the secondary has received the
//! state. Whatever the primary has sent by then leaves, and whatever the secondary has sent by then
//! is void, read or not ([`Comparer::checkpoint`]).
//!
//! The frames that leave are the primary's and no others: the acknowledgments of its own making
//! that the engine offers are for those who own the guest's TAP.

mod counters;
mod dialler;
mod inbound;
mod notify;
mod outdev;

use std::collections::VecDeque;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use self::counters::Counters;
use self::inbound::{Inbound, InboundEvent};
use self::notify::{Notify, NotifyEvent};
use self::outdev::Outdev;
use crate::compare::{Engine, Limits, Output, Reason, Side};
use crate::config::OnSecondaryLost;
use crate::endpoint::{Endpoint, EndpointError, Port};
use crate::frame::Frame;
use crate::log_limit::LogLimit;
use crate::protection::{Action, Protection, State};

/// How long the end waits for a peer to take what was released.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two looks whether the secondary is still there, while its output is not read.
const WATCH: Duration = Duration::from_millis(100);
/// Octets of an unknown message that the log shows.
const SHOWN_MAX: usize = 64;

/// What QEMU's object is configured with, under its names.
#[derive(Clone, Debug)]
pub struct Options {
    pub primary_in: Endpoint,
    pub secondary_in: Endpoint,
    pub outdev: Endpoint,
    pub notify_dev: Option<Endpoint>,
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
) -> Result<(), EndpointError> {
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

#[derive(Debug)]
struct Sockets {
    primary: Inbound,
    secondary: Inbound,
    outdev: Outdev,
    notify: Option<Notify>,
}

impl Sockets {
    async fn open(options: &Options) -> Result<Self, EndpointError> {
        let vnet_hdr = options.vnet_hdr_support;
        let primary = Port::open(options.primary_in.clone()).await?;
        let secondary = Port::open(options.secondary_in.clone()).await?;
        let outdev = Port::open(options.outdev.clone()).await?;
        let notify = match &options.notify_dev {
            Some(endpoint) => Some(Port::open(endpoint.clone()).await?),
            None => None,
        };
        Ok(Self {
            primary: Inbound::new("primary-in", primary, vnet_hdr),
            secondary: Inbound::new("secondary-in", secondary, vnet_hdr),
            outdev: Outdev::new(outdev, vnet_hdr),
            notify: notify.map(|port| Notify::new(port, vnet_hdr)),
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
    /// A checkpoint was asked for that has not come.
    is_request_outstanding: bool,
    counters: Counters,
    request_log: LogLimit,
    unknown_log: LogLimit,
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
            is_request_outstanding: false,
            counters: Counters::default(),
            request_log: LogLimit::default(),
            unknown_log: LogLimit::default(),
        }
    }

    async fn serve(&mut self, sockets: &mut Sockets) -> std::convert::Infallible {
        loop {
            self.feed(sockets);
            self.carry_out(sockets);
            let reads_secondary = self.secondary.is_empty();
            let deadline = self.deadline(reads_secondary);
            let Sockets { primary, secondary, outdev, notify } = sockets;
            let reads_primary = self.primary.is_empty() && outdev.has_room();
            tokio::select! {
                _ = primary.next(&mut self.primary), if reads_primary => {}
                event = secondary.next(&mut self.secondary), if reads_secondary => {
                    self.on_secondary_event(event);
                }
                event = next_event(notify.as_mut()) => self.on_notify(event, sockets).await,
                () = outdev.advance() => {}
                () = sleep_until(deadline) => self.on_timeout(secondary, reads_secondary),
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

    /// Hands in the primary's next frame.
    fn take_primary(&mut self) {
        let Some(frame) = self.primary.pop_front() else { return };
        if self.protection.state() == State::Unprotected {
            if self.engine.is_compared(&frame) {
                self.protection.expose();
            }
            self.counters.passed_unprotected += 1;
            self.out.release.push(frame);
        } else {
            self.engine.on_frame(Instant::now(), Side::Primary, frame, &mut self.out);
        }
    }

    /// Hands in the secondary's next frame.
    fn take_secondary(&mut self) {
        let Some(frame) = self.secondary.pop_front() else { return };
        if self.protection.state() == State::Unprotected {
            self.counters.secondary_ignored += 1;
        } else {
            self.engine.on_frame(Instant::now(), Side::Secondary, frame, &mut self.out);
        }
    }

    /// Hands in everything that the primary has sent by now, room or not: all of it leaves.
    fn take_all_of_primary(&mut self, sockets: &mut Sockets) {
        sockets.primary.begin_now();
        sockets.primary.drain(&mut self.primary);
        while !self.primary.is_empty() {
            self.take_primary();
        }
    }

    fn on_secondary_event(&mut self, event: InboundEvent) {
        let is_up = match event {
            InboundEvent::Frames => return,
            InboundEvent::Up => true,
            InboundEvent::Down => false,
        };
        let action = self.protection.on_peer(Instant::now(), is_up);
        self.act(action);
    }

    async fn on_notify(&mut self, event: NotifyEvent, sockets: &mut Sockets) {
        let Some(notify) = &mut sockets.notify else { return };
        match event {
            NotifyEvent::Up if self.is_request_outstanding => {
                notify.request_checkpoint();
            }
            NotifyEvent::Up | NotifyEvent::Down => {}
            NotifyEvent::Greeted => notify.greet(),
            NotifyEvent::CheckpointDone => {
                // What the peers did before they said this is seen first: a secondary that has just
                // connected is waiting at the door of another task.
                tokio::task::yield_now().await;
                self.checkpoint(sockets);
            }
            NotifyEvent::Unknown(text) => {
                self.counters.unknown_messages += 1;
                if let Some(more) = self.unknown_log.admit(Instant::now()) {
                    let shown = text.get(..SHOWN_MAX).unwrap_or(&text).escape_ascii();
                    log::warn!("notify-dev: unknown message \"{shown}\"{more}");
                }
            }
        }
    }

    /// The secondary has the primary's state: what the primary has sent so far leaves, and what the
    /// secondary has sent so far vouches for nothing that comes.
    fn checkpoint(&mut self, sockets: &mut Sockets) {
        if sockets.secondary.begin_now() {
            self.on_secondary_event(InboundEvent::Up);
        }
        self.take_all_of_primary(sockets);
        let has_ended = sockets.secondary.drain(&mut self.secondary);
        sockets.secondary.skip_record();
        self.engine.dropped_stale(self.secondary.len() as u64);
        self.secondary.clear();
        if has_ended {
            self.on_secondary_event(InboundEvent::Down);
        }
        let now = Instant::now();
        // What came up just now is settled by this very checkpoint.
        self.out.requests.clear();
        self.is_request_outstanding = false;
        self.counters.checkpoints += 1;
        self.engine.checkpoint_began(now);
        self.engine.checkpoint_done(now, &mut self.out);
        let action = self.protection.on_checkpoint_done();
        self.act(action);
    }

    fn act(&mut self, action: Option<Action>) {
        let Some(action) = action else { return };
        let text = self.protection.state().description();
        match action {
            Action::Announce => log::info!("colo-compare: {text}"),
            Action::Unprotect => {
                log::warn!("colo-compare: {text}");
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
        self.is_request_outstanding = false;
        self.engine.release_all(Instant::now(), &mut self.out);
    }

    /// Does what the engine decided.
    fn carry_out(&mut self, sockets: &mut Sockets) {
        for frame in self.out.release.drain(..) {
            sockets.outdev.push(frame);
        }
        self.out.acknowledgments.clear();
        for reason in self.out.requests.drain(..) {
            self.is_request_outstanding = true;
            let is_sent = sockets.notify.as_mut().is_some_and(Notify::request_checkpoint);
            // The guest decides how often this is: the counters have all of them.
            if let Some(more) = self.request_log.admit(Instant::now()) {
                let what = match (&sockets.notify, is_sent) {
                    (_, true) => "asking for a checkpoint",
                    (Some(_), false) => "a checkpoint is needed; notify-dev has no peer to ask yet",
                    (None, _) => {
                        "a checkpoint is needed, and without notify-dev nobody is asked: what is \
                         held stays held"
                    }
                };
                log::info!("colo-compare: {what} ({reason}){more}");
            }
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

async fn next_event(notify: Option<&mut Notify>) -> NotifyEvent {
    match notify {
        Some(notify) => notify.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
