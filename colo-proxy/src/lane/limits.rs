//! The limits of what waits between a guest, its gates and the other host.

use std::time::Duration;

/// Limits between a guest, its gates and the other host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Silence after which the peer is lost.
    pub timeout: Duration,
    /// Bytes that may wait for the peer on an outgoing lane.
    pub queue_bytes: usize,
    /// Frames that may wait for the daemon in a gate.
    pub gate_queue_frames: u32,
    /// Frames that may wait for the guest. A frame that only one guest gets costs a retransmission or
    /// a checkpoint, so the queue must outlast a guest that is slow for a while.
    pub guest_queue_frames: u32,
    /// How long the instance's thread stays awake for the next frame.
    pub busy_poll: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            queue_bytes: 32 << 20,
            gate_queue_frames: 10_000,
            guest_queue_frames: 10_000,
            busy_poll: Duration::from_micros(200),
        }
    }
}
