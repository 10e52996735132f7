//! What the lab and a stand-in say to each other: one JSON object a line.

use serde::{Deserialize, Serialize};

/// From the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Change one byte of the payload of the next TCP segment, or datagram, of the guest's port
    /// that has a byte at that place.
    ///
    /// With `keep_sum` the checksum stays right, as that of a guest that has computed something
    /// else; without, it is the wire that has changed it.
    Flip { protocol: u8, guest_port: u16, at: u32, keep_sum: bool },
    /// Stop moving frames, as a paused guest does.
    Pause,
    /// Go on.
    Resume,
    /// Report [`Counts`].
    Counts,
}

/// From the stand-in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// Both TAPs are open.
    Ready,
    /// Answers [`Command::Flip`], [`Command::Pause`] and [`Command::Resume`].
    Done,
    /// Answers [`Command::Counts`].
    Counts(Counts),
    /// A flip has happened.
    Flipped(Flipped),
}

/// What the change was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flipped {
    pub guest_port: u16,
    pub peer_port: u16,
    /// Of the changed byte as it left this guest, for TCP.
    pub seq: u32,
    pub at: u32,
    pub was: u8,
    pub is: u8,
}

/// Frames that went through, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    pub frames: u64,
    pub octets: u64,
    /// With a segment size in their virtio-net header.
    pub gso: u64,
    /// With a partial checksum.
    pub partial: u64,
    /// Whose checksum, partial or full, is not right.
    pub bad_sums: u64,
    /// That the TAP at the other end did not take.
    pub refused: u64,
}

/// Everything that a stand-in counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub to_guest: Way,
    pub from_guest: Way,
    /// The first frames with a bad checksum, described.
    pub bad: Vec<String>,
}
