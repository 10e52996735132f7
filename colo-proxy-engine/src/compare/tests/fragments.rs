//! Packets in fragments that are put together, and those that contradict themselves.

use std::time::Duration;

use super::cut::{Part, cut, parts, payload_len};
use super::packet::{Link, Tcp, tcp};
use super::rig::{Rig, hand_in, is_settled};
use crate::compare::{Limits, Policy, Reason, Side};
use crate::frame::Frame;

pub(super) const LINK: Link = Link { ip_version: 4, vlan: [0, 0], peer: 9 };

pub(super) const LINKS: [Link; 4] = [
    LINK,
    Link { ip_version: 6, ..LINK },
    Link { vlan: [5, 0], ..LINK },
    Link { ip_version: 6, vlan: [5, 7], ..LINK },
];

fn octets(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8).collect()
}

/// A datagram with `len` bytes of payload.
pub(super) fn udp(link: Link, len: usize) -> Frame {
    link.udp((53, 4000), &octets(len), 0)
}

/// All of `frames` have to be held, or kept.
#[track_caller]
pub(super) fn keeps(rig: &mut Rig, side: Side, frames: &[Frame]) {
    assert_eq!(hand_in(rig, side, frames), []);
}

pub(super) fn with_limits(change: impl FnOnce(&mut Limits)) -> Rig {
    let mut limits = Limits::default();
    change(&mut limits);
    Rig::with(limits)
}

#[test]
fn the_same_packet_in_other_pieces_is_the_same() {
    for link in LINKS {
        let whole = udp(link, 3000);
        let sent = [vec![whole.clone()], cut(&whole, 7, &[1480, 2960]), cut(&whole, 7, &[8])];
        let same = [vec![whole.clone()], cut(&whole, 900, &[1480]), cut(&whole, 900, &[16, 2000])];
        for (ours, theirs) in sent.iter().flat_map(|a| same.iter().map(move |b| (a, b))) {
            let mut rig = Rig::new();
            keeps(&mut rig, Side::Primary, ours);
            assert_eq!(rig.engine.stats().held.frames as usize, ours.len());
            assert_eq!(hand_in(&mut rig, Side::Secondary, theirs), *ours);
            is_settled(&rig);
            keeps(&mut rig, Side::Secondary, theirs);
            assert_eq!(hand_in(&mut rig, Side::Primary, ours), *ours);
            is_settled(&rig);
            assert_eq!(rig.engine.stats().released.compared.frames as usize, 2 * ours.len());
        }
    }
}

#[test]
fn pieces_may_come_in_any_order_and_leave_in_the_order_in_which_they_came() {
    let whole = udp(LINK, 3000);
    let pieces = cut(&whole, 7, &[800, 1600, 2400]);
    for turn in 0..4 {
        let mut rig = Rig::new();
        let mut ours = pieces.clone();
        ours.rotate_left(turn);
        ours.swap(0, 2);
        keeps(&mut rig, Side::Primary, &ours);
        let mut theirs = cut(&whole, 8, &[1000, 2000]);
        theirs.reverse();
        assert_eq!(hand_in(&mut rig, Side::Secondary, &theirs), ours);
        is_settled(&rig);
    }
}

#[test]
fn packets_between_the_same_addresses_are_told_apart_by_their_id() {
    let (a, b) = (LINK.udp((1, 2), &[1; 2000], 0), LINK.udp((1, 2), &[2; 2000], 0));
    let (a, b) = (cut(&a, 1, &[1000]), cut(&b, 2, &[1000]));
    let mut rig = Rig::new();
    let mixed = [a[0].clone(), b[0].clone(), b[1].clone(), a[1].clone()];
    keeps(&mut rig, Side::Primary, &mixed);
    keeps(&mut rig, Side::Secondary, &[a[0].clone(), a[1].clone(), b[0].clone()]);
    let released = hand_in(&mut rig, Side::Secondary, &b[1..]);
    // Complete first, it leaves first.
    assert_eq!(released, [b, a].concat());
    is_settled(&rig);
}

#[test]
fn the_same_id_in_another_vlan_or_from_another_address_is_another_packet() {
    let links = [LINK, Link { vlan: [5, 0], ..LINK }, Link { peer: 8, ..LINK }];
    let mut rig = Rig::new();
    let cuts = links.map(|link| cut(&udp(link, 2000), 1, &[1000]));
    for at in 0..2 {
        for pieces in &cuts {
            keeps(&mut rig, Side::Primary, &pieces[at..=at]);
        }
    }
    for pieces in &cuts {
        assert_eq!(hand_in(&mut rig, Side::Secondary, pieces), *pieces);
    }
    is_settled(&rig);
}

