//! UDP segmentation offload: one frame, many datagrams.

use std::time::Duration;

use bytes::Bytes;

use super::packet::Link;
use super::rig::{self, Rig, hand_in};
use crate::compare::{Limits, Reason, Side};
use crate::frame::Frame;

const LINK: Link = Link { ip_version: 4, vlan: [0, 0], peer: 9 };
const UDP_L4: u8 = 5;
const UFO: u8 = 3;

fn octets(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8).collect()
}

/// A frame whose virtio-net header says `gso_type` and `size`.
fn offloaded(frame: &Frame, gso_type: u8, size: u16) -> Frame {
    let mut octets = frame.bytes().to_vec();
    octets[1] = gso_type;
    octets[4..6].copy_from_slice(&size.to_le_bytes());
    Frame::new(Bytes::from(octets), frame.vnet().len()).expect("longer than its header")
}

fn udp(link: Link, payload: &[u8]) -> Frame {
    link.udp((53, 4000), payload, 0)
}

fn batch(link: Link, payload: &[u8], size: usize) -> Frame {
    offloaded(&udp(link, payload), UDP_L4, size as u16)
}

/// The datagrams that the device makes of it. Their checksums are full, their IP headers their own.
fn singles(link: Link, payload: &[u8], size: usize) -> Vec<Frame> {
    let datagram = |(n, part): (usize, &[u8])| link.udp((53, 4000), part, 0x1200 + n as u16);
    payload.chunks(size).enumerate().map(datagram).collect()
}

#[track_caller]
fn is_settled(rig: &mut Rig) {
    assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
    rig::is_settled(rig);
}

#[test]
fn a_batch_leaves_when_each_of_its_datagrams_was_sent() {
    let links = [LINK, Link { ip_version: 6, vlan: [5, 7], ..LINK }];
    for (link, size) in links.into_iter().flat_map(|link| [(link, 400), (link, 500)]) {
        let payload = octets(2000);
        let ours = batch(link, &payload, size);
        let theirs = singles(link, &payload, size);
        let (last, rest) = theirs.split_last().expect("several");
        let mut rig = Rig::new();
        assert_eq!(hand_in(&mut rig, Side::Primary, std::slice::from_ref(&ours)), []);
        let mut rest = rest.to_vec();
        rest.reverse();
        assert_eq!(hand_in(&mut rig, Side::Secondary, &rest), []);
        assert_eq!(rig.frame(Side::Secondary, last), (vec![ours.clone()], vec![]));
        is_settled(&mut rig);
        // The secondary first.
        assert_eq!(hand_in(&mut rig, Side::Secondary, &theirs), []);
        assert_eq!(rig.frame(Side::Primary, &ours), (vec![ours], vec![]));
        is_settled(&mut rig);
        assert_eq!(rig.engine.stats().compared.frames as usize, 2 * theirs.len());
    }
}

#[test]
fn single_datagrams_leave_one_by_one_against_a_batch() {
    let payload = octets(2000);
    let ours = singles(LINK, &payload, 300);
    let theirs = batch(LINK, &payload, 300);
    let mut rig = Rig::new();
    assert_eq!(hand_in(&mut rig, Side::Primary, &ours[..3]), []);
    assert_eq!(rig.frame(Side::Secondary, &theirs), (ours[..3].to_vec(), vec![]));
    for frame in &ours[3..] {
        assert_eq!(rig.frame(Side::Primary, frame), (vec![frame.clone()], vec![]));
    }
    is_settled(&mut rig);
}

#[test]
fn batches_that_end_elsewhere_are_the_same_datagrams() {
    let payload = octets(2000);
    let split = |at: usize| {
        let (a, b) = payload.split_at(at);
        [batch(LINK, a, 200), batch(LINK, b, 200)]
    };
    let (ours, theirs) = (split(1200), split(400));
    let mut rig = Rig::new();
    assert_eq!(hand_in(&mut rig, Side::Primary, &ours), []);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &theirs), ours);
    is_settled(&mut rig);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &theirs), []);
    assert_eq!(hand_in(&mut rig, Side::Primary, &ours), ours);
    is_settled(&mut rig);
}

/// The twin of the tests above: what is cut elsewhere is not the same.
#[test]
fn datagrams_of_other_lengths_are_others() {
    let payload = octets(2000);
    for theirs in [vec![udp(LINK, &payload)], vec![batch(LINK, &payload, 500)]] {
        let mut rig = Rig::new();
        let ours = batch(LINK, &payload, 400);
        assert_eq!(rig.frame(Side::Primary, &ours), (vec![], vec![]));
        assert_eq!(hand_in(&mut rig, Side::Secondary, &theirs), []);
        assert_eq!(rig.wait(Duration::from_millis(200)).1, [Reason::Datagram]);
        assert_eq!(rig.checkpoint().0, [ours]);
    }
}

