//! Everything that is no TCP.

use std::time::Duration;

use super::packet::{Link, tcp};
use super::rig::Rig;
use crate::compare::{Limits, Reason, Side};
use crate::frame::Frame;

const LINK: Link = Link { ip_version: 4, vlan: [0, 0], peer: 9 };

fn udp(payload: &[u8]) -> Frame {
    LINK.udp((53, 4000), payload, 0)
}

#[track_caller]
fn primary(rig: &mut Rig, frame: &Frame, expected: &[Frame]) {
    assert_eq!(rig.frame(Side::Primary, frame), (expected.to_vec(), vec![]));
}

#[track_caller]
fn secondary(rig: &mut Rig, frame: &Frame, expected: &[Frame]) {
    assert_eq!(rig.frame(Side::Secondary, frame), (expected.to_vec(), vec![]));
}

#[test]
fn an_equal_datagram_leaves_whichever_guest_is_first() {
    let mut rig = Rig::new();
    primary(&mut rig, &udp(b"a"), &[]);
    secondary(&mut rig, &udp(b"a"), &[udp(b"a")]);
    secondary(&mut rig, &udp(b"b"), &[]);
    primary(&mut rig, &udp(b"b"), &[udp(b"b")]);
    // Said once, it is good for one.
    primary(&mut rig, &udp(b"b"), &[]);
}

#[test]
fn release_keeps_the_order_of_arrival_whatever_the_secondary_does() {
    let mut rig = Rig::new();
    for payload in [b"1", b"2", b"3"] {
        primary(&mut rig, &udp(payload), &[]);
    }
    secondary(&mut rig, &udp(b"3"), &[]);
    secondary(&mut rig, &udp(b"2"), &[]);
    secondary(&mut rig, &udp(b"1"), &[udp(b"1"), udp(b"2"), udp(b"3")]);
}

#[test]
fn a_primary_that_is_ahead_is_no_difference() {
    let mut rig = Rig::new();
    for n in 0..200 {
        primary(&mut rig, &udp(&[n]), &[]);
    }
    for n in 0..200 {
        secondary(&mut rig, &udp(&[n]), &[udp(&[n])]);
    }
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn partial_and_full_checksums_and_ip_headers_are_no_difference() {
    let mut rig = Rig::new();
    for link in [LINK, Link { ip_version: 6, ..LINK }] {
        // The checksum salts the IP header as well.
        let ours = link.udp((53, 4000), b"x", 0x1234);
        primary(&mut rig, &ours, &[]);
        secondary(&mut rig, &link.udp((53, 4000), b"x", 0x9977), &[ours]);
    }
}

#[test]
fn both_without_a_match_beyond_the_grace_are_a_difference() {
    let mut rig = Rig::new();
    primary(&mut rig, &udp(b"same A same"), &[]);
    rig.now += Duration::from_millis(150);
    secondary(&mut rig, &udp(b"same B same"), &[]);
    assert_eq!(rig.wait(Duration::from_millis(199)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::Datagram]);
    let divergence = rig.engine.divergences().next().expect("recorded");
    assert_eq!(divergence.stream_offset, 8 + 5);
    assert_eq!((divergence.primary_byte, divergence.secondary_byte), (Some(b'A'), Some(b'B')));
    assert_eq!(rig.checkpoint().0, [udp(b"same A same")]);
}

#[test]
fn reordering_within_the_grace_is_no_difference() {
    let mut rig = Rig::new();
    primary(&mut rig, &udp(b"1"), &[]);
    primary(&mut rig, &udp(b"2"), &[]);
    secondary(&mut rig, &udp(b"3"), &[]);
    assert_eq!(rig.wait(Duration::from_millis(199)).1, []);
    secondary(&mut rig, &udp(b"1"), &[udp(b"1")]);
    secondary(&mut rig, &udp(b"2"), &[udp(b"2")]);
    primary(&mut rig, &udp(b"3"), &[udp(b"3")]);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn too_many_without_a_match_are_a_difference_at_once() {
    let mut rig = Rig::with(Limits { datagram_grace_count: 4, ..Limits::default() });
    let mut requests = Vec::new();
    for n in 0..5 {
        requests.extend(rig.frame(Side::Primary, &udp(&[n])).1);
        requests.extend(rig.frame(Side::Secondary, &udp(&[100 + n])).1);
    }
    assert_eq!(requests, [Reason::Datagram]);
}

#[test]
fn one_side_alone_is_left_to_the_timeout() {
    let mut rig = Rig::new();
    primary(&mut rig, &udp(b"a"), &[]);
    assert_eq!(rig.wait(Duration::from_millis(2999)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::Timeout]);
    let mut rig = Rig::new();
    secondary(&mut rig, &udp(b"a"), &[]);
    assert_eq!(rig.wait(Duration::from_millis(2999)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::SecondaryOnly]);
}

#[test]
fn datagrams_of_before_a_checkpoint_match_nothing_after_it() {
    let mut rig = Rig::new();
    secondary(&mut rig, &udp(b"a"), &[]);
    rig.checkpoint();
    primary(&mut rig, &udp(b"a"), &[]);
    secondary(&mut rig, &udp(b"a"), &[udp(b"a")]);
}

#[test]
fn a_repetition_of_what_a_checkpoint_covered_is_no_reason() {
    let mut rig = Rig::new();
    primary(&mut rig, &udp(b"a"), &[]);
    assert_eq!(rig.checkpoint(), (vec![udp(b"a")], vec![]));
    secondary(&mut rig, &udp(b"a"), &[]);
    // Nor does it count against what the primary says now.
    primary(&mut rig, &udp(b"b"), &[]);
    assert_eq!(rig.wait(Limits::default().datagram_grace * 2).1, []);
    secondary(&mut rig, &udp(b"b"), &[udp(b"b")]);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
    assert_eq!(rig.engine.stats().secondary_dropped.stale, 1);
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 0);
    // The twin: one that none covered is.
    secondary(&mut rig, &udp(b"c"), &[]);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, [Reason::SecondaryOnly]);
    // And what was covered by the one before last is forgotten.
    rig.checkpoint();
    secondary(&mut rig, &udp(b"a"), &[]);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, [Reason::SecondaryOnly]);
}

