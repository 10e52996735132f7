//! A checkpoint, as far as a QEMU's events tell of it.

use std::time::Duration;

use crate::config::Role;

/// Between the `STOP` and what ends it.
#[derive(Debug)]
pub(super) struct Checkpoint {
    began: Duration,
    resumed: Option<Duration>,
    question: Question,
}

/// Is it the checkpoint that has stopped the guest?
#[derive(Debug, PartialEq, Eq)]
enum Question {
    /// Not before its output has been taken: the answer is to be true for longer than that.
    Unasked,
    Asked,
    Answered(Why),
}

/// What `query-status` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Checkpoint,
    /// It runs: the answer came too late to say anything.
    Runs,
    Other,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done {
        pause: Duration,
    },
    /// It may have been one, but nothing proves what its state covers.
    Unproven(&'static str),
}

impl Checkpoint {
    pub(super) fn new(at: Duration) -> Self {
        Self { began: at, resumed: None, question: Question::Unasked }
    }

    pub(super) fn is_unasked(&self) -> bool {
        self.question == Question::Unasked
    }

    pub(super) fn asked(&mut self) {
        self.question = Question::Asked;
    }

    pub(super) fn on_status(&mut self, status: &str) {
        self.question = Question::Answered(match status {
            "colo" => Why::Checkpoint,
            "running" => Why::Runs,
            _ => Why::Other,
        });
    }

    pub(super) fn on_resume(&mut self, at: Duration) {
        self.resumed = Some(at);
    }

    pub(super) fn has_resumed(&self) -> bool {
        self.resumed.is_some()
    }

    /// Its end, if it is known.
    pub(super) fn ended(&self, role: Role) -> Option<Ended> {
        let Question::Answered(why) = self.question else { return None };
        let pause = self.resumed.map(|at| at.saturating_sub(self.began));
        match (why, role, pause) {
            (Why::Other, _, _) => Some(Ended::Unproven("the guest was stopped by somebody else")),
            (Why::Checkpoint, _, Some(pause)) => Some(Ended::Done { pause }),
            // The secondary's half lets nothing out by this.
            (Why::Runs, Role::Secondary, Some(pause)) => Some(Ended::Done { pause }),
            (Why::Runs, Role::Primary, _) => Some(Ended::Unproven(
                "the guest went on before its output was taken; is this host overloaded?",
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_micros(100);

    fn ended(role: Role, status: Option<&str>, resumes: bool) -> Option<Ended> {
        let mut checkpoint = Checkpoint::new(AT);
        checkpoint.asked();
        if let Some(status) = status {
            checkpoint.on_status(status);
        }
        if resumes {
            checkpoint.on_resume(AT * 5);
        }
        checkpoint.ended(role)
    }

    #[test]
    fn a_proven_one_is_done_when_the_guest_goes_on() {
        for role in [Role::Primary, Role::Secondary] {
            assert_eq!(ended(role, Some("colo"), false), None);
            assert_eq!(ended(role, None, true), None, "the answer is awaited");
            assert_eq!(ended(role, Some("colo"), true), Some(Ended::Done { pause: AT * 4 }));
        }
    }

    #[test]
    fn an_answer_that_comes_too_late_proves_nothing_to_a_primary() {
        assert!(matches!(ended(Role::Primary, Some("running"), true), Some(Ended::Unproven(_))));
        assert!(matches!(ended(Role::Primary, Some("running"), false), Some(Ended::Unproven(_))));
        assert!(matches!(ended(Role::Secondary, Some("running"), true), Some(Ended::Done { .. })));
    }

    #[test]
    fn an_operators_stop_is_none() {
        for role in [Role::Primary, Role::Secondary] {
            for resumes in [false, true] {
                let ended = ended(role, Some("paused"), resumes);
                assert!(matches!(ended, Some(Ended::Unproven(_))), "{role} {resumes}");
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_pause() {
        let mut checkpoint = Checkpoint::new(AT);
        checkpoint.on_status("colo");
        checkpoint.on_resume(Duration::ZERO);
        assert_eq!(checkpoint.ended(Role::Primary), Some(Ended::Done { pause: Duration::ZERO }));
    }
}