#[test]
fn a_differing_byte_is_named_by_its_place_in_its_datagram() {
    let payload = octets(2000);
    let mut other = payload.clone();
    other[1234] ^= 0x20;
    let mut rig = Rig::new();
    let ours = batch(LINK, &payload, 400);
    assert_eq!(rig.frame(Side::Primary, &ours), (vec![], vec![]));
    assert_eq!(hand_in(&mut rig, Side::Secondary, &singles(LINK, &other, 400)), []);
    assert_eq!(rig.wait(Duration::from_millis(200)), (vec![], vec![Reason::Datagram]));
    let divergence = rig.engine.divergences().next().expect("recorded");
    assert_eq!(divergence.stream_offset, 8 + 1234 - 1200);
    assert_eq!(divergence.primary_byte, Some(payload[1234]));
    assert_eq!(divergence.secondary_byte, Some(payload[1234] ^ 0x20));
    assert_eq!(rig.checkpoint().0, [ours]);
}

#[test]
fn a_batch_keeps_its_place_in_the_order_of_arrival() {
    let (a, b) = (octets(800), octets(90));
    let ours = [batch(LINK, &a, 400), udp(LINK, &b), batch(LINK, &a, 400)];
    let mut rig = Rig::new();
    assert_eq!(hand_in(&mut rig, Side::Primary, &ours), []);
    assert_eq!(rig.frame(Side::Secondary, &udp(LINK, &b)).0, []);
    // Of the equal datagrams, the older batch's are matched first.
    let half = singles(LINK, &a, 400);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &half), ours[..2]);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &half), ours[2..]);
    is_settled(&mut rig);
}

#[test]
fn only_a_header_that_says_so_makes_a_batch() {
    let payload = octets(2000);
    let whole = udp(LINK, &payload);
    let plain = [
        whole.clone(),
        offloaded(&whole, 0, 400),
        offloaded(&whole, 1, 400),
        offloaded(&whole, UFO, 400),
        offloaded(&whole, UDP_L4, 0),
        offloaded(&whole, UDP_L4, 2000),
        offloaded(&whole, UDP_L4, 65535),
    ];
    for ours in &plain {
        let mut rig = Rig::new();
        assert_eq!(rig.frame(Side::Primary, ours), (vec![], vec![]));
        assert_eq!(rig.frame(Side::Secondary, &whole), (vec![ours.clone()], vec![]));
        is_settled(&mut rig);
    }
    // With the bit for congestion notification it still is one.
    let ours = offloaded(&whole, UDP_L4 | 0x80, 400);
    let mut rig = Rig::new();
    assert_eq!(rig.frame(Side::Primary, &ours), (vec![], vec![]));
    assert_eq!(hand_in(&mut rig, Side::Secondary, &singles(LINK, &payload, 400)), [ours]);
}

#[test]
fn a_short_header_or_none_is_read_as_far_as_it_goes() {
    let whole = udp(LINK, &octets(2000));
    for vnet_len in 0..=12 {
        let mut octets = vec![UDP_L4; vnet_len];
        octets.extend(whole.ethernet());
        let ours = Frame::new(octets.into(), vnet_len).expect("longer than its header");
        let is_batch = vnet_len >= 6;
        assert_eq!(ours.udp_segment_size().is_some(), is_batch, "{vnet_len}");
        let mut rig = Rig::new();
        rig.frame(Side::Primary, &ours);
        let same = rig.frame(Side::Secondary, &whole).0;
        assert_eq!(same.len(), usize::from(!is_batch), "{vnet_len}");
    }
}

#[test]
fn a_batch_of_more_datagrams_than_a_kernel_makes_meets_only_its_like() {
    let payload = octets(2000);
    let ours = batch(LINK, &payload, 1);
    let mut rig = Rig::new();
    assert_eq!(rig.frame(Side::Primary, &ours), (vec![], vec![]));
    assert_eq!(rig.frame(Side::Secondary, &udp(LINK, &payload)).0, []);
    assert_eq!(rig.frame(Side::Secondary, &batch(LINK, &payload, 1)).0, [ours]);
}

#[test]
fn the_datagrams_of_a_batch_count_to_the_limits() {
    let mut rig = Rig::with(Limits { frames_max: 10, ..Limits::default() });
    let payload: Vec<u8> = (0..100).collect();
    assert_eq!(rig.frame(Side::Primary, &batch(LINK, &payload, 11)), (vec![], vec![Reason::Limit]));
    assert!(!rig.engine.has_room());
    assert_eq!(rig.checkpoint().0.len(), 1);
    assert!(rig.engine.has_room());
    // Of the secondary's, those beyond twice the limit are dropped.
    let payload: Vec<u8> = (0..=255).collect();
    assert_eq!(rig.frame(Side::Secondary, &batch(LINK, &payload, 10)).1, [Reason::Limit]);
    assert_eq!(rig.engine.stats().secondary_dropped.limit, 6);
}

#[test]
fn equal_frames_of_tcp_are_no_batches() {
    let segment = super::packet::tcp(1000).data(octets(3000));
    let ours = offloaded(&segment.build(), UDP_L4, 400);
    let mut rig = Rig::new();
    assert_eq!(rig.frame(Side::Primary, &ours), (vec![], vec![]));
    assert_eq!(rig.frame(Side::Secondary, &segment.build()).0, [ours]);
}
