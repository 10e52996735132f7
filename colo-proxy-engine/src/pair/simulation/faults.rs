//! The faults.

use super::colo::CheckpointProgress;
use super::plan::{DaemonWire, Fault, RunSabotage, Site};
use super::world::{PairWorld, WorldEvent};
use crate::pair::ProgramMode;

const WIRES: [DaemonWire; 3] = [DaemonWire::Mirror, DaemonWire::Output, DaemonWire::Control];

impl PairWorld {
    pub(super) fn on_fault(&mut self, fault: Fault) {
        if self.has_failed_over || !self.primary.is_alive {
            return;
        }
        match fault {
            Fault::Disconnect(wire) if !self.is_lost => self.disconnect(wire),
            Fault::Disconnect(_) => {}
            Fault::Restart(at) => self.restart(at),
            Fault::Lose { us } => self.lose_secondary(us),
            Fault::Checkpoint => self.on_progress(CheckpointProgress::Asked),
            Fault::FailOver => self.fail_over_due = true,
        }
    }

    /// A daemon dies. The kernel programs stay, and hold output.
    fn restart(&mut self, at: Site) {
        // The COLO-frame's script is a child of the daemon. It dies too, so nobody would report a state
        // that was copied already.
        if self.checkpoints.is_loaded {
            return;
        }
        // While output is held for a checkpoint, only the daemon knows that the secondary is stale. To
        // lose the secondary and then the daemon at this moment is two failures.
        let is_exposed = self.primary.daemon.as_ref().is_some_and(|d| d.protection().is_exposed());
        if at == Site::Primary && is_exposed && self.primary.kernel.mode == ProgramMode::Protected {
            return;
        }
        // Only the daemon knows that the offsets are void for a checkpoint that is not done yet.
        if at == Site::Secondary && self.secondary.guest.paused {
            return;
        }
        match at {
            Site::Primary => {
                self.primary.daemon = None;
                self.primary.kernel.gate.clear();
            }
            Site::Secondary => {
                self.secondary.daemon = None;
                self.secondary.kernel.gate.clear();
                self.secondary.kernel.early_input.clear();
            }
        }
        self.break_checkpoint();
        for wire in WIRES {
            self.disconnect(wire);
        }
        self.after(1_000..600_000, WorldEvent::Starts(at));
    }

    fn lose_secondary(&mut self, us: u64) {
        if self.is_lost || self.checkpoints.is_loaded {
            return;
        }
        self.is_lost = true;
        self.break_checkpoint();
        for wire in WIRES {
            self.disconnect(wire);
        }
        self.at(self.now + us, WorldEvent::Returns);
    }

    pub(super) fn on_return(&mut self) {
        self.is_lost = false;
        for wire in WIRES {
            self.connect(wire, 1_000..100_000);
        }
    }

    /// The primary's host dies, if the secondary can take over now.
    pub(super) fn try_fail_over(&mut self) {
        if !self.oracle.is_covered() || self.secondary.daemon.is_none() || self.is_lost {
            return;
        }
        self.fail_over_due = false;
        self.say(|| "the primary host dies".into());
        self.primary.is_alive = false;
        self.primary.daemon = None;
        self.abandon_checkpoint();
        self.oracle.on_death(&self.client, &self.secondary.guest.machine);
        let loses = self.random.chance(500);
        for wire in WIRES {
            let line = self.line(wire);
            line.is_up = false;
            line.generation += u32::from(loses);
        }
        self.after(1..1_500_000, WorldEvent::FailOver);
    }

    /// The secondary takes over, in the order of steps that its daemon has.
    pub(super) fn fail_over(&mut self) {
        self.secondary.kernel.now = self.now;
        self.secondary.kernel.programs.mode = ProgramMode::FailedOver;
        if self.plan.sabotage == RunSabotage::NoTranslation {
            self.secondary.kernel.programs.forget_all();
        }
        self.has_failed_over = true;
        let Some(daemon) = &mut self.secondary.daemon else { return };
        daemon.on_taken_over();
        for frame in std::mem::take(&mut self.secondary.kernel.gate) {
            self.send_on_lan(&frame, WorldEvent::AtClient);
        }
        if let Some(daemon) = &mut self.secondary.daemon {
            daemon.replay_all(&mut self.secondary.kernel);
        }
        self.settle_secondary();
    }
}
