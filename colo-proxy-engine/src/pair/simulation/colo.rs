//! The COLO-frame: pauses the primary guest, copies its state, and notifies the daemons.

use super::machine::Station;
use super::plan::{Resume, RunSabotage, SecondaryNews, Site};
use super::world::{PairWorld, WorldEvent};
use crate::pair::event::ColoFrameEvent;

/// The progress of a checkpoint. The number distinguishes one that was abandoned from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckpointProgress {
    /// Somebody wants one.
    Asked,
    /// The secondary's guest is stopped, and its daemon is notified.
    Stopped(u64),
    /// The primary's guest is paused, and its daemon is notified.
    Began(u64),
    /// The guest goes on before the state has arrived.
    Resumes(u64),
    /// The secondary has all of the state, and its guest goes on from there.
    Loaded(u64),
    /// The secondary's daemon is notified that its guest has the state.
    Copied,
    /// The primary's daemon is notified that the checkpoint is done.
    Done(u64),
    Failed(u64),
}

#[derive(Debug, Default)]
pub(super) struct Checkpointer {
    number: u64,
    /// The one that is being made.
    running: Option<u64>,
    /// The state that was captured.
    state: Option<Station>,
    /// The state is on the secondary, and the primary's daemon is not notified yet.
    pub(super) is_loaded: bool,
    pub(super) done: u64,
    pub(super) failed: u64,
}

impl PairWorld {
    pub(super) fn on_progress(&mut self, progress: CheckpointProgress) {
        let is_running = |number| self.checkpoints.running == Some(number);
        match progress {
            CheckpointProgress::Asked => self.begin_checkpoint(),
            CheckpointProgress::Stopped(number) if is_running(number) => self.stopped(),
            CheckpointProgress::Copied => self.copied(),
            CheckpointProgress::Began(number) if is_running(number) => self.capture(number),
            CheckpointProgress::Resumes(number) if is_running(number) => self.resume(Site::Primary),
            CheckpointProgress::Loaded(number) if is_running(number) => self.load(number),
            CheckpointProgress::Done(number) if is_running(number) => self.finish_checkpoint(),
            CheckpointProgress::Failed(number) if is_running(number) => self.fail_checkpoint(),
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
            return self
                .after(100..5_000, WorldEvent::Checkpoint(CheckpointProgress::Failed(number)));
        }
        if self.plan.secondary_news == SecondaryNews::StoppedAndLoaded {
            self.secondary.guest.paused = true;
            self.after(1..800, WorldEvent::Checkpoint(CheckpointProgress::Stopped(number)));
        }
        self.primary.guest.paused = true;
        if self.plan.sabotage == RunSabotage::EarlyResume {
            self.checkpoints.state = Some(self.primary.guest.machine.clone());
            self.resume(Site::Primary);
            return self
                .after(5_000..30_000, WorldEvent::Checkpoint(CheckpointProgress::Began(number)));
        }
        self.after(1..2_000, WorldEvent::Checkpoint(CheckpointProgress::Began(number)));
    }

    fn tell(&mut self, event: &ColoFrameEvent) {
        let now = self.instant();
        if let Some(daemon) = &mut self.primary.daemon {
            crate::pair::Primary::on_colo_frame_event(daemon, now, event, &mut self.primary.kernel);
        }
        self.settle_primary();
    }

    fn capture(&mut self, number: u64) {
        self.tell(&ColoFrameEvent::CheckpointBegan);
        self.oracle.on_capture();
        let machine = &self.primary.guest.machine;
        self.checkpoints.state.get_or_insert_with(|| machine.clone());
        let copied = self.random.within(self.plan.copy_us.clone());
        if self.plan.resume == Resume::Early {
            let resumes = self.now + self.random.within(1..500);
            self.at(resumes, WorldEvent::Checkpoint(CheckpointProgress::Resumes(number)));
        }
        let fails = self.random.chance(self.plan.checkpoint_failures);
        let end = if fails {
            CheckpointProgress::Failed(number)
        } else {
            CheckpointProgress::Loaded(number)
        };
        self.at(self.now + copied, WorldEvent::Checkpoint(end));
    }

    fn load(&mut self, number: u64) {
        if self.secondary.daemon.is_none() {
            return self.fail_checkpoint();
        }
        let Some(state) = self.checkpoints.state.take() else { return };
        self.secondary.guest.machine = state;
        self.checkpoints.is_loaded = true;
        self.oracle.on_load();
        if self.secondary.guest.paused {
            self.resume(Site::Secondary);
            self.after(1..1_000, WorldEvent::Checkpoint(CheckpointProgress::Copied));
        } else if self.plan.secondary_news != SecondaryNews::Nothing {
            self.copied();
        }
        self.after(1..1_000, WorldEvent::Checkpoint(CheckpointProgress::Done(number)));
    }

    /// The secondary's guest is stopped, and its daemon is notified.
    fn stopped(&mut self) {
        let now = self.instant();
        self.secondary.kernel.now = self.now;
        let Some(daemon) = &mut self.secondary.daemon else { return };
        if daemon.on_stopped(now, &mut self.secondary.kernel) {
            self.take_cut();
        }
        self.settle_secondary();
    }

    /// The secondary's guest has the state, and its daemon is notified.
    fn copied(&mut self) {
        let now = self.instant();
        self.secondary.kernel.now = self.now;
        let Some(daemon) = &mut self.secondary.daemon else { return };
        self.secondary.kernel.collected = Some(Vec::new());
        let takes_cut = daemon.on_state_copied(now, &mut self.secondary.kernel);
        self.secondary.kernel.write_collected();
        if takes_cut {
            self.take_cut();
        }
        self.take_delayed_input();
    }

    fn take_cut(&mut self) {
        self.read_secondary_output();
        let sent = self.output.sent;
        if let Some(daemon) = &mut self.secondary.daemon {
            daemon.on_cut(sent);
        }
    }

    /// The secondary's guest goes on as it was.
    fn go_on_without_state(&mut self) {
        if !self.secondary.guest.paused {
            return;
        }
        self.resume(Site::Secondary);
        self.secondary.kernel.now = self.now;
        if let Some(daemon) = &mut self.secondary.daemon {
            daemon.on_not_copied(&mut self.secondary.kernel);
        }
        self.take_delayed_input();
    }

    fn finish_checkpoint(&mut self) {
        self.checkpoints.done += 1;
        self.end_checkpoint();
        self.tell(&ColoFrameEvent::DONE);
    }

    fn fail_checkpoint(&mut self) {
        self.checkpoints.failed += 1;
        self.end_checkpoint();
        self.tell(&ColoFrameEvent::CheckpointFailed { reason: "simulated".into() });
    }

    fn end_checkpoint(&mut self) {
        self.checkpoints.running = None;
        self.checkpoints.state = None;
        self.checkpoints.is_loaded = false;
        if self.primary.guest.paused {
            self.resume(Site::Primary);
        }
        self.go_on_without_state();
    }

    /// Abandons the present checkpoint, because one of the hosts or daemons is gone.
    pub(super) fn break_checkpoint(&mut self) {
        if self.checkpoints.running.is_some() && !self.checkpoints.is_loaded {
            self.fail_checkpoint();
        }
    }

    /// The primary's host is dead, so a state that has not arrived never will.
    pub(super) fn abandon_checkpoint(&mut self) {
        self.checkpoints.running = None;
        self.go_on_without_state();
    }
}
