//! What a primary and a secondary have in common.

use std::collections::BTreeMap;

use colo_proxy_engine::pair::Mode;
use colo_proxy_engine::pair::service_record::Server;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::head::InstanceHead;
use crate::guest_tap::TapState;

/// How a guest stands, since when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModeReport {
    /// How the guest stands.
    pub mode: Mode,
    /// Since when, in UTC (RFC 3339), by this host's clock.
    #[serde(default, rename = "mode_since")]
    pub since: String,
    /// Why, in a sentence for people.
    #[serde(default, rename = "mode_reason")]
    pub reason: String,
    /// Who serves, as this host remembers it. `null`: its guest was never protected.
    #[serde(default)]
    pub record: Option<RecordReport>,
}

/// Who serves, as a host remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordReport {
    /// Counts the times that one host has got the right to serve alone.
    pub generation: u64,
    /// The host that may serve.
    pub server: Server,
    /// The disk has this record.
    pub on_disk: bool,
}

/// A guest of a pair. Counts are since the start of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestStatus {
    /// Which instance answers.
    #[serde(flatten)]
    pub head: InstanceHead,
    /// How the guest stands.
    #[serde(flatten)]
    pub standing: ModeReport,
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
