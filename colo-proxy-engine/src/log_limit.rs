//! A limit on log lines that a guest or the network can cause.

use std::fmt;
use std::time::{Duration, Instant};

/// The shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Admits one line an interval, and counts the others.
#[derive(Debug, Default)]
pub struct LogLimit {
    not_before: Option<Instant>,
    suppressed: u64,
}

/// The number of lines that were suppressed since the last one. It is shown behind a line, unless it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 0 { write!(f, " ({} more not shown)", self.0) } else { Ok(()) }
    }
}

impl LogLimit {
    /// Admits a line, with the number of lines that were suppressed before it. `None`: this line is
    /// suppressed too.
    pub fn admit(&mut self, now: Instant) -> Option<Suppressed> {
        if self.not_before.is_some_and(|at| now < at) {
            self.suppressed += 1;
            return None;
        }
        self.not_before = Some(now + INTERVAL);
        Some(Suppressed(std::mem::take(&mut self.suppressed)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "a test makes the clock that its subject is given"
    )]

    use super::*;

    #[test]
    fn one_line_an_interval_and_the_others_are_counted() {
        let now = Instant::now();
        let mut limit = LogLimit::default();
        assert_eq!(limit.admit(now), Some(Suppressed(0)));
        assert_eq!(limit.admit(now), None);
        assert_eq!(limit.admit(now + INTERVAL / 2), None);
        assert_eq!(limit.admit(now + INTERVAL), Some(Suppressed(2)));
        assert_eq!(limit.admit(now + INTERVAL * 3), Some(Suppressed(0)));
    }

    #[test]
    fn a_line_without_suppressed_ones_says_nothing_of_them() {
        let shown = [0, 2].map(|suppressed| format!("asking{}", Suppressed(suppressed)));
        assert_eq!(shown, ["asking", "asking (2 more not shown)"]);
    }
}