#[test]
fn a_differing_byte_is_named_by_its_place_in_the_packet() {
    let mut rig = Rig::new();
    let mut other = octets(3000);
    other[2500] ^= 0x20;
    let ours = cut(&udp(LINK, 3000), 1, &[1480]);
    keeps(&mut rig, Side::Primary, &ours);
    keeps(&mut rig, Side::Secondary, &cut(&LINK.udp((53, 4000), &other, 0), 1, &[800, 1600]));
    assert_eq!(rig.wait(Duration::from_secs(1)), (vec![], vec![Reason::Datagram]));
    let divergence = rig.engine.divergences().next().expect("recorded");
    assert_eq!(divergence.stream_offset, 8 + 2500);
    assert_eq!(divergence.primary_byte, Some(octets(3000)[2500]));
    assert_eq!(divergence.flow.guest_port, 53);
    assert_eq!(rig.checkpoint().0, ours);
}

fn segment(len: usize) -> Tcp {
    tcp(1001).ack(501).data(octets(len))
}

#[test]
fn a_segment_in_fragments_is_part_of_its_stream() {
    for link in LINKS {
        for is_cut in [(true, false), (false, true), (true, true)] {
            let mut rig = Rig::new();
            let base = Tcp { link, ..tcp(1001) }.ack(501);
            rig.accept(&base, 1000, 500);
            let whole = Tcp { link, ..segment(2000) };
            let ours = if is_cut.0 { cut(&whole.build(), 3, &[512]) } else { vec![whole.build()] };
            keeps(&mut rig, Side::Primary, &ours);
            // The same bytes, but the segments end elsewhere, and one more follows.
            let first = Tcp { payload: octets(2000)[..700].to_vec(), ..whole.clone() };
            let second = Tcp { seq: 1701, payload: octets(2000)[700..].to_vec(), ..whole };
            let theirs = [first.build(), second.build()].map(|frame| {
                let id = frame.len() as u32;
                if is_cut.1 { cut(&frame, id, &[16, 400]) } else { vec![frame] }
            });
            assert_eq!(hand_in(&mut rig, Side::Secondary, &theirs.concat()), ours);
            is_settled(&rig);
        }
    }
}

#[test]
fn a_held_segment_in_fragments_serves_as_likeness_of_an_acknowledgment() {
    for link in LINKS {
        let mut rig = Rig::new();
        let base = Tcp { link, ..tcp(1001) };
        rig.accept(&base.clone().ack(501), 1000, 500);
        let ours = Tcp { link, ..segment(2000).ack(900) }.build();
        keeps(&mut rig, Side::Primary, &cut(&ours, 3, &[512]));
        rig.secondary(&base.ack(700));
        let acknowledgment = rig.acknowledgments().pop().expect("the peer is told");
        assert_eq!(acknowledgment.vnet(), [0; 12]);
        let packet = etherparse::SlicedPacket::from_ethernet(acknowledgment.ethernet());
        let packet = packet.expect("well-formed");
        assert!(!packet.is_ip_payload_fragmented());
        let Some(etherparse::TransportSlice::Tcp(tcp)) = &packet.transport else {
            panic!("no TCP: {packet:?}")
        };
        assert_eq!((tcp.acknowledgment_number(), tcp.payload().len()), (700, 0));
        if let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
    }
}

#[test]
fn everything_that_has_ports_or_none_is_put_together() {
    for (protocol, link) in [(1, LINK), (47, LINK), (132, LINK), (58, LINKS[1]), (50, LINKS[1])] {
        let mut payload = octets(2000);
        // An echo reply, in ICMP.
        payload[..2].copy_from_slice(&[if protocol == 58 { 129 } else { 0 }, 0]);
        let whole = link.ip(protocol, &payload, 0);
        let mut rig = Rig::new();
        let ours = cut(&whole, 1, &[1000]);
        keeps(&mut rig, Side::Primary, &ours);
        assert_eq!(hand_in(&mut rig, Side::Secondary, &cut(&whole, 2, &[8, 1600])), ours);
        is_settled(&rig);
    }
}

#[test]
fn a_packet_left_to_the_device_to_fragment_is_one_datagram() {
    let whole = udp(LINK, 3000);
    let mut octets = whole.bytes().to_vec();
    // VIRTIO_NET_HDR_GSO_UDP, 1480 bytes each.
    octets[1] = 3;
    octets[4..6].copy_from_slice(&1480u16.to_le_bytes());
    let ufo = Frame::new(octets.into(), 12).expect("longer than its header");
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, std::slice::from_ref(&ufo));
    let theirs = cut(&whole, 2, &[1480, 2960]);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &theirs), [ufo]);
    is_settled(&rig);
}

