//! A checkpoint, as far as a QEMU's events tell of it.

use std::time::Duration;

use crate::config::Role;

/// Between the `STOP` and what ends it.
#[derive(Debug)]
pub(super) struct Checkpoint {
    began: Duration,
    question: Question,
}

/// Is it the checkpoint that has stopped the guest?
#[derive(Debug, PartialEq, Eq)]
enum Question {
    /// Not before its output has been taken: the answer is to be true for longer than that.
    Unasked,
    Asked,
    /// It is, and still was when the output had been taken.
    Proven,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done {
        pause: Duration,
    },
    /// The secondary has the state, but output may have been taken for earlier than it.
    Uncovered,
    /// It was none.
    NotMade(&'static str),
}

impl Checkpoint {
    pub(super) fn new(at: Duration) -> Self {
        Self { began: at, question: Question::Unasked }
    }

    pub(super) fn is_unasked(&self) -> bool {
        self.question == Question::Unasked
    }

    pub(super) fn asked(&mut self) {
        self.question = Question::Asked;
    }

    /// What `query-status` says; `None` while the guest is stopped by it.
    pub(super) fn on_status(&mut self, status: &str) -> Option<Ended> {
        match status {
            "colo" => {
                self.question = Question::Proven;
                None
            }
            // The answer came too late to say anything.
            "running" => Some(Ended::Uncovered),
            _ => Some(Ended::NotMade("the guest was stopped by somebody else")),
        }
    }

    /// The guest goes on. QEMU answers before it says so, so whatever it says later is about another
    /// stop. The secondary's half lets nothing out by it, and needs no proof.
    pub(super) fn on_resume(&self, role: Role, at: Duration) -> Ended {
        if role == Role::Secondary || self.question == Question::Proven {
            Ended::Done { pause: at.saturating_sub(self.began) }
        } else {
            Ended::Uncovered
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_micros(100);

    fn asked() -> Checkpoint {
        let mut checkpoint = Checkpoint::new(AT);
        checkpoint.asked();
        checkpoint
    }

    #[test]
    fn a_proven_one_is_done_when_the_guest_goes_on() {
        for role in [Role::Primary, Role::Secondary] {
            let mut checkpoint = asked();
            assert_eq!(checkpoint.on_status("colo"), None);
            assert_eq!(checkpoint.on_resume(role, AT * 5), Ended::Done { pause: AT * 4 });
        }
    }

    #[test]
    fn one_that_ends_before_the_answer_covers_nothing_of_a_primary() {
        assert_eq!(asked().on_resume(Role::Primary, AT * 5), Ended::Uncovered);
        assert_eq!(asked().on_status("running"), Some(Ended::Uncovered));
        assert_eq!(Checkpoint::new(AT).on_resume(Role::Primary, AT * 5), Ended::Uncovered);
        let done = asked().on_resume(Role::Secondary, AT * 5);
        assert_eq!(done, Ended::Done { pause: AT * 4 });
    }

    #[test]
    fn an_operators_stop_is_none() {
        for status in ["paused", "", "new in QEMU 99"] {
            assert!(matches!(asked().on_status(status), Some(Ended::NotMade(_))), "{status}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_pause() {
        let mut checkpoint = asked();
        checkpoint.on_status("colo");
        let done = checkpoint.on_resume(Role::Primary, Duration::ZERO);
        assert_eq!(done, Ended::Done { pause: Duration::ZERO });
    }
}
