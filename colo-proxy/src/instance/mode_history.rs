//! The mode that `status` shows, since when, and why.

use std::time::{SystemTime, UNIX_EPOCH};

use colo_proxy_engine::pair::Mode;
use colo_proxy_engine::pair::service_record::RecordKeeper;

use crate::guest_tap::TapState;
use crate::status::{ModeReport, RecordReport, shown_mode};
use crate::utc::rfc3339;

/// The present mode, and when it began.
#[derive(Debug)]
pub(super) struct ModeHistory {
    mode: Mode,
    since: SystemTime,
}

impl ModeHistory {
    /// A daemon that has just started.
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, since: SystemTime::now() }
    }

    /// The pair has decided on `decided`, and the TAP is as `tap` says. Called after every event.
    pub(super) fn observe(&mut self, decided: Mode, tap: TapState) {
        let mode = shown_mode(decided, tap);
        if mode != self.mode {
            *self = Self::new(mode);
        }
    }

    /// What `status` shows. `reason` is the reason for the mode that the pair has decided on.
    pub(super) fn report(&self, reason: &str, tap: TapState, record: &RecordKeeper) -> ModeReport {
        let reason = match tap {
            TapState::Guarded => reason.to_owned(),
            TapState::Gone => format!("{reason}; the guest's TAP is gone"),
            TapState::Unguarded => "the programs are not on the guest's TAP".to_owned(),
        };
        let since = self.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        ModeReport {
            mode: self.mode,
            since: rfc3339(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
            reason,
            record: record.record().map(|kept| RecordReport {
                generation: kept.generation,
                server: kept.server,
                on_disk: record.is_kept(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_began_when_it_changed_and_not_when_it_was_seen_again() {
        let mut history = ModeHistory::new(Mode::Held);
        let before = history.since;
        history.observe(Mode::Held, TapState::Guarded);
        assert_eq!(history.since, before);
        history.observe(Mode::Protected, TapState::Guarded);
        assert!(history.since > before);
        let since = history.since;
        history.observe(Mode::Protected, TapState::Unguarded);
        assert!(history.since > since, "unguarded is a mode of its own");
    }

    #[test]
    fn a_reason_says_what_the_tap_adds() {
        let history = ModeHistory::new(Mode::Protected);
        let keeper = RecordKeeper::in_memory();
        let reason = |tap| history.report("because", tap, &keeper).reason;
        assert_eq!(reason(TapState::Guarded), "because");
        assert!(reason(TapState::Gone).starts_with("because; "), "and the TAP");
        assert!(!reason(TapState::Unguarded).contains("because"), "it does not count");
    }
}
