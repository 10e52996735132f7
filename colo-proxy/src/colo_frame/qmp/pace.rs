//! When the next checkpoint may be requested: not sooner after the last one than configured, later if
//! the guests differ all the time, and later still while checkpoints fail. No clock.

use std::time::{Duration, Instant};

use crate::config::CheckpointConfig;

/// Pause after the first failure; it doubles with every further one.
const BACKOFF: Duration = Duration::from_millis(100);
/// Adaptive: a checkpoint that is requested within this many spacings of the last one widens the
/// spacing. One that is requested after as many as [`SELDOM`] narrows it. Between them it stays.
const OFTEN: u32 = 2;
const SELDOM: u32 = 8;

#[derive(Debug)]
pub(super) struct CheckpointPace {
    settings: CheckpointConfig,
    spacing: Duration,
    last: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
}

impl CheckpointPace {
    pub(super) fn new(settings: CheckpointConfig) -> Self {
        let spacing = settings.interval_min;
        Self { settings, spacing, last: None, failures: 0, not_before: None }
    }

    /// A checkpoint is requested: says when it may be triggered.
    pub(super) fn on_request(&mut self, now: Instant) -> Instant {
        if self.settings.adaptive
            && let Some(last) = self.last
        {
            let since = now.saturating_duration_since(last);
            // A spacing of zero cannot be doubled.
            let step = self.spacing.max(Duration::from_millis(1));
            if since < step * OFTEN {
                self.spacing = (step * 2).min(self.settings.spacing_max);
            } else if since > step * SELDOM {
                self.spacing /= 2;
            }
            self.spacing = self.spacing.max(self.settings.interval_min);
        }
        let spaced = self.last.map(|last| last + self.spacing);
        [spaced, self.not_before].into_iter().flatten().fold(now, Instant::max)
    }

    /// A checkpoint was made, requested or not.
    pub(super) fn on_done(&mut self, now: Instant) {
        self.last = Some(now);
        (self.failures, self.not_before) = (0, None);
    }

    pub(super) fn on_failed(&mut self, now: Instant) {
        let backoff = BACKOFF.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + backoff.min(self.settings.backoff_max));
    }

    /// The time that has to pass between two checkpoints at present.
    pub(super) fn spacing(&self) -> Duration {
        self.spacing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(adaptive: bool) -> (Instant, CheckpointPace) {
        let settings = CheckpointConfig {
            interval_min: MS * 10,
            adaptive,
            spacing_max: MS * 100,
            backoff_max: MS * 500,
            ..CheckpointConfig::default()
        };
        (Instant::now(), CheckpointPace::new(settings))
    }

    #[test]
    fn the_first_is_at_once_and_the_next_not_before_its_time() {
        let (now, mut pace) = pace(false);
        assert_eq!(pace.on_request(now), now);
        pace.on_done(now);
        assert_eq!(pace.on_request(now + MS), now + MS * 10);
        assert_eq!(pace.on_request(now + MS * 11), now + MS * 11, "late enough by itself");
    }

    #[test]
    fn failures_back_off_within_their_bound_and_a_success_forgets_them() {
        let (now, mut pace) = pace(false);
        for expected in [100, 200, 400, 500, 500] {
            pace.on_failed(now);
            assert_eq!(pace.on_request(now), now + MS * expected);
        }
        for _ in 0..100 {
            pace.on_failed(now);
        }
        assert_eq!(pace.on_request(now), now + MS * 500);
        pace.on_done(now);
        assert_eq!(pace.on_request(now + MS * 10), now + MS * 10);
    }

    #[test]
    fn guests_that_always_differ_are_spaced_out_and_back() {
        let (mut now, mut pace) = pace(true);
        let mut spacings = Vec::new();
        for _ in 0..6 {
            now = pace.on_request(now);
            pace.on_done(now);
            spacings.push(pace.spacing().as_millis());
        }
        assert_eq!(spacings, [10, 20, 40, 80, 100, 100], "never above the bound");
        for _ in 0..6 {
            now = pace.on_request(now + MS * 2000);
            pace.on_done(now);
        }
        assert_eq!(pace.spacing(), MS * 10, "never below the other");
    }

    #[test]
    fn the_twin_that_does_not_adapt_stays_where_it_was() {
        let (mut now, mut pace) = pace(false);
        for _ in 0..6 {
            now = pace.on_request(now);
            pace.on_done(now);
        }
        assert_eq!(pace.spacing(), MS * 10);
    }

    #[test]
    fn between_often_and_seldom_the_spacing_stays() {
        let (now, mut pace) = pace(true);
        pace.on_done(now);
        pace.on_request(now + MS * 40);
        assert_eq!(pace.spacing(), MS * 10);
    }
}
