//! The record of a difference: which frames it shows, and for how long.

use std::time::Duration;

use super::packet::{Link, Tcp, syn_options, tcp};
use super::rig::{self, Rig};
use crate::compare::{Captured, Divergence, Limits, Reason, Side};
use crate::frame::Frame;

/// A connection at 1001, the peer's at 501, opened 10 ms ago.
fn open() -> (Rig, Tcp) {
    let (mut rig, base) = rig::open();
    rig.now += Duration::from_millis(10);
    (rig, base)
}

/// Lets the guests say different things 5 ms apart, in the order that `secondary_first` says.
fn say(rig: &mut Rig, ours: &Frame, theirs: &Frame, secondary_first: bool) -> Vec<Reason> {
    let mut order = [(Side::Primary, ours), (Side::Secondary, theirs)];
    if secondary_first {
        order.reverse();
    }
    let mut requests = Vec::new();
    for (side, frame) in order {
        rig.now += Duration::from_millis(5);
        requests.extend(rig.frame(side, frame).1);
    }
    requests
}

fn shown(captured: Option<&Captured>) -> Option<&[u8]> {
    captured.map(|captured| &captured.octets[..])
}

fn last(rig: &Rig) -> &Divergence {
    rig.engine.divergences().last().expect("recorded")
}

/// Every difference that two frames show: the frames, and the reason that they are.
fn differing() -> Vec<(Tcp, Tcp, Reason)> {
    let base = tcp(1001).ack(501);
    let other_options = [&syn_options()[..19], &[3]].concat();
    vec![
        (base.clone().data(b"ours"), base.clone().data(b"THEIRS"), Reason::Payload),
        (base.clone().data([1; 60_000]), base.clone().data([2; 5000]), Reason::Payload),
        (base.clone().fin(), base.clone().data(b"more").fin(), Reason::FinPosition),
        (base.clone().rst(), Tcp { seq: 1005, ..base.clone() }.rst(), Reason::RstPosition),
        (
            Tcp { link: Link { peer: 8, ..Link::default() }, ..tcp(7) }.syn(),
            Tcp { link: Link { peer: 8, ..Link::default() }, ..tcp(9) }
                .syn()
                .options(&other_options),
            Reason::SynWindowScale,
        ),
    ]
}

#[test]
fn a_difference_shows_both_frames_and_when_they_came() {
    for (ours, theirs, reason) in differing() {
        for secondary_first in [false, true] {
            let (mut rig, _) = open();
            let (ours, theirs) = (ours.build(), theirs.clone().salt(9).build());
            assert_eq!(say(&mut rig, &ours, &theirs, secondary_first), [reason]);
            let record = last(&rig);
            assert_eq!(shown(record.primary_frame.as_ref()), Some(ours.ethernet()), "{reason}");
            assert_eq!(shown(record.secondary_frame.as_ref()), Some(theirs.ethernet()));
            let times = if secondary_first { (20, 15) } else { (15, 20) };
            assert_eq!(
                (record.primary_at_ms, record.secondary_at_ms),
                (Some(times.0), Some(times.1))
            );
            assert_eq!(record.at_ms, 20);
            let sides: Vec<Side> = record.frames().map(|(side, _)| side).collect();
            assert_eq!(sides, [Side::Primary, Side::Secondary]);
        }
    }
}

#[test]
fn a_frame_kept_for_its_control_bits_is_shown_in_its_first_bytes() {
    let (mut rig, base) = open();
    let theirs = base.clone().data([1; 1000]).fin().build();
    let ours = base.data([1; 999]).fin().build();
    assert_eq!(say(&mut rig, &ours, &theirs, true), [Reason::FinPosition]);
    let captured = last(&rig).secondary_frame.as_ref().expect("its start is kept");
    assert_eq!(captured.original_len, theirs.ethernet().len());
    assert_eq!(captured.octets, theirs.ethernet()[..256]);
}

