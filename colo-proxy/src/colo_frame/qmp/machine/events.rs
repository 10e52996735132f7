//! The meaning of QEMU's events: when a checkpoint begins and ends, and when the pair is lost.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::checkpoint::{CheckpointEnd, SeenCheckpoint};
use super::{QemuPhase, QmpMachine, QmpQuestion, no_connection};
use crate::colo_frame::ColoFrameEvent;
use crate::config::Role;

impl QmpMachine {
    /// `at` is QEMU's clock. Only the difference between two events means something.
    pub(in crate::colo_frame::qmp) fn on_event(
        &mut self,
        now: Instant,
        name: &str,
        data: &Value,
        at: Duration,
    ) {
        if matches!(name, "STOP" | "RESUME" | "MIGRATION" | "COLO_EXIT") {
            match self.phase {
                QemuPhase::Probing => return self.found.on_change(),
                // Nobody starts or stops a guest that waits: the pair was made without us.
                QemuPhase::Standby if name != "MIGRATION" => return self.probe(),
                // Somebody makes a pair by hand.
                QemuPhase::Alone if name == "MIGRATION" && data["status"] == "colo" => {
                    return self.probe();
                }
                _ => {}
            }
        }
        match name {
            "STOP" => self.on_stop(now, at),
            "RESUME" => self.on_resume(now, at),
            "MIGRATION" => self.on_migration(now, data["status"].as_str().unwrap_or_default()),
            "COLO_EXIT" => self.on_colo_exit(now, data),
            "RESET" if self.role == Role::Primary && self.phase == QemuPhase::Colo => {
                let reason = data["reason"].as_str().unwrap_or("QEMU gives no reason").to_owned();
                self.events.push_back(ColoFrameEvent::Reset { reason });
            }
            "SHUTDOWN" => {
                self.is_ending = true;
                self.end_checkpoint(now, "QEMU is shutting down");
                let reason = "QEMU is shutting down".into();
                self.events.push_back(no_connection(self.role, reason));
            }
            _ => {}
        }
    }

    fn on_stop(&mut self, now: Instant, at: Duration) {
        if self.role == Role::Primary && matches!(self.phase, QemuPhase::Entering { .. }) {
            self.copying.get_or_insert(now);
        }
        if self.phase != QemuPhase::Colo || self.checkpoint.is_some() {
            return;
        }
        self.number += 1;
        self.triggered = None;
        self.checkpoint = Some(SeenCheckpoint::new(at));
        self.stopped = Some(now);
        self.events.push_back(ColoFrameEvent::CheckpointBegan);
    }

    fn on_resume(&mut self, now: Instant, at: Duration) {
        let is_first = self.phase == (QemuPhase::Entering { in_colo: true });
        if is_first {
            self.phase = QemuPhase::Colo;
            if let Some(since) = self.copying.take() {
                let ms = now.saturating_duration_since(since).as_millis();
                log::info!(
                    "{}: QEMU stopped the guest for {ms} ms, to copy its memory to the secondary",
                    self.name
                );
            }
            self.events.push_back(ColoFrameEvent::PairReady);
        }
        match self.checkpoint.as_ref().map(|one| one.on_resume(self.role, at)) {
            Some(ended) => self.on_checkpoint_ended(now, ended),
            // Somebody had stopped the guest, and a checkpoint resumed it, or somebody did. Nobody knows
            // when the checkpoint began.
            None if self.phase == QemuPhase::Colo && !is_first => {
                self.events.push_back(ColoFrameEvent::CheckpointBegan);
                let ended = match self.role {
                    Role::Primary => CheckpointEnd::Uncovered,
                    Role::Secondary => CheckpointEnd::Done { pause: Duration::ZERO },
                };
                self.on_checkpoint_ended(now, ended);
            }
            None => {}
        }
    }

    pub(super) fn on_confirmation(&mut self, now: Instant, number: u64, status: Option<&Value>) {
        let status = status.and_then(|status| status["status"].as_str()).unwrap_or_default();
        let checkpoint = self.checkpoint.as_mut().filter(|_| number == self.number);
        if let Some(ended) = checkpoint.and_then(|one| one.on_status(status)) {
            self.on_checkpoint_ended(now, ended);
        }
    }

    fn on_checkpoint_ended(&mut self, now: Instant, ended: CheckpointEnd) {
        match ended {
            CheckpointEnd::Done { pause } => {
                self.pauses.add(pause);
                self.events.push_back(ColoFrameEvent::DONE);
            }
            CheckpointEnd::Uncovered => {
                log::warn!(
                    "{}: a checkpoint covers nothing, because the guest resumed before its output was \
                     taken. Another one is requested",
                    self.name
                );
                self.uncovered += 1;
                let (state_copied, covers) = (true, false);
                self.events.push_back(ColoFrameEvent::CheckpointDone { state_copied, covers });
            }
            CheckpointEnd::NotMade(why) => return self.fail(now, why.into()),
        }
        self.pace.on_done(now);
        (self.checkpoint, self.triggered, self.due) = (None, None, None);
    }

    fn on_migration(&mut self, now: Instant, status: &str) {
        match (status, self.phase) {
            ("active" | "setup", QemuPhase::Standby) => {
                self.phase = QemuPhase::Entering { in_colo: false }
            }
            ("colo", QemuPhase::Standby | QemuPhase::Entering { .. }) => {
                self.phase = QemuPhase::Entering { in_colo: true };
            }
            ("failed", QemuPhase::Entering { .. }) if self.role == Role::Primary => {
                self.execute(QmpQuestion::MigrateError, "query-migrate", json!({}));
            }
            ("failed", QemuPhase::Entering { .. }) => {
                self.stay_alone("the migration from the primary failed".into());
            }
            ("completed", QemuPhase::Entering { .. }) => {
                self.stay_alone("QEMU migrated and did not enter COLO".into());
            }
            ("completed", QemuPhase::Ending) => {
                self.end_unfinished(now);
                self.phase = QemuPhase::Alone;
            }
            // Somebody told QEMU by hand that the other half is gone.
            ("completed", QemuPhase::Colo | QemuPhase::Broken) => self.on_told_by_hand(now),
            _ => {}
        }
    }

    fn on_told_by_hand(&mut self, now: Instant) {
        self.phase = QemuPhase::Alone;
        self.lose(now, "somebody told QEMU by hand that the other half is gone");
        self.events.push_back(ColoFrameEvent::Failover);
    }

    fn on_colo_exit(&mut self, now: Instant, data: &Value) {
        if self.phase == QemuPhase::Ending {
            return self.end_unfinished(now);
        }
        if matches!(self.phase, QemuPhase::Entering { .. }) && self.role == Role::Primary {
            // Nothing was protected yet, and the guest stands still until QEMU is told.
            self.phase = QemuPhase::Ending;
            self.copying = None;
            self.execute(QmpQuestion::LostHeartbeat, "x-colo-lost-heartbeat", json!({}));
            return self.stay_alone("the secondary's QEMU did not enter COLO".into());
        }
        if self.phase != QemuPhase::Colo {
            return;
        }
        if data["reason"] == "request" {
            return self.on_told_by_hand(now);
        }
        self.phase = QemuPhase::Broken;
        self.lose(now, "QEMU has lost its other half");
    }
}
