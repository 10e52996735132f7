//! Data and acknowledgments of TCP, rule by rule.

use std::time::Duration;

use super::packet::{Link, Tcp, at, tcp};
use super::rig::{Rig, open};
use crate::compare::{Reason, Side, WaitsFor};

#[test]
fn equal_data_leaves_whichever_guest_is_first() {
    let (mut rig, base) = open();
    let first = base.clone().data(b"hello");
    rig.holds(&first);
    rig.frees(&first.clone().salt(1), &[&first]);
    let second = at(&base, 1006).data(b"world");
    rig.is_kept(&second.clone().salt(1));
    rig.passes(&second);
}

#[test]
fn other_segmentation_is_the_same_stream() {
    let (mut rig, base) = open();
    let (a, b) = (base.clone().data([1; 100]), at(&base, 1101).data([2; 100]));
    rig.holds(&a);
    rig.holds(&b);
    let joined = [[1; 100], [2; 100]].concat();
    rig.is_kept(&base.clone().data(&joined[..50]));
    rig.frees(&at(&base, 1051).data(&joined[50..120]), &[&a]);
    rig.frees(&at(&base, 1121).data(&joined[120..]), &[&b]);
}

#[test]
fn one_offloaded_frame_against_many_segments() {
    let (mut rig, base) = open();
    let octets: Vec<u8> = (0..64_000u32).map(|n| (n / 7) as u8).collect();
    let large = base.clone().data(&octets);
    rig.holds(&large);
    let segments: Vec<Tcp> = (0u32..)
        .zip(octets.chunks(1448))
        .map(|(n, chunk)| at(&base, 1001 + n * 1448).data(chunk))
        .collect();
    for segment in &segments[..segments.len() - 1] {
        rig.is_kept(segment);
    }
    rig.frees(&segments[segments.len() - 1], &[&large]);
    // And the other way round.
    let next = at(&base, 1001 + 64_000);
    rig.is_kept(&next.clone().data(&octets));
    for segment in &segments {
        rig.passes(&at(segment, segment.seq + 64_000));
    }
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 0);
}

#[test]
fn a_retransmission_of_verified_data_leaves_at_once_while_others_are_held() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"verified"));
    rig.passes(&base.clone().data(b"verified"));
    rig.holds(&at(&base, 1009).data(b"not yet"));
    rig.passes(&base.clone().data(b"verified"));
    rig.passes(&at(&base, 1003).data(b"rifi"));
}

#[test]
fn a_coalesced_retransmission_waits_for_its_new_part_only() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"old"));
    rig.passes(&base.clone().data(b"old"));
    let coalesced = base.clone().data(b"oldnew");
    rig.holds(&coalesced);
    rig.frees(&at(&base, 1004).data(b"new"), &[&coalesced]);
}

#[test]
fn a_hole_and_reordering_are_no_difference() {
    let (mut rig, base) = open();
    let (first, second) = (base.clone().data(b"first"), at(&base, 1006).data(b"second"));
    rig.holds(&second);
    rig.holds(&first);
    rig.frees(&second, &[&second]);
    rig.frees(&first, &[&first]);
}

#[test]
fn a_pure_ack_is_held_until_the_secondary_acknowledged_as_much() {
    let (mut rig, base) = open();
    let ack = base.clone().ack(900);
    rig.holds(&ack);
    rig.is_kept(&base.clone().ack(899));
    rig.frees(&base.clone().ack(901), &[&ack]);
    // What the rule holds for already waits for nothing.
    rig.passes(&base.clone().ack(880));
    rig.passes(&base.clone().ack(901));
}

#[test]
fn data_is_held_for_its_ack_too() {
    let (mut rig, base) = open();
    let data = base.clone().ack(600).data(b"x");
    rig.holds(&data);
    rig.is_kept(&base.clone().ack(510).data(b"x"));
    rig.frees(&at(&base, 1002).ack(600), &[&data]);
}

