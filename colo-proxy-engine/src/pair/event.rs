//! Commands for the COLO-frame, and its events.

use serde::{Deserialize, Serialize};

/// A command of the proxy for the COLO-frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum ColoFrameCommand {
    /// Make a checkpoint. At most one request is outstanding.
    RequestCheckpoint {
        /// The instance's name.
        instance: String,
        /// The epoch that the checkpoint would end.
        epoch: u64,
        /// The reasons, by the stable names that `status` uses.
        reasons: Vec<String>,
    },
    /// The other host was silent for `secondary_timeout`.
    PeerLost {
        /// The instance's name.
        instance: String,
    },
    /// The secondary takes over: its guest answers the network from here on.
    TakeOver {
        /// The instance's name.
        instance: String,
    },
}

/// An event of the COLO-frame for the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ColoFrameEvent {
    /// The primary guest is paused and its state is being captured.
    CheckpointBegan,
    /// The secondary has received everything.
    CheckpointDone {
        /// The secondary guest now is the primary's copy, so sequence offsets are void. The frame of a
        /// laboratory copies nothing and says `false`.
        #[serde(default = "yes")]
        state_copied: bool,
        /// The state was captured after all output that the guest had sent when the checkpoint began.
        /// If that is not certain, nothing is released, and another checkpoint is requested.
        #[serde(default = "yes")]
        covers: bool,
    },
    /// There will be no checkpoint; the proxy may ask again.
    CheckpointFailed {
        /// Why, for the log.
        #[serde(default)]
        reason: String,
    },
    /// Take over (secondary), or go on alone (primary).
    Failover,
    /// The secondary's guest follows the primary's, and a checkpoint can make them equal. A driver
    /// that never says [`ColoFrameEvent::PairLost`] need not say this.
    PairReady,
    /// The guest is no half of a pair, and has not been one.
    Alone {
        /// Why, for the log.
        #[serde(default)]
        reason: String,
    },
    /// The primary's guest was reset. The secondary's was not.
    Reset {
        /// Why, for the log.
        #[serde(default)]
        reason: String,
    },
    /// The guest's QEMU or domain is gone without a word. The guest is gone too if nobody has its TAP
    /// open any more. No pair is left either.
    Gone {
        /// Why, for the log.
        #[serde(default)]
        reason: String,
    },
    /// No checkpoint can be made, and the secondary's guest does not follow the primary's.
    PairLost {
        /// Why, for the log.
        #[serde(default)]
        reason: String,
    },
}

impl ColoFrameEvent {
    /// A checkpoint is done, with a copied state that covers the guest's output.
    pub const DONE: Self = Self::CheckpointDone { state_copied: true, covers: true };
}

fn yes() -> bool {
    true
}
