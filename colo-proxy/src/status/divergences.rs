//! What `divergences` answers.

use std::net::SocketAddr;

use colo_proxy_engine::compare::{Context, Divergence, FlowName, Reason, WaitsFor, hex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::head::{InstanceRole, SCHEMA};

/// The differences that an instance remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Divergences {
    /// The version of this answer. A reader refuses another version than its own.
    pub schema: u32,
    /// The name of the instance.
    pub instance: String,
    /// What the instance is. Only a primary compares.
    pub role: InstanceRole,
    /// The guest's TAP.
    pub netdev: String,
    /// The process of the daemon.
    pub pid: u32,
    /// Differences since the start of the daemon.
    pub divergences_total: u64,
    /// The last of them, the newest last.
    pub divergences: Vec<ListedDivergence>,
}

impl Divergences {
    /// Of an instance of this process that has found none so far.
    pub(crate) fn none(instance: &str, role: InstanceRole, netdev: &str) -> Self {
        Self {
            schema: SCHEMA,
            instance: instance.into(),
            role,
            netdev: netdev.into(),
            pid: std::process::id(),
            divergences_total: 0,
            divergences: Vec::new(),
        }
    }
}

/// A difference, with its date and its frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedDivergence {
    /// The difference.
    #[serde(flatten)]
    pub divergence: DivergenceReport,
    /// The difference as a sentence.
    pub summary: String,
    /// When it was found, in nanoseconds since 1970.
    pub time_ns: u64,
    /// The primary's frame, if frames were asked for and it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_frame: Option<FrameReport>,
    /// The secondary's frame, if frames were asked for and it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary_frame: Option<FrameReport>,
}

/// A difference between the guests, wherever it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FoundDivergence {
    /// Counts the differences from 1.
    pub number: u64,
    /// The flow.
    pub flow: FlowReport,
    /// The flow as a text.
    pub name: String,
    /// Why a checkpoint was asked for.
    pub reason: Reason,
    /// When it was found, in milliseconds since the first frame.
    pub at_ms: u64,
    /// For a primary frame that was held for too long: the missing part of the secondary's output.
    pub waits_for: Option<WaitsFor>,
    /// Place of the first difference. In a TCP stream, 0 is the first byte of data, or of the part that
    /// was seen first. In a datagram, 0 is the first byte behind the IP header.
    pub stream_offset: i64,
    /// The primary's byte at this place, if it has one.
    pub primary_byte: Option<u8>,
    /// The secondary's byte at this place, if it has one.
    pub secondary_byte: Option<u8>,
    /// The primary's bytes around this place.
    pub primary_context: Context,
    /// The secondary's bytes around this place.
    pub secondary_context: Context,
    /// Bytes of the primary's payload that was compared.
    pub primary_len: u64,
    /// Bytes of the secondary's payload that was compared.
    pub secondary_len: u64,
}

impl From<&Divergence> for FoundDivergence {
    fn from(found: &Divergence) -> Self {
        let flow = FlowName(&found.flow);
        Self {
            number: found.number,
            flow: FlowReport {
                protocol: flow.protocol(),
                guest: flow.guest(),
                peer: flow.peer(),
                vlan: found.flow.vlan,
            },
            name: flow.to_string(),
            reason: found.reason,
            at_ms: found.at_ms,
            waits_for: found.waits_for,
            stream_offset: found.stream_offset,
            primary_byte: found.primary_byte,
            secondary_byte: found.secondary_byte,
            primary_context: found.primary_context.clone(),
            secondary_context: found.secondary_context.clone(),
            primary_len: found.primary_len,
            secondary_len: found.secondary_len,
        }
    }
}

/// A difference that a daemon has found, with places on its clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DivergenceReport {
    /// The difference.
    #[serde(flatten)]
    pub found: FoundDivergence,
    /// Checkpoints, and times that protection was turned off, before it.
    pub epoch: u64,
    /// When the primary's frame came, in milliseconds since the first frame of the daemon. Null without
    /// one.
    pub primary_at_ms: Option<u64>,
    /// When the secondary's frame came, in milliseconds since the first frame of the daemon. Null
    /// without one.
    pub secondary_at_ms: Option<u64>,
}

impl From<&Divergence> for DivergenceReport {
    fn from(found: &Divergence) -> Self {
        Self {
            epoch: found.epoch,
            primary_at_ms: found.primary_at_ms,
            secondary_at_ms: found.secondary_at_ms,
            found: found.into(),
        }
    }
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowReport {
    /// A short name like `tcp`, or a number.
    pub protocol: String,
    /// The guest's address and port.
    #[schemars(with = "String")]
    pub guest: SocketAddr,
    /// The peer's address and port.
    #[schemars(with = "String")]
    pub peer: SocketAddr,
    /// The outer and the inner VLAN. 0 is none.
    pub vlan: [u16; 2],
}

/// A frame of a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FrameReport {
    /// When it came, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes of the whole frame.
    pub original_len: u32,
    /// The Ethernet frame, or its start, in hexadecimal.
    #[serde(with = "hex")]
    #[schemars(with = "String")]
    pub bytes: Vec<u8>,
}
