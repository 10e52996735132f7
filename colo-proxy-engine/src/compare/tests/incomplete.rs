//! Packets in fragments that are never complete, or late: at a checkpoint, beyond a limit, alone.

use std::time::Duration;

use super::cut::{Part, cut, parts};
use super::fragments::{LINK, LINKS, keeps, udp, with_limits};
use super::packet::{Link, tcp};
use super::rig::{Rig, hand_in, is_settled};
use crate::compare::{Limits, Reason, Side};

#[test]
fn the_first_fragments_of_a_packet_that_never_is_complete_need_no_checkpoint() {
    for link in LINKS {
        for lag_ms in [0, 400, 1500] {
            let whole = udp(link, 3000);
            let mut rig = Rig::new();
            let ours = &cut(&whole, 1, &[1000, 2000])[..2];
            keeps(&mut rig, Side::Primary, ours);
            let mut released = rig.wait(Duration::from_millis(lag_ms)).0;
            assert_eq!(released, []);
            keeps(&mut rig, Side::Secondary, &cut(&whole, 2, &[1000, 2000])[..2]);
            released.extend(rig.wait(Duration::from_millis(999)).0);
            assert_eq!(released, []);
            assert_eq!(rig.wait(Duration::from_millis(1)), (ours.to_vec(), vec![]));
            assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
            assert_eq!(rig.engine.stats().fragments.timed_out, 2);
            is_settled(&rig);
        }
    }
}

/// The twin: what only one guest sent is asked for, or would be held for ever.
#[test]
fn the_first_fragments_of_one_guest_alone_are_a_reason() {
    let first = &cut(&udp(LINK, 3000), 1, &[1000])[..1];
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, first);
    assert_eq!(rig.wait(Duration::from_millis(2999)), (vec![], vec![]));
    assert_eq!(rig.wait(Duration::from_millis(1)), (vec![], vec![Reason::Timeout]));
    assert_eq!(rig.checkpoint().0, first);
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Secondary, first);
    // A fragment that is compared on its own begins to wait then.
    assert_eq!(rig.wait(Duration::from_millis(3999)), (vec![], vec![]));
    assert_eq!(rig.wait(Duration::from_millis(1)), (vec![], vec![Reason::SecondaryOnly]));
}

/// One guest stalls between two fragments for longer than the other waits.
#[test]
fn a_packet_that_is_late_in_one_guest_only_is_compared_as_a_whole() {
    let whole = udp(LINK, 3000);
    for (late, prompt) in [(Side::Primary, Side::Secondary), (Side::Secondary, Side::Primary)] {
        for other in [cut(&whole, 2, &[1000, 2000]), vec![whole.clone()]] {
            let mut rig = Rig::new();
            let pieces = cut(&whole, 1, &[1000, 1600]);
            keeps(&mut rig, late, &pieces[..2]);
            assert_eq!(rig.wait(Duration::from_millis(1500)), (vec![], vec![]));
            keeps(&mut rig, prompt, &other);
            let expected = if late == Side::Primary { &pieces } else { &other };
            assert_eq!(hand_in(&mut rig, late, &pieces[2..]), *expected);
            assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
            is_settled(&rig);
        }
    }
}

/// Both guests stall there, but one is noticed later. A fragment that was matched on its own stays so.
#[test]
fn the_rest_of_a_packet_whose_start_has_left_is_compared_on_its_own() {
    let whole = udp(LINK, 3000);
    for late in [Side::Primary, Side::Secondary] {
        let mut rig = Rig::new();
        let pieces = cut(&whole, 1, &[1000, 2000]);
        keeps(&mut rig, Side::Primary, &pieces[..1]);
        keeps(&mut rig, Side::Secondary, &pieces[..1]);
        assert_eq!(rig.wait(Duration::from_secs(1)), (pieces[..1].to_vec(), vec![]));
        let prompt = if late == Side::Primary { Side::Secondary } else { Side::Primary };
        let mut released = hand_in(&mut rig, prompt, &pieces[1..]);
        released.extend(hand_in(&mut rig, late, &pieces[1..]));
        assert_eq!(released, pieces[1..]);
        assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
        is_settled(&rig);
    }
}

#[test]
fn what_lies_behind_a_fragment_that_is_taken_back_can_leave() {
    let (stuck, other) = (udp(LINK, 3000), LINK.udp((7, 7), &[9; 2000], 0));
    let (stuck, other) = (cut(&stuck, 1, &[1000]), cut(&other, 2, &[1000]));
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, &[stuck[0].clone(), other[0].clone()]);
    keeps(&mut rig, Side::Secondary, &other[..1]);
    // Both are on their own now; the second one is matched, but the first is not.
    assert_eq!(rig.wait(Duration::from_secs(1)), (vec![], vec![]));
    assert_eq!(hand_in(&mut rig, Side::Primary, &stuck[1..]), other[..1]);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &stuck), stuck);
    assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
    is_settled(&rig);
}

