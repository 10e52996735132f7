//! The counters, in one line.

use std::fmt::Write as _;

use colo_proxy_engine::pair::Primary;
use colo_proxy_engine::record::BadRecords;

use super::Sockets;

/// Names and numbers for the log; zeros are left out.
pub(super) fn line(half: &Primary, sockets: &Sockets) -> String {
    let Sockets { primary, secondary, outdev, frame } = sockets;
    let (engine, counts) = (half.engine().stats(), half.counts());
    let released = &engine.released;
    let passed = counts.released_unprotected;
    let mut line = CounterLine::default();
    line.add("primary", engine.primary.frames + passed);
    line.add("secondary", engine.secondary.frames);
    line.add("compared", released.compared.frames);
    line.add("uncompared", released.uncompared.frames);
    line.add("released_by_checkpoint", released.checkpoint.frames);
    line.add("released_unprotected", released.unprotected.frames + passed);
    line.add("sent", outdev.sent());
    line.add("unsent", outdev.waiting() as u64);
    line.add("divergences", engine.divergences);
    for (reason, count) in engine.requests.iter() {
        line.add(&format!("requests.{reason}"), count);
    }
    line.add("checkpoints", counts.checkpoints_done);
    line.add("checkpoints_ignored", counts.checkpoints_ignored);
    line.add("stale", engine.secondary_dropped.stale);
    line.add("secondary_ignored", counts.secondary_ignored + secondary.skipped);
    line.bad_records("primary_in", primary.bad_records());
    line.bad_records("secondary_in", secondary.bad_records());
    line.add("connections.primary_in", primary.connections);
    line.add("connections.secondary_in", secondary.connections);
    line.add("connections.outdev", outdev.connections);
    for (name, count) in frame.counts() {
        line.add(name, count);
    }
    if line.0.is_empty() { "nothing came".into() } else { line.0 }
}

#[derive(Debug, Default)]
struct CounterLine(String);

impl CounterLine {
    fn add(&mut self, name: &str, count: u64) {
        if count > 0 {
            let comma = if self.0.is_empty() { "" } else { ", " };
            // Writing to a String does not fail.
            let _ = write!(self.0, "{comma}{name} {count}");
        }
    }

    fn bad_records(&mut self, socket: &str, bad: BadRecords) {
        // Records of other kinds are not read here.
        let BadRecords { empty, runt, vnet_hdr_len, oversized, truncated, garbled: _ } = bad;
        for (what, count) in [
            ("empty", empty),
            ("runt", runt),
            ("vnet_hdr_len", vnet_hdr_len),
            ("oversized", oversized),
            ("truncated", truncated),
        ] {
            self.add(&format!("bad.{socket}.{what}"), count);
        }
    }
}