#[test]
fn what_both_guests_repeat_after_a_checkpoint_matches_whichever_is_first() {
    let mut rig = Rig::new();
    primary(&mut rig, &udp(b"beat"), &[]);
    rig.checkpoint();
    for _ in 0..3 {
        secondary(&mut rig, &udp(b"beat"), &[]);
        primary(&mut rig, &udp(b"beat"), &[udp(b"beat")]);
        primary(&mut rig, &udp(b"beat"), &[]);
        secondary(&mut rig, &udp(b"beat"), &[udp(b"beat")]);
    }
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn icmp_echoes_are_flows_by_identifier() {
    let mut rig = Rig::new();
    for link in [LINK, Link { ip_version: 6, ..LINK }] {
        let (protocol, kind) = if link.ip_version == 4 { (1, 0) } else { (58, 129) };
        let echo = |id: u8| link.ip(protocol, &[kind, 0, 0, 0, 0, id, 0, 1, 42], id);
        primary(&mut rig, &echo(1), &[]);
        primary(&mut rig, &echo(2), &[]);
        // One that is stuck does not hold the other back.
        secondary(&mut rig, &echo(2), &[echo(2)]);
        secondary(&mut rig, &echo(1), &[echo(1)]);
    }
}

#[test]
fn other_protocols_are_compared_by_payload_alone() {
    let mut rig = Rig::new();
    for protocol in [47, 50, 132, 89] {
        // Salt 1 and 2: other IP id, TTL, TOS and padding.
        let ours = LINK.ip(protocol, &[0, 1, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9], 1);
        primary(&mut rig, &ours, &[]);
        secondary(&mut rig, &LINK.ip(protocol, &[0, 1, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9], 2), &[ours]);
        let ours = LINK.ip(protocol, &[0, 1, 0, 2, 9, 9, 9, 9, 9, 9, 9, 8], 1);
        primary(&mut rig, &ours, &[]);
        secondary(&mut rig, &LINK.ip(protocol, &[0, 1, 0, 2, 9, 9, 9, 9, 9, 9, 9, 7], 2), &[]);
    }
}

#[test]
fn what_the_rule_leaves_out_passes_and_is_counted() {
    let ethernet = |kind: [u8; 2]| {
        let mut octets = vec![0; 60];
        octets[12..14].copy_from_slice(&kind);
        Frame::new(octets.into(), 0).expect("no header")
    };
    let v6 = Link { ip_version: 6, ..LINK };
    let cases = [
        (ethernet([8, 6]), "arp"),
        (ethernet([0x88, 0xcc]), "lldp"),
        (ethernet([0, 39]), "802.3"),
        (ethernet([0x88, 0x47]), "0x8847"),
        (LINK.ip(2, &[0x16; 8], 0), "igmp"),
        (v6.ip(58, &[135, 0, 0, 0, 0, 0, 0, 0], 0), "ipv6-nd"),
        (v6.ip(58, &[143, 0, 0, 0, 0, 0, 0, 0], 0), "ipv6-mld"),
    ];
    let mut rig = Rig::new();
    for (frame, name) in &cases {
        secondary(&mut rig, frame, &[]);
        primary(&mut rig, frame, std::slice::from_ref(frame));
        rig.began();
        primary(&mut rig, frame, std::slice::from_ref(frame));
        rig.done();
        let stats = rig.engine.stats();
        assert_eq!(stats.uncompared.get(name), 2, "{name}");
        assert_eq!(stats.secondary_dropped.uncompared.get(name), 1, "{name}");
    }
    assert_eq!(rig.engine.stats().flows, 0);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn malformed_packets_are_compared_octet_by_octet() {
    let whole = tcp(1000).data([1; 100]).build();
    let ip_at = 12 + 14;
    let broken = |at: usize, value: u8| {
        let mut octets = whole.bytes().to_vec();
        octets[at] = value;
        Frame::new(octets.into(), 12).expect("longer than its header")
    };
    // Header length, total length, data offset.
    for frame in [broken(ip_at, 0x41), broken(ip_at + 2, 0xff), broken(ip_at + 32, 0x10)] {
        let mut rig = Rig::new();
        primary(&mut rig, &frame, &[]);
        let mut other = frame.bytes().to_vec();
        let last = other.len() - 1;
        other[last] ^= 1;
        secondary(&mut rig, &Frame::new(other.into(), 12).expect("long"), &[]);
        secondary(&mut rig, &frame, std::slice::from_ref(&frame));
        let counts = rig.engine.stats().malformed;
        assert_eq!(counts.ip + counts.transport, 3);
    }
}

#[test]
fn runts_and_nothing_at_all_do_no_harm() {
    let mut rig = Rig::new();
    for len in 0..40 {
        let frame = Frame::new(vec![8; len].into(), len.min(12)).expect("long enough");
        secondary(&mut rig, &frame, &[]);
        primary(&mut rig, &frame, std::slice::from_ref(&frame));
    }
}
