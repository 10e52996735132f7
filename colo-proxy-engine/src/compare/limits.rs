//! The bounds of one engine: whatever the guests do, it never needs more than this.

use std::time::Duration;

use super::policy::Policy;

/// Configured bounds; every one of them has a counter in [`super::Stats`] that shows when it bites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows remembered at a time.
    pub flows_max: usize,
    /// Flows that stay as they are although nothing of them is held. Busy flows need not be laid to rest
    /// and woken for every frame. It bounds memory that is kept for speed, and has no key.
    pub awake_flows_max: usize,
    /// Primary frames held at a time, and likewise secondary pieces waiting.
    pub frames_max: usize,
    /// Bytes held at a time, on either side. A packet in fragments that is complete takes twice
    /// what it counts: the fragments and a copy in one piece.
    pub bytes_max: usize,
    /// Frames of one flow held at a time, on either side.
    pub flow_frames_max: usize,
    /// Bytes of one flow held at a time, on either side.
    pub flow_bytes_max: usize,
    /// Connections of one flow that the secondary may have opened before the primary does. A SYN
    /// alone counts for no other limit.
    pub flow_connections_ahead_max: usize,
    /// How long a primary frame may be held, or secondary data wait, before a checkpoint is asked
    /// for.
    pub compare_timeout: Duration,
    /// How long the secondary's TCP window may stay closed while the primary's is open before a
    /// checkpoint is asked for.
    pub zero_window_timeout: Duration,
    /// How long datagrams of both guests may stay without a match before they count as different.
    pub datagram_grace: Duration,
    /// How many datagrams of each guest may stay without a match before they count as different.
    pub datagram_grace_count: usize,
    /// How long the fragments of a packet may be incomplete before they are compared one by one.
    /// Guests send them in one go, so this only has to bridge a stall; it has to be shorter than
    /// `compare_timeout` by enough for both guests to come to it. Fragments compared on their own
    /// have it as grace beside `datagram_grace`.
    pub fragment_timeout: Duration,
    /// Incomplete packets of each guest remembered.
    pub fragment_packets_max: usize,
    /// Bytes in those.
    pub fragment_bytes_max: usize,
    /// Of them, packets of one source address.
    pub fragment_source_packets_max: usize,
    /// Bytes in those.
    pub fragment_source_bytes_max: usize,
    /// Frames that are not the packets they say they are.
    pub on_malformed: Policy,
    /// ARP, neighbour discovery and whatever else is no business of a peer's.
    pub on_uncompared: Policy,
    /// Divergences remembered for the operator.
    pub divergences_max: usize,
    /// Bytes of frames kept with them; the oldest differences lose their frames first.
    pub divergence_frames_bytes: usize,
    /// Bytes of context on either side of a differing byte.
    pub context_bytes: usize,
    /// An established connection that was silent this long, or since the last checkpoint, may be
    /// forgotten for a new one.
    pub flow_idle: Duration,
    /// How long after a failed checkpoint the next one may be asked for.
    pub request_retry: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows_max: 65536,
            awake_flows_max: 128,
            frames_max: 65536,
            bytes_max: 128 << 20,
            flow_frames_max: 16384,
            flow_bytes_max: 32 << 20,
            flow_connections_ahead_max: 64,
            // QEMU's default.
            compare_timeout: Duration::from_secs(3),
            // Long for an application that is only a little behind, short against the compare
            // timeout: the secondary misses the data that the peer sends meanwhile.
            zero_window_timeout: Duration::from_secs(1),
            datagram_grace: Duration::from_millis(200),
            datagram_grace_count: 256,
            fragment_timeout: Duration::from_secs(1),
            fragment_packets_max: 4096,
            fragment_bytes_max: 16 << 20,
            fragment_source_packets_max: 1024,
            fragment_source_bytes_max: 4 << 20,
            on_malformed: Policy::Compare,
            on_uncompared: Policy::Release,
            divergences_max: 256,
            divergence_frames_bytes: 1 << 20,
            context_bytes: 8,
            flow_idle: Duration::from_mins(2),
            request_retry: Duration::from_millis(100),
        }
    }
}
