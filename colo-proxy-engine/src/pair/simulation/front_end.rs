//! The front end between QEMU's sockets, in the place of the primary's daemon: no gate and no control
//! lane.
//!
//! Its `Primary` is the same. Three things differ. Output is taken only while the engine has room.
//! Nobody reports the cut of an epoch, so frames of the secondary that are not read when a checkpoint is
//! done are dropped. The front end sees one lane only, which carries the secondary's output.

use std::time::Instant;

use super::hosts::GateKernel;
use super::plan::{
    DaemonWire, Fault, PrimaryProgram, Resume, ReturnForm, RunPlan, RunSabotage, SecondaryNews,
};
use super::random::SeededRandom;
use super::tests::{many, need_no_checkpoint, with_checkpoints};
use super::world::{PairWorld, WorldEvent, play};
use crate::compare::Side;
use crate::frame::Frame;
use crate::pair::primary::{Intake, PeerLane, Primary};

impl RunPlan {
    /// The same run with the front end. QEMU stops both guests for as long as a checkpoint takes.
    fn with_front_end(self) -> Self {
        Self {
            program: PrimaryProgram::FrontEnd,
            return_form: ReturnForm::Frames,
            secondary_news: SecondaryNews::StoppedAndLoaded,
            resume: Resume::Done,
            copy_us: 500..10_000,
            wire_us: 50..20_000,
            guest_us: [10..[400, 10_000][self.seed as usize % 2], self.guest_us[1].clone()],
            ..self
        }
    }
}

impl PairWorld {
    /// QEMU's own filters bring the guest's input to the secondary, so that lane counts as up.
    pub(super) fn start_front_end(&mut self) {
        let now = self.instant();
        if let Some(half) = self.primary.daemon.as_mut().filter(|_| !self.plan.has_control()) {
            half.on_lane(now, PeerLane::Mirror, true, &mut self.primary.kernel);
        }
    }

    /// A frame of the secondary goes into the socket, from which the front end reads some time later.
    pub(super) fn send_into_socket(&mut self, frame: Frame) {
        if self.output.is_up {
            let frame = self.deceived(frame);
            self.primary.kernel.returned.push_back(frame);
            self.wake_front_end();
        }
    }

    /// One event reads all frames that are in the sockets by then.
    fn wake_front_end(&mut self) {
        if self.primary.kernel.reads_returned_at.is_none_or(|at| at < self.now) {
            let at = self.now + self.random.within(self.plan.wire_us.clone());
            self.primary.kernel.reads_returned_at = Some(at);
            self.at(at, WorldEvent::ReadReturned);
        }
    }

    /// Reads the primary's socket. The secondary's has a time of its own.
    pub(super) fn read_primary_socket(&mut self) {
        let now = self.instant();
        if let Some(half) = &mut self.primary.daemon {
            take_output(half, now, &mut self.primary.kernel);
        }
        self.settle_primary();
    }

    /// Hands in the frames of both sockets, until the engine has no room for more.
    pub(super) fn read_sockets(&mut self) {
        let now = self.instant();
        let Some(half) = &mut self.primary.daemon else { return };
        let kernel = &mut self.primary.kernel;
        kernel.reads_returned_at = None;
        loop {
            let left = (kernel.gate.len(), kernel.returned.len());
            take_output(half, now, kernel);
            half.on_returned(now, Intake::Fitting(&mut kernel.returned));
            if left == (kernel.gate.len(), kernel.returned.len()) {
                break;
            }
        }
        self.settle_primary();
    }

    /// Frames that found no room are read when there is some.
    pub(super) fn read_sockets_again(&mut self) {
        let has_room =
            self.primary.daemon.as_ref().is_some_and(|d| d.engine().has_room_for(Side::Secondary));
        if !self.plan.has_control() && has_room && !self.primary.kernel.returned.is_empty() {
            self.wake_front_end();
        }
    }
}

/// Hands in the primary's output for which the engine has room.
fn take_output(half: &mut Primary, now: Instant, kernel: &mut GateKernel) {
    let mut frames = std::mem::take(&mut kernel.gate);
    half.on_output(now, Intake::Fitting(&mut frames), kernel);
    kernel.gate = frames;
}

