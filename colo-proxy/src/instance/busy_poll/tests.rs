use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{BusyPoll, BusyPollReport, CALM, CREDIT_MAX, Expectation, FEW, GAIN};

const MAX: Duration = Duration::from_micros(50);
const SHORT: Duration = Duration::from_micros(20);
const LONG: Duration = Duration::from_millis(1);

/// Frames after each of `waits`; whether the next one is polled for, after each.
fn polled(waits: impl IntoIterator<Item = Duration>) -> Vec<bool> {
    let mut now = Instant::now();
    let mut expectation = Expectation::new(MAX, now);
    let polled = waits.into_iter().map(|wait| {
        now += wait;
        expectation.on_frames(now, FEW);
        expectation.is_due(now)
    });
    polled.collect()
}

#[test]
fn frames_that_are_far_apart_are_not_polled_for() {
    assert!(polled([LONG; 20]).iter().all(|polled| !polled));
}

#[test]
fn one_short_wait_pays_for_some_in_vain_and_no_more() {
    let after = polled([SHORT].into_iter().chain([LONG; 5]));
    assert_eq!(after, [true, true, true, false, false, false]);
    let long_traffic = [SHORT; 100].into_iter().chain([LONG; 20]);
    let in_vain = polled(long_traffic).iter().skip(100).filter(|polled| **polled).count();
    assert_eq!(in_vain, usize::from(CREDIT_MAX - 1));
}

#[test]
fn an_exchange_with_a_short_and_some_long_waits_is_polled_for_throughout() {
    let exchange = [SHORT].into_iter().chain([LONG; GAIN as usize - 1]);
    let waits: Vec<Duration> = exchange.cycle().take(60).collect();
    assert!(polled(waits).iter().skip(1).all(|polled| *polled));
}

#[test]
fn polling_ends_when_the_time_is_over() {
    let began = Instant::now();
    let mut expectation = Expectation::new(MAX, began);
    expectation.on_frames(began, 1);
    assert!(expectation.is_due(began + SHORT));
    assert!(!expectation.is_due(began + MAX));
}

#[test]
fn a_crowd_is_left_to_come_together() {
    let began = Instant::now();
    let mut expectation = Expectation::new(MAX, began);
    for (after, waiting, polled) in
        [(SHORT, 1, true), (SHORT, FEW + 1, false), (SHORT, 1, false), (CALM + MAX, 1, true)]
    {
        let now = expectation.last + after;
        expectation.on_frames(now, waiting);
        assert_eq!(expectation.is_due(now), polled, "{waiting} after {after:?}");
    }
}

/// What the task may take to do anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// Has the runtime's other tasks run until `is_so`, and does `each` before every look.
async fn wait_until(what: &str, is_so: impl Fn() -> bool, each: impl Fn()) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not in time");
        each();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_frame_that_comes_while_it_polls_is_a_hit_and_then_it_sleeps() {
    let busy = BusyPoll::spawn(Duration::from_millis(50));
    let is_asleep = || busy.shared.is_asleep.load(Relaxed);
    wait_until("polling", || busy.report().windows > 0, || busy.on_frames(1)).await;
    assert!(!is_asleep());
    wait_until("a hit", || busy.report().hits > 0, || busy.on_frames(1)).await;
    wait_until("sleep", is_asleep, || {}).await;
    // It does nothing until a frame wakes it, though it gets its turns.
    let before = busy.report();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(is_asleep() && busy.report() == before, "{before:?} and then {:?}", busy.report());
    wait_until("awake again", || !is_asleep(), || busy.on_frames(1)).await;
}

#[tokio::test]
async fn without_a_time_nothing_is_polled() {
    let none = BusyPoll::spawn(Duration::ZERO);
    for _ in 0..100 {
        none.on_frames(1);
        tokio::task::yield_now().await;
    }
    assert_eq!(none.report(), BusyPollReport { windows: 0, hits: 0 });
}