#[test]
fn frames_that_one_ack_frees_leave_in_order_of_arrival() {
    let (mut rig, base) = open();
    let acks = [base.clone().ack(700), base.clone().ack(600), base.clone().ack(650)];
    for ack in &acks {
        rig.holds(ack);
    }
    rig.frees(&base.clone().ack(700), &[&acks[0], &acks[1], &acks[2]]);
}

#[test]
fn keep_alives_leave_at_once() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"data"));
    rig.passes(&base.clone().data(b"data"));
    rig.passes(&at(&base, 1004));
    // With a byte of rubbish, as some stacks send it.
    rig.passes(&at(&base, 1004).data([0]));
}

#[test]
fn secondary_acks_and_retransmissions_are_no_reason_for_a_request() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"data"));
    rig.passes(&base.clone().data(b"data"));
    for _ in 0..10 {
        rig.is_kept(&at(&base, 1005).ack(777));
        rig.is_kept(&base.clone().data(b"data"));
    }
    assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
    assert_eq!(rig.engine.poll_timeout(), None);
}

#[test]
fn secondary_only_data_past_the_timeout_is_a_reason() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"data"));
    assert_eq!(rig.wait(Duration::from_millis(2999)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::SecondaryOnly]);
}

#[test]
fn a_frame_held_past_the_timeout_is_a_reason_and_named() {
    let (mut rig, base) = open();
    rig.holds(&at(&base, 1011).data(b"data"));
    assert_eq!(rig.wait(Duration::from_millis(2999)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::Timeout]);
    let divergence = rig.engine.divergences().next().expect("recorded");
    assert_eq!((divergence.reason, divergence.stream_offset), (Reason::Timeout, 10));
    assert_eq!(divergence.waits_for, Some(WaitsFor::Data));
    assert_eq!(divergence.flow.guest_port, 80);
}

#[test]
fn a_differing_byte_is_asked_for_at_once_and_named() {
    for secondary_first in [false, true] {
        let (mut rig, base) = open();
        let (ours, theirs) = (base.clone().data(b"0123456789"), base.clone().data(b"01234X6789"));
        let requests = if secondary_first {
            rig.is_kept(&theirs);
            rig.primary(&ours)
        } else {
            rig.holds(&ours);
            rig.secondary(&theirs)
        };
        assert_eq!(requests, (vec![], vec![Reason::Payload]));
        let divergence = rig.engine.divergences().next().expect("recorded");
        assert_eq!(divergence.stream_offset, 5);
        assert_eq!((divergence.primary_byte, divergence.secondary_byte), (Some(b'5'), Some(b'X')));
        assert_eq!(divergence.primary_context.bytes, b"0123456789");
        assert_eq!(divergence.secondary_context.before, 5);
        // Said again, it is no second difference; and it stays held.
        assert_eq!(rig.primary(&ours), (vec![], vec![]));
        assert_eq!(rig.secondary(&theirs), (vec![], vec![]));
        assert_eq!(rig.engine.stats().divergences, 1);
        assert_eq!(rig.engine.stats().held.frames, 2);
    }
}

#[test]
fn what_is_equal_around_a_difference_still_leaves() {
    let (mut rig, base) = open();
    let frames =
        [base.clone().data(b"aaaa"), at(&base, 1005).data(b"bbbb"), at(&base, 1009).data(b"cccc")];
    for frame in &frames {
        rig.holds(frame);
    }
    let (released, requests) = rig.secondary(&base.clone().data(b"aaaabXbbcccc"));
    assert_eq!(released, [frames[0].build(), frames[2].build()]);
    assert_eq!(requests, [Reason::Payload]);
    assert_eq!(rig.engine.divergences().next().map(|d| d.stream_offset), Some(5));
}

#[test]
fn two_versions_of_a_held_range_are_not_released_for_one_another() {
    let (mut rig, base) = open();
    let (good, evil) = (base.clone().data(b"good"), base.clone().data(b"evil"));
    rig.holds(&evil);
    rig.holds(&good);
    assert_eq!(rig.secondary(&good), (vec![good.build()], vec![Reason::Payload]));
}

