//! The messages of the control lane, which two colo-proxy daemons exchange beside the frames.
//!
//! A message is a JSON object on a line of its own, so that people can read it on the wire. Messages
//! carry heartbeats, the cuts between epochs, and counters. The lane may be absent, and then the peer may
//! be a QEMU. A message is trusted no further than its type says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::service_record::Server;

/// The longest line; a longer one ends the connection.
pub const LINE_MAX: usize = 64 * 1024;
/// Version of the messages, and of the tags by which a kernel lane's frames are counted. An unknown
/// message is ignored, and an unknown version is refused.
pub const VERSION: u32 = 3;

/// The parameters of a tunnel between the two kernels, which both ends must share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelOffer {
    /// VXLAN network identifier, of which the lower 24 bits count.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
}

/// One message, which is one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ControlMessage {
    /// First on every connection, from both ends.
    Hello {
        /// [`VERSION`] of the sender.
        version: u32,
        /// `primary` or `secondary`.
        role: String,
        /// The kernel lane that this end can open. Without one, the lanes are the streams. The
        /// primary's offer counts for both ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lane: Option<TunnelOffer>,
    },
    /// Every [`HEARTBEAT`], from both ends.
    Heartbeat,
    /// Every [`COUNTERS`], from both ends. A frame that one end has sent and the other does not receive
    /// soon was lost on the way.
    Counters {
        /// Frames that went into the lanes here.
        sent: u64,
        /// Frames that came out of the lanes here.
        received: u64,
    },
    /// Primary to secondary: a checkpoint has put the primary's state into the secondary guest.
    Epoch {
        /// A random number of the primary's daemon. The same epoch of the same session is the same
        /// checkpoint, repeated because the lanes were gone.
        session: u64,
        /// The primary's number of the epoch that begins.
        epoch: u64,
    },
    /// The secondary's answer: offsets are void, and this is the cut.
    EpochDone {
        /// The epoch of [`ControlMessage::Epoch`].
        epoch: u64,
        /// The cut: frames that had gone into the present `secondary_out` connection. They belong to
        /// the older epoch.
        sent: u64,
        /// The epoch that the secondary's frames carry in the kernel lane from there on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lane_epoch: Option<u32>,
    },
    /// The state of the kernel lane at this end.
    Lane {
        /// The peer may send frames to this end by the kernel lane.
        open: bool,
        /// The epoch that this end's frames carry.
        epoch: u32,
    },
    /// The frames of a slot of time that is over.
    LaneCount {
        /// The number of the slot; see [`SLOT`].
        slot: u32,
        /// Frames that went into the kernel lane in it.
        sent: u64,
    },
    /// Secondary to primary: frames of the guest's input were lost in the kernel lane.
    LaneLoss {
        /// The number of these frames.
        frames: u64,
    },
    /// From both ends, after [`ControlMessage::Hello`] and after every change: who serves, as the record
    /// of the sender's host says it.
    Standing {
        /// The generation of the record, or 0.
        generation: u64,
        /// The host that may serve, as the sender sees it. Without a record, its guest was never
        /// protected.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<Server>,
    },
    /// Primary to secondary: whether the secondary's guest could take over. It is sent after every
    /// change, and when the lane is connected.
    Protection {
        /// The secondary's guest could take over.
        protected: bool,
        /// The number of this message in its conversation, from 1.
        number: u32,
        /// The generation of the primary's record.
        generation: u64,
    },
    /// The secondary's answer to [`ControlMessage::Protection`]: it obeys, and its record says so.
    ProtectionKnown {
        /// The number of the message that it answers.
        number: u32,
    },
    /// Secondary to primary: whether its QEMU is there, in which its guest lives. It is sent when that
    /// changes. At the beginning of a conversation it counts as there.
    Guest {
        /// There is a connection to this QEMU.
        there: bool,
    },
    /// Primary to secondary: the primary's guest is dead, and no later output of it leaves this host.
    GuestGone,
    /// Primary to secondary: translated connections that both guests have from an earlier pair. They
    /// take as many messages as necessary.
    Offsets {
        /// A part of the text of offsets, in whole lines.
        text: String,
    },
    /// Secondary to primary: a checkpoint is wanted. The table of translated connections is nearly full
    /// of connections in use, and most of them need no entry after a checkpoint.
    CheckpointWanted,
    /// Primary to secondary: the frames whose digests did not suffice.
    FramesWanted {
        /// Their places in the present `secondary_out` connection, counted from 0.
        frames: Vec<u32>,
    },
}

/// Length of a slot, in which the frames of the kernel lane are counted.
pub const SLOT: Duration = Duration::from_millis(50);
/// Time between two messages with counters.
pub const COUNTERS: Duration = Duration::from_secs(1);
/// Time between two heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

impl ControlMessage {
    /// The message is about the kernel lane, and is not repeated after the control lane was gone.
    pub fn is_of_lane(&self) -> bool {
        matches!(self, Self::Lane { .. } | Self::LaneCount { .. } | Self::LaneLoss { .. })
    }

    /// The line on the wire, without its newline.
    pub fn line(&self) -> String {
        // Strings and integers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{ControlMessage, Server, TunnelOffer};

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
            ControlMessage::Standing { generation: 0, server: None },
            ControlMessage::Standing { generation: 7, server: Some(Server::Either) },
            ControlMessage::Protection { protected: true, number: 1, generation: 2 },
            ControlMessage::ProtectionKnown { number: u32::MAX },
            ControlMessage::Guest { there: false },
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
