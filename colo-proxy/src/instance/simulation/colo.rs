//! The COLO-frame: pauses the primary guest, copies its state, and tells.

use super::machine::Machine;
use super::plan::{At, Sabotage};
use super::world::{Event, World};
use crate::colo_frame;
use crate::instance::primary::decide::Decisions;

/// How far a checkpoint is. The number tells a checkpoint that came to nothing from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Somebody wants one.
    Asked,
    /// The guest is paused; the daemon hears of it.
    Began(u64),
    /// The guest goes on before the state has arrived.
    Resumes(u64),
    /// The secondary has all of the state, and its guest goes on from there.
    Loaded(u64),
    /// The primary's daemon hears of that.
    Done(u64),
    Failed(u64),
}

#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    number: u64,
    /// The one that is being made.
    running: Option<u64>,
    /// The state that was captured.
    state: Option<Machine>,
    /// It is on the secondary: the daemon will hear of it.
    pub(super) is_loaded: bool,
    pub(super) done: u64,
    pub(super) failed: u64,
}

impl World {
    pub(super) fn on_progress(&mut self, progress: Progress) {
        let is_running = |number| self.checkpoints.running == Some(number);
        match progress {
            Progress::Asked => self.begin_checkpoint(),
            Progress::Began(number) if is_running(number) => self.capture(number),
            Progress::Resumes(number) if is_running(number) => self.resume(At::Primary),
            Progress::Loaded(number) if is_running(number) => self.load(number),
            Progress::Done(number) if is_running(number) => self.finish_checkpoint(),
            Progress::Failed(number) if is_running(number) => self.fail_checkpoint(),
            _ => {}
        }
    }

    fn begin_checkpoint(&mut self) {
        let can_be = self.primary.is_alive && self.primary.daemon.is_some();
        if !can_be || self.checkpoints.running.is_some() {
            return;
        }
        let number = self.checkpoints.number + 1;
        (self.checkpoints.number, self.checkpoints.running) = (number, Some(number));
        if self.is_lost {
            return self.after(100..5_000, Event::Checkpoint(Progress::Failed(number)));
        }
        self.primary.guest.paused = true;
        if self.plan.sabotage == Sabotage::EarlyResume {
            self.checkpoints.state = Some(self.primary.guest.machine.clone());
            self.resume(At::Primary);
            return self.after(5_000..30_000, Event::Checkpoint(Progress::Began(number)));
        }
        self.after(1..2_000, Event::Checkpoint(Progress::Began(number)));
    }

    fn tell(&mut self, event: &colo_frame::Event) {
        let now = self.instant();
        if let Some(daemon) = &mut self.primary.daemon {
            Decisions::on_frame_event(daemon, now, event, &mut self.primary.kernel);
        }
        self.settle_primary();
    }

    fn capture(&mut self, number: u64) {
        self.tell(&colo_frame::Event::CheckpointBegan);
        self.oracle.on_capture();
        let machine = &self.primary.guest.machine;
        self.checkpoints.state.get_or_insert_with(|| machine.clone());
        let copied = self.random.within(self.plan.copy_us.clone());
        if self.plan.resumes_early {
            let resumes = self.now + self.random.within(1..500);
            self.at(resumes, Event::Checkpoint(Progress::Resumes(number)));
        }
        let fails = self.random.chance(self.plan.checkpoint_failures);
        let end = if fails { Progress::Failed(number) } else { Progress::Loaded(number) };
        self.at(self.now + copied, Event::Checkpoint(end));
    }

    fn load(&mut self, number: u64) {
        if self.secondary.daemon.is_none() {
            return self.fail_checkpoint();
        }
        let Some(state) = self.checkpoints.state.take() else { return };
        self.secondary.guest.machine = state;
        self.checkpoints.is_loaded = true;
        self.oracle.on_load();
        if self.plan.tells_secondary
            && let Some(daemon) = &mut self.secondary.daemon
        {
            self.secondary.kernel.now = self.now;
            daemon.on_state_copied(&mut self.secondary.kernel);
            self.settle_secondary();
        }
        self.after(1..1_000, Event::Checkpoint(Progress::Done(number)));
    }

    fn finish_checkpoint(&mut self) {
        self.checkpoints.done += 1;
        self.end_checkpoint();
        self.tell(&colo_frame::Event::CheckpointDone { state_copied: true });
    }

    fn fail_checkpoint(&mut self) {
        self.checkpoints.failed += 1;
        self.end_checkpoint();
        self.tell(&colo_frame::Event::CheckpointFailed { reason: "simulated".into() });
    }

    fn end_checkpoint(&mut self) {
        self.checkpoints.running = None;
        self.checkpoints.state = None;
        self.checkpoints.is_loaded = false;
        if self.primary.guest.paused {
            self.resume(At::Primary);
        }
    }

    /// One that is being made comes to nothing, because an end of it is gone.
    pub(super) fn break_checkpoint(&mut self) {
        if self.checkpoints.running.is_some() && !self.checkpoints.is_loaded {
            self.fail_checkpoint();
        }
    }

    /// The primary's host is dead: what has not arrived does not any more.
    pub(super) fn abandon_checkpoint(&mut self) {
        self.checkpoints.running = None;
    }
}
