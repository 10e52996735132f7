//! The COLO-frame: whoever copies the primary's state over the secondary.
//!
//! The proxy asks for a checkpoint and is told when one begins (the primary is paused, nothing of
//! the old epoch comes after this) and when it is done (the secondary has received all of the
//! state). A driver also says when this host is to fail over.
//!
//! On the secondary's host, a driver says `checkpoint-done` when the guest has the primary's state,
//! before the guest goes on: from there the guest counts as the network does, and a failover must
//! not depend on whether the primary lived to tell.

mod instant;
mod script;

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use crate::config::ColoFrameKind;

/// What a driver could not do.
#[derive(Debug, thiserror::Error)]
pub enum ColoFrameError {
    #[error("cannot start the COLO-frame script {path}: is it executable?")]
    Start { path: String, source: std::io::Error },
}

/// What the proxy tells the COLO-frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
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
}

/// What the COLO-frame tells the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The primary guest is paused and its state is being captured.
    CheckpointBegan,
    /// The secondary has received everything.
    CheckpointDone {
        /// The secondary guest now is the primary's copy, so sequence offsets are void. A
        /// laboratory's frame that copies nothing says `false`.
        #[serde(default = "copied")]
        state_copied: bool,
    },
    /// There will be no checkpoint; the proxy may ask again.
    CheckpointFailed {
        #[serde(default)]
        reason: String,
    },
    /// Take over (secondary), or go on alone (primary).
    Failover,
}

fn copied() -> bool {
    true
}

/// The next event of a driver; never ends, and can be dropped without losing one.
pub type NextEvent<'a> = Pin<Box<dyn Future<Output = Event> + Send + 'a>>;

/// A driver.
pub trait ColoFrame: Send {
    /// Passes a command on; must not block.
    fn command(&mut self, command: &Command);
    /// Waits for what the COLO-frame says.
    fn next_event(&mut self) -> NextEvent<'_>;
}

/// Starts the driver that was configured; without one, requests go unanswered, and the log says so.
pub fn start(kind: Option<&ColoFrameKind>) -> Result<Box<dyn ColoFrame>, ColoFrameError> {
    Ok(match kind {
        None => Box::new(Absent),
        Some(ColoFrameKind::Instant) => Box::new(instant::Instant::default()),
        Some(ColoFrameKind::Script(path)) => Box::new(script::Script::start(path)?),
    })
}

/// No COLO-frame.
struct Absent;

impl ColoFrame for Absent {
    fn command(&mut self, command: &Command) {
        if let Command::RequestCheckpoint { instance, reasons, .. } = command {
            let reasons = reasons.join(", ");
            log::warn!(
                "{instance}: a checkpoint is needed ({reasons}), and no COLO-frame is configured \
                 to make one"
            );
        }
    }

    fn next_event(&mut self) -> NextEvent<'_> {
        Box::pin(std::future::pending())
    }
}
