//! The decoder against etherparse, and against whatever else may arrive.

mod frame;

use colo_proxy_common::decode::{
    PacketHeaders, Tcp, TcpOptions, decode, decode_ports, decode_tcp, decode_tcp_options, ethertype,
};
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice, VlanSlice};
use frame::{Checksum, any_shape};
use proptest::prelude::*;

fn all(bytes: &[u8]) -> Option<(PacketHeaders, Tcp, TcpOptions)> {
    let packet = decode(bytes, None).ok()?;
    let tcp = decode_tcp(bytes, packet.ip.as_ref()?).ok()?;
    let options = decode_tcp_options(bytes, &tcp);
    Some((packet, tcp, options))
}

/// Options as etherparse reads them; the last one of a kind counts.
fn oracle_options(tcp: &etherparse::TcpSlice<'_>) -> TcpOptions {
    let mut found = TcpOptions::default();
    for element in tcp.options_iterator() {
        match element {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => found.mss = Some(mss),
            Ok(TcpOptionElement::WindowScale(shift)) => found.window_scale = Some(shift),
            Ok(TcpOptionElement::SelectiveAcknowledgementPermitted) => found.sack_permitted = true,
            Ok(TcpOptionElement::Timestamp(value, echo)) => {
                found.timestamps =
                    Some(colo_proxy_common::decode::Timestamps { value, echo, at: 0 });
            }
            Ok(TcpOptionElement::SelectiveAcknowledgement(_, more)) => {
                let blocks = 1 + more.iter().flatten().count() as u8;
                found.sack = Some(colo_proxy_common::decode::Sack { at: 0, blocks });
            }
            // An option that it does not know ends its walk, not ours.
            Ok(TcpOptionElement::Noop) | Err(_) => {}
        }
    }
    found
}

fn without_places(mut options: TcpOptions) -> TcpOptions {
    options.timestamps.iter_mut().for_each(|t| t.at = 0);
    options.sack.iter_mut().for_each(|s| s.at = 0);
    options
}

/// RFC 9293, section 3.1, read byte by byte: where the values of the last timestamps and the last
/// SACK option lie in `options`, and how many bytes the blocks take.
fn places(options: &[u8]) -> (Option<usize>, Option<(usize, usize)>) {
    let (mut timestamps, mut sack) = (None, None);
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        if options[at] == 1 {
            at += 1;
            continue;
        }
        let Some(len) = options.get(at + 1).map(|len| usize::from(*len)) else { break };
        if len < 2 || at + len > options.len() {
            break;
        }
        match (options[at], len) {
            (8, 10) => timestamps = Some(at + 2),
            (5, 10 | 18 | 26 | 34) => sack = Some((at + 2, len - 2)),
            _ => {}
        }
        at += len;
    }
    (timestamps, sack)
}

/// Options as they usually come, now and then with a wrong byte, and any bytes.
fn any_option_bytes() -> impl Strategy<Value = Vec<u8>> {
    let sack_len = prop_oneof![Just(10u8), Just(18), Just(26), Just(34), any::<u8>()];
    let usual = (any::<bool>(), proptest::option::of(sack_len), any::<[u8; 40]>()).prop_map(
        |(timestamps, sack_len, mut option_bytes)| {
            let mut len = 0;
            if timestamps {
                option_bytes[..4].copy_from_slice(&[1, 1, 8, 10]);
                len = 12;
            }
            if let Some(sack_len) = sack_len {
                option_bytes[len..len + 4].copy_from_slice(&[1, 1, 5, sack_len]);
                len += 2 + usize::from(sack_len);
            }
            option_bytes[..len.min(40).next_multiple_of(4)].to_vec()
        },
    );
    let damaged = (usual, any::<prop::sample::Index>(), proptest::option::of(any::<u8>()))
        .prop_map(|(mut option_bytes, at, byte)| {
            if let (Some(byte), false) = (byte, option_bytes.is_empty()) {
                let at = at.index(option_bytes.len().min(17));
                option_bytes[at] = byte;
            }
            option_bytes
        });
    let words = proptest::collection::vec(any::<[u8; 4]>(), 0..=10)
        .prop_map(|words| words.as_flattened().to_vec());
    prop_oneof![4 => damaged, 1 => words]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The short cut for what usually comes finds what a walk finds.
    #[test]
    fn options_lie_where_a_walk_finds_them(option_bytes in any_option_bytes(), behind in 0usize..30) {
        let mut bytes = frame::Shape::default().build(Checksum::Full);
        bytes.extend(&option_bytes);
        bytes.resize(bytes.len() + behind, 5);
        bytes[46] = ((20 + option_bytes.len()) / 4 * 16) as u8;
        let len = (bytes.len() - 14) as u16;
        bytes[16..18].copy_from_slice(&len.to_be_bytes());
        let (_, tcp, options) = all(&bytes).expect("a whole frame");
        prop_assert_eq!(usize::from(tcp.options_len), option_bytes.len());
        let (timestamps, sack) = places(&option_bytes);
        let found = options.timestamps.map(|found| found.at as usize - 54);
        prop_assert_eq!(found, timestamps);
        if let Some(found) = options.timestamps {
            let at = found.at as usize;
            let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
            prop_assert_eq!((found.value, found.echo), (number(at), number(at + 4)));
        }
        let found = options.sack.map(|f| (f.at as usize - 54, usize::from(f.blocks) * 8));
        prop_assert_eq!(found, sack);
    }
}

