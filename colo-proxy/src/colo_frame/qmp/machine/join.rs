//! Making the pair: what a QEMU is told one by one until it copies its guest, and what stops that.

use serde_json::{Value, json};

use super::{Ask, Execute, Machine, Phase};
use crate::colo_frame::ColoFrameEvent;
use crate::qmp::Refusal;

/// Octets a second for the first copy of the guest's memory: no limit in practice. A guest that
/// writes faster than QEMU's own default would never be copied.
const BANDWIDTH: u64 = 10 << 30;

impl Machine {
    /// Brings this QEMU and the one that listens at `uri` into COLO.
    pub(in super::super) fn protect(&mut self, uri: &str) -> Result<String, String> {
        match self.phase {
            Phase::Alone => {}
            Phase::Absent if self.version.is_some() => {
                let why = self.trouble.as_deref().unwrap_or("this QEMU is not used");
                return Err(format!("cannot protect: {why}"));
            }
            Phase::Absent | Phase::Probing => {
                self.wanted = Some(uri.to_owned());
                return Ok("as soon as QEMU has said how it is".into());
            }
            Phase::Colo => return Ok("QEMU is in COLO already".into()),
            Phase::Standby => return Err("only a primary is protected".into()),
            other => return Err(format!("cannot protect: QEMU is {}; try again", other.state())),
        }
        self.enter(uri);
        Ok(format!("QEMU copies its guest to {uri}"))
    }

    pub(super) fn enter(&mut self, uri: &str) {
        self.trouble = None;
        self.phase = Phase::Entering { in_colo: false };
        let delay = self.delay();
        let parameters = json!({"x-checkpoint-delay": delay, "max-bandwidth": BANDWIDTH});
        let mut then = |ask, command, arguments| {
            self.join.push_back(Execute { ask, command, arguments });
        };
        then(Ask::Parameters, "migrate-set-parameters", parameters);
        if !self.found.has_kvm() {
            then(Ask::Stop, "stop", json!({}));
        }
        then(Ask::Migrate, "migrate", json!({"uri": uri}));
        // Without the capabilities it would be an ordinary migration, which ends with this guest.
        self.set_capabilities();
    }

    pub(super) fn set_capabilities(&mut self) {
        let capabilities = ["return-path", "x-colo", "events"]
            .map(|name| json!({"capability": name, "state": true}));
        let arguments = json!({"capabilities": capabilities});
        self.execute(Ask::Capabilities, "migrate-set-capabilities", arguments);
    }

    /// Milliseconds; QEMU takes 32 bits of them.
    pub(super) fn delay(&self) -> u64 {
        u64::try_from(self.settings.interval_max.as_millis())
            .unwrap_or(u64::MAX)
            .min(u64::from(u32::MAX))
    }

    pub(super) fn on_entering(&mut self, ask: Ask, result: Result<Value, Refusal>) {
        let Err(refusal) = result else {
            let next = self.join.pop_front();
            return self.commands.extend(next);
        };
        let what = match ask {
            Ask::Capabilities => "the capabilities of COLO",
            Ask::Parameters => "the time between checkpoints",
            Ask::Stop => "to stop its guest for the copy",
            _ => "the migration",
        };
        self.join.clear();
        self.stay_alone(format!("QEMU refuses {what}: {refusal}"));
    }

    pub(super) fn stay_alone(&mut self, why: String) {
        if matches!(self.phase, Phase::Entering { .. } | Phase::Standby) {
            self.phase = Phase::Alone;
        }
        if self.copying.take().is_some() {
            self.execute(Ask::Cont, "cont", json!({}));
        }
        log::error!("{why}");
        self.trouble = Some(why.clone());
        self.events.push_back(ColoFrameEvent::Alone { reason: why });
    }
}
