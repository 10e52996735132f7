//! What was counted, in one line.

use std::fmt::Write as _;

use super::Sockets;
use crate::compare::Stats;
use crate::lane::BadRecords;

/// What neither the engine nor a socket counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) checkpoints: u64,
    /// Primary frames that came while protection was off.
    pub(super) passed_unprotected: u64,
    /// Secondary frames that came then.
    pub(super) secondary_ignored: u64,
}

impl Counters {
    /// Names and numbers for the log; what stayed 0 is left out.
    pub(super) fn line(&self, engine: &Stats, sockets: &Sockets) -> String {
        let Sockets { primary, secondary, outdev, frame } = sockets;
        let released = &engine.released;
        let mut line = Line::default();
        line.add("primary", engine.primary.frames + self.passed_unprotected);
        line.add("secondary", engine.secondary.frames);
        line.add("compared", released.compared.frames);
        line.add("uncompared", released.uncompared.frames);
        line.add("released_by_checkpoint", released.checkpoint.frames);
        line.add("released_unprotected", released.unprotected.frames + self.passed_unprotected);
        line.add("sent", outdev.sent());
        line.add("unsent", outdev.waiting() as u64);
        line.add("divergences", engine.divergences);
        for (reason, count) in engine.requests.iter() {
            line.add(&format!("requests.{reason}"), count);
        }
        line.add("checkpoints", self.checkpoints);
        line.add("stale", engine.secondary_dropped.stale);
        line.add("secondary_ignored", self.secondary_ignored + secondary.skipped);
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
}

#[derive(Debug, Default)]
struct Line(String);

impl Line {
    fn add(&mut self, name: &str, count: u64) {
        if count > 0 {
            let comma = if self.0.is_empty() { "" } else { ", " };
            // Writing to a String does not fail.
            let _ = write!(self.0, "{comma}{name} {count}");
        }
    }

    fn bad_records(&mut self, socket: &str, bad: BadRecords) {
        // Marked records are not read here.
        let BadRecords { empty, runt, vnet_hdr_len, oversized, cut, garbled: _ } = bad;
        for (what, count) in [
            ("empty", empty),
            ("runt", runt),
            ("vnet_hdr_len", vnet_hdr_len),
            ("oversized", oversized),
            ("cut", cut),
        ] {
            self.add(&format!("bad.{socket}.{what}"), count);
        }
    }
}
