//! Asking a QEMU what it has and how it is, and what follows for this half.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::found::{Found, Half};
use super::{Ask, Machine, Phase};
use crate::colo_frame::ColoFrameEvent;
use crate::colo_frame::qmp::support;
use crate::config::Role;
use crate::qmp::Refusal;

/// Pause before a QEMU that did not say how it is is asked again.
pub(super) const PROBE_AGAIN: Duration = Duration::from_secs(1);

impl Machine {
    /// Asks how QEMU is. Whatever it says of itself meanwhile makes the answers old.
    pub(super) fn probe(&mut self) {
        self.phase = Phase::Probing;
        self.probe_at = None;
        self.found = Found::default();
        self.execute(Ask::ColoStatus, "query-colo-status", json!({}));
        self.execute(Ask::Kvm, "query-kvm", json!({}));
        self.execute(Ask::Status, "query-status", json!({}));
    }

    pub(super) fn on_schema(&mut self, result: Result<Value, Refusal>) {
        let missing = match result {
            Ok(schema) => support::missing(&schema),
            Err(refusal) => {
                return self.refuse(format!("QEMU does not describe itself: {refusal}"));
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

    pub(super) fn on_found(&mut self, now: Instant, ask: Ask, result: Result<Value, Refusal>) {
        match (ask, result) {
            (_, Err(refusal)) => {
                // It may be in COLO for all we know.
                self.lose(now, &format!("QEMU does not say how it is: {refusal}"));
                self.probe_at = Some(now + PROBE_AGAIN);
                return;
            }
            (Ask::ColoStatus, Ok(status)) => self.found.on_colo_status(&status),
            (Ask::Kvm, Ok(status)) => self.found.on_kvm(&status),
            (_, Ok(status)) => self.found.on_status(&status),
        }
        let Some(half) = self.found.half() else { return };
        if self.found.is_old() {
            return self.probe();
        }
        match half {
            Half::Of(role) if role == self.role => {
                self.phase = Phase::Colo;
                self.events.push_back(ColoFrameEvent::PairReady);
                if std::mem::take(&mut self.is_end_wanted) {
                    self.end(now);
                }
            }
            Half::Of(other) => self.refuse(format!(
                "this QEMU is the {other} of its pair, and this instance is a {}",
                self.role
            )),
            Half::Incoming if self.role == Role::Secondary => {
                self.is_end_wanted = false;
                self.phase = Phase::Standby;
                self.set_capabilities();
            }
            Half::Incoming | Half::None => {
                self.is_end_wanted = false;
                self.phase = Phase::Alone;
                self.events
                    .push_back(ColoFrameEvent::Alone { reason: "QEMU is not in COLO".into() });
                if self.copying.take().is_some() {
                    // We have stopped it, and do not know what became of the copy.
                    self.execute(Ask::Cont, "cont", json!({}));
                }
                if let Some(uri) = self.wanted.take() {
                    self.enter(&uri);
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, why: String) {
        log::error!("{why}");
        self.phase = Phase::Absent;
        self.trouble = Some(why.clone());
        self.events.push_back(ColoFrameEvent::Alone { reason: why });
    }
}
