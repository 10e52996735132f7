//! TCP. The numbers in the outcomes are places in the schedule.

use anyhow::Result;
use colo_lab::colo_compare::{TestSegment, segment, vlan};
use colo_lab::lab_test;

use super::{P, S, Step, row};

/// 100 bytes from place `at` of a stream that starts at 1000.
fn part(at: u32, len: usize) -> TestSegment {
    let octets: Vec<u8> = (at..).take(len).map(|i| (i % 251) as u8).collect();
    segment(1000 + at).ack(1).data(&octets)
}

fn p(segment: &TestSegment) -> Step {
    P(segment.build())
}

fn s(segment: &TestSegment) -> Step {
    S(segment.build())
}

const NOTHING: (&[usize], usize) = (&[], 0);

#[lab_test(qemu)]
fn another_segmentation_is_the_same_stream() -> Result<()> {
    let steps = [p(&part(0, 100)), p(&part(100, 100)), s(&part(0, 150)), s(&part(150, 50))];
    let both = [NOTHING, NOTHING, (&[0][..], 0), (&[1], 0)];
    row(&steps, &both, &both)
}

#[lab_test(qemu)]
fn ipv4_in_a_vlan_is_compared() -> Result<()> {
    let (good, evil) = (part(0, 4).build(), segment(1000).ack(1).data(b"evil").build());
    let steps = [P(vlan(&good, 7)), S(vlan(&evil, 7))];
    row(&steps, &[(&[0], 0), NOTHING], &[NOTHING, (&[], 1)])
}

/// QEMU counts the padding of a short frame as data, and then treats real data there as compared.
#[lab_test(qemu)]
fn padding_is_no_data() -> Result<()> {
    let ack = segment(1000).ack(1).padded();
    let steps = [
        P(ack.clone()),
        S(ack),
        p(&segment(1000).ack(1).data(b"abc")),
        s(&segment(1000).ack(1).data(b"xyz")),
    ];
    row(&steps, &[NOTHING, (&[0], 0), NOTHING, (&[2], 0)], &[NOTHING, (&[0], 0), NOTHING, (&[], 1)])
}

/// QEMU looks at no frame while one of the two queues is empty.
#[lab_test(qemu)]
fn an_acknowledgment_that_the_secondary_has_given_leaves_at_once() -> Result<()> {
    let ack = segment(1010).ack(1);
    let steps = [p(&part(0, 10)), s(&part(0, 10)), p(&ack), s(&ack)];
    row(
        &steps,
        &[NOTHING, (&[0], 0), NOTHING, (&[2], 0)],
        &[NOTHING, (&[0], 0), (&[2], 0), NOTHING],
    )
}

#[lab_test(qemu)]
fn a_retransmission_of_what_was_compared_leaves_at_once() -> Result<()> {
    // Another IP identification, as in a retransmission.
    let again = part(0, 10).ip_id(7);
    let steps = [p(&part(0, 10)), s(&part(0, 10)), p(&again)];
    row(&steps, &[NOTHING, (&[0], 0), NOTHING], &[NOTHING, (&[0], 0), (&[2], 0)])
}

#[lab_test(qemu)]
fn an_acknowledgment_above_the_secondarys_waits_for_it() -> Result<()> {
    let steps = [
        p(&segment(1000).ack(1)),
        s(&segment(1000).ack(1)),
        p(&segment(1000).ack(5000)),
        s(&segment(1000).ack(10)),
        s(&segment(1000).ack(5000)),
    ];
    row(
        &steps,
        &[NOTHING, (&[0], 0), NOTHING, (&[2], 0), NOTHING],
        &[NOTHING, (&[0], 0), NOTHING, NOTHING, (&[2], 0)],
    )
}

#[lab_test(qemu)]
fn an_acknowledgment_with_data_waits_for_the_secondarys_too() -> Result<()> {
    let steps = [
        p(&part(0, 10)),
        s(&part(0, 10)),
        p(&part(10, 10).ack(5000)),
        s(&part(10, 10).ack(10)),
        s(&segment(1020).ack(5000)),
    ];
    row(
        &steps,
        &[NOTHING, (&[0], 0), NOTHING, (&[2], 0), NOTHING],
        &[NOTHING, (&[0], 0), NOTHING, NOTHING, (&[2], 0)],
    )
}

/// QEMU sees a difference in an acknowledgment that is ahead if the segments differ in length.
#[lab_test(qemu)]
fn an_acknowledgment_that_is_ahead_is_no_difference() -> Result<()> {
    let steps = [
        p(&part(0, 10)),
        s(&part(0, 10)),
        p(&part(10, 100).ack(20)),
        s(&part(10, 150).ack(10)),
        s(&segment(1160).ack(20)),
    ];
    row(
        &steps,
        &[NOTHING, (&[0], 0), NOTHING, (&[], 1), (&[2], 0)],
        &[NOTHING, (&[0], 0), NOTHING, NOTHING, (&[2], 0)],
    )
}