fn quiet(seed: u64, random: &mut SeededRandom) -> RunPlan {
    RunPlan::quiet(seed).with_conversations(random, 5).with_front_end()
}

#[test]
fn equal_guests_need_no_checkpoint_of_a_front_end_either() {
    need_no_checkpoint(&many(quiet));
}

#[test]
fn checkpoints_without_a_control_lane_heal_guests_that_differ() {
    let worlds = many(|seed, random| with_checkpoints(seed, random).with_front_end());
    let count = |counted: fn(&PairWorld) -> u64| worlds.iter().map(counted).sum::<u64>();
    assert!(count(|world| world.checkpoints.failed) > 0);
    assert!(count(|world| world.requests) > 0);
    assert!(count(|world| world.primary.kernel.dropped_returned) > 0, "none came too late");
}

#[test]
fn a_failover_at_any_event_of_a_front_end_is_a_pause_and_not_a_lie() {
    let worlds = many(|seed, random| {
        let at = random.within(0..300);
        let plan = RunPlan::quiet(seed).with_bad_links(random).with_conversations(random, 4);
        plan.with_front_end().with_fault(at, Fault::FailOver)
    });
    assert!(worlds.iter().filter(|world| world.has_failed_over).count() > worlds.len() / 2);
}

/// The secondary's socket is closed, or its host is lost for a short or a long time.
fn with_lost_sockets(seed: u64, random: &mut SeededRandom) -> RunPlan {
    let mut plan = with_checkpoints(seed, random).with_front_end();
    for _ in 0..random.within(1..5) {
        let fault = match random.below(3) {
            0 => Fault::Disconnect(DaemonWire::Mirror),
            1 => Fault::Disconnect(DaemonWire::Output),
            _ => Fault::Lose { us: random.within(100_000..4_000_000) },
        };
        plan = plan.with_fault(random.within(0..600), fault);
    }
    plan
}

#[test]
fn a_front_end_survives_lost_sockets() {
    many(with_lost_sockets);
}

#[test]
fn a_failover_of_a_front_end_after_other_faults_loses_nothing() {
    many(|seed, random| {
        let at = random.within(0..1_000);
        with_lost_sockets(seed, random).with_fault(at, Fault::FailOver)
    });
}

/// Short checkpoints, one after the other, and guests that take turns in being ahead.
fn with_short_checkpoints(seed: u64, random: &mut SeededRandom) -> RunPlan {
    let mut plan = RunPlan::quiet(seed).with_conversations(random, 6).with_front_end();
    plan.guest_us = [10..8_000, 10..8_000];
    plan.copy_us = 100..1_000;
    let mut at = 0;
    while at < 1_500 {
        at += random.within(10..80);
        plan = plan.with_fault(at, Fault::Checkpoint);
    }
    plan
}

#[test]
fn output_from_before_a_checkpoint_that_is_unread_after_it_is_dropped() {
    let worlds = many(with_short_checkpoints);
    assert!(worlds.iter().any(|world| world.primary.kernel.dropped_returned > 10));
}

/// The twin: the front end is deceived in each way that does not need a control lane or digests.
#[test]
fn a_deceived_front_end_is_found_out() {
    use RunSabotage::{
        Acknowledgments, EarlyResume, NoTranslation, OldOffsets, ReleaseAll, StaleFrames,
    };
    for sabotage in
        [ReleaseAll, Acknowledgments, OldOffsets, StaleFrames, NoTranslation, EarlyResume]
    {
        let found = (0..60).find(|seed| {
            let mut random = SeededRandom::new(*seed);
            let at = random.within(0..800);
            let plan = if sabotage == StaleFrames {
                with_short_checkpoints(*seed, &mut random)
            } else {
                let plan = with_checkpoints(*seed, &mut random).with_front_end();
                plan.with_fault(at, Fault::FailOver)
            };
            play(&RunPlan { sabotage, ..plan }).is_err()
        });
        assert!(found.is_some(), "{sabotage:?} was not found in 60 runs");
    }
}
