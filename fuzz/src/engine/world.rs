//! An engine in virtual time, with everything that can be known about it from outside.

use std::time::{Duration, Instant};

use colo_proxy_common::decode::{decode, decode_tcp, flag};
use colo_proxy_engine::compare::{Engine, Limits, Output, Reason, Side};
use colo_proxy_engine::frame::{Frame, VNET_HDR_LEN};

use super::books::Books;
use super::build;
use super::frames::Raw;
use super::witness::Witness;
use crate::choices::Choices;

/// The longest frame that an input can make.
const FRAME_BYTES_MAX: u64 = 400;
/// The number of pieces into which one frame of the secondary may fall.
const PIECES_MAX: u64 = 300;
/// After this number of calls without a step of time, a timer has no effect.
const CALLS_MAX: usize = 1000;

pub(super) struct World {
    engine: Engine,
    limits: Limits,
    out: Output,
    now: Instant,
    books: Books,
    witness: Witness,
    /// The caller stops reading when the engine tells it to.
    is_patient: bool,
    checkpoint: CheckpointStage,
    /// Frames from after a cut that was void are compared with the next call, or when the
    /// checkpoint that began before it is done. Some are compared before frames that were already
    /// held.
    has_failed: bool,
    of_secondary: Vec<Frame>,
}

/// How far the checkpoint has come that the engine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckpointStage {
    None,
    Requested,
    Running,
}

/// The reason why frames leave in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReleaseReason {
    Comparison,
    Flush,
}

impl World {
    pub(super) fn new(limits: Limits, is_patient: bool) -> Self {
        Self {
            engine: Engine::new(limits.clone(), 7),
            limits,
            out: Output::default(),
            now: Instant::now(),
            books: Books::default(),
            witness: Witness::default(),
            is_patient,
            checkpoint: CheckpointStage::None,
            has_failed: false,
            of_secondary: Vec::new(),
        }
    }

    pub(super) fn frame(&mut self, side: Side, raw: &Raw) {
        if self.is_patient && !self.engine.has_room_for(side) {
            return;
        }
        let number = if side == Side::Primary { self.books.next() } else { u32::MAX };
        let frame = build::number(raw.vnet, &raw.octets, number);
        self.witness.hears(side, &frame);
        if side == Side::Primary {
            self.books.enter(&frame);
        } else {
            self.of_secondary.push(frame.clone());
        }
        self.engine.on_frame(self.now, side, frame, &mut self.out);
        self.look(ReleaseReason::Comparison);
    }

    /// The guest of `side` sends something that the other guest sent recently.
    pub(super) fn echo(&mut self, choices: &mut Choices<'_>, side: Side) {
        let back = choices.below(8);
        let said = match side {
            Side::Secondary => self.books.recent(back),
            Side::Primary => {
                let at = self.of_secondary.len().checked_sub(1 + back);
                at.and_then(|at| self.of_secondary.get(at))
            }
        };
        let Some(said) = said else { return };
        let mut vnet = [0; VNET_HDR_LEN];
        vnet.copy_from_slice(said.vnet());
        let raw = Raw { vnet, octets: said.ethernet().to_vec() };
        self.frame(side, &raw);
    }

    pub(super) fn checkpoint_began(&mut self) {
        if self.checkpoint != CheckpointStage::Running {
            self.checkpoint = CheckpointStage::Running;
            self.books.cut = self.books.next() as usize;
            self.engine.checkpoint_began(self.now);
        }
    }

    pub(super) fn checkpoint_done(&mut self) {
        if self.checkpoint != CheckpointStage::Running {
            return;
        }
        self.checkpoint = CheckpointStage::None;
        self.witness.checkpoint();
        self.engine.checkpoint_done(self.now, &mut self.out);
        self.look(ReleaseReason::Flush);
        assert!(self.books.is_settled(), "a frame from before the cut is still held");
        let waiting = self.engine.stats().secondary_waiting;
        assert_eq!((waiting.frames, waiting.bytes), (0, 0), "of the old epoch");
    }

    pub(super) fn checkpoint_failed(&mut self) {
        if self.checkpoint == CheckpointStage::Running {
            self.checkpoint = CheckpointStage::None;
            self.has_failed = true;
            self.engine.checkpoint_failed(self.now);
        }
    }

    pub(super) fn release_all(&mut self) {
        self.checkpoint = CheckpointStage::None;
        self.witness.forgets();
        self.engine.release_all(self.now, &mut self.out);
        self.look(ReleaseReason::Flush);
        self.holds_nothing();
        assert_eq!(self.engine.stats().flows, 0);
    }

