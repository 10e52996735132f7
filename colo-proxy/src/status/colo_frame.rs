//! What `status` shows of the driver of checkpoints.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The driver of checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum ColoFrameReport {
    /// None is configured.
    None,
    /// Every request is answered at once, for laboratories.
    Instant,
    /// A script.
    Script,
    /// The protocol of QEMU's `notify_dev`, as Xen speaks it.
    Xen(XenReport),
    /// A QEMU, by QMP.
    Qmp(Box<QmpReport>),
}

/// The driver `xen`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct XenReport {
    /// Its socket.
    pub endpoint: String,
    /// A peer is there.
    pub connected: bool,
    /// A checkpoint was asked for and has not been made yet.
    pub outstanding: bool,
}

/// The driver `qmp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QmpReport {
    /// QEMU's socket.
    pub endpoint: String,
    /// What is known about QEMU.
    #[serde(flatten)]
    pub machine: QemuReport,
    /// The route that spares each checkpoint a wait for an acknowledgment.
    pub quick_ack: QuickAckReport,
}

/// What is known about a QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QemuReport {
    /// Its version.
    pub qemu: Option<String>,
    /// Where it stands.
    pub state: QemuState,
    /// The last fault.
    pub trouble: Option<String>,
    /// Checkpoints.
    pub checkpoints: QemuCheckpoints,
    /// How long the last checkpoints stopped the guest, in microseconds.
    pub pause_us: PausesReport,
    /// Time between two checkpoints, in milliseconds.
    pub spacing_ms: u64,
}

/// Where a QEMU stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QemuState {
    /// There is no connection, or a QEMU that cannot be used.
    Absent,
    /// It is being asked for its state.
    Probing,
    /// Its guest is in no pair.
    Alone,
    /// It is a secondary that waits for a primary.
    Standby,
    /// The pair is being made.
    Entering,
    /// It is in COLO.
    Colo,
    /// COLO has ended by an error.
    Broken,
    /// It is being told that the other half is gone.
    Ending,
}

impl QemuState {
    /// The word, as `status` and the log show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Probing => "probing",
            Self::Alone => "alone",
            Self::Standby => "standby",
            Self::Entering => "entering",
            Self::Colo => "colo",
            Self::Broken => "broken",
            Self::Ending => "ending",
        }
    }
}

impl fmt::Display for QemuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Checkpoints of a QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QemuCheckpoints {
    /// Checkpoints that it was asked for.
    pub requested: u64,
    /// Checkpoints that it made.
    pub done: u64,
    /// Checkpoints that failed.
    pub failed: u64,
    /// Checkpoints that were made while output was held that they do not cover.
    pub uncovered: u64,
}

/// Pauses, in microseconds. Without a pause they are null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PausesReport {
    /// How many pauses these numbers are about: the last ones, at most 256.
    pub of: u64,
    /// The last one.
    pub last: Option<u64>,
    /// The shortest one.
    pub min: Option<u64>,
    /// The median.
    pub median: Option<u64>,
    /// The longest one.
    pub max: Option<u64>,
}

/// The route with quick acknowledgments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum QuickAckReport {
    /// It is turned off.
    Off,
    /// It is not needed.
    Idle {
        /// Why.
        why: String,
    },
    /// It is being made.
    Pending,
    /// It is there.
    On {
        /// The host to which it leads.
        route: IpAddr,
        /// The routing table that has it, if that is not the main one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<u32>,
    },
    /// It could not be made.
    Failed {
        /// Why.
        why: String,
    },
}