#[test]
fn differing_datagrams_show_both_frames() {
    let (mut rig, _) = open();
    let ours = Link::default().udp((53, 1), b"ours", 0);
    let theirs = Link::default().udp((53, 1), b"theirs", 9);
    say(&mut rig, &ours, &theirs, true);
    assert_eq!(rig.wait(Duration::from_secs(1)).1, [Reason::Datagram]);
    let record = last(&rig);
    assert_eq!(shown(record.primary_frame.as_ref()), Some(ours.ethernet()));
    assert_eq!(shown(record.secondary_frame.as_ref()), Some(theirs.ethernet()));
    assert_eq!((record.primary_at_ms, record.secondary_at_ms), (Some(20), Some(15)));
}

#[test]
fn a_piece_cut_out_of_a_frame_still_shows_the_whole_of_it() {
    for len in [300, 1400, 9000] {
        let (mut rig, base) = open();
        let theirs = base.clone().data(vec![1; len]).build();
        rig.frame(Side::Secondary, &theirs);
        // From the front and from the middle, so that a piece is trimmed and one is split off.
        rig.passes(&base.clone().data([1; 10]));
        rig.passes(&Tcp { seq: 1051, ..base.clone() }.data([1; 10]));
        let ours = Tcp { seq: 1091, ..base.clone() }.data([2; 10]);
        assert_eq!(rig.primary(&ours).1, [Reason::Payload]);
        let record = last(&rig);
        assert_eq!(shown(record.secondary_frame.as_ref()), Some(theirs.ethernet()));
        assert_eq!((record.stream_offset, record.secondary_at_ms), (90, Some(10)));
    }
}

#[test]
fn a_timeout_shows_the_frame_that_was_held_and_no_other() {
    let (mut rig, base) = open();
    let held = base.data(b"held");
    rig.holds(&held);
    assert_eq!(rig.wait(Duration::from_secs(3)).1, [Reason::Timeout]);
    let record = last(&rig);
    assert_eq!(shown(record.primary_frame.as_ref()), Some(held.build().ethernet()));
    assert_eq!((record.primary_at_ms, record.secondary_at_ms), (Some(10), None));
    assert_eq!(record.secondary_frame, None);
}

#[test]
fn secondary_only_output_shows_the_frame_that_it_came_in() {
    let (mut rig, base) = open();
    let waits = base.data(b"waits");
    rig.is_kept(&waits);
    assert_eq!(rig.wait(Duration::from_secs(3)).1, [Reason::SecondaryOnly]);
    let record = last(&rig);
    assert_eq!(shown(record.secondary_frame.as_ref()), Some(waits.build().ethernet()));
    assert_eq!((record.primary_at_ms, record.secondary_at_ms), (None, Some(10)));
    assert_eq!(record.primary_frame, None);
}

#[test]
fn records_are_numbered_and_the_oldest_lose_their_frames_first() {
    let limits =
        Limits { divergences_max: 3, divergence_frames_bytes: 4 * 1054, ..Limits::default() };
    let mut rig = Rig::with(limits);
    for n in 0..5 {
        let base = Tcp { ports: (80, n), ..tcp(1001) };
        rig.holds(&base.clone().data([1; 1000]));
        rig.secondary(&base.data([2; 1000]));
        rig.checkpoint();
    }
    let records: Vec<_> =
        rig.engine.divergences().map(|record| (record.number, record.frames().count())).collect();
    assert_eq!(records, [(3, 0), (4, 2), (5, 2)]);
    // The times stay.
    assert_eq!(rig.engine.divergences().next().and_then(|record| record.primary_at_ms), Some(0));
    assert_eq!(rig.engine.stats().divergence_frames_dropped, 6);
}

#[test]
fn a_difference_too_long_to_be_kept_is_recorded_without_its_frames() {
    let mut rig = Rig::with(Limits { divergence_frames_bytes: 0, ..Limits::default() });
    rig.holds(&tcp(1).data(b"a"));
    rig.secondary(&tcp(1).data(b"b"));
    assert_eq!(last(&rig).frames().count(), 0);
    assert_eq!(last(&rig).number, 1);
    assert_eq!(rig.engine.stats().divergence_frames_dropped, 2);
}
