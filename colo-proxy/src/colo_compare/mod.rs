//! The compare engine between QEMU's sockets: a program in the place of QEMU's `colo-compare` object.
//! It touches no interface and needs no privilege.
//!
//! ```text
//!   filter-redirector ──► primary_in   ┐                ┌► outdev ──► filter-redirector
//!                                      ├► the engine ───┤
//!   filter-redirector ──► secondary_in ┘                └► COLO-frame
//! ```
//!
//! The same [`Primary`] as in the daemon decides which output leaves, and when. It has no gate and no
//! control lane here: [`sockets::SocketPath`] is its way out. So output that the primary has sent when
//! a checkpoint begins leaves when the checkpoint is done. Frames that the secondary has sent by then
//! are dropped, read or not.
//!
//! Only frames of the primary leave. The engine also offers acknowledgments of its own making, but those
//! are for an owner of the guest's TAP.

mod counters;
mod inbound;
mod outdev;
mod sockets;

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use colo_proxy_engine::compare::{Engine, Limits};
use colo_proxy_engine::pair::primary::{Intake, PeerLane};
use colo_proxy_engine::pair::protection::{LeftGuest, LossPolicy, Protection};
use colo_proxy_engine::pair::service_record::RecordKeeper;
use colo_proxy_engine::pair::{OnSecondaryLost, Primary, PrimaryLimits};

use self::inbound::{Inbound, InboundEvent};
use self::sockets::Sockets;
use crate::colo_frame::{ColoFrameError, ColoFrameEvent, OutputTaken};
use crate::config::ColoFrameKind;
use crate::deadline::sleep_until;
use crate::endpoint::Endpoint;

/// How long the end waits for a peer to take released frames.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two looks whether the secondary is still there, while its output is not read.
const WATCH: Duration = Duration::from_millis(100);

/// The configuration of QEMU's object, under its names.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    pub primary_in: Endpoint,
    pub secondary_in: Endpoint,
    pub outdev: Endpoint,
    /// Who makes checkpoints; QEMU's `notify_dev` is one.
    pub colo_frame: Option<ColoFrameKind>,
    pub vnet_hdr_support: bool,
    pub compare_timeout: Duration,
    /// Frames of one flow held, on either side.
    pub max_queue_size: usize,
    /// Not an option of QEMU: how long the secondary may be gone before the guest goes on alone.
    pub secondary_timeout: Duration,
}

