//! Making the pair: the commands until a QEMU copies its guest, and the refusals that end that.

use serde_json::{Value, json};

use super::{QemuPhase, QmpCommand, QmpMachine, QmpQuestion};
use crate::colo_frame::ColoFrameEvent;
use crate::qmp::QmpRefusal;

/// Bytes a second for the first copy of the guest's memory: no limit in practice. A guest that
/// writes faster than QEMU's own default would never be copied.
const BANDWIDTH: u64 = 10 << 30;

impl QmpMachine {
    /// Brings this QEMU and the one that listens at `uri` into COLO.
    pub(in super::super) fn protect(&mut self, uri: &str) -> Result<String, String> {
        match self.phase {
            QemuPhase::Alone => {}
            QemuPhase::Absent if self.version.is_some() => {
                let why = self.trouble.as_deref().unwrap_or("this QEMU is not used");
                return Err(format!("cannot protect: {why}"));
            }
            QemuPhase::Absent | QemuPhase::Probing => {
                self.wanted = Some(uri.to_owned());
                return Ok("the guest is protected as soon as QEMU has answered how it is".into());
            }
            QemuPhase::Colo => return Ok("QEMU is in COLO already".into()),
            QemuPhase::Standby => {
                return Err(
                    "cannot protect: this is the secondary; ask the primary's daemon".into()
                );
            }
            other => return Err(format!("cannot protect: QEMU is {}; try again", other.state())),
        }
        self.enter(uri);
        Ok(format!("QEMU copies its guest to {uri}"))
    }

    pub(super) fn enter(&mut self, uri: &str) {
        self.trouble = None;
        self.phase = QemuPhase::Entering { in_colo: false };
        let delay = self.delay();
        let parameters = json!({"x-checkpoint-delay": delay, "max-bandwidth": BANDWIDTH});
        let mut then = |ask, command, arguments| {
            self.join.push_back(QmpCommand { ask, command, arguments });
        };
        then(QmpQuestion::Parameters, "migrate-set-parameters", parameters);
        if !self.found.has_kvm() {
            then(QmpQuestion::Stop, "stop", json!({}));
        }
        then(QmpQuestion::Migrate, "migrate", json!({"uri": uri}));
        // Without the capabilities it would be an ordinary migration, which ends this guest.
        self.set_capabilities();
    }

    pub(super) fn set_capabilities(&mut self) {
        let capabilities = ["return-path", "x-colo", "events"]
            .map(|name| json!({"capability": name, "state": true}));
        let arguments = json!({"capabilities": capabilities});
        self.execute(QmpQuestion::Capabilities, "migrate-set-capabilities", arguments);
    }

    /// Milliseconds; QEMU takes 32 bits of them.
    pub(super) fn delay(&self) -> u64 {
        u64::try_from(self.settings.interval_max.as_millis())
            .unwrap_or(u64::MAX)
            .min(u64::from(u32::MAX))
    }

    pub(super) fn on_entering(&mut self, ask: QmpQuestion, result: Result<Value, QmpRefusal>) {
        let Err(refusal) = result else {
            let next = self.join.pop_front();
            return self.commands.extend(next);
        };
        let what = match ask {
            QmpQuestion::Capabilities => "the capabilities of COLO",
            QmpQuestion::Parameters => "the time between checkpoints",
            QmpQuestion::Stop => "to stop its guest for the copy",
            _ => "the migration",
        };
        self.join.clear();
        self.stay_alone(format!("QEMU refuses {what}: {refusal}"));
    }

    pub(super) fn stay_alone(&mut self, why: String) {
        if matches!(self.phase, QemuPhase::Entering { .. } | QemuPhase::Standby) {
            self.phase = QemuPhase::Alone;
        }
        if self.copying.take().is_some() {
            self.execute(QmpQuestion::Cont, "cont", json!({}));
        }
        log::error!("{}: {why}", self.name);
        self.trouble = Some(why.clone());
        self.events.push_back(ColoFrameEvent::Alone { reason: why });
    }
}
