//! What the engine counts.

use colo_proxy_common::decode::Malformed;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::classify::Uncompared;
use super::reason::ReasonCounts;

/// Frames and their octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    pub frames: u64,
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }

    pub(super) fn sub(&mut self, bytes: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

/// Counters and gauges of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Guest output that came in.
    pub primary: Traffic,
    pub secondary: Traffic,
    /// Primary frames that left because the secondary produced the same; their octets of payload
    /// that were compared.
    pub compared: Traffic,
    /// Acknowledgments of what both guests had received, where the primary had received more.
    pub partial_acknowledgments: u64,
    /// Primary frames that left, and why.
    pub released: Released,
    /// Gauge: primary frames held.
    pub held: Traffic,
    /// Gauge: pieces of secondary output waiting for the primary's.
    pub secondary_waiting: Traffic,
    /// Gauge: flows remembered.
    pub flows: u64,
    pub flows_opened: u64,
    pub flows_evicted: Evicted,
    /// Connections that took over the tuple of an older one.
    pub tuples_reused: u64,
    /// Primary frames held without a flow because the table was full.
    pub overflowed: u64,
    /// Primary TCP frames far outside of their stream, held until a checkpoint.
    pub stray: u64,
    /// Differences found.
    pub divergences: u64,
    /// Frames of recorded differences given up because all of them together were too long.
    pub divergence_frames_dropped: u64,
    /// Requests raised, by the reason that came first.
    pub requests: ReasonCounts,
    /// Everything that asked for a checkpoint, raised as a request of its own or collected.
    pub reasons: ReasonCounts,
    /// Checkpoints completed and failed.
    pub checkpoints: u64,
    pub checkpoints_failed: u64,
    pub secondary_dropped: SecondaryDropped,
    pub malformed: MalformedCounts,
    /// Primary frames that the rule leaves out, released at once, by kind.
    pub uncompared: Kinds,
}

/// Why primary frames left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Released {
    /// The secondary produced the same.
    pub compared: Traffic,
    /// A checkpoint covers them.
    pub checkpoint: Traffic,
    /// Protection was off.
    pub unprotected: Traffic,
    /// The rule leaves them out.
    pub uncompared: Traffic,
}

/// Flows forgotten for new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evicted {
    pub closed: u64,
    pub datagram: u64,
    pub half_open: u64,
    pub idle: u64,
}

/// Why secondary frames were dropped without vouching for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SecondaryDropped {
    /// Output of before a checkpoint: pieces that waited, and frames of an older epoch.
    pub stale: u64,
    /// Output of a connection whose tuple is in use again.
    pub old_connection: u64,
    /// Data from before what was seen of the primary's stream, never produced by it since.
    pub before_start: u64,
    /// Sequence numbers far outside of the stream.
    pub out_of_window: u64,
    /// Twice the limit on what may wait was reached.
    pub limit: u64,
    /// Its flow was forgotten, or none could be remembered.
    pub no_flow: u64,
    /// Protection was turned off.
    pub unprotected: u64,
    /// Frames that the rule leaves out, by kind.
    pub uncompared: Kinds,
}

/// Frames that are not the packets they say they are; they are compared octet by octet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MalformedCounts {
    pub ethernet: u64,
    pub ip: u64,
    pub extension: u64,
    pub transport: u64,
}

impl MalformedCounts {
    pub(super) fn add(&mut self, what: Malformed) {
        match what {
            Malformed::Ethernet => self.ethernet += 1,
            Malformed::Ip => self.ip += 1,
            Malformed::Extension => self.extension += 1,
            Malformed::Transport => self.transport += 1,
        }
    }
}

/// Kinds counted by name; a guest that makes up more shares the last count.
const KINDS_MAX: usize = 64;

/// Frames by kind of traffic that is not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    seen: Vec<(Uncompared, u64)>,
    other: u64,
}

impl Kinds {
    pub(super) fn add(&mut self, kind: Uncompared) {
        if let Some((_, count)) = self.seen.iter_mut().find(|(seen, _)| *seen == kind) {
            *count += 1;
        } else if self.seen.len() < KINDS_MAX {
            self.seen.push((kind, 1));
        } else {
            self.other += 1;
        }
    }

    pub fn total(&self) -> u64 {
        self.seen.iter().map(|(_, count)| count).sum::<u64>() + self.other
    }

    /// Frames of the kind called `name` in the serialized form (`arp`, `ipv6-nd`, `0x88cc`).
    pub fn get(&self, name: &str) -> u64 {
        self.seen.iter().filter(|(kind, _)| kind.name() == name).map(|(_, count)| count).sum()
    }
}

impl Serialize for Kinds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut totals = std::collections::BTreeMap::<String, u64>::new();
        for (kind, count) in &self.seen {
            *totals.entry(kind.name()).or_default() += count;
        }
        if self.other > 0 {
            totals.insert("other".to_owned(), self.other);
        }
        let mut map = serializer.serialize_map(Some(totals.len()))?;
        for (name, count) in totals {
            map.serialize_entry(&name, &count)?;
        }
        map.end()
    }
}
