//! Durations, collected and ranked.

use std::time::Duration;

/// The durations of many exchanges.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    samples: Vec<Duration>,
}

impl Latency {
    pub fn add(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    pub fn merge(&mut self, other: Self) {
        self.samples.extend(other.samples);
    }

    pub fn count(&self) -> usize {
        self.samples.len()
    }

    /// The sample that `percent` of all samples do not exceed; zero where there is none.
    pub fn percentile(&self, percent: f64) -> Duration {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub fn max(&self) -> Duration {
        self.samples.iter().max().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Latency;
    use std::time::Duration;

    #[test]
    fn percentiles_are_samples() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentile(50.0), Duration::ZERO);
        for ms in [5, 1, 4, 2, 3] {
            latency.add(Duration::from_millis(ms));
        }
        assert_eq!(latency.percentile(50.0), Duration::from_millis(3));
        assert_eq!(latency.percentile(99.0), Duration::from_millis(5));
        assert_eq!(latency.percentile(0.0), Duration::from_millis(1));
    }
}
