//! The result of etherparse for the same frame.

use colo_proxy_common::decode::{
    IpHeader, Malformed, PacketHeaders, decode_ports, decode_tcp, ethertype, protocol,
};
use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice};

/// Headers that etherparse follows in IPv6 and our decoder does not: mobility, HIP and shim6. They
/// are rare enough for a comparison byte by byte, like any other protocol.
const UNFOLLOWED: [u8; 3] = [135, 139, 140];

/// If both accept a frame, both must agree.
pub(super) fn compare(frame: &[u8], packet: Result<PacketHeaders, Malformed>) {
    let Ok(packet) = packet else { return };
    let Ok(theirs) = SlicedPacket::from_ethernet(frame) else { return };
    if !is_tagged_alike(packet, &theirs) {
        return;
    }
    match (packet.ip, &theirs.net) {
        (Some(ip), Some(net)) => compare_ip(frame, ip, net, &theirs),
        (Some(ip), None) => assert_eq!(ip.version, 0, "IP for us only: {ip:?}"),
        (None, Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_))) => {
            assert_eq!(packet.ethertype, 0, "IP for etherparse only");
        }
        (None, _) => {}
    }
}

/// The tags are the same. etherparse follows more tags, some of other kinds. Those frames are not
/// compared further.
fn is_tagged_alike(packet: PacketHeaders, theirs: &SlicedPacket<'_>) -> bool {
    let mut ids = [0; 2];
    if theirs.link_exts.len() > ids.len() {
        return false;
    }
    for (id, ext) in ids.iter_mut().zip(&theirs.link_exts) {
        let LinkExtSlice::Vlan(tag) = ext else { return false };
        *id = tag.vlan_identifier().value();
    }
    let is_tag = |kind: u16| matches!(kind, ethertype::VLAN | ethertype::QINQ | 0x9100 | 0x88e5);
    if is_tag(packet.ethertype) {
        return false;
    }
    assert_eq!(packet.vlan, ids);
    true
}

fn compare_ip(frame: &[u8], ip: IpHeader, net: &NetSlice<'_>, theirs: &SlicedPacket<'_>) {
    let payload = match net {
        NetSlice::Ipv4(v4) => {
            assert_eq!((ip.version, &ip.src[..4]), (4, &v4.header().source()[..]));
            assert_eq!(&ip.dst[..4], &v4.header().destination()[..]);
            // etherparse takes the authentication header for one of IPv4's own.
            if ip.protocol == protocol::AH {
                return;
            }
            v4.payload()
        }
        NetSlice::Ipv6(v6) => {
            assert_eq!((ip.version, ip.src), (6, v6.header().source()));
            assert_eq!(ip.dst, v6.header().destination());
            // For us, and on Ethernet, a jumbogram (RFC 2675) is malformed. After a header where
            // etherparse stops, it takes the rest for a payload.
            if v6.header().payload_length() == 0 || is_unfollowed(ip, v6) {
                return;
            }
            v6.payload()
        }
        NetSlice::Arp(_) => return assert_eq!(ip.version, 0, "ARP for etherparse"),
    };
    assert_eq!(&frame[ip.payload_at as usize..ip.end as usize], payload.payload);
    assert_eq!(ip.protocol, payload.ip_number.0);
    let is_part = ip.fragment.is_some();
    assert_eq!(is_part, payload.fragmented, "{ip:?}");
    if !is_part {
        compare_transport(frame, ip, theirs);
    }
}

/// The walk over the extension headers ends for only one of the two: at one of those above, at a
/// hop-by-hop header that is not the first (RFC 8200, section 4.1), after the headers in the usual
/// order, or at our limit.
fn is_unfollowed(ip: IpHeader, v6: &etherparse::Ipv6Slice<'_>) -> bool {
    let is_extension = |next: u8| {
        let ours = [
            protocol::HOP_BY_HOP,
            protocol::ROUTING,
            protocol::FRAGMENT,
            protocol::AH,
            protocol::DESTINATION,
        ];
        ours.contains(&next) || UNFOLLOWED.contains(&next)
    };
    is_extension(ip.protocol) || is_extension(v6.payload().ip_number.0)
}

fn compare_transport(frame: &[u8], ip: IpHeader, theirs: &SlicedPacket<'_>) {
    match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => compare_tcp(frame, ip, tcp),
        Some(TransportSlice::Udp(udp)) => {
            let ports = (udp.source_port(), udp.destination_port());
            assert_eq!((ip.protocol, decode_ports(frame, &ip)), (protocol::UDP, Ok(ports)));
        }
        _ => assert_ne!(ip.protocol, protocol::TCP, "etherparse refuses this segment as a whole"),
    }
}

fn compare_tcp(frame: &[u8], ip: IpHeader, theirs: &TcpSlice<'_>) {
    let ours = decode_tcp(frame, &ip);
    assert!(ours.is_ok(), "TCP for etherparse only: {ours:?}");
    let Ok(tcp) = ours else { return };
    assert_eq!(
        (tcp.src_port, tcp.dst_port, tcp.seq, tcp.ack),
        (
            theirs.source_port(),
            theirs.destination_port(),
            theirs.sequence_number(),
            theirs.acknowledgment_number()
        )
    );
    assert_eq!((tcp.window, tcp.urgent), (theirs.window_size(), theirs.urgent_pointer()));
    assert_eq!(tcp.flags, theirs.slice()[13]);
    assert_eq!(usize::from(tcp.options_len), theirs.options().len());
    assert_eq!(&frame[tcp.payload_at as usize..ip.end as usize], theirs.payload());
}
