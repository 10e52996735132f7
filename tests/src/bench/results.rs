//! The measurements as a file keeps them. The table and the plots are made from this file alone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::histogram::Histogram;
use super::machine::MachineInfo;

/// Numbers by name, like `rate` and `p50_us`.
pub type Figures = BTreeMap<String, f64>;

/// The row and the figure of the machine's use while nothing is measured, in per cent of one
/// processor.
pub(super) const AT_REST: &str = "at-rest";

/// The programs between the guests and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BenchChain {
    /// No program: one guest, unprotected.
    None,
    /// QEMU's filters and compare.
    Qemu,
    /// colo-proxy, with the kernel lane.
    Ours,
    /// colo-proxy, with the streams.
    Streams,
    /// The same, but `AF_XDP` captures the secondary's output.
    AfXdp,
    /// The streams, with digests instead of the secondary's frames.
    Digests,
}

impl BenchChain {
    /// The chains that are measured in every row where they work.
    pub const ALL: [Self; 5] = [Self::None, Self::Qemu, Self::Ours, Self::Streams, Self::AfXdp];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no proxy",
            Self::Qemu => "QEMU",
            Self::Ours => "colo-proxy",
            Self::Streams => "streams",
            Self::AfXdp => "AF_XDP",
            Self::Digests => "digests",
        }
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Streams | Self::AfXdp | Self::Digests)
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub row: String,
    pub chain: BenchChain,
    pub round: u32,
    pub figures: Figures,
}

/// The latencies of one row and chain, of all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Distribution {
    pub row: String,
    pub chain: BenchChain,
    /// In nanoseconds.
    pub histogram: Histogram,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub machine: MachineInfo,
    pub command: String,
    pub rounds: u32,
    pub seconds: f64,
    pub samples: Vec<Sample>,
    pub distributions: Vec<Distribution>,
}

impl Results {
    pub fn add(&mut self, row: &str, chain: BenchChain, round: u32, figures: Figures) {
        self.samples.push(Sample { row: row.to_owned(), chain, round, figures });
    }

    pub fn add_latency(&mut self, row: &str, chain: BenchChain, latency: &Histogram) {
        let is_it = |found: &&mut Distribution| found.row == row && found.chain == chain;
        match self.distributions.iter_mut().find(is_it) {
            Some(found) => found.histogram.merge(latency),
            None => self.distributions.push(Distribution {
                row: row.to_owned(),
                chain,
                histogram: latency.clone(),
            }),
        }
    }

    /// All values of one figure, in the order of the rounds.
    pub fn values(&self, row: &str, chain: BenchChain, figure: &str) -> Vec<f64> {
        let of_it = self.samples.iter().filter(|s| s.row == row && s.chain == chain);
        of_it.filter_map(|sample| sample.figures.get(figure).copied()).collect()
    }

    /// The median of one figure.
    pub fn median(&self, row: &str, chain: BenchChain, figure: &str) -> Option<f64> {
        median(&mut self.values(row, chain, figure))
    }

    /// The sum of one figure over all rounds.
    pub fn sum(&self, row: &str, chain: BenchChain, figure: &str) -> Option<f64> {
        let values = self.values(row, chain, figure);
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The highest value of one figure.
    pub fn highest(&self, row: &str, chain: BenchChain, figure: &str) -> Option<f64> {
        self.values(row, chain, figure).into_iter().max_by(f64::total_cmp)
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.to_json()?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// One sample per line, so that a person can compare two runs.
    fn to_json(&self) -> Result<String> {
        let mut whole = serde_json::to_value(self).context("encoding results")?;
        let mut text = String::from("{\n");
        let object = whole.as_object_mut().context("results are an object")?;
        let fields: Vec<String> = object
            .iter()
            .map(|(name, value)| match value.as_array() {
                Some(lines) => {
                    let lines: Vec<String> =
                        lines.iter().map(|line| format!("    {line}")).collect();
                    format!("  \"{name}\": [\n{}\n  ]", lines.join(",\n"))
                }
                None => format!("  \"{name}\": {value}"),
            })
            .collect();
        text += &fields.join(",\n");
        text += "\n}\n";
        Ok(text)
    }
}

/// The middle value. For an even number of values, the mean of the two in the middle.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = *values.get(half)?;
    let is_odd = values.len() % 2 == 1;
    let lower = if is_odd { upper } else { *values.get(half.checked_sub(1)?)? };
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
pub(super) mod tests {
    use super::{BenchChain, Histogram, Results, median};
    use crate::bench::machine::MachineInfo;

    /// A run of two rounds with one row.
    pub(in crate::bench) fn results() -> Results {
        let mut results = Results {
            machine: MachineInfo { processors: 2, ..MachineInfo::default() },
            command: "cargo xtask bench".into(),
            rounds: 2,
            seconds: 1.0,
            samples: Vec::new(),
            distributions: Vec::new(),
        };
        for (chain, rate, p50) in [
            (BenchChain::None, 30e3, 29.0),
            (BenchChain::Qemu, 10e3, 97.0),
            (BenchChain::Ours, 26e3, 39.0),
        ] {
            for (round, more) in [(0, 0.0), (1, 2.0)] {
                let figures = [("rate", rate + more), ("p50_us", p50), ("asked", more)];
                let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
                results.add("tcp-rr", chain, round, figures);
                let mut latency = Histogram::default();
                latency.add((p50 * 1e3) as u64);
                results.add_latency("tcp-rr", chain, &latency);
            }
        }
        results
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&mut [9.0, 1.0, 5.0, 7.0]), Some(6.0));
    }

    #[test]
    fn figures_are_found_by_row_and_chain() {
        let results = results();
        assert_eq!(results.median("tcp-rr", BenchChain::Qemu, "rate"), Some(10_001.0));
        assert_eq!(results.sum("tcp-rr", BenchChain::Ours, "asked"), Some(2.0));
        assert_eq!(results.highest("tcp-rr", BenchChain::Ours, "rate"), Some(26_002.0));
        assert_eq!(results.median("tcp-rr", BenchChain::Ours, "gbits"), None);
        assert_eq!(results.distributions.len(), 3);
        assert!(results.distributions.iter().all(|found| found.histogram.count() == 2));
    }

    #[test]
    fn results_survive_their_file() {
        let results = results();
        let text = results.to_json().unwrap();
        let read: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(read.to_json().unwrap(), text);
        assert_eq!(read.samples.len(), 6);
        assert!(text.lines().count() > 12, "{text}");
    }
}
