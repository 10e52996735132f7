//! The table: the columns of each figure, the ratios, and the verdicts about the targets.

use std::fmt::{self, Write as _};

use super::results::{BenchChain, Results};
use super::row::{BenchRow, BenchTarget, RowLine, Summary};

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableEntry {
    pub row: BenchRow,
    pub figure: &'static str,
    pub title: &'static str,
    /// No proxy, QEMU, colo-proxy; `None` if it was not measured.
    pub values: [Option<f64>; 3],
    /// colo-proxy with other settings: with the streams, and also with `AF_XDP`.
    pub others: [Option<f64>; 2],
    pub targets: Vec<Verdict>,
}

/// A target and its verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    pub target: BenchTarget,
    /// The ratio or the value that the target is about.
    pub found: f64,
    pub met: bool,
}

/// All lines for which there are figures.
pub fn entries(results: &Results) -> Vec<TableEntry> {
    let lines = BenchRow::ALL.into_iter().flat_map(|row| row.lines().iter().map(move |l| (row, l)));
    lines.filter_map(|(row, line)| entry(results, row, line)).collect()
}

fn entry(results: &Results, row: BenchRow, line: &RowLine) -> Option<TableEntry> {
    let value = |chain| match line.of {
        Summary::Median => results.median(row.id(), chain, line.figure),
        Summary::Sum => results.sum(row.id(), chain, line.figure),
        Summary::Highest => results.highest(row.id(), chain, line.figure),
    };
    let values = [BenchChain::None, BenchChain::Qemu, row.ours()].map(value);
    let others = [BenchChain::Streams, BenchChain::AfXdp].map(value);
    values.iter().any(Option::is_some).then_some(())?;
    let targets =
        line.targets.iter().filter_map(|target| target.judge(values, others[0])).collect();
    Some(TableEntry { row, figure: line.figure, title: line.title, values, others, targets })
}

impl TableEntry {
    /// colo-proxy's figure divided by QEMU's, and by the one without a proxy.
    pub fn ratios(&self) -> [Option<f64>; 2] {
        let [none, qemu, ours] = self.values;
        [qemu, none].map(|base| {
            let base = base.filter(|base| *base > 0.0)?;
            Some(ours? / base)
        })
    }
}

impl BenchTarget {
    /// `None` if one of the figures is missing.
    fn judge(self, [none, qemu, ours]: [Option<f64>; 3], streams: Option<f64>) -> Option<Verdict> {
        let ours = ours?;
        let (found, met) = match self {
            Self::TimesQemu(least) => at_least(ours / qemu?, least),
            Self::ShareOfNone(least) => at_least(ours / none?, least),
            Self::ShareOfQemu(most) => at_most(ours / qemu?, most),
            Self::ShareOfAdded(most) => at_most((ours - none?) / (qemu? - none?), most),
            Self::ShareOfStreams(most) => at_most(ours / streams?, most),
            Self::AtMost(most) => at_most(ours, most),
            Self::AtLeast(least) => at_least(ours, least),
        };
        Some(Verdict { target: self, found, met })
    }
}

fn at_least(found: f64, least: f64) -> (f64, bool) {
    (found, found >= least)
}

fn at_most(found: f64, most: f64) -> (f64, bool) {
    (found, found <= most)
}

impl fmt::Display for BenchTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimesQemu(least) => write!(f, "≥ {least} × QEMU"),
            Self::ShareOfQemu(most) => write!(f, "≤ {} of QEMU's", percent(*most)),
            Self::ShareOfNone(least) => write!(f, "≥ {} of no proxy", percent(*least)),
            Self::ShareOfAdded(most) => write!(f, "adds ≤ {} of what QEMU adds", percent(*most)),
            Self::ShareOfStreams(most) => write!(f, "≤ {} of the streams'", percent(*most)),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.met { "met" } else { "missed" };
        match self.target {
            BenchTarget::TimesQemu(_) => write!(f, "{verdict}: {:.2} ×", self.found),
            BenchTarget::AtMost(_) | BenchTarget::AtLeast(_) => {
                write!(f, "{verdict}: {}", number(Some(self.found)))
            }
            BenchTarget::ShareOfStreams(_) => write!(f, "{verdict}: {:.1} %", self.found * 100.0),
            _ => write!(f, "{verdict}: {}", percent(self.found)),
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Three significant digits, or a dash.
pub(super) fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return "–".to_owned() };
    match value.abs() {
        size if size >= 100_000.0 => format!("{:.0}k", value / 1e3),
        size if size >= 10_000.0 => format!("{:.1}k", value / 1e3),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The table for a terminal.
pub fn plain(entries: &[TableEntry]) -> String {
    let mut text = format!(
        "{:<42} {:>9} {:>9} {:>10} {:>7} {:>7} {:>9} {:>9}  {}\n",
        "", "no proxy", "QEMU", "colo-proxy", "/QEMU", "/none", "streams", "AF_XDP", "target"
    );
    let mut row = None;
    for entry in entries {
        if row != Some(entry.row) {
            row = Some(entry.row);
            let _ = writeln!(text, "{}", entry.row.title());
        }
        let [none, qemu, ours] = entry.values.map(number);
        let [to_qemu, to_none] = entry.ratios().map(number);
        let [streams, af_xdp] = entry.others.map(number);
        let targets: Vec<String> =
            entry.targets.iter().map(|judged| format!("{}: {judged}", judged.target)).collect();
        let (title, targets) = (entry.title, targets.join("; "));
        let _ = writeln!(
            text,
            "  {title:<40} {none:>9} {qemu:>9} {ours:>10} {to_qemu:>7} {to_none:>7} {streams:>9} \
             {af_xdp:>9}  {targets}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{BenchTarget, entries, number, plain};
    use crate::bench::results::tests::results;

    #[test]
    fn targets_are_judged_by_medians() {
        let entries = entries(&results());
        let figures: Vec<&str> = entries.iter().map(|entry| entry.figure).collect();
        assert_eq!(figures, ["rate", "p50_us", "asked"]);
        let rate = entries[0].targets[0];
        assert!(
            rate.met && rate.found > 2.59 && rate.target == BenchTarget::TimesQemu(2.5),
            "{rate:?}"
        );
        let p50 = entries[1].targets[0];
        assert!(p50.met && (p50.found - 10.0 / 68.0).abs() < 1e-9, "{p50:?}");
        assert!(entries[2].targets.is_empty());
    }

    #[test]
    fn one_figure_missing_is_no_verdict() {
        let values = [Some(1.0), None, Some(2.0)];
        assert_eq!(BenchTarget::TimesQemu(2.0).judge(values, None), None);
        assert_eq!(BenchTarget::AtMost(3.0).judge([None; 3], None), None);
        let judged = BenchTarget::ShareOfNone(0.35).judge(values, None);
        assert!(judged.is_some_and(|judged| judged.met));
    }

    #[test]
    fn the_plain_table_has_a_line_for_each_figure() {
        let text = plain(&entries(&results()));
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("TCP request/response, 64 B"), "{text}");
        assert!(text.contains("adds ≤ 25 % of what QEMU adds: met: 15 %"), "{text}");
    }

    #[test]
    fn numbers_have_three_digits() {
        let of = |value| number(Some(value));
        assert_eq!(number(None), "–");
        for (value, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (0.012_34, "0.012"),
            (0.234_5, "0.23"),
            (12.345, "12.3"),
            (234.5, "234"),
            (9_750.4, "9750"),
            (32_440.0, "32.4k"),
            (282_000.0, "282k"),
        ] {
            assert_eq!(of(value), text);
        }
    }
}
