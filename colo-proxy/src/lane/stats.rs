//! Counters of a lane: the frames and bytes that it has carried and lost.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use colo_proxy_engine::record::BadRecords;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::datapath::capture::CaptureStats;

/// Counters of a lane. Its task counts, and `status` reads.
#[derive(Debug, Default)]
pub(crate) struct LaneStats {
    pub(crate) connected: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) queued_bytes: AtomicU64,
    /// Frames that found no peer.
    pub(crate) dropped_no_peer: AtomicU64,
    /// Bytes that were lost with a connection.
    pub(crate) lost_bytes: AtomicU64,
    /// Connections closed because the peer did not read.
    pub(crate) stalls: AtomicU64,
    /// Connections closed because the owner found that the source's queue had lost frames.
    pub(crate) overflows: AtomicU64,
    empty: AtomicU64,
    runt: AtomicU64,
    vnet_hdr_len: AtomicU64,
    oversized: AtomicU64,
    truncated: AtomicU64,
    garbled: AtomicU64,
    /// On a lane to the peer: the counters of its source.
    pub(super) capture: Mutex<CaptureStats>,
}

/// A lane at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LaneStatus {
    /// The address.
    pub endpoint: String,
    /// A peer is there.
    pub connected: bool,
    /// How often a peer came.
    pub connections: u64,
    /// Frames that the lane has carried.
    pub frames: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Gauge: bytes that wait for the peer.
    pub queued_bytes: u64,
    /// Frames that found no peer.
    pub dropped_no_peer: u64,
    /// Bytes that a connection took with it.
    pub lost_bytes: u64,
    /// Connections that were closed because the peer did not read.
    pub stalls: u64,
    /// Records that were read and carry no frame.
    pub bad_records: BadRecords,
    /// The source of an outgoing lane. Of an incoming lane all are 0.
    pub capture: CaptureStats,
}

impl LaneStats {
    pub(crate) fn status(&self, endpoint: &str) -> LaneStatus {
        LaneStatus {
            endpoint: endpoint.into(),
            connected: self.connected.load(Relaxed) != 0,
            connections: self.connections.load(Relaxed),
            frames: self.frames.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            queued_bytes: self.queued_bytes.load(Relaxed),
            dropped_no_peer: self.dropped_no_peer.load(Relaxed),
            lost_bytes: self.lost_bytes.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
            capture: *self.capture.lock().unwrap_or_else(PoisonError::into_inner),
            bad_records: BadRecords {
                empty: self.empty.load(Relaxed),
                runt: self.runt.load(Relaxed),
                vnet_hdr_len: self.vnet_hdr_len.load(Relaxed),
                oversized: self.oversized.load(Relaxed),
                truncated: self.truncated.load(Relaxed),
                garbled: self.garbled.load(Relaxed),
            },
        }
    }

    pub(super) fn set_bad(&self, bad: BadRecords) {
        self.empty.store(bad.empty, Relaxed);
        self.runt.store(bad.runt, Relaxed);
        self.vnet_hdr_len.store(bad.vnet_hdr_len, Relaxed);
        self.oversized.store(bad.oversized, Relaxed);
        self.truncated.store(bad.truncated, Relaxed);
        self.garbled.store(bad.garbled, Relaxed);
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(u64::from(connected), Relaxed);
        self.connections.fetch_add(u64::from(connected), Relaxed);
    }
}
