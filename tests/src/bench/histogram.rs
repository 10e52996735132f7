//! Many numbers in little memory: each bucket is as wide as a hundredth of its value.

use serde::{Deserialize, Serialize};

/// The buckets in each power of two. With 128, a value is off by less than 0.8 %.
const PRECISION: u32 = 7;
const STEPS: usize = 1 << PRECISION;
/// All higher values share the last bucket. In nanoseconds, this is 68 seconds.
const OCTAVES: usize = 36 - PRECISION as usize;

/// How often each value occurred.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; STEPS * (OCTAVES + 1)], count: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, value: u64) {
        self.add_many(value, 1);
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value that `percent` of all values do not exceed, with the precision of the buckets;
    /// zero without any value.
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = (self.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut before = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            before += count;
            if before >= rank {
                return middle(bucket);
            }
        }
        0
    }

    /// The values that occurred, each with the share of all values that do not exceed it.
    pub fn cumulative(&self) -> Vec<(u64, f64)> {
        let mut before = 0;
        let came = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        came.map(|(bucket, count)| {
            before += count;
            (middle(bucket), before as f64 / self.count as f64)
        })
        .collect()
    }

    fn add_many(&mut self, value: u64, times: u64) {
        let last = self.counts.len() - 1;
        if let Some(count) = self.counts.get_mut(bucket_of(value).min(last)) {
            *count += times;
            self.count += times;
        }
    }
}

/// Each small value has a bucket. Above them, each power of two has as many.
fn bucket_of(value: u64) -> usize {
    let octave = (63 - PRECISION).saturating_sub(value.leading_zeros());
    (octave as usize * STEPS) + (value >> octave) as usize
}

/// The value in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let octave = (bucket / STEPS).saturating_sub(1);
    let low = ((bucket - octave * STEPS) as u64) << octave;
    low + (1 << octave) / 2
}

/// In the file: pairs of a value and its count.
impl Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let came = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let pairs: Vec<(u64, u64)> = came.map(|(at, count)| (middle(at), *count)).collect();
        pairs.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut histogram = Self::default();
        for (value, times) in Vec::<(u64, u64)>::deserialize(from)? {
            histogram.add_many(value, times);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::{Histogram, bucket_of, middle};

    #[test]
    fn a_bucket_is_near_its_values() {
        let mut last = 0;
        for value in (0..10_000).chain((14..36).map(|bit| (1 << bit) + 12_345)) {
            let bucket = bucket_of(value);
            assert!(bucket >= last, "{value}");
            last = bucket;
            let off = middle(bucket).abs_diff(value) as f64;
            assert!(off <= value as f64 * 0.008, "{value} is in the bucket of {}", middle(bucket));
        }
    }

    #[test]
    fn percentiles_are_ranks() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50.0), 0);
        for value in 1..=100 {
            histogram.add(value);
        }
        for percent in [1, 50, 99, 100] {
            assert_eq!(histogram.percentile(f64::from(percent)), percent as u64);
        }
        assert_eq!(histogram.percentile(0.0), 1);
        assert_eq!(histogram.percentile(99.9), 100);
    }

    #[test]
    fn a_value_beyond_the_last_bucket_counts_there() {
        let mut histogram = Histogram::default();
        histogram.add(u64::MAX);
        assert_eq!(histogram.count(), 1);
        assert!(histogram.percentile(50.0) > 60_000_000_000);
    }

    #[test]
    fn storing_keeps_all_counts() {
        let mut histogram = Histogram::default();
        for value in [1, 29_000, 29_010, 97_000, 4_000_000_000] {
            histogram.add(value);
        }
        let text = serde_json::to_string(&histogram).unwrap();
        let read: Histogram = serde_json::from_str(&text).unwrap();
        assert_eq!(read.counts, histogram.counts);
        let mut twice = read.clone();
        twice.merge(&read);
        assert_eq!(twice.count(), 10);
        assert_eq!(twice.cumulative(), histogram.cumulative());
        assert_eq!(twice.cumulative().last().map(|last| last.1), Some(1.0));
    }
}
