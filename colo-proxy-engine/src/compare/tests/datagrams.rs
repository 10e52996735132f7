//! Everything that is no TCP.

use std::time::Duration;

use super::packet::{Link, tcp};
use super::random::Random;
use super::rig::Rig;
use crate::compare::{Limits, Policy, Reason, Side};
use crate::frame::{Frame, VNET_HDR_LEN};

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
    for protocol in [33, 47, 50, 89, 132, 136] {
        // Salt 1 and 2: other IP id, TTL, TOS and padding.
        let ours = LINK.ip(protocol, &[0, 1, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9], 1);
        primary(&mut rig, &ours, &[]);
        secondary(&mut rig, &LINK.ip(protocol, &[0, 1, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9], 2), &[ours]);
        let ours = LINK.ip(protocol, &[0, 1, 0, 2, 9, 9, 9, 9, 9, 9, 9, 8], 1);
        primary(&mut rig, &ours, &[]);
        secondary(&mut rig, &LINK.ip(protocol, &[0, 1, 0, 2, 9, 9, 9, 9, 9, 9, 9, 7], 2), &[]);
    }
}

/// The frame with another hop limit or time to live.
fn hops(frame: &Frame, hops: u8) -> Frame {
    let mut octets = frame.bytes().to_vec();
    let ip_at = VNET_HDR_LEN + 14;
    let is_v6 = octets[ip_at] >> 4 == 6;
    octets[ip_at + if is_v6 { 7 } else { 8 }] = hops;
    Frame::new(octets.into(), VNET_HDR_LEN).expect("longer than its header")
}

#[test]
fn what_a_router_would_pass_on_is_compared_whatever_it_calls_itself() {
    let v6 = Link { ip_version: 6, ..LINK };
    let cases = [
        LINK.ip(2, &[0x16; 8], 0),
        v6.ip(58, &[135, 0, 0, 0, 0, 0, 0, 0], 0),
        hops(&v6.ip(58, &[135, 1, 0, 0, 0, 0, 0, 0], 0), 255),
        hops(&v6.ip(58, &[143, 0, 0, 0, 0, 0, 0, 0], 0), 255),
    ];
    let mut rig = Rig::new();
    for frame in &cases {
        primary(&mut rig, frame, &[]);
        secondary(&mut rig, frame, std::slice::from_ref(frame));
    }
}

