#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{LEVELS, TICK_MAX, TimerKey, Wheel};

const MS: Duration = Duration::from_millis(1);

/// What can happen to a wheel.
#[derive(Clone, Debug)]
enum Step {
    /// Start a timer that runs out after so many microseconds.
    Start(u64),
    /// Stop the timer at this place of those that run, counted around.
    Stop(usize),
    Pass(u64),
    Clear,
}

/// From microseconds to years, each length as likely.
fn span() -> impl Strategy<Value = u64> {
    (0u32..46, any::<u64>()).prop_map(|(bits, micros)| micros & ((1 << bits) - 1))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => span().prop_map(Step::Start),
        2 => any::<usize>().prop_map(Step::Stop),
        4 => span().prop_map(Step::Pass),
        1 => Just(Step::Clear),
    ]
}

/// The wheel, and a list beside it that is searched in full.
struct DifferingPair {
    wheel: Wheel<usize>,
    running: Vec<(usize, Instant, TimerKey)>,
    now: Instant,
    started: usize,
}

impl DifferingPair {
    fn new() -> Self {
        Self { wheel: Wheel::default(), running: Vec::new(), now: Instant::now(), started: 0 }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Start(micros) => {
                let at = self.now + Duration::from_micros(*micros);
                let key = self.wheel.start(self.now, at, self.started);
                self.running.push((self.started, at, key));
                self.started += 1;
            }
            Step::Stop(which) if !self.running.is_empty() => {
                let (.., key) = self.running.swap_remove(which % self.running.len());
                self.wheel.stop(key);
            }
            Step::Stop(_) => {}
            Step::Pass(micros) => {
                self.now += Duration::from_micros(*micros);
                self.run_out();
            }
            Step::Clear => {
                self.wheel.clear();
                self.running.clear();
            }
        }
    }

    /// What is due has to come out, and nothing that is not; in the order of its ticks.
    fn run_out(&mut self) {
        let mut last = None;
        while let Some(value) = self.wheel.pop_due(self.now) {
            let place = self.running.iter().position(|timer| timer.0 == value);
            let (_, at, _) = self.running.swap_remove(place.expect("it was running"));
            assert!(at <= self.now, "early by {:?}", at - self.now);
            assert!(last.is_none_or(|last| at + MS > last), "out of order");
            last = Some(at);
        }
        let late = self.running.iter().find(|timer| timer.1 + MS <= self.now);
        assert_eq!(late, None, "it is {:?}", self.now);
    }

    fn check_next(&self) {
        let first = self.running.iter().map(|timer| timer.1).min();
        let next = self.wheel.next();
        assert_eq!(next.is_some(), first.is_some());
        if let (Some(next), Some(first)) = (next, first) {
            assert!(next < first + MS, "{:?} too late", next - first);
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_that_is_searched(steps in prop::collection::vec(step(), 1..200)) {
        let mut pair = DifferingPair::new();
        for step in &steps {
            pair.take(step);
            pair.check_next();
        }
    }

    /// Whoever sleeps until `next` wakes up a few times for a timer, not once for each tick.
    #[test]
    fn waking_up_when_told_meets_every_timer(spans in prop::collection::vec(span(), 1..40)) {
        let mut pair = DifferingPair::new();
        for span in &spans {
            pair.take(&Step::Start(*span));
        }
        let mut woken = 0;
        while let Some(next) = pair.wheel.next() {
            prop_assert!(next >= pair.now || woken == 0);
            pair.now = pair.now.max(next);
            pair.run_out();
            woken += 1;
        }
        prop_assert!(pair.running.is_empty() && woken <= spans.len() * LEVELS, "woken {woken} times");
    }
}

#[test]
fn a_timer_beyond_all_time_is_the_last_tick() {
    let (mut wheel, now) = (Wheel::default(), Instant::now());
    wheel.start(now, now + Duration::from_hours(24 * 365 * 1000), 1);
    assert_eq!(wheel.pop_due(now + Duration::from_hours(24 * 365 * 100)), None);
    assert_eq!(wheel.pop_due(now + Duration::from_millis(TICK_MAX)), Some(1));
    assert_eq!(wheel.next(), None);
}

#[test]
fn a_timer_that_is_due_already_runs_out_at_once() {
    let (mut wheel, now) = (Wheel::default(), Instant::now());
    wheel.start(now, now, 1);
    assert_eq!(wheel.pop_due(now), Some(1));
    let later = now + Duration::from_secs(5);
    assert_eq!(wheel.pop_due(later), None);
    wheel.start(later, now, 2);
    assert_eq!((wheel.next(), wheel.pop_due(later)), (Some(later), Some(2)));
}
