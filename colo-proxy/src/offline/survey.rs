//! The first look at a capture: when it was taken, and who is in it.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;

use colo_proxy_common::decode::flag;

use crate::capture_file::Packet;
use colo_proxy_engine::compare::{Content, content};
use colo_proxy_engine::frame::Frame;

/// Addresses that are counted; the guest is in nearly every frame, so it is among the first.
const ADDRESSES_MAX: usize = 4096;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, octet) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{octet:02x}")?;
        }
        Ok(())
    }
}

/// How often an address is in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Frames from it.
    pub(super) sent: u64,
    /// Frames from one station to another, of which this is one.
    pub(super) unicast: u64,
    /// The sum of hashes of all that it said, whatever the order.
    pub(super) said: u64,
}

/// What one capture holds, as far as it can be told before the guest is known.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    pub(super) packets: u64,
    pub(super) interfaces: u32,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    /// Frames from one station to another: not multicast.
    pub(super) unicast: u64,
    pub(super) seen: HashMap<Mac, Seen>,
}

impl Survey {
    /// Looks at the next packet.
    pub fn add(&mut self, packet: &Packet) {
        if self.packets == 0 {
            (self.first_ns, self.last_ns) = (packet.time_ns, packet.time_ns);
        }
        self.packets += 1;
        self.first_ns = self.first_ns.min(packet.time_ns);
        self.last_ns = self.last_ns.max(packet.time_ns);
        self.interfaces = self.interfaces.max(packet.interface.saturating_add(1));
        let Some([destination, source]) = ends(&packet.octets) else { return };
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

    fn count(&mut self, address: Mac) -> Option<&mut Seen> {
        if !self.seen.contains_key(&address) && self.seen.len() >= ADDRESSES_MAX {
            return None;
        }
        Some(self.seen.entry(address).or_default())
    }
}

/// Destination and source of a frame.
pub(super) fn ends(octets: &[u8]) -> Option<[Mac; 2]> {
    let (destination, rest) = octets.split_first_chunk()?;
    Some([Mac(*destination), Mac(*rest.first_chunk()?)])
}

/// A hash of what its sender says in a packet, by its own numbers: neither acknowledgments nor
/// anything that a host on the way changes.
fn said(packet: &Packet) -> u64 {
    let Some(frame) = Frame::new(packet.octets.clone(), 0) else { return 0 };
    let hasher = foldhash::fast::FixedState::default();
    match content(&frame) {
        None => 0,
        Some(Content::Datagram(datagram)) => hasher.hash_one((datagram.name, datagram.parts)),
        Some(Content::Tcp(name, tcp)) => {
            let marks = tcp.flags & (flag::SYN | flag::FIN | flag::RST);
            if marks == 0 && tcp.payload_len == 0 {
                return 0;
            }
            let from = tcp.payload_at as usize;
            let payload = frame.ethernet().get(from..from + tcp.payload_len as usize);
            hasher.hash_one((name, tcp.seq, marks, payload))
        }
    }
}