#[test]
fn a_packet_behind_a_third_tag_is_compared() {
    let link = Link { vlan: [5, 6], ..LINK };
    let mut octets = link.udp((53, 4000), b"deep", 0).bytes().to_vec();
    octets.splice(VNET_HDR_LEN + 12..VNET_HDR_LEN + 12, [0x81, 0, 0, 7]);
    let frame = Frame::new(octets.into(), VNET_HDR_LEN).expect("longer than its header");
    let mut rig = Rig::new();
    primary(&mut rig, &frame, &[]);
    secondary(&mut rig, &frame, std::slice::from_ref(&frame));
    assert_eq!(rig.engine.stats().malformed.ethernet, 2);
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
        (hops(&LINK.ip(2, &[0x16; 8], 0), 1), "igmp"),
        (hops(&v6.ip(58, &[135, 0, 0, 0, 0, 0, 0, 0], 0), 255), "ipv6-nd"),
        (hops(&v6.ip(58, &[143, 0, 0, 0, 0, 0, 0, 0], 0), 1), "ipv6-mld"),
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
fn malformed_packets_are_compared_byte_by_byte() {
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
fn a_datagram_shorter_than_its_header_is_malformed() {
    for len in 0..8 {
        let mut rig = Rig::new();
        let ours = LINK.ip(17, &[9; 8][..len], 1);
        primary(&mut rig, &ours, &[]);
        secondary(&mut rig, &LINK.ip(17, &[9; 8][..len], 2), &[ours]);
        assert_eq!(rig.engine.stats().malformed.transport, 2);
    }
}

#[test]
fn another_length_in_the_header_is_a_difference() {
    let mut rig = Rig::new();
    let mut octets = udp(b"same").bytes().to_vec();
    octets[12 + 14 + 20 + 5] ^= 1;
    primary(&mut rig, &udp(b"same"), &[]);
    secondary(&mut rig, &Frame::new(octets.into(), 12).expect("long"), &[]);
    assert_eq!(rig.wait(Duration::from_millis(200)).1, [Reason::Datagram]);
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

/// A datagram of its own, and the order in which the secondary sends them is the worst there is:
/// no search could find the right one early.
#[test]
fn many_waiting_datagrams_are_matched_in_any_order() {
    const COUNT: u32 = 10_000;
    let mut rig = Rig::new();
    let datagram = |n: u32| udp(&n.to_be_bytes());
    for n in 0..COUNT {
        primary(&mut rig, &datagram(n), &[]);
    }
    for n in (1..COUNT).rev() {
        secondary(&mut rig, &datagram(n), &[]);
    }
    let all: Vec<_> = (0..COUNT).map(datagram).collect();
    secondary(&mut rig, &datagram(0), &all);
    assert_eq!(rig.engine.stats().compared.frames, u64::from(COUNT));
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

/// Equal datagrams are many: each is good for one, and the oldest leaves first.
#[test]
fn equal_datagrams_are_counted() {
    let mut random = Random(5);
    let mut rig = Rig::new();
    let (mut ours, mut theirs, mut left) = ([0_usize; 3], [0_usize; 3], 0);
    for _ in 0..2000 {
        let which = random.below(3);
        let frame = LINK.udp((which as u16, 4000), b"same", 0);
        let side = if random.chance(50) { Side::Primary } else { Side::Secondary };
        let count = if side == Side::Primary { &mut ours } else { &mut theirs };
        count[which] += 1;
        left += rig.frame(side, &frame).0.len();
        let both: usize = ours.iter().zip(&theirs).map(|(a, b)| *a.min(b)).sum();
        assert_eq!(left, both);
    }
}

/// After a difference was reported, what is equal still is: a later checkpoint that fails must not
/// leave the flow worse off.
#[test]
fn a_reported_flow_still_matches() {
    let mut rig = Rig::new();
    primary(&mut rig, &udp(b"late"), &[]);
    primary(&mut rig, &udp(b"equal"), &[]);
    secondary(&mut rig, &udp(b"other"), &[]);
    secondary(&mut rig, &udp(b"equal"), &[]);
    assert_eq!(rig.wait(Duration::from_millis(200)).1, [Reason::Datagram]);
    secondary(&mut rig, &udp(b"late"), &[udp(b"late"), udp(b"equal")]);
    assert_eq!(rig.engine.stats().divergences, 1);
}

/// An error message of `kind` about a segment that the peer sent: `ack` and the timestamp echo are
/// translated for each guest, and with them the checksum changes.
fn icmp_error(link: Link, kind: u8, ack: u32, quoted_len: usize) -> Frame {
    let own = |n: u32| n.to_be_bytes();
    let options = [&[1, 1, 8, 10, 0, 0, 0, 1][..], &own(ack)].concat();
    let segment = tcp(4242).ack(ack).options(&options).data([7; 100]);
    let mut quoted = super::packet::Tcp { link, ..segment }.build().ethernet()[14..].to_vec();
    let tcp_at = if link.ip_version == 4 { 20 } else { 40 };
    quoted[tcp_at + 16..tcp_at + 18].copy_from_slice(&own(ack)[2..]);
    let mut message = vec![kind, 1, own(ack)[3], 9, 0, 0, 5, 220];
    message.extend(quoted.iter().take(quoted_len));
    link.ip(if link.ip_version == 4 { 1 } else { 58 }, &message, ack as u8)
}

#[test]
fn an_error_message_may_quote_what_was_translated_for_the_guest() {
    let v6 = Link { ip_version: 6, ..LINK };
    let kinds = [(LINK, [3, 5, 11, 12]), (v6, [1, 2, 3, 4])];
    for (link, kind) in kinds.into_iter().flat_map(|(link, kinds)| kinds.map(|kind| (link, kind))) {
        let header_len = if link.ip_version == 4 { 20 } else { 40 };
        // The least that may be quoted, a part of the header, all of it, and data.
        for quoted_len in [8, 11, 19, 26, 32, 132].map(|len| header_len + len) {
            let mut rig = Rig::new();
            let ours = icmp_error(link, kind, 1000, quoted_len);
            primary(&mut rig, &ours, &[]);
            secondary(&mut rig, &icmp_error(link, kind, 77_777, quoted_len), &[ours]);
        }
    }
}

/// The twin: everything else in the quote has to be the same.
#[test]
fn an_error_message_about_another_segment_is_another() {
    let ours = icmp_error(LINK, 3, 1000, 152);
    let quote_at = 12 + 14 + 20 + 8;
    // An address, a port, the sequence number, and data; a word of the message's own header.
    for place in [quote_at + 13, quote_at + 20, quote_at + 27, quote_at + 52, quote_at - 1] {
        let mut octets = ours.bytes().to_vec();
        octets[place] ^= 1;
        let theirs = Frame::new(octets.into(), 12).expect("long");
        let mut rig = Rig::new();
        primary(&mut rig, &ours, &[]);
        secondary(&mut rig, &theirs, &[]);
        assert_eq!(rig.wait(Duration::from_millis(200)).1, [Reason::Datagram], "{place}");
    }
}

#[test]
fn only_errors_and_only_tcp_are_quotes() {
    // An echo reply with the same bytes, and an error about UDP.
    let mut echo = icmp_error(LINK, 0, 1000, 152);
    let mut other = icmp_error(LINK, 0, 1001, 152);
    for _ in 0..2 {
        let mut rig = Rig::new();
        primary(&mut rig, &echo, &[]);
        secondary(&mut rig, &other, &[]);
        assert_eq!(rig.engine.stats().held.frames, 1);
        (echo, other) = (icmp_error(LINK, 3, 1000, 152), icmp_error(LINK, 3, 1001, 152));
        for frame in [&mut echo, &mut other] {
            let mut octets = frame.bytes().to_vec();
            octets[12 + 14 + 20 + 8 + 9] = 17;
            *frame = Frame::new(octets.into(), 12).expect("long");
        }
    }
}

fn with_policy(on_malformed: Policy, on_uncompared: Policy) -> Rig {
    Rig::with(Limits { on_malformed, on_uncompared, ..Limits::default() })
}

/// A packet that says to be longer than its frame.
fn malformed() -> Frame {
    let mut octets = tcp(1000).data([1; 100]).build().bytes().to_vec();
    octets[12 + 14 + 2] = 0xff;
    Frame::new(octets.into(), 12).expect("longer than its header")
}

#[test]
fn malformed_frames_are_released_if_the_policy_says_so() {
    let mut rig = with_policy(Policy::Release, Policy::Release);
    primary(&mut rig, &malformed(), &[malformed()]);
    secondary(&mut rig, &malformed(), &[]);
    rig.began();
    primary(&mut rig, &malformed(), &[malformed()]);
    let stats = rig.engine.stats();
    assert_eq!((stats.malformed.ip, stats.malformed_released, stats.malformed_held), (3, 2, 0));
    assert_eq!((stats.secondary_dropped.malformed, stats.secondary_waiting.frames), (1, 0));
    assert_eq!(stats.released.uncompared.frames, 2);
}

#[test]
fn malformed_frames_wait_for_a_checkpoint_if_the_policy_says_so() {
    let mut rig = with_policy(Policy::Hold, Policy::Release);
    secondary(&mut rig, &malformed(), &[]);
    primary(&mut rig, &malformed(), &[]);
    secondary(&mut rig, &malformed(), &[]);
    let stats = rig.engine.stats();
    assert_eq!((stats.malformed_released, stats.malformed_held), (0, 1));
    assert_eq!((stats.secondary_dropped.malformed, stats.secondary_waiting.frames), (2, 0));
    assert_eq!(rig.wait(Duration::from_secs(3)), (vec![], vec![Reason::Timeout]));
    rig.began();
    // One of after the cut is not covered.
    primary(&mut rig, &malformed(), &[]);
    assert_eq!(rig.done(), (vec![malformed()], vec![]));
    assert_eq!(rig.engine.stats().held.frames, 1);
}

/// ARP, and multicast listener discovery.
fn left_out() -> [Frame; 2] {
    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    arp[20] = 1;
    let report = Link { ip_version: 6, ..LINK }.ip(58, &[143, 0, 7, 7, 0, 0, 0, 1, 4, 4], 0);
    let report = hops(&report, 1);
    [Frame::new(arp.into(), 0).expect("no header"), report]
}

#[test]
fn what_the_rule_leaves_out_is_compared_if_the_policy_says_so() {
    let mut rig = with_policy(Policy::Compare, Policy::Compare);
    let [arp, report] = left_out();
    for frame in [&arp, &report] {
        primary(&mut rig, frame, &[]);
        let mut octets = frame.bytes().to_vec();
        let last = frame.vnet().len() + if frame == &arp { 20 } else { 62 };
        octets[last] ^= 1;
        let other = Frame::new(octets.into(), frame.vnet().len()).expect("long");
        secondary(&mut rig, &other, &[]);
        secondary(&mut rig, frame, std::slice::from_ref(frame));
        rig.checkpoint();
    }
    // Another checksum, left to the device, and another padding.
    primary(&mut rig, &report, &[]);
    let other = Link { ip_version: 6, ..LINK }.ip(58, &[143, 0, 9, 9, 0, 0, 0, 1, 4, 4], 3);
    let other = hops(&other, 1);
    secondary(&mut rig, &other, &[report]);
    let stats = rig.engine.stats();
    assert_eq!((stats.uncompared.total(), stats.uncompared_held.total()), (0, 0));
    assert_eq!(stats.secondary_dropped.uncompared.total(), 0);
    assert_eq!(stats.released.compared.frames, 3);
}

#[test]
fn what_the_rule_leaves_out_waits_for_a_checkpoint_if_the_policy_says_so() {
    let mut rig = with_policy(Policy::Compare, Policy::Hold);
    for frame in left_out() {
        primary(&mut rig, &frame, &[]);
        secondary(&mut rig, &frame, &[]);
        assert!(rig.engine.is_compared(&frame));
    }
    let stats = rig.engine.stats();
    assert_eq!((stats.uncompared_held.get("arp"), stats.uncompared_held.get("ipv6-mld")), (1, 1));
    assert_eq!((stats.uncompared.total(), stats.secondary_dropped.uncompared.total()), (0, 2));
    assert_eq!(rig.checkpoint().0, left_out());
    let rig = Rig::new();
    assert!(!left_out().iter().any(|frame| rig.engine.is_compared(frame)));
}

#[test]
fn policies_are_named_as_in_the_configuration() {
    let names = ["compare", "release", "hold"];
    let policies: Vec<Policy> = names
        .iter()
        .map(|name| serde_json::from_value(serde_json::json!(name)).expect("a policy"))
        .collect();
    assert_eq!(policies, [Policy::Compare, Policy::Release, Policy::Hold]);
}
