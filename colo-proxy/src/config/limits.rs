//! Every limit of a guest's instance, and what it is where nobody says otherwise.

mod keys;
mod setting;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::keys::{KEYS, Key};

pub(super) use self::keys::LimitsTable;
pub(super) use self::setting::Ms;

use crate::compare;
use crate::datapath;

/// What one instance may take, of either role.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    pub peer: PeerLimits,
    pub compare: compare::Limits,
    pub unsorted: UnsortedLimits,
    pub input: InputLimits,
    pub repeat: RepeatLimits,
    pub digest: DigestLimits,
    /// The tables of connections in the kernel.
    pub translation: datapath::TranslationLimits,
}

/// What waits between a guest, its gates and the other host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// A peer that is gone for longer is lost.
    pub timeout: Duration,
    /// Octets that may wait for the peer on an outgoing lane.
    pub queue_bytes: usize,
    /// Frames that may wait for the daemon in a gate.
    pub gate_queue_frames: u32,
    /// Frames that may wait for the guest. One guest that misses what the other got costs a
    /// retransmission or a checkpoint, so the queue must outlast a guest that is slow for a while.
    pub guest_queue_frames: u32,
    /// How long the instance's thread stays awake for the next frame.
    pub busy_poll: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            queue_bytes: 32 << 20,
            gate_queue_frames: 10_000,
            guest_queue_frames: 10_000,
            busy_poll: Duration::from_micros(200),
        }
    }
}

/// Frames of the secondary that wait for the mark of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsortedLimits {
    pub frames_max: usize,
    pub bytes_max: usize,
}

impl Default for UnsortedLimits {
    fn default() -> Self {
        Self { frames_max: 16 * 1024, bytes_max: 64 << 20 }
    }
}

/// Guest input that waits for the offset of its connection; anybody on the network can send such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimits {
    pub frames_max: usize,
    pub bytes_max: usize,
    /// A guest that has not answered a SYN for so long will not; the peer repeats what it wants.
    pub patience: Duration,
    /// Octets that wait for a guest that a checkpoint has stopped, of what comes by the kernel lane.
    pub stopped_bytes_max: usize,
}

impl Default for InputLimits {
    fn default() -> Self {
        Self {
            frames_max: 1024,
            bytes_max: 4 << 20,
            patience: Duration::from_secs(3),
            // Half a second of a gigabit.
            stopped_bytes_max: 64 << 20,
        }
    }
}

/// Guest input that is kept until the guest has acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepeatLimits {
    /// In all.
    pub frames_max: usize,
    pub bytes_max: usize,
    /// Of one connection.
    pub flow_frames_max: usize,
    pub flow_bytes_max: usize,
    /// When what is not acknowledged is written again.
    pub patience: Duration,
    /// The pause doubles up to this, for a guest with a closed window.
    pub patience_max: Duration,
    /// A guest that acknowledges nothing for so long has no such connection.
    pub give_up: Duration,
    /// Frames that are written again at once.
    pub burst: usize,
}

impl Default for RepeatLimits {
    fn default() -> Self {
        Self {
            // Small frames cost more than their octets.
            frames_max: 65536,
            // A receive window is smaller.
            bytes_max: 64 << 20,
            flow_frames_max: 16384,
            flow_bytes_max: 16 << 20,
            // Longer than a guest delays an acknowledgment as a rule (40 ms on Linux).
            patience: Duration::from_millis(60),
            patience_max: Duration::from_millis(500),
            give_up: Duration::from_secs(10),
            burst: 16,
        }
    }
}

/// What the digest lane keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestLimits {
    /// Octets of the guest's output: on the primary until the secondary has said the same, and a little
    /// longer, for it may repeat it; on the secondary for the primary to ask for them. Likewise octets of
    /// the secondary that wait on the primary.
    pub bytes_max: usize,
    /// Frames of the secondary that wait for the primary to say the same.
    pub frames_max: usize,
}

impl Default for DigestLimits {
    fn default() -> Self {
        Self { bytes_max: 16 << 20, frames_max: 16 * 1024 }
    }
}
