//! What `status` shows of a stand-alone filter.

use std::collections::BTreeMap;
use std::fmt;

use colo_proxy_common::filter::FilterCounters;
use colo_proxy_common::record::ProgramCounters;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::head::InstanceHead;
use super::kernel::FlowTableReport;
use crate::filter::options::FilterQueue;
use crate::lane::LaneStatus;

/// A mirror or a redirector. Counts are since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamFilterStatus {
    /// Which instance answers.
    #[serde(flatten)]
    pub head: InstanceHead,
    /// How it stands.
    pub mode: StreamFilterMode,
    /// Which frames of the guest it sees.
    pub queue: FilterQueue,
    /// Frames on the sockets carry a virtio-net header.
    pub vnet_hdr_support: bool,
    /// The socket into which frames go, if there is one.
    pub outdev: Option<OutdevStatus>,
    /// The socket from which frames come, if there is one.
    pub indev: Option<LaneStatus>,
    /// Frames that went on.
    pub frames: StreamFilterFrames,
    /// Frames that did not go on, by reason. Zeros are left out.
    pub drops: BTreeMap<String, u64>,
    /// What is asked for more rarely.
    pub detail: StreamFilterDetail,
}

/// How a mirror or a redirector stands: the worst of its two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StreamFilterMode {
    /// Every socket has a peer.
    Connected,
    /// A socket has no peer.
    Waiting,
    /// Frames for the peer of `outdev` were lost, and it has not connected again.
    Broken,
}

impl fmt::Display for StreamFilterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::Waiting => "waiting",
            Self::Broken => "broken",
        })
    }
}

/// The socket into which frames go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutdevStatus {
    /// As of any lane.
    #[serde(flatten)]
    pub lane: LaneStatus,
    /// Connections that were closed because frames had found no room.
    pub overflows: u64,
    /// Times that frames for a peer were lost.
    pub breaks: u64,
    /// Milliseconds since the last of them. It stays after the peer has connected again, so that a
    /// reader can tell whether a checkpoint came after it.
    pub since_break_ms: Option<u64>,
}

/// Frames that a mirror or a redirector has passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamFilterFrames {
    /// Copied to `outdev`.
    pub mirrored: u64,
    /// Sent to `outdev`.
    pub redirected: u64,
    /// Passed, because there is no `outdev`.
    pub passed: u64,
    /// Injected towards the guest.
    pub injected_tx: u64,
    /// Injected away from the guest.
    pub injected_rx: u64,
}

/// What is asked for more rarely of a mirror or a redirector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamFilterDetail {
    /// Frames that the guest did not read in time, injected or not. Null without a TAP.
    pub netdev_tx_dropped: Option<u64>,
    /// Counters of the kernel programs, under the names that `bpftool` shows.
    pub kernel: FilterCounters,
    /// Why they could not be read.
    pub kernel_error: Option<String>,
}

/// A rewriter. Counts are since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RewriterStatus {
    /// Which instance answers.
    #[serde(flatten)]
    pub head: InstanceHead,
    /// How it stands.
    pub mode: RewriterMode,
    /// Which frames of the guest it sees.
    pub queue: FilterQueue,
    /// Checkpoints that were done.
    pub epoch: u64,
    /// Gauge: translated connections.
    pub flows: u64,
    /// Gauge: frames of parked early input.
    pub held_frames: u64,
    /// Gauge: bytes of parked early input.
    pub held_bytes: u64,
    /// Frames that it has treated.
    pub frames: RewriterFrames,
    /// Frames that did not go on, by reason. Zeros are left out.
    pub drops: BTreeMap<String, u64>,
    /// What is asked for more rarely.
    pub detail: RewriterDetail,
}

/// How a rewriter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RewriterMode {
    /// Frames pass untranslated.
    Off,
    /// It translates for a secondary.
    Translating,
    /// Its guest has taken over. Its connections stay translated.
    FailedOver,
}

impl fmt::Display for RewriterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Translating => "translating",
            Self::FailedOver => "failed-over",
        })
    }
}

/// Frames that a rewriter has treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RewriterFrames {
    /// Translated towards the guest.
    pub translated_to_guest: u64,
    /// Translated from the guest.
    pub translated_from_guest: u64,
    /// Early input that was parked.
    pub held: u64,
}

/// What is asked for more rarely of a rewriter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RewriterDetail {
    /// The table of translated connections.
    pub flows: FlowTableReport,
    /// Counters of the kernel programs, under the names that `bpftool` shows.
    pub kernel: ProgramCounters,
    /// Why they could not be read.
    pub kernel_error: Option<String>,
}
