//! Why targets are missed, and what a row's figures mean: the texts of BENCHMARKS.md, which is
//! generated.

use super::row::{Row, Target};
use super::table::{Entry, Judged, number};

/// Why this target is missed.
pub(super) fn missed(entry: &Entry, judged: &Judged) -> String {
    let out_of_reach = out_of_reach(entry, judged.target);
    out_of_reach.unwrap_or_else(|| known(entry.row, entry.figure).to_owned())
}

/// Where even no proxy at all would miss it.
fn out_of_reach(entry: &Entry, target: Target) -> Option<String> {
    let [none, qemu, _] = entry.values;
    let (none, qemu) = (none?, qemu?);
    match target {
        Target::TimesQemu(least) if none < least * qemu => Some(format!(
            "{} is out of reach here: no proxy at all has {} × what QEMU's chain has.",
            entry.title,
            number(Some(none / qemu))
        )),
        Target::ShareOfQemu(most) if none > most * qemu => Some(format!(
            "{} is out of reach here: no proxy at all needs {} of what QEMU's chain needs.",
            entry.title,
            number(Some(none / qemu))
        )),
        _ => None,
    }
}

fn known(row: Row, figure: &str) -> &'static str {
    match (row, figure) {
        (Row::TcpRr, _) => {
            "one exchange at a time leaves nothing to batch: each frame wakes the two daemons and \
             crosses the stream lane twice, and every wake-up is a change of process on a machine \
             whose processors are all in use."
        }
        (Row::Udp64 | Row::Udp1400, "rate") => {
            "both guests and both daemons share the processors with the client; a frame is copied \
             to the daemon and onto the stream lane on both hosts."
        }
        (_, "cpu_s_per_mpacket") => {
            "the client, both guests and the hubs that move their frames are in the figure; they \
             cost the same in every column and are what remains."
        }
        (Row::ManyGuests, _) => {
            "64 connections to one guest are batched in its gates and lanes, and those to 64 guests \
             are not; each guest also has a process of its own that moves its frames."
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
        Row::ManyGuests => {
            "One daemon on each host. No proxy: the same guests before the daemons are there."
        }
        _ => "",
    }
}
