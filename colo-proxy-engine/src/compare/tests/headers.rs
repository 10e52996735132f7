//! What lies around a packet: tags, IP options and extension headers, padding.

use std::time::Duration;

use super::cut::cut;
use super::packet::{Link, Tcp, tcp};
use super::rig::Rig;
use crate::compare::{Reason, Side};
use crate::frame::Frame;

const V4: Link = Link { ip_version: 4, vlan: [0, 0], peer: 9 };
const V6: Link = Link { ip_version: 6, vlan: [0, 0], peer: 9 };
/// Where the IP header starts, behind the virtio-net header.
const IP_AT: usize = 12 + 14;

/// The IPv4 packet `frame` with `options`.
fn with_options(frame: &Frame, options: &[u8]) -> Frame {
    let mut octets = frame.bytes().to_vec();
    octets[IP_AT] += (options.len() / 4) as u8;
    let len = u16::from_be_bytes([octets[IP_AT + 2], octets[IP_AT + 3]]) + options.len() as u16;
    octets[IP_AT + 2..IP_AT + 4].copy_from_slice(&len.to_be_bytes());
    octets.splice(IP_AT + 20..IP_AT + 20, options.iter().copied());
    Frame::new(octets.into(), 12).expect("longer than its header")
}

/// The IPv6 packet `frame` with the extension header `kind` in front of the others.
fn with_extension(frame: &Frame, kind: u8, header: &[u8]) -> Frame {
    let mut octets = frame.bytes().to_vec();
    let next = std::mem::replace(&mut octets[IP_AT + 6], kind);
    let len = u16::from_be_bytes([octets[IP_AT + 4], octets[IP_AT + 5]]) + header.len() as u16;
    octets[IP_AT + 4..IP_AT + 6].copy_from_slice(&len.to_be_bytes());
    octets.splice(IP_AT + 40..IP_AT + 40, header.iter().copied());
    octets[IP_AT + 40] = next;
    Frame::new(octets.into(), 12).expect("longer than its header")
}

/// `ours` leaves when the secondary has sent `theirs`.
#[track_caller]
fn is_same(ours: &Frame, theirs: &Frame) {
    let mut rig = Rig::new();
    assert_eq!(rig.frame(Side::Primary, ours), (vec![], vec![]));
    assert_eq!(rig.frame(Side::Secondary, theirs), (vec![ours.clone()], vec![]));
}

/// It does not, and the difference is found.
#[track_caller]
fn is_other(ours: &Frame, theirs: &Frame, reason: Reason) {
    let mut rig = Rig::new();
    assert_eq!(rig.frame(Side::Primary, ours), (vec![], vec![]));
    let (released, mut requests) = rig.frame(Side::Secondary, theirs);
    assert_eq!(released, []);
    requests.extend(rig.wait(Duration::from_millis(200)).1);
    assert_eq!(requests, [reason]);
}

fn packets(link: Link) -> [(Frame, Frame, Reason); 2] {
    let segment = Tcp { link, ..tcp(1000) };
    [
        (segment.clone().data([7; 100]).build(), segment.data([8; 100]).build(), Reason::Payload),
        (link.udp((1, 2), &[7; 100], 0), link.udp((1, 2), &[8; 100], 0), Reason::Datagram),
    ]
}

#[test]
fn options_of_ipv4_shift_the_packet_and_are_no_difference() {
    for (ours, other, reason) in packets(V4) {
        for options in [&[1, 1, 1, 0][..], &[148, 4, 0, 0], &[1; 40]] {
            is_same(&with_options(&ours, options), &ours);
            is_same(&ours, &with_options(&ours, options));
            is_other(&with_options(&ours, options), &other, reason);
        }
    }
}

#[test]
fn extension_headers_of_ipv6_shift_the_packet_and_are_no_difference() {
    const OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    // Hop-by-hop and destination options, and a routing header without segments left.
    let headers = [(0, &OPTIONS[..]), (60, &OPTIONS), (43, &[0, 0, 4, 0, 0, 0, 0, 0])];
    for (ours, other, reason) in packets(V6) {
        for (kind, header) in headers {
            let with = with_extension(&ours, kind, header);
            is_same(&with, &ours);
            is_same(&ours, &with);
            is_other(&with, &other, reason);
            is_same(&with_extension(&with, 0, &OPTIONS), &with);
        }
    }
}

#[test]
fn a_fragment_header_on_a_whole_packet_is_one_more_extension_header() {
    for (ours, other, reason) in packets(V6) {
        let atomic = cut(&ours, 1, &[]).remove(0);
        is_same(&atomic, &ours);
        is_same(&ours, &atomic);
        is_other(&atomic, &other, reason);
    }
    // The peer is told of what both have in the likeness of such a frame, too.
    let mut rig = Rig::new();
    let base = Tcp { link: V6, ..tcp(1001) };
    rig.accept(&base.clone().ack(501), 1000, 500);
    let ours = cut(&base.clone().ack(900).data(b"abc").build(), 1, &[]).remove(0);
    assert_eq!(rig.frame(Side::Primary, &ours).0, []);
    rig.secondary(&base.ack(700));
    let made = rig.acknowledgments().pop().expect("the peer is told");
    assert!(etherparse::SlicedPacket::from_ethernet(made.ethernet()).is_ok());
}

#[test]
fn both_tags_are_part_of_the_flow_and_their_kind_is_not() {
    let link = |vlan| Link { vlan, ..V4 };
    for ours in [[5, 0], [5, 7]] {
        let frame = packets(link(ours))[1].0.clone();
        // 802.1ad outside instead of 802.1Q, and another priority.
        let mut octets = frame.bytes().to_vec();
        octets[12 + 12..12 + 14].copy_from_slice(&[0x88, 0xa8]);
        octets[12 + 14] |= 0xe0;
        is_same(&frame, &Frame::new(octets.into(), 12).expect("longer than its header"));
        for theirs in [[0, 0], [6, 0], [5, 8], [6, 7], [7, 5]] {
            let mut rig = Rig::new();
            assert_eq!(rig.frame(Side::Primary, &frame).0, []);
            assert_eq!(rig.frame(Side::Secondary, &packets(link(theirs))[1].0).0, []);
        }
    }
}

#[test]
fn a_packet_ends_where_its_header_says() {
    for link in [V4, V6, Link { vlan: [5, 7], ..V6 }] {
        for (ours, ..) in packets(link) {
            let mut padded = ours.bytes().to_vec();
            padded.extend([0xee; 30]);
            is_same(&ours, &Frame::new(padded.into(), 12).expect("longer than its header"));
        }
    }
}

#[test]
fn what_was_held_for_too_long_is_named_by_its_packet_and_not_by_a_fragment() {
    let mut rig = Rig::new();
    let ours = V4.udp((53, 4000), &[7; 2000], 0);
    for piece in cut(&ours, 1, &[1000]) {
        assert_eq!(rig.frame(Side::Primary, &piece).0, []);
    }
    assert_eq!(rig.wait(Duration::from_secs(3)).1, [Reason::Timeout]);
    let divergence = rig.engine.divergences().next().expect("recorded");
    assert_eq!((divergence.flow.guest_port, divergence.flow.peer_port), (53, 4000));
}