#[test]
fn window_ttl_tos_id_and_padding_are_no_difference() {
    let (mut rig, base) = open();
    let data = base.clone().data(b"x");
    rig.holds(&data);
    // Salt changes the window, the TTL, the TOS, the IP id and the padding.
    rig.frees(&data.clone().salt(77), &[&data]);
}

#[test]
fn ethernet_padding_is_no_data() {
    let (mut rig, base) = open();
    // A bare acknowledgment is padded to 60 bytes; the bytes behind it are not verified by it.
    let ack = base.clone().salt(0x41);
    rig.passes(&ack);
    rig.is_kept(&ack);
    let data = base.clone().data(b"AAA");
    rig.holds(&data);
    assert_eq!(rig.secondary(&base.clone().data(b"BBB")).1, [Reason::Payload]);
}

#[test]
fn sequence_and_ack_wrap() {
    let mut rig = Rig::new();
    let isn = u32::MAX - 10;
    let base = tcp(isn.wrapping_add(1)).ack(u32::MAX - 3);
    rig.accept(&base, isn, u32::MAX - 4);
    let data = base.clone().ack(5).data([7; 40]);
    rig.holds(&data);
    rig.is_kept(&base.clone().ack(u32::MAX).data([7; 40]));
    rig.frees(&at(&base, isn.wrapping_add(41)).ack(5), &[&data]);
    rig.passes(&at(&base, isn.wrapping_add(21)).ack(3).data([7; 10]));
    rig.holds(&at(&base, isn.wrapping_add(41)).ack(6));
}

#[test]
fn a_stream_longer_than_the_sequence_space_keeps_its_offsets() {
    let (mut rig, base) = open();
    let step = 1 << 29;
    let mut seq = 1001u32;
    for _ in 0..20 {
        // The bytes between were lost in the capture: a checkpoint covers them.
        rig.is_kept(&at(&base, seq).data([1]));
        rig.passes(&at(&base, seq).data([1]));
        seq = seq.wrapping_add(step);
        rig.checkpoint();
    }
    rig.is_kept(&at(&base, seq).data([1]));
    assert_eq!(rig.primary(&at(&base, seq).data([2])).1, [Reason::Payload]);
    let divergence = rig.engine.divergences().next().expect("recorded");
    assert_eq!(divergence.stream_offset, 20 << 29);
}

#[test]
fn data_far_from_the_stream_is_held_and_vouches_for_nothing() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"data"));
    rig.passes(&base.clone().data(b"data"));
    let far = at(&base, 1001u32.wrapping_sub((1 << 30) + 100)).data(b"data");
    rig.holds(&far);
    rig.is_kept(&far);
    assert_eq!(rig.engine.stats().stray, 1);
    assert_eq!(rig.engine.stats().secondary_dropped.out_of_window, 1);
}

#[test]
fn data_before_the_start_of_the_stream_is_not_verified() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().data(b"data"));
    rig.passes(&base.clone().data(b"data"));
    let early = at(&base, 901).data(b"data");
    rig.holds(&early);
    rig.frees(&early, &[&early]);
}

#[test]
fn a_connection_met_in_its_middle_is_compared_from_there() {
    let mut rig = Rig::new();
    let base = tcp(5000).ack(100);
    rig.is_kept(&base.clone().data(b"abc"));
    rig.passes(&base.clone().data(b"abc"));
    let ack = at(&base, 5003).ack(200);
    rig.holds(&ack);
    rig.frees(&at(&base, 5003).ack(200), &[&ack]);
}

#[test]
fn an_ack_without_any_of_the_secondary_is_held() {
    let mut rig = Rig::new();
    let ack = tcp(5000).ack(100);
    rig.holds(&ack);
    rig.frees(&ack, &[&ack]);
}

