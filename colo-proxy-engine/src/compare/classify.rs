//! Says for each frame how it is compared, and in which flow.

mod fragment;
mod icmp;

use colo_proxy_common::decode::{
    self, FrameBytes, IpHeader, Malformed, Tcp, decode_ports, decode_tcp, ethertype, flag, protocol,
};
use colo_proxy_common::record::FlowKey;
use colo_proxy_common::segment::{Direction, TcpSegment};

pub(super) use self::fragment::Fragment;
use super::body::{DatagramBody, DatagramBytes};
use super::chain::ChainKey;
use crate::frame::Frame;

/// UDP-Lite, whose header has a checksum coverage where UDP has a length (RFC 3828).
const UDP_LITE: u8 = 136;

/// Values of `FlowKey::reserved[0]`: frames with different values never share a flow.
mod kind {
    pub(super) const FRAGMENT: u8 = 1;
    pub(super) const MALFORMED: u8 = 2;
    pub(super) const ODD_TCP: u8 = 3;
    pub(super) const UNCOMPARED: u8 = 4;
}

/// A frame as the comparison sees it.
#[derive(Debug)]
pub(super) enum FrameSubject {
    /// Not compared: the primary's leaves at once, the secondary's is dropped.
    Uncompared(Uncompared),
    Tcp(FlowKey, Tcp),
    Datagram(FlowKey, DatagramBody),
    /// A part of a packet, and the flow in which it is compared where it stays alone.
    Fragment(FlowKey, Fragment),
}

/// A frame's class, found before the frame is compared.
#[derive(Debug)]
pub(super) struct ClassifiedFrame {
    pub(super) subject: FrameSubject,
    pub(super) malformed: Option<Malformed>,
    /// Of the name of its flow; 0 where it has none.
    pub(super) hash: u32,
    /// Where its flow probably is in the table.
    pub(super) place: Option<ChainKey>,
}

impl Default for ClassifiedFrame {
    fn default() -> Self {
        let subject = FrameSubject::Uncompared(Uncompared::EtherType(0));
        Self { subject, malformed: None, hash: 0, place: None }
    }
}

impl FrameSubject {
    /// The flow that it belongs to, if it has one.
    pub(super) fn name(&self) -> Option<&FlowKey> {
        match self {
            Self::Uncompared(_) => None,
            Self::Tcp(name, _) | Self::Datagram(name, _) | Self::Fragment(name, _) => Some(name),
        }
    }
}

/// Traffic that the rule leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Uncompared {
    /// By `EtherType`; 802.3 lengths count as one.
    EtherType(u16),
    /// Neighbour discovery, router discovery and redirects (RFC 4861).
    NeighbourDiscovery,
    /// Multicast listener discovery (RFC 2710, RFC 3810).
    MulticastListener,
    /// Multicast group membership (RFC 3376).
    Igmp,
}

/// The flow that `frame` belongs to.
pub(super) fn name_of(frame: &Frame) -> FlowKey {
    classify(frame).0.name().copied().unwrap_or_else(|| opaque(frame).0)
}

/// Classifies `frame`, and says whether it was malformed.
pub(super) fn classify(frame: &Frame) -> (FrameSubject, Option<Malformed>) {
    let mut seen = ClassifiedFrame::default();
    seen.look_at(frame);
    (seen.subject, seen.malformed)
}

impl ClassifiedFrame {
    /// Classifies `frame`, in place, because the result is much to move.
    pub(super) fn look_at(&mut self, frame: &Frame) {
        if let Some((name, tcp)) = segment(frame.ethernet()) {
            self.subject = FrameSubject::Tcp(name, tcp);
            self.malformed = None;
        } else {
            // Decodes again: were it handed the packet, that could not stay in registers above.
            (self.subject, self.malformed) = other(frame);
        }
    }
}

/// The connection and the header of a segment that belongs to a stream; `None` for everything else.
#[inline(always)]
pub(crate) fn segment<F: FrameBytes + ?Sized>(octets: &F) -> Option<(FlowKey, Tcp)> {
    let segment = TcpSegment::find(octets)?;
    let tcp = segment.tcp;
    // RFC 9293, section 3.5.3: a reset may carry text, which is not part of the stream. A SYN with RST
    // or FIN opens nothing.
    let is_reset_with_text = tcp.flags & flag::RST != 0 && tcp.payload_len > 0;
    let is_odd_syn = tcp.flags & flag::SYN != 0 && tcp.flags & (flag::RST | flag::FIN) != 0;
    if is_reset_with_text || is_odd_syn {
        return None;
    }
    Some((segment.key(Direction::FromGuest), tcp))
}

