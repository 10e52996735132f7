//! Why targets are missed, and what a row's figures mean: the texts of BENCHMARKS.md, which is
//! generated.

use super::row::{Row, Target};
use super::table::{Entry, Judged, number};

/// Why this target is missed.
pub(super) fn missed(entry: &Entry, judged: &Judged) -> String {
    out_of_reach(entry, judged.target)
        .or_else(|| twice(entry))
        .unwrap_or_else(|| known(entry.row, entry.figure).to_owned())
}

/// Where a guest's own work is in the figure, of which a pair has it twice.
fn twice(entry: &Entry) -> Option<String> {
    let [none, qemu, _] = entry.values;
    let share = none? / qemu?;
    (entry.figure == "cpu_s_per_mpacket").then(|| {
        format!(
            "the client, and each guest with the hub that moves its frames, are in the figure. With one \
             guest and no proxy they take {} of what QEMU's chain takes with two.",
            number(Some(share))
        )
    })
}

/// Where even no proxy at all would miss it.
fn out_of_reach(entry: &Entry, target: Target) -> Option<String> {
    let [none, qemu, _] = entry.values;
    let none = none?;
    let title = entry.title;
    match target {
        Target::TimesQemu(least) => (none < least * qemu?).then(|| {
            let ratio = number(Some(none / qemu.unwrap_or(none)));
            format!(
                "{title} is out of reach here: no proxy at all has {ratio} × what QEMU's chain has."
            )
        }),
        Target::ShareOfQemu(most) => (none > most * qemu?).then(|| {
            let ratio = number(Some(none / qemu.unwrap_or(none)));
            format!(
                "{title} is out of reach here: no proxy at all needs {ratio} of what QEMU's chain \
                 needs."
            )
        }),
        Target::AtLeast(least) => (none < least).then(|| {
            format!(
                "{title}: it is {} without a proxy in the same lab, where every guest has a process \
                 of its own that moves its frames.",
                number(Some(none))
            )
        }),
        _ => None,
    }
}

fn known(row: Row, figure: &str) -> &'static str {
    match (row, figure) {
        (Row::TcpRr, "rate" | "p50_us" | "p99_us") => {
            "one exchange wakes one process after the other, those of the second guest too, on the \
             processors that the first one's way needs. In a profile (perf, cpu-clock, `busy_poll_us` \
             0) 69 % of the samples of such a run were of idle processors and 5 % of the daemons."
        }
        (Row::Udp64 | Row::Udp1400, "rate") => {
            "the second guest does all the work once more, on the processors that the client and the \
             first guest need."
        }
        (Row::ManyGuests, _) => {
            "64 connections to one guest are batched in its gates and lanes, and those to 64 guests \
             are not; each guest also has a process of its own that moves its frames. In a profile \
             (perf, cpu-clock) the daemons took 31 % of the processors: with none of it, this would be \
             0.7."
        }
        _ => "not explained yet.",
    }
}

/// What is to be known about a row, met or missed.
pub(super) fn note(row: Row) -> &'static str {
    match row {
        Row::Failover => {
            "The first frame is the announcement of the address that all switches and neighbours \
             learn from; connections go on with the next frame of either end. Asked on the daemon's \
             socket, without the start of a `colo-proxy failover`."
        }
        Row::Up => {
            "QEMU's chain stands still for most of the time, until its compare timeout asks for a \
             checkpoint. A real one would make the guests equal again, which a lab without machines \
             cannot."
        }
        Row::SlowLinkDown => {
            "The column of colo-proxy is that of `return = \"digest\"`. What the secondary's host sends is \
             counted with all headers, acknowledgments of the input and heartbeats."
        }
        Row::ManyGuests => {
            "One daemon on each host. No proxy: the same guests before the daemons are there."
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, missed};
    use crate::bench::row::Row;
    use crate::bench::table::{Entry, Judged};

    #[test]
    fn what_no_proxy_could_not_reach_is_said_to_be_out_of_reach() {
        let judged = |target| Judged { target, found: 1.0, met: false };
        let entry = |none| Entry {
            row: Row::Down,
            figure: "gbits",
            title: "Gbit/s",
            values: [Some(none), Some(1.0), Some(2.0)],
            others: [None; 2],
            targets: Vec::new(),
        };
        let five = Target::TimesQemu(5.0);
        let text = missed(&entry(3.0), &judged(five));
        assert!(text.contains("no proxy at all has 3 ×"), "{text}");
        assert_eq!(missed(&entry(8.0), &judged(five)), "not explained yet.");
        let text = missed(&entry(0.5), &judged(Target::AtLeast(0.8)));
        assert!(text.contains("0.50 without a proxy"), "{text}");
    }
}
