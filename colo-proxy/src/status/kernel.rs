//! What `status` shows of the kernel's part: programs, tables and the kernel lane.

use std::net::IpAddr;

use colo_proxy_common::record::ProgramCounters;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::datapath::FlowsByClass;

/// Counters of the programs of a pair, in frames, under the names that `bpftool` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelCounters {
    /// Guest output that was sent to the output gate.
    pub captured: u64,
    /// Frames that the daemon released and that left as the guest's.
    pub released: u64,
    /// Guest input that was copied to the input gate.
    pub mirrored: u64,
    /// Guest input whose copy the kernel refused.
    pub mirror_failed: u64,
    /// Frames that passed because protection is off.
    pub passed: u64,
    /// TCP frames that were translated towards the guest.
    pub translated_to_guest: u64,
    /// TCP frames that were translated from the guest.
    pub translated_from_guest: u64,
    /// Early input that was sent back to the daemon to be parked.
    pub input_to_daemon: u64,
    /// Frames of the network that were kept from the secondary guest, which gets its input mirrored.
    pub dropped_lan_input: u64,
    /// Output of the secondary that was dropped because its offset is not known yet. The guest repeats
    /// it.
    pub dropped_no_offset: u64,
    /// Frames that another sender put into a gate.
    pub dropped_foreign: u64,
    /// Frames that were dropped because the settings are missing or of another layout.
    pub dropped_no_settings: u64,
    /// TCP frames that could not be parsed and went on untranslated.
    pub malformed: u64,
    /// Frames of a connection that the guest has confirmed and for which the table has no room.
    pub flow_table_full: u64,
    /// Frames that were dropped because a kernel helper refused to rewrite them.
    pub rewrite_failed: u64,
    /// Output of the secondary that came by the kernel lane after its epoch.
    pub lane_stale: u64,
    /// Frames of the kernel lane without a use, because the pair is not protected.
    pub lane_ignored: u64,
    /// Frames of the kernel lane that came after they had been counted as lost.
    pub lane_late: u64,
    /// Frames that are too long for the kernel lane and were dropped.
    pub lane_too_long: u64,
}

impl From<&ProgramCounters> for KernelCounters {
    fn from(counters: &ProgramCounters) -> Self {
        Self {
            captured: counters.captured,
            released: counters.released,
            mirrored: counters.mirrored,
            mirror_failed: counters.mirror_failed,
            passed: counters.passed,
            translated_to_guest: counters.translated_to_guest,
            translated_from_guest: counters.translated_from_guest,
            input_to_daemon: counters.input_to_daemon,
            dropped_lan_input: counters.dropped_lan_input,
            dropped_no_offset: counters.dropped_no_offset,
            dropped_foreign: counters.dropped_foreign,
            dropped_no_settings: counters.dropped_no_settings,
            malformed: counters.malformed,
            flow_table_full: counters.flow_table_full,
            rewrite_failed: counters.rewrite_failed,
            lane_stale: counters.lane_stale,
            lane_ignored: counters.lane_ignored,
            lane_late: counters.lane_late,
            lane_too_long: counters.lane_too_long,
        }
    }
}

/// The table of translated connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowTableReport {
    /// Connections that have room.
    pub max: u64,
    /// Connections that left the table because nothing needed them any longer.
    pub expired: FlowsByClass,
    /// Connections that left the table to make room.
    pub evicted: FlowsByClass,
    /// Checkpoints that were asked for because the table was nearly full of connections in use.
    pub checkpoints_wanted: u64,
}

/// The tunnel that carries the frames of the lanes in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelLaneReport {
    /// There is a tunnel.
    pub open: bool,
    /// Frames go into it.
    pub used: bool,
    /// Why there is no tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The open tunnel.
    #[serde(flatten)]
    pub tunnel: Option<TunnelReport>,
    /// Frames that were lost in the tunnel.
    pub lost_frames: u64,
    /// Frames that were dropped behind the tunnel.
    pub dropped_frames: u64,
}

/// An open tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelReport {
    /// Its device.
    pub tunnel: String,
    /// The address of this end.
    pub local: IpAddr,
    /// The address of the other end.
    pub remote: IpAddr,
    /// The MTU of the link below it, in bytes.
    pub mtu: u32,
    /// The number of the VXLAN.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// Frames that were sent into it.
    pub sent_frames: u64,
    /// Frames that came out of it.
    pub received_frames: u64,
}