#[test]
fn versions_vlans_and_ports_are_flows_of_their_own() {
    let mut rig = Rig::new();
    let base = tcp(5000).data(b"abc");
    let links = [
        Link::default(),
        Link { ip_version: 6, ..Link::default() },
        Link { vlan: [5, 0], ..Link::default() },
        Link { vlan: [5, 6], ..Link::default() },
        Link { peer: 8, ..Link::default() },
    ];
    for link in links {
        rig.holds(&Tcp { link, ..base.clone() });
    }
    for link in links {
        let segment = Tcp { link, ..base.clone() };
        rig.frees(&segment, &[&segment]);
    }
    assert_eq!(rig.engine.stats().flows, 5);
}

#[test]
fn the_frame_that_leaves_is_the_one_that_came() {
    let (mut rig, base) = open();
    let frame = base.clone().data([9; 3000]).build();
    assert!(rig.frame(Side::Primary, &frame).0.is_empty());
    let released = rig.secondary(&base.clone().data([9; 3000])).0;
    assert_eq!(released[0].bytes().as_ptr(), frame.bytes().as_ptr());
    assert_eq!(released[0].bytes().len(), frame.bytes().len());
}

/// The secondary lost what the primary got: the peer must be told which segment to repeat.
#[test]
fn a_peer_is_told_what_both_have_received_and_no_more() {
    let mut rig = Rig::new();
    rig.accept(&tcp(0), 1000, 500);
    let all = tcp(1001).ack(5000);
    rig.holds(&all);
    assert_eq!(rig.acknowledged(&tcp(1001).ack(3000).salt(1)), [3000]);
    assert_eq!(rig.acknowledged(&tcp(1001).ack(3000).salt(2)), [0u32; 0], "once is enough");
    assert_eq!(rig.acknowledged(&tcp(1001).ack(2000).salt(3)), [0u32; 0], "never less");
    assert_eq!(rig.acknowledged(&tcp(1001).ack(4000).salt(4)), [4000]);
    rig.frees(&tcp(1001).ack(5000).salt(5), &[&all]);
    assert_eq!(
        rig.acknowledged(&tcp(1001).ack(6000).salt(6)),
        [0u32; 0],
        "nor what the primary lacks"
    );
}

/// Where the primary has said just that, or nothing waits, its own frames do.
#[test]
fn guests_that_acknowledge_alike_need_no_words_of_ours() {
    let mut rig = Rig::new();
    rig.accept(&tcp(0), 1000, 500);
    rig.holds(&tcp(1001).ack(3000));
    rig.holds(&tcp(1001).ack(5000));
    assert_eq!(rig.acknowledged(&tcp(1001).ack(3000).salt(1)), [0u32; 0]);
    assert_eq!(rig.acknowledged(&tcp(1001).ack(5000).salt(1)), [0u32; 0]);
}

#[test]
fn secondary_retransmissions_of_before_the_stream_was_met_are_no_reason() {
    let mut rig = Rig::new();
    let base = tcp(5000).ack(100);
    rig.is_kept(&tcp(4900).ack(100).data([1; 50]));
    rig.is_kept(&base.clone().data(b"abc"));
    rig.passes(&base.clone().data(b"abc"));
    rig.is_kept(&tcp(4950).ack(100).data([1; 50]));
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
    assert_eq!(rig.engine.stats().secondary_dropped.before_start, 2);
    assert_eq!(rig.engine.stats().secondary_waiting.bytes, 0);
}

#[test]
fn a_timeout_says_what_was_waited_for() {
    let cases = [
        (tcp(1001).ack(502), WaitsFor::Ack),
        (tcp(1001).ack(501).fin(), WaitsFor::ControlBits),
        (tcp(1001).ack(501).data(b"x"), WaitsFor::Data),
    ];
    for (segment, expected) in cases {
        let (mut rig, _) = open();
        rig.holds(&segment);
        assert_eq!(rig.wait(Duration::from_secs(3)).1, [Reason::Timeout]);
        let divergence = rig.engine.divergences().next().expect("recorded");
        assert_eq!(divergence.waits_for, Some(expected));
    }
}