proptest! {
    #[test]
    fn agrees_with_etherparse(shape in any_shape()) {
        let bytes = shape.build(Checksum::Full);
        let (packet, tcp, options) = all(&bytes).expect("a whole frame");
        let oracle = SlicedPacket::from_ethernet(&bytes).expect("a whole frame");

        let ids: Vec<u16> = match oracle.vlan() {
            None => vec![],
            Some(VlanSlice::SingleVlan(tag)) => vec![tag.vlan_identifier().value()],
            Some(VlanSlice::DoubleVlan(tags)) => vec![
                tags.outer.vlan_identifier().value(),
                tags.inner.vlan_identifier().value(),
            ],
        };
        let ours: Vec<u16> = packet.vlan.into_iter().filter(|id| *id != 0).collect();
        prop_assert_eq!(ours, ids);

        let ip = packet.ip.expect("IP");
        let (payload, fragmented) = match oracle.net.as_ref().expect("IP") {
            NetSlice::Ipv4(v4) => {
                prop_assert_eq!((ip.version, &ip.src[..4]), (4, &v4.header().source()[..]));
                prop_assert_eq!(&ip.dst[..4], &v4.header().destination()[..]);
                (v4.payload().payload, v4.payload().fragmented)
            }
            NetSlice::Ipv6(v6) => {
                prop_assert_eq!((ip.version, ip.src), (6, v6.header().source()));
                prop_assert_eq!(ip.dst, v6.header().destination());
                (v6.payload().payload, v6.payload().fragmented)
            }
            NetSlice::Arp(_) => unreachable!("not built"),
        };
        prop_assert_eq!(&bytes[ip.payload_at as usize..ip.end as usize], payload);
        prop_assert_eq!(ip.fragment.is_some(), fragmented);

        let Some(TransportSlice::Tcp(theirs)) = &oracle.transport else {
            return Err(TestCaseError::fail("no TCP"));
        };
        prop_assert_eq!(
            (tcp.src_port, tcp.dst_port, tcp.seq, tcp.ack, tcp.window, tcp.urgent),
            (
                theirs.source_port(),
                theirs.destination_port(),
                theirs.sequence_number(),
                theirs.acknowledgment_number(),
                theirs.window_size(),
                theirs.urgent_pointer()
            )
        );
        prop_assert_eq!(tcp.flags, shape.flags);
        prop_assert_eq!(usize::from(tcp.options_len), theirs.options().len());
        let start = tcp.payload_at as usize;
        prop_assert_eq!(&bytes[start..start + tcp.payload_len as usize], theirs.payload());
        prop_assert_eq!(decode_ports(&bytes[..], &ip), Ok((tcp.src_port, tcp.dst_port)));

        let knows_all = shape.options.iter().all(|o| !matches!(o, frame::TcpOption::Unknown(..)));
        if knows_all {
            prop_assert_eq!(without_places(options), oracle_options(theirs));
        }
    }

    /// A frame that is cut anywhere is malformed, or was only padding there.
    #[test]
    fn cut_anywhere(shape in any_shape()) {
        let bytes = shape.build(Checksum::Full);
        let whole = all(&bytes);
        let end = bytes.len() - shape.padding;
        for len in 0..bytes.len() {
            let cut = all(&bytes[..len]);
            prop_assert!(if len < end { cut.is_none() } else { cut == whole }, "at {}", len);
        }
    }

    /// One byte changed, anywhere: nothing beyond the frame is pointed at.
    #[test]
    fn changed_anywhere(shape in any_shape(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = shape.build(Checksum::Full);
        let at = at.index(bytes.len());
        bytes[at] = to;
        points_inside(&bytes)?;
    }

    #[test]
    fn any_octets(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..6) {
        let mut bytes = bytes;
        // Most random frames are of no known kind.
        let kinds = [ethertype::IPV4, ethertype::IPV6, ethertype::VLAN, ethertype::QINQ];
        if let (Some(kind), Some(place)) = (kinds.get(kind), bytes.get_mut(12..15)) {
            place[..2].copy_from_slice(&kind.to_be_bytes());
            place[2] = if *kind == ethertype::IPV4 { 0x45 } else { 0x60 };
        }
        points_inside(&bytes)?;
    }
}

fn points_inside(bytes: &[u8]) -> Result<(), TestCaseError> {
    for outer_tag in [None, Some(0x2fff)] {
        let Ok(packet) = decode(bytes, outer_tag) else { continue };
        let Some(ip) = packet.ip else { continue };
        prop_assert!(ip.at < ip.payload_at && ip.payload_at <= ip.end);
        prop_assert!(ip.end as usize <= bytes.len());
        let _ = decode_ports(bytes, &ip);
        let Ok(tcp) = decode_tcp(bytes, &ip) else { continue };
        prop_assert!(tcp.payload_at + tcp.payload_len == ip.end);
        let options = decode_tcp_options(bytes, &tcp);
        let inside = |at: u32, len: u32| at >= tcp.at + 20 && at + len <= tcp.payload_at;
        prop_assert!(options.timestamps.is_none_or(|t| inside(t.at, 8)));
        prop_assert!(options.sack.is_none_or(|s| inside(s.at, u32::from(s.blocks) * 8)));
    }
    Ok(())
}

#[test]
fn a_tag_beside_the_frame_is_the_outer_one() {
    let shape = frame::Shape { vlans: vec![20], ..frame::Shape::default() };
    let bytes = shape.build(Checksum::Full);
    let packet = decode(&bytes[..], Some(0x600a)).expect("a whole frame");
    assert_eq!(packet.vlan, [10, 20]);
}
