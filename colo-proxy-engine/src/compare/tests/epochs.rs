//! Checkpoints, requests and protection.

use std::time::Duration;

use super::packet::{Link, Tcp, at, tcp};
use super::rig::{Rig, open};
use crate::compare::{Limits, Output, Outstanding, Reason};

#[test]
fn a_checkpoint_releases_all_flows_in_order_of_arrival() {
    let mut rig = Rig::new();
    let mut expected = Vec::new();
    for n in 0..6u8 {
        let link = Link { peer: n % 3, ..Link::default() };
        let segment = Tcp { link, ..tcp(100 + u32::from(n) * 10) }.data([n; 10]);
        rig.holds(&segment);
        expected.push(segment.build());
        let datagram = link.udp((1, 2), &[n], 0);
        assert_eq!(rig.frame(crate::compare::Side::Primary, &datagram).0, []);
        expected.push(datagram);
    }
    assert_eq!(rig.checkpoint(), (expected, vec![]));
    assert_eq!(rig.engine.stats().held.frames, 0);
    assert_eq!(rig.engine.stats().held.bytes, 0);
    assert_eq!(rig.engine.poll_timeout(), None);
}

#[test]
fn what_was_flushed_counts_as_produced_and_acknowledged_by_both() {
    let (mut rig, base) = open();
    rig.holds(&base.clone().ack(600).data(b"flushed"));
    rig.holds(&at(&base, 1008).ack(700).fin());
    rig.checkpoint();
    // Retransmissions, bare acknowledgments and the FIN again.
    rig.passes(&base.clone().ack(650).data(b"flushed"));
    rig.passes(&at(&base, 1009).ack(700));
    rig.passes(&at(&base, 1008).ack(700).fin());
    rig.holds(&at(&base, 1009).ack(701));
}

#[test]
fn nothing_the_secondary_sent_before_vouches_for_anything_after() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().ack(900).data(b"ahead"));
    rig.checkpoint();
    assert_eq!(rig.engine.stats().secondary_dropped.stale, 1);
    let data = base.clone().ack(501).data(b"ahead");
    rig.holds(&data);
    rig.frees(&data, &[&data]);
    let ack = at(&base, 1006).ack(900);
    rig.holds(&ack);
    rig.frees(&ack, &[&ack]);
}

#[test]
fn frames_of_after_the_cut_stay_and_are_compared_in_the_new_epoch() {
    let (mut rig, base) = open();
    let (old, new) = (base.clone().data(b"old"), at(&base, 1004).data(b"new"));
    rig.holds(&old);
    rig.began();
    rig.holds(&new);
    // The old secondary may still release the old, but not the new.
    rig.frees(&base.clone().data(b"oldnew"), &[&old]);
    assert_eq!(rig.done(), (vec![], vec![]));
    rig.frees(&new, &[&new]);
}

/// Nothing has happened since the first checkpoint failed that could have sorted the frame.
#[test]
fn a_frame_of_after_a_cut_that_failed_is_of_before_the_next_one() {
    let (mut rig, base) = open();
    let (old, between) = (base.clone().data(b"old"), at(&base, 1004).data(b"between"));
    rig.holds(&old);
    rig.began();
    rig.holds(&between);
    rig.failed();
    rig.began();
    let new = at(&base, 1011).data(b"new");
    rig.holds(&new);
    assert_eq!(rig.done(), (vec![old.build(), between.build()], vec![]));
    assert_eq!(rig.engine.stats().held.frames, 1, "what came after the second cut waits");
    // It is known as covered: its repetition leaves.
    rig.passes(&between);
    rig.frees(&new, &[&new]);
}

#[test]
fn a_failed_checkpoint_changes_nothing() {
    let (mut rig, base) = open();
    let (old, new) = (base.clone().data(b"old"), at(&base, 1004).data(b"new"));
    rig.holds(&old);
    rig.began();
    rig.holds(&new);
    rig.frees(&base.clone().data(b"oldnew"), &[&old]);
    rig.failed();
    // The same secondary goes on: what it said is worth what it was.
    assert_eq!(rig.wait(Duration::ZERO), (vec![new.build()], vec![]));
}