#[test]
fn a_checkpoint_releases_the_fragments_there_are_in_order_of_arrival() {
    let mut rig = Rig::new();
    let (held, part) = (udp(LINK, 2000), LINK.udp((7, 7), &[9; 2000], 0));
    let (held, part) = (cut(&held, 1, &[1000]), cut(&part, 2, &[1000]));
    let single = LINK.udp((9, 9), b"x", 0);
    let all = [held[0].clone(), part[0].clone(), single, held[1].clone()];
    keeps(&mut rig, Side::Primary, &all);
    keeps(&mut rig, Side::Secondary, &part[..1]);
    assert_eq!(rig.checkpoint(), (all.to_vec(), vec![]));
    assert_eq!(rig.engine.stats().secondary_dropped.stale, 1);
    assert_eq!(rig.engine.poll_timeout(), None);
    is_settled(&rig);
    // A fragment that the secondary had sent before the checkpoint vouches for nothing after it.
    keeps(&mut rig, Side::Secondary, &part[1..]);
    keeps(&mut rig, Side::Primary, &part);
}

#[test]
fn a_packet_on_both_sides_of_the_cut_needs_no_further_checkpoint() {
    let pieces = cut(&udp(LINK, 3000), 1, &[1000, 2000]);
    for is_deferred in [false, true] {
        let mut rig = Rig::new();
        keeps(&mut rig, Side::Primary, &pieces[..1]);
        keeps(&mut rig, Side::Secondary, &pieces[..1]);
        rig.began();
        if is_deferred {
            keeps(&mut rig, Side::Primary, &pieces[1..]);
        }
        assert_eq!(rig.done(), (pieces[..1].to_vec(), vec![]));
        if !is_deferred {
            keeps(&mut rig, Side::Primary, &pieces[1..]);
        }
        // The secondary goes on from the primary's state: it sends the rest as well.
        keeps(&mut rig, Side::Secondary, &pieces[1..]);
        assert_eq!(rig.wait(Duration::from_secs(1)), (pieces[1..].to_vec(), vec![]));
        assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
        is_settled(&rig);
    }
}

#[test]
fn a_failed_checkpoint_leaves_a_packet_as_it_was() {
    let pieces = cut(&udp(LINK, 2000), 1, &[1000]);
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, &pieces[..1]);
    keeps(&mut rig, Side::Secondary, &pieces[..1]);
    rig.began();
    keeps(&mut rig, Side::Primary, &pieces[1..]);
    keeps(&mut rig, Side::Secondary, &pieces[1..]);
    rig.failed();
    assert_eq!(rig.wait(Duration::ZERO), (pieces, vec![]));
    is_settled(&rig);
}

#[test]
fn without_protection_fragments_leave_and_those_of_the_secondary_are_dropped() {
    let pieces = cut(&udp(LINK, 2000), 1, &[1000]);
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, &pieces[..1]);
    keeps(&mut rig, Side::Secondary, &pieces[..1]);
    assert_eq!(rig.release_all(), pieces[..1]);
    assert_eq!(rig.engine.stats().secondary_dropped.unprotected, 1);
    assert_eq!(rig.engine.stats().released.unprotected.frames, 1);
    is_settled(&rig);
}

#[test]
fn fragments_count_to_what_may_be_held() {
    let mut rig = Rig::with(Limits { frames_max: 3, ..Limits::default() });
    let pieces = cut(&udp(LINK, 3000), 1, &[1000, 2000]);
    keeps(&mut rig, Side::Primary, &pieces[..2]);
    assert!(rig.engine.has_room());
    assert_eq!(rig.frame(Side::Primary, &pieces[2]).1, [Reason::Limit]);
    assert!(!rig.engine.has_room());
}

/// Beyond every limit equal guests still agree, fragment by fragment, if they cut alike.
#[test]
fn each_limit_on_incomplete_packets_holds_and_is_counted() {
    let first = |id: u32, peer: u8| cut(&udp(Link { peer, ..LINK }, 3000), id, &[1000]).remove(0);
    let fifth_alone = |mut rig: Rig| {
        for side in [Side::Primary, Side::Secondary] {
            for id in 0..4 {
                keeps(&mut rig, side, &[first(id, id as u8)]);
            }
        }
        assert_eq!(rig.engine.stats().fragments.limit, 0);
        keeps(&mut rig, Side::Primary, &[first(4, 4)]);
        assert_eq!(hand_in(&mut rig, Side::Secondary, &[first(4, 4)]), [first(4, 4)]);
        assert_eq!(rig.engine.stats().fragments.limit, 2);
        assert_eq!(rig.engine.stats().fragments.incomplete_packets, 8);
        let (released, requests) = rig.wait(Duration::from_mins(1));
        assert_eq!((released.len(), requests), (4, vec![]));
        is_settled(&rig);
    };
    let bytes = 4 * 1400;
    fifth_alone(with_limits(|limits| limits.fragment_packets_max = 4));
    fifth_alone(with_limits(|limits| limits.fragment_source_packets_max = 4));
    fifth_alone(with_limits(|limits| limits.fragment_bytes_max = bytes));
    fifth_alone(with_limits(|limits| limits.fragment_source_bytes_max = bytes));
}

