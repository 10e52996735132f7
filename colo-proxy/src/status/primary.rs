//! What `status` shows of a primary.

use colo_proxy_common::record::ProgramCounters;
use colo_proxy_engine::compare::Stats;
use colo_proxy_engine::digest::ExpanderReport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::colo_frame::ColoFrameReport;
use super::divergences::DivergenceReport;
use super::guest::GuestStatus;
use super::kernel::KernelLaneReport;
use super::thread::BusyPollReport;
use crate::lane::LaneStatus;
use crate::lane::control::PeerCounters;

/// The primary's half of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrimaryStatus {
    /// What both roles have.
    #[serde(flatten)]
    pub guest: GuestStatus,
    /// What only a primary has.
    pub detail: PrimaryDetail,
}

/// What only a primary has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrimaryDetail {
    /// The engine's counters.
    pub engine: Stats,
    /// The driver of checkpoints.
    pub colo_frame: ColoFrameReport,
    /// Frames that left while protection was off, without passing the engine.
    pub released_unprotected: u64,
    /// Times that a secondary came back and needed a checkpoint.
    pub resyncs: u64,
    /// How often the thread of the instance stayed awake for the next frame.
    pub busy_poll: BusyPollReport,
    /// Events `checkpoint-done` without a `checkpoint-began` before them.
    pub checkpoints_ignored: u64,
    /// The lanes to the secondary.
    pub lanes: PrimaryLanes,
    /// Counters of the kernel programs, under the names that `bpftool` shows.
    pub kernel: ProgramCounters,
    /// Why they could not be read.
    pub kernel_error: Option<String>,
    /// The last 16 differences.
    pub divergences: Vec<DivergenceReport>,
}

/// The lanes of a primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrimaryLanes {
    /// Guest input, to the secondary.
    pub mirror: LaneStatus,
    /// The secondary guest's output.
    pub secondary_in: LaneStatus,
    /// Digests in the place of the secondary's frames, if they come.
    pub digests: Option<ExpanderReport>,
    /// The control lane is connected.
    pub control_up: bool,
    /// The version of the control lane's messages.
    pub control_version: u32,
    /// What the other end says about its lanes.
    pub peer: PeerCounters,
    /// The kernel lane.
    pub kernel: KernelLaneReport,
}