#[test]
fn one_request_is_outstanding_and_reasons_are_collected() {
    let (mut rig, base) = open();
    rig.holds(&base.clone().data(b"aa"));
    assert_eq!(rig.secondary(&base.clone().data(b"ab")).1, [Reason::Payload]);
    for n in 2..10 {
        rig.holds(&at(&base, 1001 + n * 2).data(b"aa"));
        assert_eq!(rig.secondary(&at(&base, 1001 + n * 2).data(b"ab")).1, []);
    }
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
    let stats = rig.engine.stats();
    assert_eq!((stats.requests.total(), stats.reasons.get(Reason::Payload)), (1, 9));
    let outstanding = rig.engine.outstanding().expect("it was not answered");
    assert_eq!((outstanding.reasons.total(), outstanding.reasons.get(Reason::Payload)), (9, 9));
    // All of it is settled by one checkpoint.
    let (released, requests) = rig.checkpoint();
    assert_eq!((released.len(), requests), (9, vec![]));
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn the_outstanding_request_says_what_it_will_settle() {
    let (mut rig, base) = open();
    assert_eq!(rig.engine.outstanding(), None);
    rig.holds(&base.clone().data(b"aa"));
    rig.now += Duration::from_millis(70);
    rig.secondary(&base.clone().data(b"ab"));
    rig.primary(&tcp(90_000).syn().ack(7001));
    rig.secondary(&tcp(80_000).syn().ack(7001));
    rig.engine.request_checkpoint(rig.now, Reason::Resync, &mut Output::default());
    let outstanding = rig.engine.outstanding().expect("it was not answered");
    assert_eq!((outstanding.reason, outstanding.since_ms), (Reason::Payload, 70));
    let named = |outstanding: Outstanding| {
        let came_up = outstanding.reasons.iter().filter(|(_, count)| *count > 0);
        came_up.map(|(reason, count)| (reason.name(), count)).collect::<Vec<_>>()
    };
    assert_eq!(named(outstanding), [("payload", 1), ("tuple-reuse", 1), ("resync", 1)]);
    // It is not answered by its beginning.
    rig.began();
    assert_eq!(rig.engine.outstanding(), Some(outstanding));
    rig.failed();
    assert_eq!(rig.engine.outstanding(), None);
    // What was found stays found, and is asked for again.
    rig.wait(Duration::from_millis(100));
    let again = rig.engine.outstanding().expect("raised again");
    assert_eq!((again.since_ms, named(again)), (170, named(outstanding)));
    rig.checkpoint();
    assert_eq!(rig.engine.outstanding(), None);
    // A new request starts to count anew.
    rig.engine.request_checkpoint(rig.now, Reason::Resync, &mut Output::default());
    assert_eq!(rig.engine.outstanding().map(named), Some(vec![("resync", 1)]));
}

#[test]
fn a_request_is_raised_again_after_a_failure() {
    let (mut rig, base) = open();
    rig.holds(&base.clone().data(b"aa"));
    assert_eq!(rig.secondary(&base.clone().data(b"ab")).1, [Reason::Payload]);
    rig.began();
    rig.failed();
    assert_eq!(rig.wait(Duration::from_millis(99)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::Payload]);
}

#[test]
fn a_wait_that_is_over_is_not_asked_for_again() {
    let (mut rig, base) = open();
    let late = base.clone().data(b"late");
    rig.holds(&late);
    assert_eq!(rig.wait(Duration::from_secs(3)).1, [Reason::Timeout]);
    rig.began();
    rig.failed();
    rig.frees(&late, &[&late]);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn a_checkpoint_that_nobody_asked_for_settles_what_comes_up_meanwhile() {
    let (mut rig, base) = open();
    rig.holds(&base.clone().data(b"aa"));
    rig.began();
    assert_eq!(rig.secondary(&base.clone().data(b"ab")).1, []);
    assert_eq!(rig.done().1, []);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn time_held_before_the_new_epoch_does_not_count_in_it() {
    let (mut rig, base) = open();
    rig.began();
    let new = base.clone().data(b"new");
    rig.holds(&new);
    rig.wait(Duration::from_secs(10));
    assert_eq!(rig.done(), (vec![], vec![]));
    assert_eq!(rig.wait(Duration::from_millis(2999)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::Timeout]);
}

#[test]
fn without_protection_everything_leaves_and_the_secondary_is_forgotten() {
    let (mut rig, base) = open();
    let (old, new) = (base.clone().data(b"old"), at(&base, 1004).data(b"new"));
    rig.is_kept(&at(&base, 1007).data(b"ahead"));
    rig.holds(&old);
    rig.began();
    rig.holds(&new);
    assert_eq!(rig.release_all(), [old.build(), new.build()]);
    let stats = rig.engine.stats();
    assert_eq!((stats.held.frames, stats.secondary_waiting.frames, stats.flows), (0, 0, 0));
    assert_eq!(stats.released.unprotected.frames, 2);
    // Protected again, far on in the stream: it is met in its middle.
    let later = at(&base, 3_000_000_000).data(b"later");
    rig.holds(&later);
    rig.frees(&later, &[&later]);
}

#[test]
fn a_checkpoint_in_the_middle_of_a_handshake() {
    let mut rig = Rig::new();
    let syn_ack = tcp(1000).syn().ack(501);
    rig.holds(&syn_ack);
    assert_eq!(rig.checkpoint().0, [syn_ack.build()]);
    // The secondary now has the primary's number, and repeats it.
    rig.is_kept(&syn_ack);
    rig.passes(&syn_ack);
    let data = tcp(1001).ack(501).data(b"hi");
    rig.is_kept(&data);
    rig.passes(&data);
}

#[test]
fn a_difference_is_recorded_with_its_epoch_and_the_ring_is_bounded() {
    let limits = Limits { divergences_max: 3, ..Limits::default() };
    let mut rig = Rig::with(limits);
    for n in 0..5 {
        let segment = tcp(1000 + n * 4).data(b"aaaa");
        rig.holds(&segment);
        assert_eq!(rig.secondary(&segment.clone().data(b"aaab")).1, [Reason::Payload]);
        rig.checkpoint();
    }
    let epochs: Vec<u64> = rig.engine.divergences().map(|divergence| divergence.epoch).collect();
    assert_eq!(epochs, [2, 3, 4]);
    assert_eq!(rig.engine.stats().divergences, 5);
}

#[test]
fn time_that_runs_backwards_stands_still() {
    let (mut rig, base) = open();
    let start = rig.now;
    rig.now += Duration::from_secs(10);
    rig.holds(&base.clone().data(b"a"));
    rig.now = start;
    rig.holds(&at(&base, 1002).data(b"b"));
    assert_eq!(rig.engine.poll_timeout(), Some(start + Duration::from_secs(13)));
}

#[test]
fn a_hole_that_the_primary_left_is_not_covered() {
    let (mut rig, base) = open();
    rig.holds(&base.clone().data(b"first"));
    rig.holds(&at(&base, 1_000_000).data(b"far"));
    rig.checkpoint();
    // Put out before the cut.
    rig.passes(&at(&base, 1_000_000).data(b"far"));
    rig.passes(&base.clone().data(b"first"));
    // Not put out before the cut, though the highest place was beyond it.
    let hole = at(&base, 1006).data(b"never compared");
    rig.holds(&hole);
    rig.frees(&hole, &[&hole]);
}
