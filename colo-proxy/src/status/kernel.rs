//! What `status` shows of the kernel's part: programs, tables and the kernel lane.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::datapath::FlowsByClass;

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
