//! The packet decoder on any frame. It never panics, and points only into the frame. Bytes after
//! the packet do not matter. If etherparse understands the frame too, both agree.

mod oracle;

use colo_proxy_common::decode::{
    IpHeader, Malformed, PacketHeaders, Tcp, TcpOptions, decode, decode_ports, decode_tcp,
    decode_tcp_options,
};

/// The frame is the input, unchanged.
pub fn run(frame: &[u8]) {
    for outer_tag in [None, Some(0x2fff)] {
        let packet = decode(frame, outer_tag);
        let Ok(PacketHeaders { ip: Some(ip), vlan, .. }) = packet else { continue };
        assert!(vlan.iter().all(|id| *id < 4096), "{vlan:?}");
        points_inside(frame, &ip);
        ends_where_it_says(frame, outer_tag, packet, &ip);
    }
    oracle::compare(frame, decode(frame, None));
}

/// Every offset is inside the packet, and the packet is inside the frame.
fn points_inside(frame: &[u8], ip: &IpHeader) {
    let header_min = if ip.version == 4 { 20 } else { 40 };
    assert!(ip.at + header_min <= ip.payload_at && ip.payload_at <= ip.end, "{ip:?}");
    assert!(ip.end as usize <= frame.len(), "{ip:?} in {} bytes", frame.len());
    let whole: Result<Tcp, Malformed> = decode_tcp(frame, ip);
    let Ok(tcp) = whole else { return };
    assert!(decode_ports(frame, ip) == Ok((tcp.src_port, tcp.dst_port)));
    assert_eq!(tcp.at, ip.payload_at);
    assert_eq!(tcp.at + 20 + u32::from(tcp.options_len), tcp.payload_at);
    assert_eq!(tcp.payload_at + tcp.payload_len, ip.end);
    let options = decode_tcp_options(frame, &tcp);
    let inside = |at: u32, len: u32| at >= tcp.at + 22 && at + len <= tcp.payload_at;
    assert!(options.timestamps.is_none_or(|found| inside(found.at, 8)), "{options:?}");
    assert!(
        options.sack.is_none_or(|found| (1..=4).contains(&found.blocks)
            && inside(found.at, u32::from(found.blocks) * 8)),
        "{options:?}"
    );
    assert_eq!(options, slow_options(frame, &tcp));
}

/// A second reading of the options, one after another (RFC 9293, section 3.1).
fn slow_options(frame: &[u8], tcp: &Tcp) -> TcpOptions {
    let start = tcp.at as usize + 20;
    let octets = &frame[start..start + usize::from(tcp.options_len)];
    let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| octets[at + n]));
    let mut found = TcpOptions::default();
    let mut at = 0;
    while at < octets.len() && octets[at] != 0 {
        if octets[at] == 1 {
            at += 1;
            continue;
        }
        let len = usize::from(octets.get(at + 1).copied().unwrap_or(0));
        if len < 2 || at + len > octets.len() {
            break;
        }
        let place = (start + at + 2) as u32;
        match (octets[at], len) {
            (2, 4) => found.mss = Some(u16::from_be_bytes([octets[at + 2], octets[at + 3]])),
            (3, 3) => found.window_scale = Some(octets[at + 2]),
            (4, 2) => found.sack_permitted = true,
            (5, 10 | 18 | 26 | 34) => {
                let blocks = (len / 8) as u8;
                found.sack = Some(colo_proxy_common::decode::Sack { at: place, blocks });
            }
            (8, 10) => {
                let (value, echo) = (word(at + 2), word(at + 6));
                let timestamps = colo_proxy_common::decode::Timestamps { value, echo, at: place };
                found.timestamps = Some(timestamps);
            }
            _ => {}
        }
        at += len;
    }
    found
}

/// Padding is no part of the packet: without padding, and with more, the packet is the same. With
/// one byte less, there is no packet.
fn ends_where_it_says(
    frame: &[u8],
    outer_tag: Option<u16>,
    packet: Result<PacketHeaders, Malformed>,
    ip: &IpHeader,
) {
    let end = ip.end as usize;
    assert_eq!(decode(&frame[..end], outer_tag), packet);
    assert_eq!(decode(&[frame, &[0x45; 9]].concat()[..], outer_tag), packet);
    assert!(decode(&frame[..end - 1], outer_tag).is_err());
}
