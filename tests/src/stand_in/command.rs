//! The messages between the lab and a stand-in: one JSON object per line.

use serde::{Deserialize, Serialize};

/// A message from the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Change one byte in the payload of the guest's next TCP segment or datagram from this port
    /// that has a byte at this place.
    ///
    /// With `keep_sum`, the checksum stays right, as from a guest that has computed something else.
    /// Without it, the wire has changed the byte.
    Flip { protocol: u8, guest_port: u16, at: u32, keep_sum: bool },
    /// Stop moving frames, as a paused guest does.
    Pause,
    /// Move frames again.
    Resume,
    /// Report [`StandInCounts`].
    Counts,
}

/// A message from the stand-in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum StandInReport {
    /// Both TAPs are open.
    Ready,
    /// Answers [`Command::Flip`], [`Command::Pause`] and [`Command::Resume`].
    Done,
    /// Answers [`Command::Counts`].
    Counts(StandInCounts),
    /// A flip has happened.
    Flipped(Flipped),
}

/// The details of the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flipped {
    pub guest_port: u16,
    pub peer_port: u16,
    /// The sequence number of the changed byte as it left this guest, for TCP.
    pub seq: u32,
    pub at: u32,
    pub was: u8,
    pub is: u8,
}

/// Frames that passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionCounts {
    pub frames: u64,
    pub octets: u64,
    /// With a segment size in their virtio-net header.
    pub gso: u64,
    /// With a partial checksum.
    pub partial: u64,
    /// Frames whose checksum, partial or full, is wrong.
    pub bad_sums: u64,
    /// Frames that the TAP at the other end refused.
    pub refused: u64,
}

/// Everything that a stand-in counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandInCounts {
    pub to_guest: DirectionCounts,
    pub from_guest: DirectionCounts,
    /// The first frames with a bad checksum, described.
    pub bad: Vec<String>,
}
