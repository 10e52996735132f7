//! What `status` shows of a secondary.

use colo_proxy_common::record::ProgramCounters;
use colo_proxy_engine::digest::DigesterReport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::colo_frame::ColoFrameReport;
use super::guest::GuestStatus;
use super::kernel::{FlowTableReport, KernelLaneReport};
use super::thread::BusyPollReport;
use crate::lane::LaneStatus;
use crate::lane::control::PeerCounters;

/// The secondary's half of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecondaryStatus {
    /// What both roles have.
    #[serde(flatten)]
    pub guest: GuestStatus,
    /// What only a secondary has.
    pub detail: SecondaryDetail,
}

/// What only a secondary has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecondaryDetail {
    /// The backend that reads the guest's output.
    pub capture: String,
    /// The driver of checkpoints.
    pub colo_frame: ColoFrameReport,
    /// The primary has said that this guest could take over.
    pub covered: bool,
    /// Announcements that were sent after a takeover.
    pub announced: u64,
    /// How often the thread of the instance stayed awake for the next frame.
    pub busy_poll: BusyPollReport,
    /// The table of translated connections.
    pub flows: FlowTableReport,
    /// Guest input that is kept for repetition.
    pub input: KeptInputReport,
    /// The lanes to the primary.
    pub lanes: SecondaryLanes,
    /// Counters of the kernel programs, under the names that `bpftool` shows.
    pub kernel: ProgramCounters,
    /// Why they could not be read.
    pub kernel_error: Option<String>,
}

/// TCP input that is kept until the guest has acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptInputReport {
    /// Gauge: bytes that are kept.
    pub unacknowledged_bytes: u64,
    /// Frames that were given to the guest again.
    pub repeated_frames: u64,
    /// Frames for which there was no room.
    pub not_kept_frames: u64,
    /// Frames that the guest did not acknowledge although they were repeated.
    pub given_up_frames: u64,
}

/// The lanes of a secondary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecondaryLanes {
    /// Guest input, from the primary.
    pub mirror: LaneStatus,
    /// This guest's output.
    pub secondary_out: LaneStatus,
    /// Digests in the place of this guest's frames, if they are sent.
    pub digests: Option<DigesterReport>,
    /// What the other end says about its lanes.
    pub peer: PeerCounters,
    /// The kernel lane.
    pub kernel: KernelLaneReport,
}
