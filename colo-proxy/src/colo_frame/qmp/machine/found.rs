//! What a QEMU is when we come to it: it may have been running for long, in COLO even.

use serde_json::Value;

use crate::config::Role;

/// Its answers so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    mode: Option<Half>,
    kvm: Option<bool>,
    run_state: Option<String>,
}

/// Of which pair it is a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Of(Role),
    /// Of the one that its primary will make.
    Incoming,
    None,
}

impl Found {
    /// The answer to `query-colo-status`.
    pub(super) fn on_colo_status(&mut self, status: &Value) {
        self.mode = Some(match status["mode"].as_str() {
            Some("primary") => Half::Of(Role::Primary),
            Some("secondary") => Half::Of(Role::Secondary),
            _ => Half::None,
        });
    }

    /// The answer to `query-kvm`.
    pub(super) fn on_kvm(&mut self, status: &Value) {
        self.kvm = Some(status["enabled"] == true);
    }

    /// The processor runs the guest, and the kernel tracks what it writes.
    pub(super) fn has_kvm(&self) -> bool {
        self.kvm == Some(true)
    }

    /// The answer to `query-status`.
    pub(super) fn on_status(&mut self, status: &Value) {
        self.run_state = Some(status["status"].as_str().unwrap_or_default().to_owned());
    }

    /// What it is, when the answers are there.
    pub(super) fn half(&self) -> Option<Half> {
        match (self.mode?, self.run_state.as_deref()?) {
            (Half::None, "inmigrate") => Some(Half::Incoming),
            (mode, _) => Some(mode),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn half(mode: &str, run_state: &str) -> Option<Half> {
        let mut found = Found::default();
        found.on_colo_status(&json!({"mode": mode, "last-mode": "none", "reason": "none"}));
        assert_eq!(found.half(), None, "the other answer is awaited");
        found.on_status(&json!({"running": true, "status": run_state}));
        found.half()
    }

    #[test]
    fn every_state_is_told_apart() {
        assert_eq!(half("primary", "running"), Some(Half::Of(Role::Primary)));
        assert_eq!(half("secondary", "colo"), Some(Half::Of(Role::Secondary)));
        assert_eq!(half("none", "inmigrate"), Some(Half::Incoming));
        assert_eq!(half("none", "running"), Some(Half::None));
        assert_eq!(half("new in QEMU 99", "running"), Some(Half::None));
    }
}
