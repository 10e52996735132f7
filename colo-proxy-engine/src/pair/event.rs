//! What a pair and its COLO-frame say to each other.

use serde::{Deserialize, Serialize};

/// What the proxy tells the COLO-frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum ColoFrameCommand {
    /// Make a checkpoint; one is asked for at a time.
    RequestCheckpoint {
        instance: String,
        /// The epoch that the checkpoint would end.
        epoch: u64,
        /// Stable names, as in `status`.
        reasons: Vec<String>,
    },
    /// The other host has not been heard of for `secondary_timeout`.
    PeerLost { instance: String },
    /// This guest answers the network from here on: the secondary's takes over.
    TakeOver { instance: String },
}

/// What the COLO-frame tells the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ColoFrameEvent {
    /// The primary guest is paused and its state is being captured.
    CheckpointBegan,
    /// The secondary has received everything.
    CheckpointDone {
        /// The secondary guest now is the primary's copy, so sequence offsets are void. A
        /// laboratory's frame that copies nothing says `false`.
        #[serde(default = "yes")]
        state_copied: bool,
        /// What the guest had put out when it began is in that state. Where that is not certain
        /// nothing is released, and another checkpoint is asked for.
        #[serde(default = "yes")]
        covers: bool,
    },
    /// There will be no checkpoint; the proxy may ask again.
    CheckpointFailed {
        #[serde(default)]
        reason: String,
    },
    /// Take over (secondary), or go on alone (primary).
    Failover,
    /// The secondary's guest follows the primary's from some state on, so that a checkpoint makes
    /// them equal. A driver that never says [`ColoFrameEvent::PairLost`] need not say this.
    PairReady,
    /// The guest is no half of a pair, and has not been one.
    Alone {
        #[serde(default)]
        reason: String,
    },
    /// Whoever runs the guest is gone without a word, and the guest with it, if nobody holds its TAP
    /// any more. No pair is left either.
    Gone {
        #[serde(default)]
        reason: String,
    },
    /// No checkpoint can be made, nor does the secondary's guest follow the primary's.
    PairLost {
        #[serde(default)]
        reason: String,
    },
}

impl ColoFrameEvent {
    /// A checkpoint is done, as it should be.
    pub const DONE: Self = Self::CheckpointDone { state_copied: true, covers: true };
}

fn yes() -> bool {
    true
}
