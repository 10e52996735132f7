use std::time::Duration;

use super::*;
use crate::compare::Limits;
use crate::config::OnSecondaryLost;

/// A host on which nothing happens.
struct Idle;

impl Hands for Idle {
    fn set_mode(&mut self, _mode: Mode) {}

    fn read_output(&mut self, _into: &mut Vec<Frame>) -> bool {
        false
    }

    fn release(&mut self, _frame: &Frame) {}
}

fn decisions(now: Instant) -> Decisions {
    let protection = Protection::new(now, Duration::from_secs(1), OnSecondaryLost::Release);
    Decisions::new("tap0".into(), Engine::new(Limits::default(), 1), protection, 7, true)
}

#[test]
fn a_checkpoint_that_the_secondary_wants_is_asked_for_once_with_its_reason() {
    let now = Instant::now();
    let mut decisions = decisions(now);
    for lane in [Lane::Mirror, Lane::Secondary, Lane::Control] {
        decisions.on_lane(now, lane, true, &mut Idle);
    }
    for _ in 0..3 {
        decisions.on_checkpoint_wanted(now);
        decisions.collect_requests(now);
    }
    let request = Command::RequestCheckpoint {
        instance: "tap0".into(),
        epoch: 0,
        reasons: vec!["secondary-flows".into()],
    };
    assert_eq!(Vec::from(decisions.commands), [request]);
}

#[test]
fn without_protection_none_is_asked_for() {
    let now = Instant::now();
    let mut decisions = decisions(now);
    decisions.on_checkpoint_wanted(now);
    decisions.collect_requests(now);
    assert!(decisions.commands.is_empty());
}
