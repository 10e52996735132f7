//! A limit on what the guest or the network can make us write to the log.

use std::time::{Duration, Instant};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one line through an interval, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    not_before: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// The number of lines kept back since the last one; `None` where this one is kept back too.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.not_before.is_some_and(|at| now < at) {
            self.suppressed += 1;
            return None;
        }
        self.not_before = Some(now + INTERVAL);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_an_interval_and_the_others_are_counted() {
        let now = Instant::now();
        let mut limit = LogLimit::default();
        assert_eq!(limit.admit(now), Some(0));
        assert_eq!(limit.admit(now), None);
        assert_eq!(limit.admit(now + INTERVAL / 2), None);
        assert_eq!(limit.admit(now + INTERVAL), Some(2));
        assert_eq!(limit.admit(now + INTERVAL * 3), Some(0));
    }
}
