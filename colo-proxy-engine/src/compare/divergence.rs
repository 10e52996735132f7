//! The record of a difference between the guests.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use colo_proxy_common::record::FlowKey;
use schemars::JsonSchema;

use super::Side;
use super::hex;
use super::reason::Reason;

/// A difference between the guests, or output that one of them did not produce in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Counts the engine's differences from 1 on.
    pub number: u64,
    /// The flow, as the guest sees it. [`FlowName`] shows it.
    pub flow: FlowKey,
    /// The kind of the difference, which is also the reason of the request for a checkpoint.
    pub reason: Reason,
    /// Checkpoints, and times that protection was turned off, before it.
    pub epoch: u64,
    /// When it was found, on the caller's clock.
    pub at: Instant,
    /// The same, in milliseconds since the engine saw its first frame.
    pub at_ms: u64,
    /// The thing that a held primary frame still needed when it had been held for too long. `None` for
    /// any other difference.
    pub waits_for: Option<WaitsFor>,
    /// Place of the first difference. In a TCP stream, 0 is the first byte of data, or the first byte
    /// seen. In a datagram, 0 is the first byte behind the IP header.
    pub stream_offset: i64,
    /// The primary's byte there. `None` where there is none, as beyond the end of the shorter
    /// datagram, or where the difference is not one of bytes.
    pub primary_byte: Option<u8>,
    /// The same of the secondary.
    pub secondary_byte: Option<u8>,
    /// The primary's bytes around the difference.
    pub primary_context: Context,
    /// The same of the secondary.
    pub secondary_context: Context,
    /// Bytes of payload in the primary's piece that was compared.
    pub primary_len: u64,
    /// The same of the secondary.
    pub secondary_len: u64,
    /// When the primary's frame came, in milliseconds like `at_ms`. `None` where only one guest sent
    /// a frame: the secondary's is awaited, or the primary has produced nothing there. `None` also
    /// where no frame shows the difference: a window stays closed, or the frame had left before.
    pub primary_at_ms: Option<u64>,
    /// The same of the secondary.
    pub secondary_at_ms: Option<u64>,
    /// The primary's frame itself. `None` where `primary_at_ms` is, or where
    /// [`super::Limits::divergence_frames_bytes`] did not allow to keep it.
    pub primary_frame: Option<Captured>,
    /// The same of the secondary.
    pub secondary_frame: Option<Captured>,
}

impl Divergence {
    pub(super) fn new(flow: FlowKey, difference: Difference<'_>, found: &FoundDifference) -> Self {
        let Difference { reason, place, pair, waits_for, primary, secondary } = difference;
        Self {
            number: found.number,
            flow,
            reason,
            epoch: found.epoch,
            at: found.at,
            at_ms: found.at_ms,
            waits_for,
            stream_offset: place,
            primary_byte: pair.primary.get(pair.at).copied(),
            secondary_byte: pair.secondary.get(pair.at).copied(),
            primary_context: Context::around(pair.primary, pair.at, found.context_bytes),
            secondary_context: Context::around(pair.secondary, pair.at, found.context_bytes),
            primary_len: pair.primary.len() as u64,
            secondary_len: pair.secondary.len() as u64,
            primary_at_ms: primary.as_ref().map(|frame| frame.since_ms),
            secondary_at_ms: secondary.as_ref().map(|frame| frame.since_ms),
            primary_frame: primary,
            secondary_frame: secondary,
        }
    }

    /// The frames that are there, the primary's first.
    pub fn frames(&self) -> impl Iterator<Item = (Side, &Captured)> {
        let primary = self.primary_frame.iter().map(|frame| (Side::Primary, frame));
        primary.chain(self.secondary_frame.iter().map(|frame| (Side::Secondary, frame)))
    }

    fn frames_bytes(&self) -> usize {
        self.frames().map(|(_, frame)| frame.octets.len()).sum()
    }
}

/// A frame that belongs to a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The Ethernet frame, or the first bytes of it where it was not kept for its data.
    pub octets: Bytes,
    /// Length of the whole frame.
    pub original_len: usize,
    /// When it came, on the caller's clock.
    pub since: Instant,
    /// The same, in milliseconds since the engine saw its first frame.
    pub since_ms: u64,
}

/// A difference as the flow found it.
#[derive(Debug)]
pub(super) struct Difference<'a> {
    pub(super) reason: Reason,
    pub(super) place: i64,
    pub(super) pair: DifferingPair<'a>,
    pub(super) waits_for: Option<WaitsFor>,
    pub(super) primary: Option<Captured>,
    pub(super) secondary: Option<Captured>,
}