/// The IPv4 packet `frame` with four bytes of options.
fn with_options(frame: &Frame, options: [u8; 4]) -> Frame {
    let mut octets = frame.bytes().to_vec();
    octets[26] = 0x46;
    let len = u16::from_be_bytes([octets[28], octets[29]]) + 4;
    octets[28..30].copy_from_slice(&len.to_be_bytes());
    octets.splice(46..46, options);
    Frame::new(octets.into(), 12).expect("longer than its header")
}

#[test]
fn options_of_ipv4_are_no_part_of_the_payload() {
    let whole = udp(LINK, 2000);
    let mut ours = cut(&with_options(&whole, [1, 1, 1, 0]), 1, &[1000]);
    // Only those that say so are copied into every fragment (RFC 791, section 3.1).
    ours[1] = cut(&whole, 1, &[1000])[1].clone();
    for theirs in [vec![whole.clone()], cut(&with_options(&whole, [148, 4, 0, 0]), 9, &[400])] {
        let mut rig = Rig::new();
        keeps(&mut rig, Side::Primary, &ours);
        assert_eq!(hand_in(&mut rig, Side::Secondary, &theirs), ours);
        is_settled(&rig);
    }
}

/// The IPv6 packet `frame` with an extension header of `kind` in front.
fn with_extension(frame: &Frame, kind: u8) -> Frame {
    let mut octets = frame.bytes().to_vec();
    let next = std::mem::replace(&mut octets[12 + 14 + 6], kind);
    let len = u16::from_be_bytes([octets[30], octets[31]]) + 8;
    octets[30..32].copy_from_slice(&len.to_be_bytes());
    octets.splice(66..66, [next, 0, 1, 4, 0, 0, 0, 0]);
    Frame::new(octets.into(), 12).expect("longer than its header")
}

#[test]
fn extension_headers_may_lie_before_the_fragment_header_and_behind_it() {
    const HOP_BY_HOP: u8 = 0;
    const DESTINATION: u8 = 60;
    let whole = udp(LINKS[1], 2000);
    let kinds = [
        whole.clone(),
        with_extension(&whole, HOP_BY_HOP),
        with_extension(&whole, DESTINATION),
        with_extension(&with_extension(&whole, DESTINATION), HOP_BY_HOP),
    ];
    for ours in &kinds {
        // The cut lies within the options, where the first fragment cannot be told, or behind.
        let ours = cut(ours, 1, &[24, 1000]);
        for theirs in &kinds {
            let mut rig = Rig::new();
            keeps(&mut rig, Side::Primary, &ours);
            assert_eq!(hand_in(&mut rig, Side::Secondary, &cut(theirs, 9, &[800])), ours);
            is_settled(&rig);
        }
    }
}

#[test]
fn a_fragment_that_is_all_of_its_packet_is_a_whole_one() {
    let whole = udp(LINKS[1], 500);
    let atomic = cut(&whole, 1, &[]);
    assert_eq!(atomic.len(), 1);
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, &atomic);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &[whole]), atomic);
    is_settled(&rig);
    assert_eq!(rig.engine.stats().fragments.reassembled, 0);
}

#[test]
fn a_fragment_within_a_fragment_is_compared_as_it_is() {
    let whole = udp(LINKS[1], 2000);
    let inner = cut(&whole, 1, &[1000]).remove(0);
    let outer = cut(&inner, 2, &[504]).remove(0);
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, std::slice::from_ref(&outer));
    keeps(&mut rig, Side::Secondary, &[whole]);
    assert_eq!(hand_in(&mut rig, Side::Secondary, std::slice::from_ref(&outer)), [outer]);
    assert_eq!(rig.engine.stats().malformed.extension, 2);
}

/// What is cut says that it is a fragment, and of which packet it is all.
#[test]
fn a_packet_that_was_a_fragment_all_by_itself_is_put_together_when_it_is_cut() {
    let whole = udp(LINKS[1], 2000);
    let atomic = cut(&whole, 1, &[]).remove(0);
    let ours = cut(&atomic, 2, &[1000]);
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, &ours);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &[whole]), ours);
    assert_eq!(rig.engine.stats().malformed.extension, 0);
}

#[test]
fn a_repeated_fragment_leaves_with_its_packet() {
    let whole = udp(LINK, 2000);
    let [first, second] = &cut(&whole, 1, &[1000])[..] else { panic!("one cut") };
    let ours = [first.clone(), first.clone(), second.clone()];
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, &ours);
    keeps(&mut rig, Side::Secondary, &cut(&whole, 2, &[400])[..1]);
    keeps(&mut rig, Side::Secondary, &cut(&whole, 2, &[400])[..1]);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &cut(&whole, 2, &[400])[1..]), ours);
    assert_eq!(rig.engine.stats().fragments.repeated, 2);
    is_settled(&rig);
}