/// Compares until `stop` is done, then releases held output. Calls `started` when every listening
/// endpoint takes connections. The other endpoints are connected to again and again.
pub async fn run(
    options: CompareOptions,
    started: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ColoFrameError> {
    let mut sockets = Sockets::open(&options).await?;
    let mut comparer = Comparer::new(&options, &mut sockets);
    started();
    tokio::select! {
        never = comparer.serve(&mut sockets) => match never {},
        () = stop => {}
    }
    comparer.end(&mut sockets).await;
    Ok(())
}

/// The primary's half, between the sockets.
#[derive(Debug)]
struct Comparer {
    half: Primary,
}

impl Comparer {
    fn new(options: &CompareOptions, sockets: &mut Sockets) -> Self {
        let now = Instant::now();
        let limits = Limits {
            compare_timeout: options.compare_timeout,
            flow_frames_max: options.max_queue_size,
            ..Limits::default()
        };
        let policy = LossPolicy { on_lost: OnSecondaryLost::Release, fences: false, covers: false };
        let engine = Engine::new(limits, RandomState::new().hash_one(now));
        let left = LeftGuest::Lives { was_off: false };
        let protection = Protection::new(policy, RecordKeeper::in_memory(), left);
        let limits = PrimaryLimits {
            secondary_timeout: options.secondary_timeout,
            ..PrimaryLimits::default()
        };
        let name = "colo-compare".into();
        let mut half = Primary::new(now, name, engine, protection, 0, false).limited(limits);
        // QEMU's own filters bring the guest's input to the secondary.
        half.on_lane(now, PeerLane::Mirror, true, &mut sockets.path());
        Self { half }
    }

    async fn serve(&mut self, sockets: &mut Sockets) -> std::convert::Infallible {
        loop {
            self.hand_in(sockets);
            self.carry_out(sockets);
            sockets.outdev.write_now();
            let reads_secondary = sockets.secondary.frames.is_empty();
            let reads_primary = sockets.primary.frames.is_empty() && sockets.outdev.has_room();
            let deadline = self.deadline(reads_secondary);
            let is_ahead = self.is_secondary_ahead();
            let Sockets { primary, secondary, outdev, frame } = sockets;
            tokio::select! {
                // A socket that is always ready comes last, so that nobody has to wait for ever.
                biased;
                event = frame.next_event() => {
                    if let Some(taken) = self.on_colo_frame_event(&event, sockets).await {
                        sockets.frame.output_taken(taken);
                    }
                }
                () = sleep_until(deadline) => self.on_timeout(reads_secondary, sockets),
                () = outdev.advance() => {}
                event = in_order(
                    is_ahead,
                    when(reads_primary, primary.next()),
                    when(reads_secondary, secondary.next()),
                ) => {
                    if let Some(event) = event {
                        self.on_secondary_event(event, sockets);
                    }
                }
            }
        }
    }

    /// Hands in what was read, for as long as the engine has room for it: frames of one guest can make
    /// room for the other's.
    fn hand_in(&mut self, sockets: &mut Sockets) {
        let now = Instant::now();
        loop {
            let left = (sockets.primary.frames.len(), sockets.secondary.frames.len());
            if sockets.outdev.has_room() {
                let mut frames = std::mem::take(&mut sockets.primary.frames);
                self.half.on_output(now, Intake::Fitting(&mut frames), &mut sockets.path());
                sockets.primary.frames = frames;
                self.half.release_all(&mut sockets.path());
            }
            self.half.on_returned(now, Intake::Fitting(&mut sockets.secondary.frames));
            if left == (sockets.primary.frames.len(), sockets.secondary.frames.len()) {
                return;
            }
        }
    }

    /// More frames of the secondary wait than output of the primary is held. So the primary's socket is
    /// to be read next. Otherwise chance would take one of them far ahead of the other, and all frames
    /// between them would use memory.
    fn is_secondary_ahead(&self) -> bool {
        let stats = self.half.engine().stats();
        stats.secondary_waiting.frames > stats.held.frames
    }

    fn deadline(&self, reads_secondary: bool) -> Option<Instant> {
        let watch = (!reads_secondary).then(|| Instant::now() + WATCH);
        self.half.poll_timeout().into_iter().chain(watch).min()
    }

    fn on_timeout(&mut self, reads_secondary: bool, sockets: &mut Sockets) {
        if !reads_secondary && sockets.secondary.give_up_if_hung_up() {
            self.on_secondary_event(InboundEvent::Down, sockets);
        }
        self.half.on_timeout(Instant::now(), &mut sockets.path());
    }

    fn on_secondary_event(&mut self, event: InboundEvent, sockets: &mut Sockets) {
        let is_up = match event {
            InboundEvent::Frames => return,
            InboundEvent::Up => true,
            InboundEvent::Down => false,
        };
        self.half.on_lane(Instant::now(), PeerLane::Secondary, is_up, &mut sockets.path());
    }

    async fn on_colo_frame_event(
        &mut self,
        event: &ColoFrameEvent,
        sockets: &mut Sockets,
    ) -> Option<OutputTaken> {
        if *event == ColoFrameEvent::CheckpointBegan {
            // Events of the peers before this one come first: another task may have a peer that has just
            // connected.
            tokio::task::yield_now().await;
            if sockets.secondary.begin_now() {
                self.on_secondary_event(InboundEvent::Up, sockets);
            }
        }
        let mut path = sockets.path();
        self.half.on_colo_frame_event(Instant::now(), event, &mut path);
        if path.has_secondary_ended() {
            self.on_secondary_event(InboundEvent::Down, sockets);
        }
        (*event == ColoFrameEvent::CheckpointBegan).then(OutputTaken::after_checkpoint_began)
    }

    /// Carries out what was decided.
    fn carry_out(&mut self, sockets: &mut Sockets) {
        self.half.release_all(&mut sockets.path());
        self.half.collect_requests(Instant::now());
        while let Some(command) = self.half.next_command() {
            sockets.frame.command(&command);
        }
    }

    /// The operator ends protection: held output leaves, then output that the primary has sent since.
    async fn end(&mut self, sockets: &mut Sockets) {
        let held = self.half.engine().stats().held.frames;
        log::info!("colo-compare: ending, protection is off; releasing {held} held frames");
        // Another task may have a primary that has just connected.
        tokio::task::yield_now().await;
        let now = Instant::now();
        self.half.end_protection(now, true, &mut sockets.path());
        self.half.release_everything(now, &mut sockets.path());
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
        log::info!("colo-compare: ended: {}", counters::line(&self.half, sockets));
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
