//! What a primary and a secondary have in common.

use std::collections::BTreeMap;

use colo_proxy_engine::pair::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::head::InstanceHead;
use crate::guest_tap::TapState;

/// A guest of a pair. Counts are since the start of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestStatus {
    /// Which instance answers.
    #[serde(flatten)]
    pub head: InstanceHead,
    /// How the guest stands.
    pub mode: Mode,
    /// Checkpoints that were done.
    pub epoch: u64,
    /// Gauge. Primary: flows in the engine. Secondary: translated connections.
    pub flows: u64,
    /// Gauge, in frames. Primary: held output. Secondary: parked early input.
    pub held_frames: u64,
    /// Gauge, in bytes. Primary: held output. Secondary: parked early input.
    pub held_bytes: u64,
    /// Primary: frames of output that left because the secondary produced the same.
    pub compared_frames: u64,
    /// Primary: bytes of payload that were compared in these frames.
    pub compared_bytes: u64,
    /// Frames of output that left, for any reason.
    pub released_frames: u64,
    /// Primary: bytes of these frames.
    pub released_bytes: u64,
    /// Primary: differences that were found.
    pub divergences: u64,
    /// Primary: checkpoints that the comparison asked for, by reason. Zeros are left out.
    pub checkpoints: BTreeMap<String, u64>,
    /// Frames that did not go on, by reason. Zeros are left out.
    pub drops: BTreeMap<String, u64>,
}

/// The mode that `status` shows of a guest for which the pair has decided on `decided`. A TAP without
/// our programs passes its frames by whatever was decided.
pub(crate) fn shown_mode(decided: Mode, tap: TapState) -> Mode {
    match tap {
        TapState::Unguarded => Mode::Unguarded,
        TapState::Gone | TapState::Guarded => decided,
    }
}
