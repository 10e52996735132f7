//! Asking a QEMU how it was built and how it stands, and the consequences for this half.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::found::{FoundQemu, PairHalf};
use super::{QemuPhase, QmpMachine, QmpQuestion};
use crate::colo_frame::ColoFrameEvent;
use crate::colo_frame::qmp::support;
use crate::config::Role;
use crate::qmp::QmpRefusal;

/// Pause before a QEMU that did not answer is asked again.
pub(super) const PROBE_AGAIN: Duration = Duration::from_secs(1);

impl QmpMachine {
    /// Asks how QEMU stands. An event in the meantime makes the answers old.
    pub(super) fn probe(&mut self) {
        self.phase = QemuPhase::Probing;
        self.probe_at = None;
        self.found = FoundQemu::default();
        self.execute(QmpQuestion::ColoStatus, "query-colo-status", json!({}));
        self.execute(QmpQuestion::Kvm, "query-kvm", json!({}));
        self.execute(QmpQuestion::Status, "query-status", json!({}));
    }

    pub(super) fn on_schema(&mut self, result: Result<Value, QmpRefusal>) {
        let missing = match result {
            Ok(schema) => support::missing(&schema),
            Err(refusal) => {
                return self.refuse(format!("QEMU does not describe its commands: {refusal}"));
            }
        };
        if !missing.is_empty() {
            return self.refuse(format!(
                "this QEMU was built without COLO: it lacks {}; install one that has it",
                missing.join(", ")
            ));
        }
        self.probe();
    }

    pub(super) fn on_found(
        &mut self,
        now: Instant,
        ask: QmpQuestion,
        result: Result<Value, QmpRefusal>,
    ) {
        match (ask, result) {
            (_, Err(refusal)) => {
                // It may be in COLO, as far as we know.
                self.lose(now, &format!("QEMU does not answer how it stands: {refusal}"));
                self.probe_at = Some(now + PROBE_AGAIN);
                return;
            }
            (QmpQuestion::ColoStatus, Ok(status)) => self.found.on_colo_status(&status),
            (QmpQuestion::Kvm, Ok(status)) => self.found.on_kvm(&status),
            (_, Ok(status)) => self.found.on_status(&status),
        }
        let Some(half) = self.found.half() else { return };
        if self.found.is_old() {
            return self.probe();
        }
        match half {
            PairHalf::Of(role) if role == self.role => {
                self.phase = QemuPhase::Colo;
                self.events.push_back(ColoFrameEvent::PairReady);
                if std::mem::take(&mut self.is_end_wanted) {
                    self.end(now);
                }
            }
            PairHalf::Of(other) => self.refuse(format!(
                "this QEMU is the {other} of its pair, but this instance is configured as a {}",
                self.role
            )),
            PairHalf::Incoming if self.role == Role::Secondary => {
                self.is_end_wanted = false;
                self.phase = QemuPhase::Standby;
                self.set_capabilities();
                let reason = "QEMU waits for the migration from the primary".into();
                self.events.push_back(ColoFrameEvent::Alone { reason });
            }
            PairHalf::Incoming | PairHalf::None => {
                self.is_end_wanted = false;
                self.phase = QemuPhase::Alone;
                self.events
                    .push_back(ColoFrameEvent::Alone { reason: "QEMU is not in COLO".into() });
                if self.copying.take().is_some() {
                    // We have stopped the guest, and do not know how its copy ended.
                    self.execute(QmpQuestion::Cont, "cont", json!({}));
                }
                if let Some(uri) = self.wanted.take() {
                    self.enter(&uri);
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, why: String) {
        log::error!("{}: {why}", self.name);
        self.phase = QemuPhase::Absent;
        self.trouble = Some(why.clone());
        self.events.push_back(ColoFrameEvent::Alone { reason: why });
    }
}
