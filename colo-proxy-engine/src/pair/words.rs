//! The words that a pair, its configuration and its status have in common.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which half of the pair a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Its guest answers the network.
    Primary,
    /// Its guest answers the primary's daemon until it takes over.
    Secondary,
}

impl Role {
    /// The other half.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        })
    }
}

/// The mode of the kernel programs: the one field of `settings` that changes in operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramMode {
    /// Everything passes untouched.
    Off,
    /// Guest output is captured, guest input mirrored (primary) or translated (secondary).
    Protected,
    /// The secondary guest is on the network; its connections stay translated.
    FailedOver,
}

/// The guest's network after the daemon has died without ending in good order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeath {
    /// The programs stay attached, and captured output goes nowhere. The links are pinned.
    #[default]
    Hold,
    /// Frames pass as without colo-proxy. The links end with the daemon.
    Pass,
}

/// What happens to held output when the secondary was gone for `secondary_timeout_ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnSecondaryLost {
    /// It leaves, and the guest goes on unprotected.
    #[default]
    Release,
    /// It stays held for the secondary, or for an operator.
    Hold,
}

/// The state of a guest, in the words of `status`. A later version adds reasons, not words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Secondary: it has not met a primary yet.
    Standby,
    /// The two guests are about to become equal. Output of the primary is held for a checkpoint.
    Joining,
    /// Output is compared, and the secondary's guest can take over.
    Protected,
    /// The secondary's guest can take over, but does not follow the primary's at the moment.
    CoveredNotEqual,
    /// The other host is silent. Output is held, and the secondary's guest can take over.
    PeerLost,
    /// No secondary can take over. The primary's guest goes on alone.
    Unprotected,
    /// The programs are not on the guest's TAP, so its frames pass or are lost.
    Unguarded,
    /// Output of the primary is held until a secondary comes, a fence answers or an operator acts.
    Held,
    /// Primary: the secondary has taken over, and no output of this guest leaves.
    TakenOver,
    /// Secondary: its guest has taken over and answers the network.
    Serving,
    /// The instance has ended because of an error.
    Failed,
}

impl Mode {
    /// The word, as `status` and the log show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Joining => "joining",
            Self::Protected => "protected",
            Self::CoveredNotEqual => "covered-not-equal",
            Self::PeerLost => "peer-lost",
            Self::Unprotected => "unprotected",
            Self::Unguarded => "unguarded",
            Self::Held => "held",
            Self::TakenOver => "taken-over",
            Self::Serving => "serving",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
