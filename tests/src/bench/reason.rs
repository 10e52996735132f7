//! Why a target is missed, and what a row's figures mean. The texts are in
//! `docs/bench/reasons.md`, because their numbers come from measurements.

use super::row::{BenchRow, BenchTarget};
use super::table::{TableEntry, Verdict, number};

const TEXTS: &str = include_str!("../../../docs/bench/reasons.md");

/// Why this target is missed.
pub(super) fn missed(entry: &TableEntry, judged: &Verdict) -> String {
    out_of_reach(entry, judged.target)
        .or_else(|| both_guests_work(entry))
        .unwrap_or_else(|| text(known(entry.row, entry.figure)))
}

/// The figure contains the work of the guests, and a pair has two of them.
fn both_guests_work(entry: &TableEntry) -> Option<String> {
    let [none, qemu, _] = entry.values;
    let share = number(Some(none? / qemu?));
    let is_work = entry.figure == "cpu_s_per_mpacket";
    is_work.then(|| text("missed because both guests work").replace("{share}", &share))
}

/// The target would be missed even without a proxy.
fn out_of_reach(entry: &TableEntry, target: BenchTarget) -> Option<String> {
    let [none, qemu, _] = entry.values;
    let none = none?;
    let name = match target {
        BenchTarget::TimesQemu(least) if none < least * qemu? => {
            "out of reach, a multiple of QEMU's"
        }
        BenchTarget::ShareOfQemu(most) if none > most * qemu? => "out of reach, a share of QEMU's",
        BenchTarget::AtLeast(least) if none < least => "out of reach, a value",
        _ => return None,
    };
    let ratio = number(Some(none / qemu.unwrap_or(none)));
    let text = text(name).replace("{title}", entry.title).replace("{ratio}", &ratio);
    Some(text.replace("{value}", &number(Some(none))))
}

/// The name of the reason that measurements have shown.
fn known(row: BenchRow, figure: &str) -> &'static str {
    match (row, figure) {
        (BenchRow::TcpRr, "rate" | "p50_us" | "p99_us") => "missed tcp-rr",
        (BenchRow::Udp64 | BenchRow::Udp1400, "rate") => "missed udp",
        (BenchRow::ManyGuests, _) => "missed 64-guests",
        _ => "missed without an explanation",
    }
}

/// A note about a row, met or missed. Most rows have none.
pub(super) fn note(row: BenchRow) -> String {
    text(&format!("note {}", row.id()))
}

/// The text below the heading `name`, in one line; nothing if there is no such heading.
fn text(name: &str) -> String {
    let section = TEXTS.split("\n## ").find_map(|section| {
        let (heading, text) = section.split_once('\n')?;
        (heading == name).then_some(text)
    });
    section.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{BenchTarget, known, missed, note, text};
    use crate::bench::row::BenchRow;
    use crate::bench::table::{TableEntry, Verdict};

    fn entry(figure: &'static str, none: f64) -> TableEntry {
        TableEntry {
            row: BenchRow::Down,
            figure,
            title: "Gbit/s",
            values: [Some(none), Some(1.0), Some(2.0)],
            others: [None; 2],
            targets: Vec::new(),
        }
    }

    #[test]
    fn a_target_that_no_proxy_would_also_miss_is_out_of_reach() {
        let judged = |target| Verdict { target, found: 1.0, met: false };
        for (figure, none, target, part) in [
            ("gbits", 3.0, BenchTarget::TimesQemu(5.0), "without a proxy, it is 3 × the value"),
            (
                "gbits",
                0.5,
                BenchTarget::ShareOfQemu(0.25),
                "without a proxy, it is 0.50 of the value",
            ),
            (
                "gbits",
                0.5,
                BenchTarget::AtLeast(0.8),
                "without a proxy, it is 0.50 in the same lab",
            ),
            (
                "cpu_s_per_mpacket",
                0.2,
                BenchTarget::ShareOfQemu(0.25),
                "they take 0.20 of the CPU time",
            ),
            ("gbits", 8.0, BenchTarget::TimesQemu(5.0), "not known yet"),
        ] {
            let text = missed(&entry(figure, none), &judged(target));
            assert!(text.contains(part), "no `{part}` in: {text}");
            assert!(!text.contains(['{', '}']), "{text}");
        }
    }

    #[test]
    fn every_reason_has_a_text() {
        for row in BenchRow::ALL {
            for line in row.lines() {
                assert!(!text(known(row, line.figure)).is_empty(), "{row:?} {}", line.figure);
            }
        }
        let with_note: Vec<BenchRow> =
            BenchRow::ALL.into_iter().filter(|row| !note(*row).is_empty()).collect();
        assert_eq!(
            with_note,
            [BenchRow::Up, BenchRow::SlowLinkDown, BenchRow::Failover, BenchRow::ManyGuests]
        );
    }
}
