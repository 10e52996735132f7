//! How a QEMU stands when we connect: it may have been running for long, even in COLO.

use serde_json::Value;

use crate::config::Role;

/// Its answers so far.
#[derive(Debug, Default)]
pub(super) struct FoundQemu {
    mode: Option<PairHalf>,
    kvm: Option<bool>,
    run_state: Option<String>,
    /// QEMU has changed since the first question.
    is_old: bool,
}

/// The pair that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PairHalf {
    Of(Role),
    /// It waits for its primary to make the pair.
    Incoming,
    None,
}

impl FoundQemu {
    /// The answer to `query-colo-status`.
    pub(super) fn on_colo_status(&mut self, status: &Value) {
        self.mode = Some(match status["mode"].as_str() {
            Some("primary") => PairHalf::Of(Role::Primary),
            Some("secondary") => PairHalf::Of(Role::Secondary),
            _ => PairHalf::None,
        });
    }

    /// The answer to `query-kvm`.
    pub(super) fn on_kvm(&mut self, status: &Value) {
        self.kvm = Some(status["enabled"] == true);
    }

    /// KVM runs the guest, and tracks its writes to memory.
    pub(super) fn has_kvm(&self) -> bool {
        self.kvm == Some(true)
    }

    /// The answer to `query-status`.
    pub(super) fn on_status(&mut self, status: &Value) {
        self.run_state = Some(status["status"].as_str().unwrap_or_default().to_owned());
    }

    pub(super) fn on_change(&mut self) {
        self.is_old = true;
    }

    /// The answers may be of different times.
    pub(super) fn is_old(&self) -> bool {
        self.is_old
    }

    /// The half that it is, when the answers are there.
    pub(super) fn half(&self) -> Option<PairHalf> {
        match (self.mode?, self.run_state.as_deref()?) {
            (PairHalf::None, "inmigrate") => Some(PairHalf::Incoming),
            (mode, _) => Some(mode),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn half(mode: &str, run_state: &str) -> Option<PairHalf> {
        let mut found = FoundQemu::default();
        found.on_colo_status(&json!({"mode": mode, "last-mode": "none", "reason": "none"}));
        assert_eq!(found.half(), None, "the other answer is awaited");
        found.on_status(&json!({"running": true, "status": run_state}));
        found.half()
    }

    #[test]
    fn every_state_is_told_apart() {
        assert_eq!(half("primary", "running"), Some(PairHalf::Of(Role::Primary)));
        assert_eq!(half("secondary", "colo"), Some(PairHalf::Of(Role::Secondary)));
        assert_eq!(half("none", "inmigrate"), Some(PairHalf::Incoming));
        assert_eq!(half("none", "running"), Some(PairHalf::None));
        assert_eq!(half("new in QEMU 99", "running"), Some(PairHalf::None));
    }
}
