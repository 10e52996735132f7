//! An engine in virtual time, driven frame by frame.

#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use std::time::{Duration, Instant};

use super::packet::{Tcp, tcp};
use crate::compare::{Engine, Limits, Output, Reason, Side};
use crate::frame::Frame;

pub(super) struct Rig {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    out: Output,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(mut limits: Limits) -> Self {
        // Nearly every flow rests between two frames.
        limits.awake_flows_max = 2;
        Self { engine: Engine::new(limits, 7), now: Instant::now(), out: Output::default() }
    }

    /// What the engine wants done since the last call.
    fn taken(&mut self) -> (Vec<Frame>, Vec<Reason>) {
        (std::mem::take(&mut self.out.release), std::mem::take(&mut self.out.requests))
    }

    pub(super) fn frame(&mut self, side: Side, frame: &Frame) -> (Vec<Frame>, Vec<Reason>) {
        self.engine.on_frame(self.now, side, frame.clone(), &mut self.out);
        self.taken()
    }

    /// A primary frame; says what was released, in full.
    pub(super) fn primary(&mut self, segment: &Tcp) -> (Vec<Frame>, Vec<Reason>) {
        self.frame(Side::Primary, &segment.build())
    }

    pub(super) fn secondary(&mut self, segment: &Tcp) -> (Vec<Frame>, Vec<Reason>) {
        self.frame(Side::Secondary, &segment.build())
    }

    /// The primary's segment has to leave at once.
    #[track_caller]
    pub(super) fn passes(&mut self, segment: &Tcp) {
        let frame = segment.build();
        assert_eq!(self.frame(Side::Primary, &frame), (vec![frame], vec![]));
    }

    /// The primary's segment has to be held, without a request.
    #[track_caller]
    pub(super) fn holds(&mut self, segment: &Tcp) {
        assert_eq!(self.primary(segment), (vec![], vec![]));
    }

    /// Frames of the engine's own making since the last call.
    pub(super) fn acknowledgments(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.out.acknowledgments)
    }

    /// What the peer is told to have been received when the secondary sends `segment`.
    pub(super) fn acknowledged(&mut self, segment: &Tcp) -> Vec<u32> {
        self.out.acknowledgments.clear();
        self.secondary(segment);
        let octets = |frame: &Frame| -> [u8; 4] {
            frame.ethernet()[42..46].try_into().expect("a TCP header behind 34 octets")
        };
        self.out.acknowledgments.iter().map(|frame| u32::from_be_bytes(octets(frame))).collect()
    }

    /// The secondary's segment has to release exactly `expected`, in that order.
    #[track_caller]
    pub(super) fn frees(&mut self, segment: &Tcp, expected: &[&Tcp]) {
        let expected: Vec<Frame> = expected.iter().map(|segment| segment.build()).collect();
        assert_eq!(self.secondary(segment), (expected, vec![]));
    }

    /// The secondary's segment has to release nothing and ask for nothing.
    #[track_caller]
    pub(super) fn is_kept(&mut self, segment: &Tcp) {
        self.frees(segment, &[]);
    }

    pub(super) fn wait(&mut self, time: Duration) -> (Vec<Frame>, Vec<Reason>) {
        let until = self.now + time;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            let before = self.engine.poll_timeout();
            self.engine.on_timeout(self.now, &mut self.out);
            assert_ne!(before, self.engine.poll_timeout(), "a timer that does not move on");
        }
        self.now = until;
        self.taken()
    }

    /// A whole checkpoint; says what it released.
    pub(super) fn checkpoint(&mut self) -> (Vec<Frame>, Vec<Reason>) {
        self.engine.checkpoint_began(self.now);
        self.engine.checkpoint_done(self.now, &mut self.out);
        self.taken()
    }

    pub(super) fn began(&mut self) {
        self.engine.checkpoint_began(self.now);
    }

    pub(super) fn done(&mut self) -> (Vec<Frame>, Vec<Reason>) {
        self.engine.checkpoint_done(self.now, &mut self.out);
        self.taken()
    }

    pub(super) fn failed(&mut self) {
        self.engine.checkpoint_failed(self.now);
    }

    pub(super) fn release_all(&mut self) -> Vec<Frame> {
        self.engine.release_all(self.now, &mut self.out);
        self.taken().0
    }

    /// Opens the connection of `base`: SYN/ACK with `isn`, the peer's being `peer_isn`.
    #[track_caller]
    pub(super) fn accept(&mut self, base: &Tcp, isn: u32, peer_isn: u32) {
        let syn = Tcp { seq: isn, ..base.clone() }.syn().ack(peer_isn.wrapping_add(1));
        self.holds(&syn);
        self.frees(&syn.clone().salt(3), &[&syn]);
    }
}

/// A connection at 1001, the peer's at 501.
#[track_caller]
pub(super) fn open() -> (Rig, Tcp) {
    open_with(Limits::default())
}

/// The same with other limits.
#[track_caller]
pub(super) fn open_with(limits: Limits) -> (Rig, Tcp) {
    let mut rig = Rig::with(limits);
    let base = tcp(1001).ack(501);
    rig.accept(&base, 1000, 500);
    (rig, base)
}

/// Hands in all `frames`, and returns the released ones.
#[track_caller]
pub(super) fn hand_in(rig: &mut Rig, side: Side, frames: &[Frame]) -> Vec<Frame> {
    let mut released = Vec::new();
    for frame in frames {
        let (frames, requests) = rig.frame(side, frame);
        assert_eq!(requests, []);
        released.extend(frames);
    }
    released
}

/// Nothing is held, nothing waits and nothing was ever asked for.
#[track_caller]
pub(super) fn is_settled(rig: &Rig) {
    let stats = rig.engine.stats();
    assert_eq!((stats.held.frames, stats.held.bytes), (0, 0));
    assert_eq!((stats.secondary_waiting.frames, stats.reasons.total()), (0, 0));
    assert_eq!(stats.fragments.incomplete_packets, 0);
    assert_eq!(stats.fragments.incomplete_bytes, 0);
}