#[test]
fn a_packet_that_outgrows_the_limit_is_compared_one_by_one() {
    let mut rig = with_limits(|limits| limits.fragment_bytes_max = 4000);
    let pieces = cut(&udp(LINK, 8000), 1, &[2000, 4000, 6000]);
    keeps(&mut rig, Side::Primary, &pieces);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &pieces), pieces);
    assert_eq!(rig.engine.stats().fragments.limit, 2);
    assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
    is_settled(&rig);
}

#[test]
fn packets_that_are_too_late_make_room_for_others() {
    let mut rig = with_limits(|limits| limits.fragment_packets_max = 4);
    let whole = udp(LINK, 3000);
    for id in 0..4 {
        keeps(&mut rig, Side::Primary, &cut(&whole, id, &[1000])[..1]);
    }
    assert_eq!(rig.wait(Duration::from_secs(1)), (vec![], vec![]));
    let pieces = cut(&whole, 9, &[1000]);
    keeps(&mut rig, Side::Primary, &pieces);
    assert_eq!(hand_in(&mut rig, Side::Secondary, &[whole]), pieces);
    assert_eq!(rig.engine.stats().fragments.limit, 0);
}

#[test]
fn a_table_full_of_flows_holds_fragments_for_a_checkpoint() {
    let mut rig = Rig::with(Limits { flows_max: 1, ..Limits::default() });
    rig.holds(&tcp(1000).data(b"x"));
    let first = cut(&udp(LINK, 3000), 1, &[1000]).remove(0);
    keeps(&mut rig, Side::Primary, std::slice::from_ref(&first));
    assert_eq!(rig.wait(Duration::from_secs(1)), (vec![], vec![Reason::FlowTableFull]));
    assert_eq!(rig.engine.stats().overflowed, 1);
    assert_eq!(rig.checkpoint().0, [tcp(1000).data(b"x").build(), first]);
}

#[test]
fn a_fragment_of_tcp_is_not_read_as_a_segment() {
    let whole = tcp(1000).data([1; 2000]).build();
    let piece = cut(&whole, 1, &[1480]).remove(1);
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, std::slice::from_ref(&piece));
    rig.secondary(&tcp(1000).data([1; 2000]));
    assert_eq!(rig.wait(Duration::from_secs(2)).0, []);
    assert_eq!(rig.engine.stats().held.frames, 1);
}

/// One guest's fragment can be known to stay alone at once, because its packet was given up, while
/// the other's waits, because there the packet is forgotten: no difference.
#[test]
fn fragments_are_given_the_time_to_become_alone_in_both_guests() {
    let (other, whole) = (LINK.udp((7, 7), &[9; 2000], 0), udp(LINK, 3000));
    let mut rig = Rig::new();
    let pieces = cut(&whole, 1, &[1000, 2000]);
    let overlap = parts(&whole, 1, &[Part { from: 8, to: 24, more: true }]);
    let mut left = 0;
    for side in [Side::Primary, Side::Secondary] {
        left += hand_in(&mut rig, side, &pieces[..1]).len();
        left += hand_in(&mut rig, side, &overlap).len();
        rig.wait(Duration::from_millis(500));
    }
    assert_eq!(left, 2);
    // The primary's packet is forgotten, the secondary's is not.
    assert_eq!(rig.wait(Duration::from_millis(2200)), (vec![], vec![]));
    let first = cut(&other, 2, &[1000]).remove(0);
    let late = [first, pieces[1].clone()];
    keeps(&mut rig, Side::Primary, &late[..1]);
    rig.wait(Duration::from_millis(250));
    keeps(&mut rig, Side::Secondary, &late[..1]);
    keeps(&mut rig, Side::Primary, &late[1..]);
    keeps(&mut rig, Side::Secondary, &late[1..]);
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 1);
    assert_eq!(rig.wait(Duration::from_millis(1250)), (late.to_vec(), vec![]));
    assert_eq!(rig.wait(Duration::from_mins(1)), (vec![], vec![]));
    is_settled(&rig);
}

/// The twin: a difference is one a while later.
#[test]
fn fragments_that_stay_alone_and_differ_are_a_difference_once_both_are() {
    let mut rig = Rig::new();
    keeps(&mut rig, Side::Primary, &cut(&udp(LINK, 3000), 1, &[1000])[..1]);
    keeps(&mut rig, Side::Secondary, &cut(&udp(LINK, 3000), 1, &[1008])[..1]);
    assert_eq!(rig.wait(Duration::from_millis(2199)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::Datagram]);
}