/// Fragments that can be no packet: each list with why.
fn contradictions() -> Vec<(&'static str, Vec<Frame>)> {
    let whole = udp(LINK, 2000);
    let len = payload_len(&whole);
    let part = |from, to, more| Part { from, to, more };
    let good = part(0, 1000, true);
    let mut other = octets(2000);
    other[990] ^= 1;
    let other = LINK.udp((53, 4000), &other, 0);
    let changed = [parts(&whole, 1, &[good]), parts(&other, 1, &[good])].concat();
    // An offset that no packet reaches: from a long one.
    let long = LINK.ip(17, &vec![7; 65000], 0);
    let beyond = |from: u16| {
        let mut frame = parts(&long, 1, &[part(0, 1000, false)]).remove(0).bytes().to_vec();
        frame[32..34].copy_from_slice(&(from / 8).to_be_bytes());
        Frame::new(frame.into(), 12).expect("longer than its header")
    };
    vec![
        ("overlap", parts(&whole, 1, &[good, part(992, len, false)])),
        ("overlap, the other way round", parts(&whole, 1, &[part(992, len, false), good])),
        ("the same place, other octets", changed),
        ("one within another", parts(&whole, 1, &[good, part(8, 16, true)])),
        ("nothing in the middle", parts(&whole, 1, &[good, part(1000, 1000, true)])),
        ("nothing at the end", parts(&whole, 1, &[good, part(len, len, false)])),
        ("cut at five octets", parts(&whole, 1, &[part(0, 1005, true)])),
        ("two ends", parts(&whole, 1, &[part(1000, len, false), part(800, 900, false)])),
        ("beyond the end", parts(&whole, 1, &[part(800, 900, false), part(1000, 1200, true)])),
        ("an end before it", parts(&whole, 1, &[part(1000, 1200, true), part(800, 900, false)])),
        ("beyond 65535", vec![beyond(65528)]),
    ]
}

#[test]
fn fragments_that_contradict_each_other_are_compared_one_by_one() {
    for (what, pieces) in contradictions() {
        let mut rig = Rig::new();
        keeps(&mut rig, Side::Primary, &pieces);
        assert_eq!(rig.engine.stats().fragments.contradictory, 1, "{what}");
        assert_eq!(rig.engine.stats().fragments.reassembled, 0, "{what}");
        assert_eq!(hand_in(&mut rig, Side::Secondary, &pieces), pieces, "{what}");
        // What is still to come of it is on its own at once.
        let rest = parts(&udp(LINK, 2000), 1, &[Part { from: 1600, to: 1800, more: true }]);
        keeps(&mut rig, Side::Primary, &rest);
        assert_eq!(hand_in(&mut rig, Side::Secondary, &rest), rest, "{what}");
        assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]), "{what}");
        is_settled(&rig);
    }
}

/// The twin: the same from the primary alone stays held, whatever else the secondary sends.
#[test]
fn fragments_that_contradict_each_other_do_not_leave_uncompared() {
    for (what, pieces) in contradictions() {
        let mut rig = Rig::new();
        keeps(&mut rig, Side::Primary, &pieces);
        keeps(&mut rig, Side::Secondary, &[udp(LINK, 2000)]);
        assert_eq!(rig.wait(Duration::from_millis(2999)).0, [], "{what}");
        assert_eq!(rig.checkpoint().0, pieces, "{what}");
    }
}

/// A segment whose data offset is 1.
fn no_segment() -> Frame {
    let mut payload = octets(2000);
    payload[12] = 0x10;
    LINK.ip(6, &payload, 0)
}

#[test]
fn a_packet_of_which_fragments_make_no_segment_is_malformed() {
    let ours = cut(&no_segment(), 1, &[1000]);
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, &ours);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &[no_segment()]), ours);
    assert_eq!(rig.engine.stats().malformed.transport, 2);
    is_settled(&rig);
}

#[test]
fn the_policy_for_what_is_malformed_is_that_for_packets_in_fragments_too() {
    let ours = cut(&no_segment(), 1, &[1000]);
    let mut rig = with_limits(|limits| limits.on_malformed = Policy::Release);
    keeps(&mut rig, Side::Primary, &ours[..1]);
    assert_eq!(hand_in(&mut rig, Side::Primary, &ours[1..]), ours);
    keeps(&mut rig, Side::Secondary, &ours);
    assert_eq!(rig.engine.stats().secondary_dropped.malformed, 1);
    is_settled(&rig);
    let mut rig = with_limits(|limits| limits.on_malformed = Policy::Hold);
    keeps(&mut rig, Side::Primary, &ours);
    keeps(&mut rig, Side::Secondary, &ours);
    assert_eq!(rig.engine.stats().malformed_held, 1);
    assert_eq!(rig.checkpoint(), (ours, vec![]));
    is_settled(&rig);
}