#[lab_test(qemu)]
fn acknowledgments_are_compared_across_the_wrap() -> Result<()> {
    let steps = [
        p(&part(0, 10).ack(0xffff_fff0)),
        s(&part(0, 10).ack(0xffff_fff0)),
        p(&part(10, 100).ack(5)),
        s(&part(10, 150).ack(0xffff_fff0)),
        s(&segment(1160).ack(5)),
    ];
    row(
        &steps,
        &[NOTHING, (&[0], 0), NOTHING, (&[2], 0), NOTHING],
        &[NOTHING, (&[0], 0), NOTHING, NOTHING, (&[2], 0)],
    )
}

#[lab_test(qemu)]
fn a_coalesced_retransmission_is_the_same_stream() -> Result<()> {
    let steps = [p(&part(0, 100)), s(&part(0, 100)), p(&part(0, 200)), s(&part(100, 100))];
    row(&steps, &[NOTHING, (&[0], 0), NOTHING, (&[], 1)], &[NOTHING, (&[0], 0), NOTHING, (&[2], 0)])
}

#[lab_test(qemu)]
fn a_hole_is_no_difference() -> Result<()> {
    let steps = [
        p(&part(0, 100)),
        s(&part(0, 100)),
        p(&part(200, 100)),
        s(&part(100, 100)),
        p(&part(100, 100)),
        s(&part(200, 100)),
    ];
    row(
        &steps,
        &[NOTHING, (&[0], 0), NOTHING, (&[], 1), (&[4], 0), (&[2], 0)],
        &[NOTHING, (&[0], 0), NOTHING, NOTHING, (&[4], 0), (&[2], 0)],
    )
}

#[lab_test(qemu)]
fn a_reset_waits_for_a_reset() -> Result<()> {
    let steps = [
        p(&part(0, 10)),
        s(&part(0, 10)),
        p(&segment(1010).ack(1).rst()),
        s(&segment(1010).ack(1)),
        s(&segment(1010).ack(1).rst()),
    ];
    row(
        &steps,
        &[NOTHING, (&[0], 0), NOTHING, (&[2], 0), NOTHING],
        &[NOTHING, (&[0], 0), NOTHING, NOTHING, (&[2], 0)],
    )
}

#[lab_test(qemu)]
fn a_fin_waits_for_a_fin() -> Result<()> {
    let steps = [p(&part(0, 10).fin()), s(&part(0, 10)), s(&segment(1010).ack(1).fin())];
    row(&steps, &[NOTHING, (&[0], 0), NOTHING], &[NOTHING, NOTHING, (&[0], 0)])
}

#[lab_test(qemu)]
fn what_a_syn_ack_offers_is_compared() -> Result<()> {
    let offer = |isn, mss: u8| segment(isn).ack(1).syn().options(&[2, 4, 5, mss]);
    let steps = [p(&offer(999, 180)), s(&offer(70_000, 80))];
    row(&steps, &[NOTHING, (&[0], 0)], &[NOTHING, (&[], 1)])?;
    // The twin: the guests' own numbers are no difference.
    let steps = [p(&offer(999, 180)), s(&offer(70_000, 180))];
    row(&steps, &[NOTHING, (&[0], 0)], &[NOTHING, (&[0], 0)])
}

#[lab_test(qemu)]
fn a_new_connection_on_the_tuple_is_compared_afresh() -> Result<()> {
    let at = |seq, ack, data: &[u8]| segment(seq).ack(ack).data(data);
    let steps = [
        p(&at(9000, 1, b"old")),
        s(&at(9000, 1, b"old")),
        p(&segment(100).ack(70).syn()),
        s(&segment(100).ack(70).syn()),
        p(&at(101, 70, b"EVIL")),
        s(&at(101, 70, b"good")),
    ];
    row(
        &steps,
        &[NOTHING, (&[0], 0), NOTHING, (&[2], 0), NOTHING, (&[4], 0)],
        &[NOTHING, (&[0], 0), NOTHING, (&[2], 0), NOTHING, (&[], 1)],
    )
}

/// A different window is no difference. QEMU has no rule for a *closed* window.
#[lab_test(qemu)]
fn windows_may_differ() -> Result<()> {
    let steps = [p(&part(0, 10).window(60_000)), s(&part(0, 10).window(10))];
    let both = [NOTHING, (&[0][..], 0)];
    row(&steps, &both, &both)
}
