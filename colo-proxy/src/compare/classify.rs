//! What a frame is to the comparison.

use colo_proxy_common::decode::{
    self, Ip, Malformed, Octets, Tcp, decode_ports, decode_tcp, ethertype, flag, protocol,
};
use colo_proxy_common::record::FlowKey;

use crate::frame::Frame;

/// Values of `FlowKey::reserved[0]`, which keep apart what must not share a flow.
mod kind {
    pub(super) const FRAGMENT: u8 = 1;
    pub(super) const MALFORMED: u8 = 2;
    pub(super) const ODD_TCP: u8 = 3;
}

/// A frame as the comparison sees it.
#[derive(Debug)]
pub(super) enum Subject {
    /// Not compared: the primary's leaves at once, the secondary's is dropped.
    Uncompared(Uncompared),
    Tcp(FlowKey, Tcp),
    Datagram(FlowKey, Body),
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

/// The octets of a frame that make a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// Where it starts in the Ethernet frame.
    pub(super) at: u32,
    /// One past its end.
    pub(super) end: u32,
    /// Where, from `at` on, two octets of checksum lie that do not count: a partial and a full
    /// checksum are the same datagram.
    pub(super) checksum_at: Option<u32>,
    /// Position in the packet that this is a fragment of, `None` for a whole one.
    pub(super) fragment: Option<(u16, bool)>,
}

impl Subject {
    /// The flow that it belongs to.
    pub(super) fn name(&self) -> FlowKey {
        match self {
            Self::Uncompared(_) => FlowKey::default(),
            Self::Tcp(name, _) | Self::Datagram(name, _) => *name,
        }
    }
}

/// Says what `frame` is, and whether it was malformed.
pub(super) fn classify(frame: &Frame) -> (Subject, Option<Malformed>) {
    let octets = frame.ethernet();
    let packet = match decode::decode(octets, None) {
        Ok(packet) => packet,
        Err(malformed) => return (unreadable(octets), Some(malformed)),
    };
    let Some(ip) = packet.ip else {
        return (Subject::Uncompared(Uncompared::EtherType(packet.ethertype)), None);
    };
    let key = flow_key(&ip, packet.vlan);
    if let Some(fragment) = ip.fragment {
        let body = Body {
            at: ip.payload_at,
            end: ip.end,
            checksum_at: None,
            fragment: Some((fragment.offset, fragment.more)),
        };
        return (Subject::Datagram(marked(key, kind::FRAGMENT), body), None);
    }
    match ip.protocol {
        protocol::TCP => tcp(octets, &ip, key),
        protocol::IGMP if ip.version == 4 => (Subject::Uncompared(Uncompared::Igmp), None),
        protocol::ICMPV6 if ip.version == 6 => icmp(octets, &ip, key),
        protocol::ICMP if ip.version == 4 => icmp(octets, &ip, key),
        _ => datagram(octets, &ip, key),
    }
}

/// The key without ports.
fn flow_key(ip: &Ip, vlan: [u16; 2]) -> FlowKey {
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
fn unreadable(octets: &[u8]) -> Subject {
    let end = octets.len() as u32;
    let body = Body { at: 12.min(end), end, checksum_at: None, fragment: None };
    Subject::Datagram(marked(FlowKey::default(), kind::MALFORMED), body)
}

fn whole(ip: &Ip) -> Body {
    Body { at: ip.payload_at, end: ip.end, checksum_at: None, fragment: None }
}

fn tcp(octets: &[u8], ip: &Ip, key: FlowKey) -> (Subject, Option<Malformed>) {
    let tcp = match decode_tcp(octets, ip) {
        Ok(tcp) => tcp,
        Err(malformed) => {
            return (Subject::Datagram(marked(key, kind::MALFORMED), whole(ip)), Some(malformed));
        }
    };
    // RFC 9293, section 3.5.3: a reset may carry text, which is not part of the stream. A SYN with
    // RST or FIN opens nothing.
    let is_reset_with_text = tcp.flags & flag::RST != 0 && tcp.payload_len > 0;
    let is_odd_syn = tcp.flags & flag::SYN != 0 && tcp.flags & (flag::RST | flag::FIN) != 0;
    if is_reset_with_text || is_odd_syn {
        return (Subject::Datagram(marked(key, kind::ODD_TCP), whole(ip)), None);
    }
    let key = FlowKey { guest_port: tcp.src_port, peer_port: tcp.dst_port, ..key };
    (Subject::Tcp(key, tcp), None)
}

/// Echo requests and replies are a flow by identifier, the other messages by type and code.
fn icmp(octets: &[u8], ip: &Ip, key: FlowKey) -> (Subject, Option<Malformed>) {
    let at = ip.payload_at as usize;
    let head: Option<[u8; 2]> = octets.read(at);
    let Some([kind, code]) = head.filter(|_| ip.payload_at + 4 <= ip.end) else {
        let malformed = Some(Malformed::Transport);
        return (Subject::Datagram(marked(key, kind::MALFORMED), whole(ip)), malformed);
    };
    if ip.version == 6 {
        match kind {
            133..=137 => return (Subject::Uncompared(Uncompared::NeighbourDiscovery), None),
            130..=132 | 143 => return (Subject::Uncompared(Uncompared::MulticastListener), None),
            _ => {}
        }
    }
    let is_echo = matches!((ip.version, kind), (4, 0 | 8) | (6, 128 | 129));
    let id: Option<[u8; 2]> =
        octets.read(at + 4).filter(|_| is_echo && ip.payload_at + 8 <= ip.end);
    let key = FlowKey {
        guest_port: u16::from_be_bytes([kind, code]),
        peer_port: id.map_or(0, u16::from_be_bytes),
        ..key
    };
    // An ICMPv6 checksum covers the addresses and may be left to the device, like UDP's.
    (Subject::Datagram(key, Body { checksum_at: Some(2), ..whole(ip) }), None)
}

fn datagram(octets: &[u8], ip: &Ip, key: FlowKey) -> (Subject, Option<Malformed>) {
    const DCCP: u8 = 33;
    const SCTP: u8 = 132;
    const UDP_LITE: u8 = 136;
    if !matches!(ip.protocol, protocol::UDP | DCCP | SCTP | UDP_LITE) {
        return (Subject::Datagram(key, whole(ip)), None);
    }
    let (guest_port, peer_port) = match decode_ports(octets, ip) {
        Ok(ports) => ports,
        Err(malformed) => {
            return (Subject::Datagram(marked(key, kind::MALFORMED), whole(ip)), Some(malformed));
        }
    };
    let has_checksum = matches!(ip.protocol, protocol::UDP | UDP_LITE);
    let body = Body { checksum_at: has_checksum.then_some(6), ..whole(ip) };
    (Subject::Datagram(FlowKey { guest_port, peer_port, ..key }, body), None)
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
}