/// Classifies a frame that is no segment of a stream.
#[inline(never)]
fn other(frame: &Frame) -> (FrameSubject, Option<Malformed>) {
    let octets = frame.ethernet();
    let packet = match decode::decode(octets, None) {
        Ok(packet) => packet,
        Err(malformed) => return (unreadable(octets), Some(malformed)),
    };
    let Some(ip) = packet.ip else {
        return not_ip(octets, packet.ethertype);
    };
    let key = flow_key(&ip, packet.vlan);
    match fragment::read(octets, &ip) {
        Ok(None) => {}
        Ok(Some(fragment)) => {
            return (FrameSubject::Fragment(marked(key, kind::FRAGMENT), fragment), None);
        }
        Err(malformed) => return (unreadable(octets), Some(malformed)),
    }
    match ip.protocol {
        protocol::TCP if decode_tcp(octets, &ip).is_err() => malformed(&ip, key),
        protocol::TCP => (FrameSubject::Datagram(marked(key, kind::ODD_TCP), whole(&ip)), None),
        // RFC 3376, section 4.
        protocol::IGMP if ip.version == 4 && hops(octets, &ip) == Some(1) => {
            (FrameSubject::Uncompared(Uncompared::Igmp), None)
        }
        protocol::ICMPV6 if ip.version == 6 => icmp(octets, &ip, key),
        protocol::ICMP if ip.version == 4 => icmp(octets, &ip, key),
        protocol::UDP | UDP_LITE => udp(frame, &ip, key),
        _ => datagram(octets, &ip, key),
    }
}

/// The compared part of a fragment whose packet is not put together: its bytes and its place.
/// The id is each guest's own.
pub(super) fn fragment_body(fragment: &Fragment) -> DatagramBody {
    let label = u32::from(fragment.offset) | u32::from(fragment.more);
    DatagramBytes { label, ..DatagramBytes::plain(fragment.at, fragment.end) }.into()
}

/// The flow is one of fragments that stayed alone.
pub(super) fn is_of_fragments(name: &FlowKey) -> bool {
    name.reserved == marked(FlowKey::default(), kind::FRAGMENT).reserved
}

/// How to compare a frame that the rule leaves out: by all of its bytes.
pub(super) fn opaque(frame: &Frame) -> (FlowKey, DatagramBody) {
    let octets = frame.ethernet();
    let Ok(packet) = decode::decode(octets, None) else {
        return (marked(FlowKey::default(), kind::UNCOMPARED), behind_addresses(octets));
    };
    if let Some(ip) = packet.ip {
        let key = marked(flow_key(&ip, packet.vlan), kind::UNCOMPARED);
        // ICMPv6 or IGMP: both begin with two bytes that say what it is, and a checksum.
        let head: [u8; 2] = octets.read(ip.payload_at as usize).unwrap_or_default();
        let key = FlowKey { guest_port: u16::from_be_bytes(head), ..key };
        return (key, icmp::body(octets, &ip, head[0]).into());
    }
    let key = FlowKey { vlan: packet.vlan, guest_port: packet.ethertype, ..FlowKey::default() };
    (marked(key, kind::UNCOMPARED), behind_addresses(octets))
}

/// A third tag may hide a packet from us, but not from a device that removes tags one by one.
fn not_ip(octets: &[u8], kind: u16) -> (FrameSubject, Option<Malformed>) {
    if matches!(kind, ethertype::VLAN | ethertype::QINQ) {
        return (unreadable(octets), Some(Malformed::Ethernet));
    }
    (FrameSubject::Uncompared(Uncompared::EtherType(kind)), None)
}

/// The hop limit, or time to live.
fn hops(octets: &[u8], ip: &IpHeader) -> Option<u8> {
    let at = ip.at as usize + if ip.version == 4 { 8 } else { 7 };
    octets.read(at).map(|[hops]: [u8; 1]| hops)
}

/// The `ICMPv6` messages for the link alone, which no router passes on. A message of the same type
/// that a router could pass on is compared like others: its receiver might accept it.
fn for_the_link(kind: u8, code: u8, hops: Option<u8>) -> Option<Uncompared> {
    match (kind, code, hops?) {
        // RFC 4861, section 3.1: a hop limit of 255 shows that no router has.
        (133..=137, 0, 255) => Some(Uncompared::NeighbourDiscovery),
        // RFC 2710, section 3; RFC 3810, section 5.
        (130..=132 | 143, _, 1) => Some(Uncompared::MulticastListener),
        _ => None,
    }
}

/// The key without ports.
fn flow_key(ip: &IpHeader, vlan: [u16; 2]) -> FlowKey {
    FlowKey {
        guest_addr: ip.src,
        peer_addr: ip.dst,
        guest_port: 0,
        peer_port: 0,
        vlan,
        ip_version: ip.version,
        protocol: ip.protocol,
        reserved: [0; 2],
    }
}

fn marked(key: FlowKey, kind: u8) -> FlowKey {
    FlowKey { reserved: [kind, 0], ..key }
}

