//! A checkpoint, as a QEMU's events show it.

use std::time::Duration;

use crate::config::Role;

/// A checkpoint that runs: its `STOP` came, and its end did not.
#[derive(Debug)]
pub(super) struct SeenCheckpoint {
    began: Duration,
    question: CheckpointQuestion,
}

/// Whether QEMU confirms that the checkpoint has stopped the guest.
#[derive(Debug, PartialEq, Eq)]
enum CheckpointQuestion {
    /// Not asked before the guest's output was taken: the answer has to hold for longer than that.
    Unasked,
    Asked,
    /// It has, and the guest still was stopped when the output had been taken.
    Proven,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckpointEnd {
    Done {
        pause: Duration,
    },
    /// The secondary has the state, but later output may have counted as older than it.
    Uncovered,
    /// It was no checkpoint.
    NotMade(&'static str),
}

impl SeenCheckpoint {
    pub(super) fn new(at: Duration) -> Self {
        Self { began: at, question: CheckpointQuestion::Unasked }
    }

    pub(super) fn is_unasked(&self) -> bool {
        self.question == CheckpointQuestion::Unasked
    }

    pub(super) fn asked(&mut self) {
        self.question = CheckpointQuestion::Asked;
    }

    /// The answer to `query-status`. `None` while the checkpoint stops the guest.
    pub(super) fn on_status(&mut self, status: &str) -> Option<CheckpointEnd> {
        match status {
            "colo" => {
                self.question = CheckpointQuestion::Proven;
                None
            }
            // The answer came too late to prove anything.
            "running" => Some(CheckpointEnd::Uncovered),
            _ => Some(CheckpointEnd::NotMade("somebody else stopped the guest")),
        }
    }

    /// The guest resumes. QEMU answers before it reports that, so a later answer is about another stop. The
    /// secondary's half releases nothing by it, and needs no proof.
    pub(super) fn on_resume(&self, role: Role, at: Duration) -> CheckpointEnd {
        if role == Role::Secondary || self.question == CheckpointQuestion::Proven {
            CheckpointEnd::Done { pause: at.saturating_sub(self.began) }
        } else {
            CheckpointEnd::Uncovered
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_micros(100);

    fn asked() -> SeenCheckpoint {
        let mut checkpoint = SeenCheckpoint::new(AT);
        checkpoint.asked();
        checkpoint
    }

    #[test]
    fn a_proven_one_is_done_when_the_guest_goes_on() {
        for role in [Role::Primary, Role::Secondary] {
            let mut checkpoint = asked();
            assert_eq!(checkpoint.on_status("colo"), None);
            assert_eq!(checkpoint.on_resume(role, AT * 5), CheckpointEnd::Done { pause: AT * 4 });
        }
    }

    #[test]
    fn one_that_ends_before_the_answer_covers_nothing_of_a_primary() {
        assert_eq!(asked().on_resume(Role::Primary, AT * 5), CheckpointEnd::Uncovered);
        assert_eq!(asked().on_status("running"), Some(CheckpointEnd::Uncovered));
        assert_eq!(
            SeenCheckpoint::new(AT).on_resume(Role::Primary, AT * 5),
            CheckpointEnd::Uncovered
        );
        let done = asked().on_resume(Role::Secondary, AT * 5);
        assert_eq!(done, CheckpointEnd::Done { pause: AT * 4 });
    }

    #[test]
    fn an_operators_stop_is_none() {
        for status in ["paused", "", "new in QEMU 99"] {
            assert!(
                matches!(asked().on_status(status), Some(CheckpointEnd::NotMade(_))),
                "{status}"
            );
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_pause() {
        let mut checkpoint = asked();
        checkpoint.on_status("colo");
        let done = checkpoint.on_resume(Role::Primary, Duration::ZERO);
        assert_eq!(done, CheckpointEnd::Done { pause: Duration::ZERO });
    }
}
