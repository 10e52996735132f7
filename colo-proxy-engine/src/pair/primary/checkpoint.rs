//! Checkpoints: their beginning, their end and their failure, for held output and for frames of the
//! secondary that are under way.

use std::time::Instant;

use super::{Checkpoint, ControlState, OutputPath, Pairing, Primary};
use crate::compare::Reason;
use crate::pair::event::ColoFrameEvent;

impl Primary {
    /// An event of the COLO-frame.
    pub fn on_colo_frame_event(
        &mut self,
        now: Instant,
        event: &ColoFrameEvent,
        path: &mut impl OutputPath,
    ) {
        match event {
            ColoFrameEvent::CheckpointBegan => self.on_checkpoint_began(now, path),
            ColoFrameEvent::CheckpointDone { .. } if self.checkpoint == Checkpoint::None => {
                // Nobody knows which output the state covers.
                self.counts.checkpoints_ignored += 1;
                if let Some(more) = self.stray_log.admit(now) {
                    log::warn!(
                        "{}: the COLO-frame reports a checkpoint as done that it did not report as \
                         begun; the report is ignored, because nothing says which output it \
                         covers{more}",
                        self.name
                    );
                }
            }
            ColoFrameEvent::CheckpointDone { state_copied, covers } => {
                self.on_checkpoint_done(now, *state_copied, *covers, path);
            }
            ColoFrameEvent::CheckpointFailed { reason } => {
                if let Some(more) = self.failure_log.admit(now) {
                    let name = &self.name;
                    log::warn!(
                        "{name}: the COLO-frame made no checkpoint: {reason}; output stays held, and \
                         the next one is requested after a pause{more}"
                    );
                }
                self.on_checkpoint_failed(now);
            }
            ColoFrameEvent::Failover => self.end_protection(now, true, path),
            ColoFrameEvent::PairReady => {
                log::info!("{}: the COLO-frame has a pair", self.name);
                self.pairing = Pairing::Paired;
                self.on_pair_change(now, path);
            }
            ColoFrameEvent::PairLost { reason } => {
                self.on_pair_lost(now, reason, Pairing::Alone, path);
            }
            ColoFrameEvent::Reset { reason } => self.on_reset(now, reason),
            ColoFrameEvent::Gone { reason } => {
                let pairing =
                    if self.is_protected() { Pairing::GuestMayBeDead } else { Pairing::Alone };
                self.on_pair_lost(now, reason, pairing, path);
            }
            ColoFrameEvent::Alone { reason } => {
                log::info!("{}: no secondary follows this guest: {reason}", self.name);
                self.pairing = Pairing::Alone;
                self.protection.on_alone();
                self.act(now, path);
            }
        }
    }

    /// The guests differ from here on, whatever they say next. A checkpoint that is running may have
    /// captured the state from before.
    fn on_reset(&mut self, now: Instant, reason: &str) {
        // The guest decides how often this happens.
        if let Some(more) = self.reset_log.admit(now) {
            log::warn!("{}: the guest was reset: {reason}{more}", self.name);
        }
        self.due = Some(Reason::GuestReset);
        self.ask_for_due(now);
    }

    /// A checkpoint has begun and has not ended.
    pub fn is_checkpoint_running(&self) -> bool {
        self.checkpoint != Checkpoint::None
    }

    /// Output that the guest sent before it was paused belongs to the epoch that ends here.
    fn on_checkpoint_began(&mut self, now: Instant, path: &mut impl OutputPath) {
        self.drain_output(now, path);
        self.engine.checkpoint_began(now);
        self.checkpoint = Checkpoint::Running { settles: self.due.take() };
        // The secondary's guest resumes before we learn that the checkpoint is done, so frames that
        // come from here on may be of either epoch. If an earlier cut is still awaited, they are
        // unsorted already.
        if self.lanes.control != ControlState::Absent && self.cut.awaited().is_none() {
            self.cut.wait_for(self.epoch + 1);
        }
    }

    fn on_checkpoint_done(
        &mut self,
        now: Instant,
        state_copied: bool,
        covers: bool,
        path: &mut impl OutputPath,
    ) {
        self.checkpoint = Checkpoint::None;
        self.counts.checkpoints_done += 1;
        self.epoch += 1;
        if state_copied {
            let stale = self.begin_epoch() + path.drop_returned();
            self.engine.dropped_stale(stale);
        }
        let stale = self.expander.drop_waiting();
        self.engine.dropped_stale(stale);
        // The checkpoint settles requests that came up meanwhile, or they are raised again below.
        self.out.requests.clear();
        if self.protection.is_taken_over() {
            // The secondary answers the network: nothing of this guest may follow.
            self.engine.start_over(now, &mut self.out);
            return;
        }
        if !covers {
            self.engine.start_over(now, &mut self.out);
            self.engine.request_checkpoint(now, Reason::Resync, &mut self.out);
            return;
        }
        self.engine.checkpoint_done(now, &mut self.out);
        self.protection.on_checkpoint_done();
        if !state_copied {
            self.compare_unsorted(now, self.epoch);
        }
        self.act(now, path);
        self.ask_for_due(now);
    }

    /// Frames that the secondary sends from here on are of the new epoch. Returns how many frames were
    /// dropped, because they are of an older one.
    fn begin_epoch(&mut self) -> u64 {
        if self.lanes.control == ControlState::Absent {
            return 0;
        }
        let is_awaited = self.cut.awaited() == Some(self.epoch);
        let stale = if is_awaited { 0 } else { self.cut.wait_for(self.epoch) };
        self.ask_for_cut();
        stale
    }

    fn on_checkpoint_failed(&mut self, now: Instant) {
        if let Checkpoint::Running { settles: Some(reason) } = self.checkpoint {
            self.due = Some(reason);
        }
        self.checkpoint = Checkpoint::None;
        self.engine.checkpoint_failed(now);
        self.ask_for_due(now);
        self.compare_unsorted(now, self.epoch + 1);
    }

    /// A checkpoint that began before this moment covers no output that is held from here on.
    pub(super) fn abandon_checkpoint(&mut self, now: Instant) {
        if self.is_checkpoint_running() {
            self.checkpoint = Checkpoint::None;
            self.engine.checkpoint_failed(now);
            self.compare_unsorted(now, self.epoch + 1);
        }
    }

    fn on_pair_lost(
        &mut self,
        now: Instant,
        reason: &str,
        pairing: Pairing,
        path: &mut impl OutputPath,
    ) {
        log::warn!(
            "{}: the COLO-frame has no pair: {reason}; no checkpoint can be made until it has one",
            self.name
        );
        self.pairing = pairing;
        // A secondary that comes back needs a checkpoint before its output counts.
        self.protection.expose();
        if self.protection.is_unprotected() {
            // A checkpoint may have stopped the guest, and only the COLO-frame starts it again.
            self.command_peer_lost();
        }
        self.on_pair_change(now, path);
    }
}