/// A frame whose headers cannot be trusted: everything behind the addresses must be the same.
fn unreadable(octets: &[u8]) -> FrameSubject {
    FrameSubject::Datagram(marked(FlowKey::default(), kind::MALFORMED), behind_addresses(octets))
}

fn behind_addresses(octets: &[u8]) -> DatagramBody {
    let end = octets.len() as u32;
    DatagramBytes::plain(12.min(end), end).into()
}

fn whole(ip: &IpHeader) -> DatagramBody {
    DatagramBytes::plain(ip.payload_at, ip.end).into()
}

/// A packet whose transport header is none.
fn malformed(ip: &IpHeader, key: FlowKey) -> (FrameSubject, Option<Malformed>) {
    (FrameSubject::Datagram(marked(key, kind::MALFORMED), whole(ip)), Some(Malformed::Transport))
}

/// Echo requests and replies are a flow by identifier, the other messages by type and code.
fn icmp(octets: &[u8], ip: &IpHeader, key: FlowKey) -> (FrameSubject, Option<Malformed>) {
    let at = ip.payload_at as usize;
    let head: Option<[u8; 2]> = octets.read(at);
    let Some([kind, code]) = head.filter(|_| ip.payload_at + icmp::HEADER_LEN <= ip.end) else {
        return malformed(ip, key);
    };
    if ip.version == 6
        && let Some(uncompared) = for_the_link(kind, code, hops(octets, ip))
    {
        return (FrameSubject::Uncompared(uncompared), None);
    }
    let is_echo = matches!((ip.version, kind), (4, 0 | 8) | (6, 128 | 129));
    let id: Option<[u8; 2]> =
        octets.read(at + 4).filter(|_| is_echo && ip.payload_at + 8 <= ip.end);
    let key = FlowKey {
        guest_port: u16::from_be_bytes([kind, code]),
        peer_port: id.map_or(0, u16::from_be_bytes),
        ..key
    };
    (FrameSubject::Datagram(key, icmp::body(octets, ip, kind).into()), None)
}

/// UDP: the payload, and the length that the header gives. The checksum does not count, a partial
/// and a full one are the same datagram.
fn udp(frame: &Frame, ip: &IpHeader, key: FlowKey) -> (FrameSubject, Option<Malformed>) {
    const HEADER_LEN: u32 = 8;
    let octets = frame.ethernet();
    let header: Option<[u8; 6]> = octets.read(ip.payload_at as usize);
    let Some([s0, s1, d0, d1, l0, l1]) = header.filter(|_| ip.payload_at + HEADER_LEN <= ip.end)
    else {
        return malformed(ip, key);
    };
    let payload = DatagramBytes {
        lead: HEADER_LEN,
        label: u32::from(u16::from_be_bytes([l0, l1])),
        ..DatagramBytes::plain(ip.payload_at + HEADER_LEN, ip.end)
    };
    let (guest_port, peer_port) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let key = FlowKey { guest_port, peer_port, ..key };
    let size = frame.udp_segment_size().filter(|_| ip.protocol == protocol::UDP);
    let body = size.map_or_else(|| payload.into(), |size| DatagramBody::udp_batch(payload, size));
    (FrameSubject::Datagram(key, body), None)
}

fn datagram(octets: &[u8], ip: &IpHeader, key: FlowKey) -> (FrameSubject, Option<Malformed>) {
    const DCCP: u8 = 33;
    const SCTP: u8 = 132;
    if !matches!(ip.protocol, DCCP | SCTP) {
        return (FrameSubject::Datagram(key, whole(ip)), None);
    }
    let Ok((guest_port, peer_port)) = decode_ports(octets, ip) else { return malformed(ip, key) };
    (FrameSubject::Datagram(FlowKey { guest_port, peer_port, ..key }, whole(ip)), None)
}

impl Uncompared {
    /// The name that the statistics use.
    pub(super) fn name(self) -> String {
        match self {
            Self::EtherType(ethertype::ARP) => "arp".to_owned(),
            Self::EtherType(0x88cc) => "lldp".to_owned(),
            Self::EtherType(0..0x600) => "802.3".to_owned(),
            Self::EtherType(other) => format!("{other:#06x}"),
            Self::NeighbourDiscovery => "ipv6-nd".to_owned(),
            Self::MulticastListener => "ipv6-mld".to_owned(),
            Self::Igmp => "igmp".to_owned(),
        }
    }

    /// The kind with this name. All 802.3 lengths have one name.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "arp" => Self::EtherType(ethertype::ARP),
            "lldp" => Self::EtherType(0x88cc),
            "802.3" => Self::EtherType(0),
            "ipv6-nd" => Self::NeighbourDiscovery,
            "ipv6-mld" => Self::MulticastListener,
            "igmp" => Self::Igmp,
            other => Self::EtherType(u16::from_str_radix(other.strip_prefix("0x")?, 16).ok()?),
        })
    }
}
