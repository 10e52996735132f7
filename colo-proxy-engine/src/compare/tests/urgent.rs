//! Urgent data: the place that a segment points to is like an acknowledgment of one's own stream.

use std::time::Duration;

use super::packet::{Tcp, at, tcp};
use super::rig::{Rig, open};
use crate::compare::{Reason, WaitsFor};

#[test]
fn an_urgent_segment_leaves_when_the_secondary_points_as_far() {
    let (mut rig, base) = open();
    let urgent = base.clone().data(b"interrupt").urgent(9);
    rig.holds(&urgent);
    rig.frees(&urgent.clone().salt(1), &[&urgent]);
    let next = at(&base, 1010).data(b"!").urgent(1);
    rig.is_kept(&next);
    rig.passes(&next);
}

/// The twin: the same bytes are not enough.
#[test]
fn an_urgent_segment_is_held_while_the_secondary_points_less_far() {
    let (mut rig, base) = open();
    let urgent = base.clone().data(b"interrupt").urgent(9);
    rig.holds(&urgent);
    rig.is_kept(&base.clone().data(b"interrupt"));
    rig.is_kept(&base.clone().data(b"interrupt").urgent(8));
    assert_eq!(rig.wait(Duration::from_secs(3)).1, [Reason::Timeout]);
    let waits_for = rig.engine.divergences().next().and_then(|record| record.waits_for);
    assert_eq!(waits_for, Some(WaitsFor::Urgent));
    assert_eq!(rig.checkpoint().0, [urgent.build()]);
    // What the checkpoint covers is pointed to by both.
    rig.passes(&urgent);
}

#[test]
fn an_urgent_segment_with_other_bytes_is_a_difference() {
    let (mut rig, base) = open();
    rig.holds(&base.clone().data(b"a").urgent(1));
    assert_eq!(rig.secondary(&base.data(b"b").urgent(1)).1, [Reason::Payload]);
}

#[test]
fn what_is_urgent_does_not_depend_on_the_segments() {
    let (mut rig, base) = open();
    let (first, second) =
        (base.clone().data([1; 100]).urgent(150), at(&base, 1101).data([2; 50]).urgent(50));
    rig.holds(&first);
    rig.holds(&second);
    rig.is_kept(&base.clone().data([1; 80]));
    let rest = [[1; 20].as_slice(), &[2; 50]].concat();
    rig.frees(&at(&base, 1081).data(rest).urgent(70), &[&first, &second]);
}

#[test]
fn a_segment_that_points_less_far_than_the_secondary_has_leaves_at_once() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data([1; 10]).urgent(10));
    rig.passes(&base.clone().data([1; 5]).urgent(5));
    rig.passes(&at(&base, 1006).data([1; 5]).urgent(5));
    // And a bare segment needs nothing of the kind.
    rig.passes(&at(&base, 1011));
}

#[test]
fn segments_that_one_pointer_frees_leave_in_order_of_arrival() {
    let (mut rig, base) = open();
    let all = [base.clone().urgent(30), base.clone().urgent(10), base.clone().urgent(20)];
    for segment in &all {
        rig.holds(segment);
    }
    rig.frees(&base.clone().urgent(10), &[&all[1]]);
    rig.frees(&base.clone().urgent(40), &[&all[0], &all[2]]);
}

#[test]
fn a_pointer_of_zero_is_a_place_like_others() {
    let (mut rig, base) = open();
    let zero = base.clone().data(b"x").urgent(0);
    rig.holds(&zero);
    rig.is_kept(&base.clone().data(b"x"));
    rig.frees(&zero.clone().salt(1), &[&zero]);
}

#[test]
fn an_urgent_notice_without_data_is_held_like_one_with_data() {
    let (mut rig, base) = open();
    // Ahead of a closed window.
    let notice = base.clone().urgent(20);
    rig.holds(&notice);
    rig.is_kept(&base);
    rig.frees(&notice.clone().salt(1), &[&notice]);
    assert_eq!(rig.engine.stats().reasons.total(), 0);
}

#[test]
fn a_pointer_out_of_the_stream_is_no_more_than_a_place() {
    let (mut rig, base) = open();
    let far = base.clone().data(b"x").urgent(u16::MAX);
    rig.is_kept(&far.clone().salt(1));
    rig.passes(&far);
    // The primary's alone waits, and what follows it does not.
    let farther = at(&base, 1002).data(b"y").urgent(u16::MAX);
    let after = at(&base, 1003).data(b"z");
    rig.holds(&farther);
    rig.holds(&after);
    rig.frees(&at(&base, 1002).data(b"yz"), &[&after]);
    assert_eq!(rig.wait(Duration::from_secs(3)).1, [Reason::Timeout]);
}

#[test]
fn a_pointer_without_the_flag_means_nothing() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"x"));
    rig.passes(&Tcp { urgent: 1, ..base.data(b"x") });
}

#[test]
fn a_pointer_of_the_secondary_alone_is_no_reason() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().urgent(5));
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn urgent_places_wrap() {
    let mut rig = Rig::new();
    let isn = u32::MAX - 10;
    let base = tcp(isn.wrapping_add(1)).ack(501);
    rig.accept(&base, isn, 500);
    let urgent = base.clone().data([7; 20]).urgent(20);
    rig.holds(&urgent);
    rig.is_kept(&base.clone().data([7; 8]).urgent(8));
    rig.is_kept(&at(&base, isn.wrapping_add(9)).data([7; 12]));
    rig.frees(&at(&base, 5).urgent(5), &[&urgent]);
}

#[test]
fn an_urgent_reset_is_a_reset() {
    let (mut rig, base) = open();
    let reset = base.clone().rst().urgent(7);
    rig.holds(&reset);
    rig.frees(&base.rst(), &[&reset]);
}
