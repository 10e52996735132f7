//! A record of the bytes that each guest has sent at each place, without any notion of connections.
//! It forbids less than the rule, and is simple enough to be trusted.

use std::collections::HashMap;

use colo_proxy_common::decode::{IpHeader, PacketHeaders, Tcp, decode, decode_tcp, flag, protocol};
use colo_proxy_engine::compare::Side;
use colo_proxy_engine::frame::Frame;

/// The grammar puts its segments here. Places further away are ignored.
const PLACES: std::ops::Range<u32> = 900..2000;

/// A connection, or a flow of datagrams: addresses, tags, ports.
type Name = ([[u8; 16]; 2], [u16; 2], [u8; 4]);
/// The same, numbered in the order in which it was first seen.
type Flow = u64;
/// Flow, place and byte in one number, because there is one for each byte.
type SentBytes = std::collections::HashSet<u64, foldhash::fast::FixedState>;

fn said(flow: Flow, place: u32, octet: u8) -> u64 {
    flow << 40 | u64::from(place) << 8 | u64::from(octet)
}

#[derive(Debug, Default)]
pub(super) struct Witness {
    flows: HashMap<Name, Flow>,
    /// Sent by the secondary in this epoch, and by the primary at any time.
    said: SentBytes,
    by_primary: SentBytes,
    /// Places at which both have sent the same, or that a checkpoint covers; of byte 0.
    fine: SentBytes,
    /// Connections in which data came with a SYN of the secondary. The data's place is not in its
    /// number.
    exempt: std::collections::HashSet<Flow>,
    /// The first and the last place of the primary. A checkpoint covers everything between them.
    span: HashMap<Flow, (u32, u32)>,
    /// Datagrams that the secondary has sent in this epoch and that have not vouched yet.
    datagrams: HashMap<(Name, Vec<u8>), usize>,
    /// Datagrams came in pieces, or several at once. They are not counted by frame.
    is_pieced: bool,
}

impl Witness {
    pub(super) fn hears(&mut self, side: Side, frame: &Frame) {
        let Some((packet, ip)) = whole(frame, &mut self.is_pieced) else { return };
        if ip.protocol == protocol::UDP {
            if let (Side::Secondary, Some(datagram)) = (side, datagram(frame, &packet, &ip)) {
                *self.datagrams.entry(datagram).or_default() += 1;
            }
            return;
        }
        let Some((name, tcp)) = segment(frame, &packet, &ip) else { return };
        let flow = self.flow(name);
        if side == Side::Primary {
            self.reaches(flow, &tcp);
        } else if tcp.flags & flag::SYN != 0 && tcp.payload_len > 0 {
            self.exempt.insert(flow);
        }
        for (place, octet) in octets(frame, &tcp) {
            let (own, other) = match side {
                Side::Primary => (&mut self.by_primary, &self.said),
                Side::Secondary => (&mut self.said, &self.by_primary),
            };
            let this = said(flow, place, octet);
            own.insert(this);
            if other.contains(&this) {
                self.fine.insert(said(flow, place, 0));
            }
        }
    }

    fn flow(&mut self, name: Name) -> Flow {
        let next = self.flows.len() as Flow;
        *self.flows.entry(name).or_insert(next)
    }

    /// A segment that is far away but may belong to the same stream reaches to the end of the
    /// observed places.
    fn reaches(&mut self, flow: Flow, tcp: &Tcp) {
        let from = i64::from(tcp.seq.wrapping_sub(1000) as i32) + 1000;
        let to = from + i64::from(tcp.payload_len) + 1;
        if from.abs() < (1 << 30) + 2000 {
            let near =
                |place: i64| place.clamp(i64::from(PLACES.start), i64::from(PLACES.end)) as u32;
            let span = self.span.entry(flow).or_insert((near(from), near(to)));
            *span = (span.0.min(near(from)), span.1.max(near(to)));
        }
    }

    /// A checkpoint was made. The secondary's bytes are void, and the primary's bytes are covered.
    pub(super) fn checkpoint(&mut self) {
        self.said.clear();
        self.exempt.clear();
        self.datagrams.clear();
        for (flow, (from, to)) in &self.span {
            self.fine.extend((*from..*to).map(|place| said(*flow, place, 0)));
        }
    }

    /// Protection was off, so nobody vouches for anything.
    pub(super) fn forgets(&mut self) {
        self.checkpoint();
    }

    /// `frame` leaves because the guests agree, or because the rule does not apply to it.
    pub(super) fn allows(&mut self, frame: &Frame) -> bool {
        let Some((packet, ip)) = whole(frame, &mut self.is_pieced) else { return true };
        if ip.protocol == protocol::UDP {
            let Some(datagram) = datagram(frame, &packet, &ip) else { return true };
            let said = self.datagrams.get_mut(&datagram).filter(|said| **said > 0);
            return said.map(|said| *said -= 1).is_some() || self.is_pieced;
        }
        let Some((name, tcp)) = segment(frame, &packet, &ip) else { return true };
        let flow = self.flow(name);
        self.exempt.contains(&flow)
            || octets(frame, &tcp).all(|(place, _)| self.fine.contains(&said(flow, place, 0)))
    }
}

/// A whole IP packet. This notes whether there are others.
fn whole(frame: &Frame, is_pieced: &mut bool) -> Option<(PacketHeaders, IpHeader)> {
    let packet = decode(frame.ethernet(), None).ok()?;
    let ip = packet.ip?;
    let is_offloaded = frame.vnet().get(1).is_some_and(|kind| *kind != 0);
    *is_pieced |= ip.fragment.is_some() || is_offloaded;
    ip.fragment.is_none().then_some((packet, ip))
}

fn name(frame: &Frame, packet: &PacketHeaders, ip: &IpHeader) -> Option<Name> {
    let at = ip.payload_at as usize;
    let ports = frame.ethernet().get(at..ip.end as usize)?.first_chunk()?;
    Some(([ip.src, ip.dst], packet.vlan, *ports))
}

/// A datagram without its checksum.
fn datagram(frame: &Frame, packet: &PacketHeaders, ip: &IpHeader) -> Option<(Name, Vec<u8>)> {
    let octets = frame.ethernet().get(ip.payload_at as usize..ip.end as usize)?;
    let (head, body) = octets.split_at_checked(8)?;
    Some((name(frame, packet, ip)?, [head.get(..6)?, body].concat()))
}

/// A segment whose data has the place that its number tells.
fn segment(frame: &Frame, packet: &PacketHeaders, ip: &IpHeader) -> Option<(Name, Tcp)> {
    if ip.protocol != protocol::TCP {
        return None;
    }
    let tcp = decode_tcp(frame.ethernet(), ip).ok()?;
    Some((name(frame, packet, ip)?, tcp))
}

/// The data of a segment by its places, as far as they are observed.
fn octets<'a>(frame: &'a Frame, tcp: &Tcp) -> impl Iterator<Item = (u32, u8)> + 'a {
    let is_stream = tcp.flags & (flag::SYN | flag::RST) == 0;
    let at = tcp.payload_at as usize;
    let len = if is_stream { tcp.payload_len as usize } else { 0 };
    let data = frame.ethernet().get(at..at + len).unwrap_or_default();
    let seq = tcp.seq;
    let places =
        data.iter().enumerate().map(move |(n, octet)| (seq.wrapping_add(n as u32), *octet));
    places.filter(|(place, _)| PLACES.contains(place))
}
