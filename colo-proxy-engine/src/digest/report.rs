//! What `status` shows of both ends of the digest lane.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The primary's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExpanderReport {
    /// Digests that came.
    pub digests: u64,
    /// Frames that were made from a digest and the primary's output.
    pub expanded_frames: u64,
    /// Digests that the primary's output does not have.
    pub different: u64,
    /// Frames that the secondary was asked for.
    pub asked_frames: u64,
    /// Frames that the secondary no longer had.
    pub gone_frames: u64,
    /// Digests whose frame is not a TCP segment.
    pub malformed: u64,
    /// Gauge: frames that wait for the primary's output, or for the secondary's answer.
    pub waiting_frames: u64,
    /// Gauge: bytes of the primary's output that are kept.
    pub kept_bytes: u64,
}

/// The secondary's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DigesterReport {
    /// Digests that were sent.
    pub digests: u64,
    /// Bytes that the lane did not have to carry.
    pub saved_bytes: u64,
    /// Frames that the primary asked for and got.
    pub answered_frames: u64,
    /// Frames that the primary asked for and that were no longer kept.
    pub gone_frames: u64,
    /// Gauge: bytes of frames that are kept.
    pub kept_bytes: u64,
}
