//! The programs of the kernel lane: on the tunnel between the hosts, and on the gates that take the
//! secondary's output from the tunnel to the daemon.

use colo_proxy_common::lane::{self, LaneCounters, Speaker};

use colo_proxy_engine::pair::Role;

use super::attachment::{Attachment, AttachmentPlace, Hook};
use super::{Datapath, DatapathError, ProgramSet};

const PRIMARY: &[Attachment] = &[
    Attachment::new("colo_gate_guard", AttachmentPlace::EvenGate, Hook::Egress),
    Attachment::new("colo_gate_guard", AttachmentPlace::OddGate, Hook::Egress),
    Attachment::new("colo_lane_copy", AttachmentPlace::Tunnel, Hook::Egress),
    Attachment::new("colo_lane_back", AttachmentPlace::Tunnel, Hook::Ingress),
];

const SECONDARY: &[Attachment] = &[
    Attachment::new("colo_lane_reply", AttachmentPlace::Tunnel, Hook::Egress),
    Attachment::new("colo_lane_input", AttachmentPlace::Tunnel, Hook::Ingress),
];

/// The interfaces of a kernel lane.
#[derive(Clone, Copy, Debug, Default)]
pub struct LanePlan {
    pub tunnel_ifindex: u32,
    /// On a primary: the gates for the secondary's output of even and of odd epochs.
    pub return_gate_ifindex: [u32; 2],
    /// Length in bytes of the longest frame that the tunnel takes; 0 is any.
    pub frame_max: u32,
}

impl Datapath {
    /// Attaches the programs to a tunnel, which is still down. From here on they take the frames that
    /// come by it. No frame is sent into it before [`Datapath::use_lane`].
    pub fn open_lane(&mut self, plan: &LanePlan) -> Result<(), DatapathError> {
        self.tunnel_ifindex = plan.tunnel_ifindex;
        self.change(|settings| {
            settings.return_gate_ifindex = plan.return_gate_ifindex;
            settings.lane_reported = 0;
            settings.lane_frame_max = plan.frame_max;
        })?;
        for attachment in self.lane_attachments() {
            self.attach_one(attachment)?;
        }
        Ok(())
    }

    /// There is a tunnel, used or not.
    pub fn has_lane(&self) -> bool {
        self.tunnel_ifindex != 0
    }

    /// Sends the frames for the other host into the tunnel, or to the gates again.
    pub fn use_lane(&mut self, is_used: bool) -> Result<(), DatapathError> {
        let ifindex = if is_used { self.tunnel_ifindex } else { 0 };
        self.change(|settings| settings.lane_ifindex = ifindex)
    }

    /// Sends frames to the gates again, and detaches the programs from the tunnel.
    pub fn close_lane(&mut self) -> Result<(), DatapathError> {
        self.tunnel_ifindex = 0;
        self.change(|settings| {
            settings.lane_ifindex = 0;
            settings.return_gate_ifindex = [0; 2];
        })?;
        self.links.detach_some(self.lane_attachments())
    }

    /// Begins a slot of time.
    pub fn set_lane_slot(&mut self, slot: u32) -> Result<(), DatapathError> {
        self.change(|settings| settings.lane_slot = slot)
    }

    /// The other end has reported this slot: frames of much older slots are late from now on.
    pub fn set_lane_reported(&mut self, slot: u32) -> Result<(), DatapathError> {
        self.change(|settings| settings.lane_reported = lane::reported(slot))
    }

    /// On a primary: the secondary's epoch. Its output of this epoch counts.
    pub fn set_lane_epoch(&mut self, epoch: u32) -> Result<(), DatapathError> {
        self.change(|settings| settings.lane_epoch = epoch)
    }

    /// On a secondary: input that comes by the lane goes to the input gate while the guest is stopped,
    /// and to the guest otherwise.
    pub fn send_lane_input_to_gate(&mut self, is_stopped: bool) -> Result<(), DatapathError> {
        self.change(|settings| settings.lane_input_to_gate = u32::from(is_stopped))
    }

    /// The counts of frames into the tunnel and out of it, summed over the processors.
    pub fn lane_counters(&self) -> Result<LaneCounters, DatapathError> {
        self.maps.lane_counters()
    }

    /// The addresses that the guest has used while this daemon did not see its output, with
    /// `CLOCK_MONOTONIC` of the last use.
    pub fn speakers(&self) -> Vec<(Speaker, u64)> {
        self.maps.speakers()
    }

    fn lane_attachments(&self) -> &'static [Attachment] {
        match self.part {
            ProgramSet::Half(Role::Primary) => PRIMARY,
            ProgramSet::Half(Role::Secondary) | ProgramSet::Rewriter => SECONDARY,
        }
    }
}
