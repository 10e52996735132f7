//! How long checkpoints have stopped the guest.

use std::collections::VecDeque;
use std::time::Duration;

use crate::status::PausesReport;

/// So many pauses are remembered, the last ones.
const KEPT: usize = 256;

#[derive(Debug, Default)]
pub(super) struct CheckpointPauses {
    last: VecDeque<Duration>,
    count: u64,
}

impl CheckpointPauses {
    pub(super) fn add(&mut self, pause: Duration) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(pause);
        self.count += 1;
    }

    /// Since the start.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Of those that are remembered, in microseconds.
    pub(super) fn report(&self) -> PausesReport {
        let us = |pause: &Duration| pause.as_micros() as u64;
        let mut sorted: Vec<u64> = self.last.iter().map(us).collect();
        sorted.sort_unstable();
        PausesReport {
            of: sorted.len() as u64,
            last: self.last.back().map(us),
            min: sorted.first().copied(),
            median: sorted.get(sorted.len() / 2).copied(),
            max: sorted.last().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_told_and_all_are_counted() {
        let mut pauses = CheckpointPauses::default();
        assert_eq!(pauses.report().median, None);
        for us in [9_000_000, 5, 1, 3] {
            pauses.add(Duration::from_micros(us));
        }
        for us in 1..=256 {
            pauses.add(Duration::from_micros(us));
        }
        let report = pauses.report();
        assert_eq!((report.min, report.max), (Some(1), Some(256)));
        assert_eq!((report.last, report.median), (Some(256), Some(129)));
        assert_eq!(pauses.count(), 260);
    }
}