impl<'a> Difference<'a> {
    /// A difference that is not one of bytes, and of which no frame is known yet.
    pub(super) const fn new(reason: Reason, place: i64) -> Self {
        Self {
            reason,
            place,
            pair: DifferingPair::NONE,
            waits_for: None,
            primary: None,
            secondary: None,
        }
    }

    pub(super) fn octets(reason: Reason, place: i64, pair: DifferingPair<'a>) -> Self {
        Self { pair, ..Self::new(reason, place) }
    }

    pub(super) fn frames(self, primary: Option<Captured>, secondary: Option<Captured>) -> Self {
        Self { primary, secondary, ..self }
    }
}

/// The facts that the ledger adds to a difference.
#[derive(Debug)]
pub(super) struct FoundDifference {
    pub(super) number: u64,
    pub(super) epoch: u64,
    pub(super) at: Instant,
    pub(super) at_ms: u64,
    pub(super) context_bytes: usize,
}

/// What the secondary has not done yet, so that a primary frame is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaitsFor {
    /// Produce the same bytes.
    Data,
    /// Send the same SYN, SYN/ACK, FIN or RST.
    ControlBits,
    /// Point as far as urgent.
    Urgent,
    /// Acknowledge as much.
    Ack,
    /// Send the same datagram.
    Datagram,
}

/// A few bytes around a difference.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema,
)]
pub struct Context {
    /// How many of `bytes` lie before the differing one.
    pub before: usize,
    /// The bytes, in hexadecimal where they are JSON.
    #[serde(with = "hex")]
    #[schemars(with = "String")]
    pub bytes: Vec<u8>,
}

impl Context {
    /// The bytes of `all` up to `reach` before and behind `at`.
    pub(super) fn around(all: &[u8], at: usize, reach: usize) -> Self {
        let start = at.saturating_sub(reach).min(all.len());
        let end = at.saturating_add(reach).saturating_add(1).min(all.len());
        let bytes = all.get(start..end).unwrap_or_default().to_vec();
        Self { before: at.min(all.len()) - start, bytes }
    }
}

/// Two pieces that should be the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct DifferingPair<'a> {
    pub(super) primary: &'a [u8],
    pub(super) secondary: &'a [u8],
    /// Where they differ first.
    pub(super) at: usize,
}

impl DifferingPair<'_> {
    pub(super) const NONE: Self = Self { primary: &[], secondary: &[], at: 0 };
}

/// The last divergences.
#[derive(Debug, Default)]
pub(super) struct DivergenceRing {
    kept: VecDeque<Divergence>,
    frames_bytes: usize,
}

impl DivergenceRing {
    /// Adds one, so that there are at most `max` with `bytes_max` bytes of frames. Returns
    /// how many frames the remaining ones lost.
    pub(super) fn push(&mut self, divergence: Divergence, max: usize, bytes_max: usize) -> u64 {
        while self.kept.len() >= max.max(1) {
            if let Some(oldest) = self.kept.pop_front() {
                self.frames_bytes -= oldest.frames_bytes();
            }
        }
        self.frames_bytes += divergence.frames_bytes();
        self.kept.push_back(divergence);
        let mut dropped = 0;
        for oldest in &mut self.kept {
            if self.frames_bytes <= bytes_max {
                break;
            }
            self.frames_bytes -= oldest.frames_bytes();
            dropped += oldest.frames().count() as u64;
            oldest.primary_frame = None;
            oldest.secondary_frame = None;
        }
        dropped
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Divergence> {
        self.kept.iter()
    }
}

/// A flow as operators read it.
#[derive(Clone, Copy, Debug)]
pub struct FlowName<'a>(pub &'a FlowKey);

impl FlowName<'_> {
    fn address(self, octets: [u8; 16], port: u16) -> SocketAddr {
        let ip = if self.0.ip_version == 6 {
            IpAddr::V6(Ipv6Addr::from(octets))
        } else {
            let [a, b, c, d, ..] = octets;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        };
        SocketAddr::new(ip, port)
    }

    /// The guest's address and port.
    pub fn guest(&self) -> SocketAddr {
        self.address(self.0.guest_addr, self.0.guest_port)
    }

    /// The peer's address and port.
    pub fn peer(&self) -> SocketAddr {
        self.address(self.0.peer_addr, self.0.peer_port)
    }

    /// The protocol: a short name, or the number of one that has none here.
    pub fn protocol(self) -> String {
        match self.0.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for FlowName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.protocol(), self.guest(), self.peer())?;
        match self.0.vlan {
            [0, 0] => Ok(()),
            [outer, 0] => write!(f, " vlan {outer}"),
            [outer, inner] => write!(f, " vlan {outer}.{inner}"),
        }
    }
}
