//! The guest's output: taken, compared or passed, and released.

use std::collections::VecDeque;
use std::time::Instant;

use super::{BATCH, OutputPath, Primary};
use crate::compare::{Engine, Output, Side};
use crate::frame::Frame;
use crate::pair::ProgramMode;

/// A frame that may leave.
#[derive(Clone, Debug)]
pub(super) enum Leaving {
    /// The guest's.
    Output(Frame),
    /// An acknowledgment that the engine has made.
    Acknowledgment(Frame),
}

impl Leaving {
    fn leave(&self, path: &mut impl OutputPath) {
        match self {
            Self::Output(frame) => path.release(frame),
            Self::Acknowledgment(frame) => path.acknowledge(frame),
        }
    }
}

/// Frames of one guest. The variant says whether the caller can leave frames behind that the engine has
/// no room for.
#[derive(Debug)]
pub enum Intake<'a> {
    /// The caller cannot leave a frame behind. All are taken, even if there is no room.
    All(&'a mut Vec<Frame>),
    /// As many are taken from the front as there is room for. The others stay.
    Fitting(&'a mut VecDeque<Frame>),
}

impl Intake<'_> {
    /// Takes all frames, without a comparison.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Frame> {
        let (all, fitting) = match self {
            Self::All(frames) => (Some(frames.drain(..)), None),
            Self::Fitting(frames) => (None, Some(frames.drain(..))),
        };
        all.into_iter().flatten().chain(fitting.into_iter().flatten())
    }

    /// Drops the frames that `keeps` refuses, and returns their number.
    fn retain(&mut self, keeps: impl Fn(&Frame) -> bool) -> u64 {
        let (before, after) = match self {
            Self::All(frames) => {
                let before = frames.len();
                frames.retain(keeps);
                (before, frames.len())
            }
            Self::Fitting(frames) => {
                let before = frames.len();
                frames.retain(keeps);
                (before, frames.len())
            }
        };
        (before - after) as u64
    }

    /// Hands the frames to the engine.
    pub(super) fn compare(self, engine: &mut Engine, now: Instant, side: Side, out: &mut Output) {
        match self {
            Self::Fitting(frames) => engine.on_frames(now, side, frames, out),
            Self::All(frames) => {
                let mut queue = VecDeque::from(std::mem::take(frames));
                engine.on_frames(now, side, &mut queue, out);
                for frame in queue.drain(..) {
                    engine.on_frame(now, side, frame, out);
                }
                // Its memory is for the next batch.
                *frames = queue.into();
            }
        }
    }
}

impl Primary {
    /// Takes guest output, in the order in which the guest sent it.
    pub fn on_output(&mut self, now: Instant, mut frames: Intake<'_>, path: &mut impl OutputPath) {
        if !self.holds_output() {
            if self.pass_output(frames.drain()) {
                path.set_mode(ProgramMode::Off);
            }
            return;
        }
        if self.protection.withholds_all() {
            let engine = &self.engine;
            self.counts.dropped_peer_lost += frames.retain(|frame| engine.is_compared(frame));
        }
        // A caller that leaves frames behind has no digests.
        if let Intake::All(frames) = &frames {
            frames.iter().for_each(|frame| self.expander.on_primary(frame));
        }
        frames.compare(&mut self.engine, now, Side::Primary, &mut self.out);
        self.expander.settle(now, &mut self.comparing);
        self.compare_secondary(now);
    }

    /// Output has to wait until the contract lets it leave.
    fn holds_output(&self) -> bool {
        !self.protection.is_unprotected() && !self.protection.is_taken_over()
    }

    /// Output of a guest that goes on alone leaves. After a takeover the other guest answers the
    /// network, so nothing of this one may follow, not even a frame that need not be compared. `true`
    /// if the network learns something here for which no secondary has vouched.
    fn pass_output(&mut self, frames: impl Iterator<Item = Frame>) -> bool {
        if self.protection.is_taken_over() {
            self.counts.dropped_taken_over += frames.count() as u64;
            return false;
        }
        let before = self.out.release.len();
        self.out.release.extend(frames);
        let passed = self.out.release.get(before..).unwrap_or_default();
        self.counts.released_unprotected += passed.len() as u64;
        let exposes = !self.protection.is_exposed()
            && passed.iter().any(|frame| self.engine.is_compared(frame));
        if exposes {
            self.protection.expose();
        }
        exposes
    }

    /// The daemon ends in good order: all output leaves, and nothing is announced any more.
    pub fn finish(&mut self, now: Instant, path: &mut impl OutputPath) {
        self.protection.finish();
        self.release_everything(now, path);
        self.release_all(path);
    }

    /// Rule (c), in the order in which the guest sent its output: the held frames, then the queue.
    pub fn release_everything(&mut self, now: Instant, path: &mut impl OutputPath) {
        path.set_mode(ProgramMode::Off);
        self.counts.secondary_ignored += self.expander.drop_waiting();
        // Protection is off: the frames that leave now need no checkpoint.
        self.out.requests.clear();
        self.engine.release_all(now, &mut self.out);
        self.drain_output(now, path);
    }

    /// Takes the output that is there now, and no more. A guest that goes on sending must not keep us
    /// here.
    pub(super) fn drain_output(&mut self, now: Instant, path: &mut impl OutputPath) {
        let mut frames = Vec::with_capacity(BATCH);
        for _ in 0..=self.limits.output_queue_frames as usize / BATCH {
            let more = path.read_output(&mut frames);
            self.on_output(now, Intake::All(&mut frames), path);
            if self.protection.is_unprotected() {
                self.release_all(path);
            }
            if !more {
                return;
            }
        }
    }

    /// Lets all frames leave that may.
    pub fn release_all(&mut self, path: &mut impl OutputPath) {
        self.releasing.drain(..).for_each(|frame| frame.leave(path));
        self.out.release.drain(..).for_each(|frame| path.release(&frame));
        self.out.acknowledgments.drain(..).for_each(|frame| path.acknowledge(&frame));
    }

    /// Lets as many frames leave as one turn has room for, in the order in which they became free. An
    /// unprotected guest's leave at once, because the rest of its output takes the short way.
    pub fn release_some(&mut self, path: &mut impl OutputPath) {
        let per_turn = self.limits.released_per_turn;
        let Output { release, acknowledgments, .. } = &mut self.out;
        let leaving = self.releasing.len() + release.len() + acknowledgments.len();
        if leaving <= per_turn || self.protection.is_unprotected() {
            return self.release_all(path);
        }
        self.releasing.extend(release.drain(..).map(Leaving::Output));
        self.releasing.extend(acknowledgments.drain(..).map(Leaving::Acknowledgment));
        self.releasing.drain(..per_turn).for_each(|frame| frame.leave(path));
        if self.releasing.len() <= per_turn {
            self.releasing.shrink_to(2 * per_turn);
        }
    }

    /// Frames are left for the next turn. They count as released, and need no limit, because more
    /// frames leave in a turn than come in.
    pub fn is_releasing(&self) -> bool {
        !self.releasing.is_empty()
    }
}
