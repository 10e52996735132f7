//! The stream in whatever pieces: overlap, padding, probes, and that nothing waits for longer than
//! it has to.

use std::time::Duration;

use super::packet::{Link, Tcp, at, tcp};
use super::rig::{Rig, open};
use crate::compare::{Reason, Side};
use crate::frame::Frame;

#[test]
fn overlapping_segments_are_compared_where_they_lie() {
    let (mut rig, base) = open();
    let (first, second) = (base.clone().data(b"abcdefgh"), at(&base, 1005).data(b"efghijkl"));
    rig.holds(&first);
    rig.holds(&second);
    rig.is_kept(&base.clone().data(b"ab"));
    rig.frees(&at(&base, 1002).data(b"bcdefghi"), &[&first]);
    rig.frees(&at(&base, 1008).data(b"hijkl"), &[&second]);
    // And with the secondary first.
    rig.is_kept(&at(&base, 1013).data(b"mnop"));
    rig.is_kept(&at(&base, 1015).data(b"opqr"));
    rig.passes(&at(&base, 1011).data(b"klmnopqr"));
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 0);
}

/// The twin: an overlap hides nothing.
#[test]
fn the_part_of_an_overlap_that_differs_is_found_and_the_rest_leaves() {
    let (mut rig, base) = open();
    let (good, evil) = (base.clone().data(b"abcdefgh"), at(&base, 1005).data(b"efgXijkl"));
    rig.holds(&good);
    rig.holds(&evil);
    let (released, requests) = rig.secondary(&base.clone().data(b"abcdefghijkl"));
    assert_eq!((released, requests), (vec![good.build()], vec![Reason::Payload]));
    let record = rig.engine.divergences().next().expect("recorded");
    assert_eq!((record.stream_offset, record.primary_byte), (7, Some(b'X')));
}

/// Reordered on the way to us, the retransmission before the original.
#[test]
fn any_order_of_the_same_segments_is_the_same_stream() {
    let pieces = [(1001, &b"one"[..]), (1004, b"two"), (1001, b"onetwo"), (1007, b"six")];
    for first in 0..pieces.len() {
        let (mut rig, base) = open();
        let mut ours: Vec<Tcp> =
            pieces.iter().map(|(seq, octets)| at(&base, *seq).data(octets)).collect();
        ours.rotate_left(first);
        for segment in &ours {
            rig.holds(segment);
        }
        let (released, requests) = rig.secondary(&base.clone().data(b"onetwosix"));
        let all: Vec<Frame> = ours.iter().map(Tcp::build).collect();
        assert_eq!((released, requests), (all, vec![]));
    }
}

#[test]
fn bytes_behind_the_ip_length_are_no_data() {
    for ip_version in [4, 6] {
        let mut rig = Rig::new();
        let link = Link { ip_version, ..Link::default() };
        let base = Tcp { link, ..tcp(1001) }.ack(501);
        rig.accept(&base, 1000, 500);
        let with_trailer = |segment: &Tcp, trailer: &[u8]| {
            let octets = [segment.build().bytes(), trailer].concat();
            Frame::new(octets.into(), crate::frame::VNET_HDR_LEN).expect("long enough")
        };
        let data = base.clone().data([5; 100]);
        let ours = with_trailer(&data, b"trailer");
        rig.frame(Side::Primary, &ours);
        let theirs = with_trailer(&data, b"another, which is longer");
        assert_eq!(rig.frame(Side::Secondary, &theirs), (vec![ours], vec![]));
        // The twin: the bytes that lay behind are neither verified nor waiting.
        let next = at(&base, 1101).data(b"trailer");
        rig.holds(&next);
        rig.frees(&next, &[&next]);
    }
}

#[test]
fn options_of_segments_are_no_difference() {
    let (mut rig, base) = open();
    let sack = [1, 1, 5, 10, 0, 0, 9, 0, 0, 0, 9, 9];
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
    let data = base.clone().data(b"x").options(&sack);
    rig.holds(&data);
    rig.frees(&base.data(b"x").options(&timestamps), &[&data]);
}

#[test]
fn keep_alives_of_the_secondary_are_no_difference() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"data"));
    rig.passes(&base.clone().data(b"data"));
    rig.is_kept(&at(&base, 1004));
    // With a byte of rubbish at a place that both have said.
    rig.is_kept(&at(&base, 1004).data([0]));
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 0);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
    assert_eq!(rig.engine.stats().reasons.total(), 0);
}

/// Before a guest has said anything the number before its next one is that of its SYN.
#[test]
fn a_keep_alive_before_any_data_needs_the_secondarys() {
    let (mut rig, base) = open();
    rig.is_kept(&base);
    rig.passes(&at(&base, 1000));
    let rubbish = at(&base, 1000).data([0]);
    rig.holds(&rubbish);
    rig.frees(&rubbish.clone().salt(1), &[&rubbish]);
}

#[test]
fn a_probe_of_a_closed_window_is_data_like_other() {
    let (mut rig, base) = open();
    let probe = base.clone().data(b"p");
    rig.holds(&probe);
    rig.holds(&probe);
    rig.frees(&probe, &[&probe, &probe]);
    // The twin: the probe passes, and then the whole data whose first byte it was.
    rig.passes(&probe);
    let rest = base.clone().data(b"probe");
    rig.holds(&rest);
    rig.frees(&rest, &[&rest]);
}

#[test]
fn a_fin_ahead_of_a_hole_waits_for_the_hole() {
    let (mut rig, base) = open();
    let (hole, fin) = (base.clone().data(b"hole"), at(&base, 1005).data(b"end").fin());
    rig.holds(&fin);
    rig.is_kept(&hole);
    rig.passes(&hole);
    rig.frees(&fin, &[&fin]);
    rig.passes(&fin);
    assert_eq!(rig.engine.stats().reasons.total(), 0);
}

/// Everything that a frame can wait for, in every order: the last of it releases the frame, in that
/// very call, and nothing before does.
#[test]
fn what_the_rule_allows_waits_for_no_further_packet() {
    let needed = |base: &Tcp| {
        [
            base.clone().ack(400).data(b"bye"),
            at(base, 1004).ack(400).fin(),
            at(base, 1004).ack(400).urgent(2),
            at(base, 1004).ack(600),
        ]
    };
    for order in 0..24 {
        let (mut rig, base) = open();
        let frame = base.clone().ack(600).data(b"bye").fin().urgent(5);
        rig.holds(&frame);
        let mut left = needed(&base).to_vec();
        let (mut choice, mut ways) = (order, 24);
        while left.len() > 1 {
            ways /= left.len();
            rig.is_kept(&left.remove(choice / ways));
            choice %= ways;
        }
        rig.frees(&left[0], &[&frame]);
        assert_eq!(rig.engine.poll_timeout(), None);
    }
    // And where all of it was there before, the frame does not wait at all.
    let (mut rig, base) = open();
    for segment in needed(&base) {
        rig.is_kept(&segment);
    }
    rig.passes(&base.ack(600).data(b"bye").fin().urgent(5));
}
