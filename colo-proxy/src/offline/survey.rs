//! The first look at a capture: when it was taken, and which stations are in it.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;

use colo_proxy_common::decode::flag;

use crate::capture_file::Packet;
use colo_proxy_engine::compare::{Content, content};
use colo_proxy_engine::frame::Frame;

/// Addresses that are counted. The guest is in nearly every frame, so it is among the first ones.
const ADDRESSES_MAX: usize = 4096;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

/// How often a station is in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StationCounts {
    /// Frames from it.
    pub(super) sent: u64,
    /// Frames from this station to another one, or from another one to it.
    pub(super) unicast: u64,
    /// The sum of the hashes of its output, in any order.
    pub(super) said: u64,
}

/// The facts about one capture that need no knowledge of the guest.
#[derive(Clone, Debug, Default)]
pub struct CaptureSurvey {
    pub(super) packets: u64,
    pub(super) interfaces: u32,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    /// Frames from one station to another: not multicast.
    pub(super) unicast: u64,
    pub(super) seen: HashMap<MacAddress, StationCounts>,
}

impl CaptureSurvey {
    /// Looks at the next packet.
    pub fn add(&mut self, packet: &Packet) {
        if self.packets == 0 {
            (self.first_ns, self.last_ns) = (packet.time_ns, packet.time_ns);
        }
        self.packets += 1;
        self.first_ns = self.first_ns.min(packet.time_ns);
        self.last_ns = self.last_ns.max(packet.time_ns);
        self.interfaces = self.interfaces.max(packet.interface.saturating_add(1));
        let Some([destination, source]) = ends(&packet.bytes) else { return };
        let said = said(packet);
        if let Some(seen) = self.count(source) {
            seen.sent += 1;
            seen.said = seen.said.wrapping_add(said);
        }
        if destination.0[0] & 1 != 0 {
            return;
        }
        self.unicast += 1;
        for end in [Some(source), (source != destination).then_some(destination)] {
            if let Some(seen) = end.and_then(|end| self.count(end)) {
                seen.unicast += 1;
            }
        }
    }

    /// Packets in the capture.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    fn count(&mut self, address: MacAddress) -> Option<&mut StationCounts> {
        if !self.seen.contains_key(&address) && self.seen.len() >= ADDRESSES_MAX {
            return None;
        }
        Some(self.seen.entry(address).or_default())
    }
}

/// Destination and source of a frame.
pub(super) fn ends(bytes: &[u8]) -> Option<[MacAddress; 2]> {
    let (destination, rest) = bytes.split_first_chunk()?;
    Some([MacAddress(*destination), MacAddress(*rest.first_chunk()?)])
}

/// A hash of the sender's own output in a packet, with its own sequence numbers. Acknowledgments,
/// and fields that a host on the way changes, are left out.
fn said(packet: &Packet) -> u64 {
    let Some(frame) = Frame::new(packet.bytes.clone(), 0) else { return 0 };
    let hasher = foldhash::fast::FixedState::default();
    match content(&frame) {
        None => 0,
        Some(Content::Datagram(datagram)) => hasher.hash_one((datagram.name, datagram.parts)),
        Some(Content::Tcp(name, tcp)) => {
            let control_bits = tcp.flags & (flag::SYN | flag::FIN | flag::RST);
            if control_bits == 0 && tcp.payload_len == 0 {
                return 0;
            }
            let from = tcp.payload_at as usize;
            let payload = frame.ethernet().get(from..from + tcp.payload_len as usize);
            hasher.hash_one((name, tcp.seq, control_bits, payload))
        }
    }
}
