//! The control lane: what two colo-proxy daemons tell each other beside the frames.
//!
//! JSON, one object a line, so that it can be read on the wire. It carries heartbeats, the
//! marks between epochs, and counters. It may be absent (then the peer may be a QEMU), and nothing
//! that comes from it is trusted further than its type says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest line; a longer one ends the connection.
pub const LINE_MAX: usize = 64 * 1024;
/// Version of the messages, and of the tags by which a kernel lane's frames are counted. An unknown
/// message is ignored, an unknown version refused.
pub const VERSION: u32 = 2;

/// A tunnel between the two kernels: what both ends have to have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelOffer {
    /// VXLAN network identifier; of more than 24 bits the lower ones count.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ControlMessage {
    /// First on every connection, from both ends.
    Hello {
        version: u32,
        role: String,
        /// The kernel lane that this end can open; without it the lanes are the streams. The primary's
        /// counts for both.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lane: Option<TunnelOffer>,
    },
    /// Every [`HEARTBEAT`], from both ends.
    Heartbeat,
    /// Every [`COUNTERS`], from both ends: frames that went into and came out of the lanes here. What
    /// one end sent and the other has not got, now or soon, was lost on the way.
    Counters { sent: u64, received: u64 },
    /// Primary to secondary: a checkpoint has put the primary's state into the secondary guest.
    Epoch {
        /// Random, of the primary's daemon: the same epoch of the same session is the same
        /// checkpoint, told again after the lanes were gone.
        session: u64,
        epoch: u64,
    },
    /// The secondary's answer: offsets are void, and `sent` frames had gone into the current
    /// `secondary_out` connection before that; they belong to the older epoch.
    EpochDone {
        epoch: u64,
        sent: u64,
        /// What the secondary's frames carry from there on where they come by the kernel lane.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lane_epoch: Option<u32>,
    },
    /// Whether frames may be sent to this end by the kernel lane, and what its own carry as epoch.
    Lane { open: bool, epoch: u32 },
    /// Frames that went into the kernel lane in a slot of time that is over.
    LaneCount { slot: u32, sent: u64 },
    /// Secondary to primary: so many frames of the guest's input were lost in the kernel lane.
    LaneLoss { frames: u64 },
    /// Primary to secondary: whether the secondary's guest could take over as if it were the
    /// primary's. Told at every change, and when the lane is connected.
    Protection { protected: bool },
    /// The secondary's answer to [`ControlMessage::Protection`]: it will do as it was told.
    ProtectionKnown { protected: bool },
    /// Secondary to primary: the secondary's guest answers the network. Told when the lane is
    /// connected, too.
    TookOver,
    /// Primary to secondary: the primary's guest is dead, and this host lets nothing of it out any
    /// more.
    GuestGone,
    /// Primary to secondary: translated connections that both guests have from an earlier pair, a text
    /// of offsets; as many messages as it takes.
    Offsets { text: String },
    /// Secondary to primary: a checkpoint is wanted, because the table of translated connections is
    /// nearly full of ones in use, and most need no entry after it.
    CheckpointWanted,
    /// Primary to secondary: frames of the current `secondary_out` connection, counted from 0, whose
    /// digests do not tell what they say.
    FramesWanted { frames: Vec<u32> },
}

/// How long a slot of the kernel lane lasts.
pub const SLOT: Duration = Duration::from_millis(50);
/// Time between two messages with counters.
pub const COUNTERS: Duration = Duration::from_secs(1);
/// Time between two heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

impl ControlMessage {
    /// It tells of the kernel lane, and is not told again.
    pub fn is_of_lane(&self) -> bool {
        matches!(self, Self::Lane { .. } | Self::LaneCount { .. } | Self::LaneLoss { .. })
    }

    /// As it goes on the wire, without the newline.
    pub fn line(&self) -> String {
        // Strings and integers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{ControlMessage, TunnelOffer};

    #[test]
    fn messages_are_lines_that_read_back() {
        let all = [
            ControlMessage::Hello { version: 1, role: "primary".into(), lane: None },
            ControlMessage::Hello {
                version: 1,
                role: "primary".into(),
                lane: Some(TunnelOffer { vni: 0xff_ffff, port: 4789 }),
            },
            ControlMessage::Heartbeat,
            ControlMessage::Counters { sent: 1, received: 2 },
            ControlMessage::Epoch { session: 7, epoch: u64::MAX },
            ControlMessage::EpochDone { epoch: 3, sent: 17, lane_epoch: None },
            ControlMessage::EpochDone { epoch: 3, sent: 17, lane_epoch: Some(9) },
            ControlMessage::Lane { open: true, epoch: 5 },
            ControlMessage::LaneCount { slot: 8, sent: 1000 },
            ControlMessage::LaneLoss { frames: 2 },
            ControlMessage::Protection { protected: true },
            ControlMessage::ProtectionKnown { protected: false },
            ControlMessage::TookOver,
            ControlMessage::GuestGone,
            ControlMessage::Offsets { text: "{}\n{}\n".into() },
            ControlMessage::CheckpointWanted,
            ControlMessage::FramesWanted { frames: vec![0, u32::MAX] },
        ];
        for message in all {
            let line = message.line();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<ControlMessage>(&line).ok(), Some(message), "{line}");
        }
        assert_eq!(
            ControlMessage::EpochDone { epoch: 3, sent: 17, lane_epoch: None }.line(),
            r#"{"type":"epoch-done","epoch":3,"sent":17}"#
        );
    }
}
