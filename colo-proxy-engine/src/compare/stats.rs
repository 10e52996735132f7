//! The counters of the engine.

use std::collections::BTreeMap;

use colo_proxy_common::decode::Malformed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classify::Uncompared;
use super::reason::ReasonCounts;

/// Frames and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of these frames.
    pub bytes: u64,
}

impl Traffic {
    #[inline]
    pub(super) fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }

    #[inline]
    pub(super) fn sub(&mut self, bytes: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

/// Counters and gauges of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Output of the primary guest that came in.
    pub primary: Traffic,
    /// Output of the secondary guest that came in.
    pub secondary: Traffic,
    /// Primary frames that left because the secondary produced the same, with the bytes of payload
    /// that were compared.
    pub compared: Traffic,
    /// Acknowledgments that colo-proxy made: of the bytes that both guests had received, if the primary
    /// had received more.
    pub partial_acknowledgments: u64,
    /// Primary frames that left, and why.
    pub released: Released,
    /// Gauge: primary frames held.
    pub held: Traffic,
    /// Gauge: pieces of secondary output waiting for the primary's, each with the frame that it
    /// came in.
    pub secondary_waiting: Traffic,
    /// Gauge: flows remembered.
    pub flows: u64,
    /// Flows that were ever remembered.
    pub flows_opened: u64,
    /// Flows that were forgotten for new ones.
    pub flows_evicted: Evicted,
    /// Connections that took over the tuple of an older one.
    pub tuples_reused: u64,
    /// Primary frames held without a flow because the table was full.
    pub overflowed: u64,
    /// Primary TCP frames far outside of their stream, held until a checkpoint.
    pub stray: u64,
    /// Primary TCP frames held until a checkpoint because too many of their connection wait for
    /// the same already.
    pub unwatched: u64,
    /// Header fields of TCP that differ without being another output.
    pub differences: Differences,
    /// Differences found.
    pub divergences: u64,
    /// Frames of recorded differences given up because all of them together were too long.
    pub divergence_frames_dropped: u64,
    /// Requests raised, by the reason that came first.
    pub requests: ReasonCounts,
    /// All that asked for a checkpoint, whether it raised a request or joined one.
    pub reasons: ReasonCounts,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Checkpoints failed.
    pub checkpoints_failed: u64,
    /// Secondary frames that were dropped without vouching for anything.
    pub secondary_dropped: SecondaryDropped,
    /// Frames of both guests that are not the packets that they claim to be, by layer.
    pub malformed: MalformedCounts,
    /// Malformed primary frames that were released because the policy says so.
    pub malformed_released: u64,
    /// Malformed primary frames that were held because the policy says so.
    pub malformed_held: u64,
    /// Packets in fragments, of both guests.
    pub fragments: Fragments,
    /// Primary frames that the rule leaves out, released at once, by kind.
    pub uncompared: Kinds,
    /// Primary frames that the rule leaves out, held because the policy says so.
    pub uncompared_held: Kinds,
}

/// Packets in fragments, of both guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fragments {
    /// Packets put together for comparison.
    pub reassembled: u64,
    /// Gauge: packets of which fragments are missing.
    pub incomplete_packets: u64,
    /// Gauge: memory of these fragments, in bytes.
    pub incomplete_bytes: u64,
    /// Fragments that came again.
    pub repeated: u64,
    /// Packets whose fragments overlap or cannot be one packet: compared one by one.
    pub contradictory: u64,
    /// Packets incomplete for too long: compared one by one.
    pub timed_out: u64,
    /// Fragments compared on their own because a limit was reached.
    pub limit: u64,
}

/// Header fields that need not be alike. Whenever a primary segment leaves because the secondary
/// produced the same, the last segments of its connection that either guest sent (SYN and RST aside)
/// are compared, and each field that differs counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Differences {
    /// Window.
    pub window: u64,
    /// The largest window in percent of the other guest's, where that was not closed.
    pub window_percent_max: u64,
    /// Time to live, or hop limit.
    pub ttl: u64,
    /// Type of service, or traffic class.
    pub tos: u64,
    /// TCP timestamps, by value.
    pub timestamps: u64,
    /// IPv4 identification.
    pub ip_id: u64,
}

/// Why primary frames left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evicted {
    /// Connections that were closed.
    pub closed: u64,
    /// Flows of datagrams.
    pub datagram: u64,
    /// Connections of which no more than the beginning was seen.
    pub half_open: u64,
    /// Established, and silent for `flow_idle_ms`.
    pub idle: u64,
    /// Established, and silent since the last checkpoint, which was asked for because the table was
    /// full, or came by itself.
    pub covered: u64,
}

impl Evicted {
    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        self.closed + self.datagram + self.half_open + self.idle + self.covered
    }
}

/// Why secondary frames were dropped without vouching for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecondaryDropped {
    /// Output from before a checkpoint: pieces that waited, and frames of an older epoch.
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
    /// Malformed frames that the policy does not compare.
    pub malformed: u64,
    /// Frames that the rule leaves out, by kind.
    pub uncompared: Kinds,
}

/// Frames that are not the packets that they claim to be. They are compared byte by byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MalformedCounts {
    /// By their Ethernet header.
    pub ethernet: u64,
    /// By their IP header.
    pub ip: u64,
    /// By an IPv6 extension header.
    pub extension: u64,
    /// By their transport header.
    pub transport: u64,
}

impl MalformedCounts {
    pub(super) fn add(&mut self, kind: Malformed) {
        match kind {
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(into = "BTreeMap<String, u64>", from = "BTreeMap<String, u64>")]
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

    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        self.seen.iter().map(|(_, count)| count).sum::<u64>() + self.other
    }

    /// Frames of the kind called `name` in the serialized form (`arp`, `ipv6-nd`, `0x88cc`).
    pub fn get(&self, name: &str) -> u64 {
        self.seen.iter().filter(|(kind, _)| kind.name() == name).map(|(_, count)| count).sum()
    }
}

impl From<Kinds> for BTreeMap<String, u64> {
    fn from(kinds: Kinds) -> Self {
        let mut totals = Self::new();
        for (kind, count) in &kinds.seen {
            *totals.entry(kind.name()).or_default() += count;
        }
        if kinds.other > 0 {
            totals.insert("other".to_owned(), kinds.other);
        }
        totals
    }
}

impl From<BTreeMap<String, u64>> for Kinds {
    /// A kind that this version does not know counts as another one.
    fn from(totals: BTreeMap<String, u64>) -> Self {
        let mut kinds = Self::default();
        for (name, count) in totals {
            match Uncompared::of_name(&name) {
                Some(kind) => kinds.seen.push((kind, count)),
                None => kinds.other += count,
            }
        }
        kinds
    }
}