    pub(super) fn request(&mut self, reason: Reason) {
        let has_failed = self.has_failed;
        self.engine.request_checkpoint(self.now, reason, &mut self.out);
        self.look(ReleaseReason::Comparison);
        // This call compares nothing.
        self.has_failed = has_failed;
    }

    pub(super) fn stale(&mut self, frames: u8) {
        self.engine.dropped_stale(u64::from(frames));
    }

    pub(super) fn early_timeout(&mut self) {
        self.engine.on_timeout(self.now, &mut self.out);
        self.look(ReleaseReason::Comparison);
    }

    /// Time passes, and every timer is served when it is due.
    pub(super) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        let mut calls = 0;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            calls = if at > self.now { 0 } else { calls + 1 };
            self.now = self.now.max(at);
            let before = self.engine.stats().clone();
            self.engine.on_timeout(self.now, &mut self.out);
            let has_acted = !self.out.is_empty() || *self.engine.stats() != before;
            self.look(ReleaseReason::Comparison);
            let is_due = self.engine.poll_timeout().is_some_and(|next| next <= self.now);
            assert!(!is_due || has_acted, "a timer that is due does nothing");
            assert!(calls < CALLS_MAX, "a timer that stays due");
        }
        self.now = until;
    }

    /// Does what the engine requests.
    fn look(&mut self, by: ReleaseReason) {
        let out = std::mem::take(&mut self.out);
        let mut last = None;
        for frame in &out.release {
            assert!(
                by == ReleaseReason::Flush || self.witness.allows(frame),
                "nobody vouches for {frame:?}"
            );
            let number = Some(self.books.leave(frame));
            // The frames that a checkpoint covers leave in order of arrival, across all flows.
            let is_ordered = by == ReleaseReason::Flush && !self.has_failed;
            assert!(last < number || !is_ordered, "{last:?} before {number:?}");
            last = number;
        }
        out.acknowledgments.iter().for_each(is_acknowledgment);
        assert!(out.requests.len() <= 1, "{:?}", out.requests);
        if let Some(reason) = out.requests.first() {
            assert_eq!(self.checkpoint, CheckpointStage::None, "{reason} in addition");
            self.checkpoint = CheckpointStage::Requested;
        }
        self.has_failed &= self.checkpoint == CheckpointStage::Running;
        let held = self.engine.stats().held;
        assert_eq!(held.frames, self.books.held(), "held, and not left");
        assert_eq!(held.bytes == 0, held.frames == 0);
    }

    pub(super) fn keeps_within_limits(&self) {
        let (stats, limits) = (self.engine.stats(), &self.limits);
        assert!(stats.flows <= limits.flows_max as u64);
        assert!(self.engine.divergences().count() <= limits.divergences_max);
        if self.is_patient {
            assert!(stats.held.frames <= limits.frames_max as u64);
            assert!(stats.held.bytes <= limits.bytes_max as u64 + FRAME_BYTES_MAX);
        }
        let waiting = stats.secondary_waiting;
        assert!(waiting.frames <= 2 * limits.frames_max as u64 + PIECES_MAX, "{waiting:?}");
        assert!(waiting.bytes <= 2 * limits.bytes_max as u64 + 2 * FRAME_BYTES_MAX, "{waiting:?}");
    }

    /// A last checkpoint settles everything, and there is room again.
    pub(super) fn ends(mut self) {
        self.checkpoint_failed();
        self.early_timeout();
        self.checkpoint_began();
        self.checkpoint_done();
        self.holds_nothing();
    }

    fn holds_nothing(&self) {
        let stats = self.engine.stats();
        for gauge in [stats.held, stats.secondary_waiting] {
            assert_eq!((gauge.frames, gauge.bytes), (0, 0), "{gauge:?}");
        }
        for side in [Side::Primary, Side::Secondary] {
            assert!(self.engine.has_room_for(side), "no room although nothing is held");
        }
    }
}

/// The only frame that the engine may send by itself: a bare acknowledgment.
fn is_acknowledgment(frame: &Frame) {
    let octets = frame.ethernet();
    let ip = decode(octets, None).ok().and_then(|packet| packet.ip);
    let tcp = ip.and_then(|ip| decode_tcp(octets, &ip).ok());
    let is_bare = tcp.is_some_and(|tcp| {
        tcp.payload_len == 0 && tcp.flags & (flag::SYN | flag::FIN | flag::RST) == 0
    });
    assert!(is_bare && tcp.is_some_and(|tcp| tcp.flags & flag::ACK != 0), "{frame:?}");
}
