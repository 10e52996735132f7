//! Either guest ahead of the other by as much as a whole connection: every interleaving of what
//! both send, each side in its order.

use std::time::Duration;

use super::cut::cut;
use super::interleaving::{Pair, fin, interleavings, letters, opened, rst, served};
use super::packet::{Tcp, tcp};
use super::rig::Rig;
use crate::compare::{Limits, Reason, Side};

#[test]
fn data_behind_a_syn_ack_in_every_interleaving() {
    Pair::equal(&served(1000, 5000, 0)).needs_no_checkpoint();
    Pair::equal(&served(1000, 5000, 0)).with_own_numbers().needs_no_checkpoint();
}

#[test]
fn all_of_the_secondary_first() {
    let pair = Pair::equal(&served(1000, 5000, 0));
    assert_eq!(pair.play(&[[Side::Secondary; 3], [Side::Primary; 3]].concat()).err(), None);
}

/// The SYN/ACK of the secondary never came: nothing vouches for anything.
#[test]
fn without_its_syn_ack_the_secondary_vouches_for_nothing() {
    let frames = served(1000, 5000, 0);
    for order in interleavings(3, 2) {
        let mut rig = Rig::new();
        let (mut ours, mut theirs) = (frames.iter(), frames[1..].iter());
        for side in &order {
            let next = if *side == Side::Primary { ours.next() } else { theirs.next() };
            let (released, _) = rig.frame(*side, &next.expect("as many").build());
            assert_eq!(released, [], "{}", letters(&order));
        }
        let requests = rig.wait(Duration::from_secs(4)).1;
        assert_eq!(requests.len(), 1, "{}", letters(&order));
        assert_eq!(rig.checkpoint().0.len(), 3);
    }
}

#[test]
fn fast_open_in_every_interleaving() {
    // The server takes the bytes of the SYN, and answers before the peer has acknowledged.
    let server = served(1000, 5000, 300);
    Pair::equal(&server).with_own_numbers().needs_no_checkpoint();
    // The client says something with its SYN, and the rest when it is answered.
    let client = [
        tcp(1000).syn().data(b"get"),
        tcp(1004).ack(5001).data(b"more"),
        tcp(1008).ack(5004),
        tcp(1008).ack(5009).fin(),
    ];
    Pair::equal(&client).with_own_numbers().needs_no_checkpoint();
    // The peer took nothing of it: the bytes come again.
    let client = [
        tcp(1000).syn().data(b"get"),
        tcp(1000).syn(),
        tcp(1001).ack(5001).data(b"getmore"),
        tcp(1008).ack(5009).fin(),
    ];
    Pair::equal(&client).with_own_numbers().needs_no_checkpoint();
}

#[test]
fn a_simultaneous_open_in_every_interleaving() {
    let frames = [
        tcp(1000).syn(),
        tcp(1000).syn().ack(5001),
        tcp(1001).ack(5001).data(b"both"),
        tcp(1005).ack(5004).fin(),
    ];
    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
}

#[test]
fn a_tuple_used_again_in_every_interleaving() {
    // The next number is higher, or lower, or near.
    for next in [900_000, 200, 1010] {
        for first in [fin(1000, 5000), rst(1000, 5000), opened(1000, 5000)] {
            for second in [served(next, 70_000, 0), rst(next, 70_000), opened(next, 70_000)] {
                let frames = [first.clone(), second].concat();
                Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
            }
        }
    }
    let frames = [opened(1000, 5000), served(900_000, 70_000, 0)].concat();
    Pair::equal(&frames).needs_no_checkpoint();
}

#[test]
fn three_connections_on_a_tuple() {
    let short = |isn, peer| fin(isn, peer)[..2].to_vec();
    let frames = [short(1000, 5000), rst(90_000, 70_000), short(40_000, 9000)].concat();
    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
}

/// Segments for a port that nobody listens on yet are refused; then somebody does.
#[test]
fn refusals_before_a_connection_in_every_interleaving() {
    let refusals = [tcp(777).rst(), tcp(0).ack(4001).rst()];
    let frames = [refusals.to_vec(), served(1000, 5000, 0)].concat();
    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
    // And behind one that is over.
    let frames = [fin(1000, 5000), refusals.to_vec(), served(90_000, 70_000, 0)].concat();
    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
}

/// A guest that has forgotten a half-open connection answers the same SYN with another number.
#[test]
fn a_syn_that_is_answered_anew_in_every_interleaving() {
    let frames = [vec![tcp(400).syn().ack(5001)], served(1000, 5000, 0)].concat();
    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
}

/// Only the secondary answers the SYN once more: whatever the order, its data count.
#[test]
fn a_syn_that_only_the_secondary_answers_anew_is_no_reason() {
    let frames = served(1000, 5000, 0);
    let (mut primary, mut secondary) = (frames.clone(), frames);
    primary.push(tcp(1002).ack(5001).data(b"end"));
    secondary[0].seq = 7000;
    secondary.insert(1, tcp(8000).syn().ack(5001));
    secondary.push(tcp(1002).ack(5001).data(b"end"));
    for order in interleavings(4, 5) {
        let mut rig = Rig::new();
        let (mut ours, mut theirs) = (primary.iter(), secondary.iter());
        let mut left = 0;
        for side in &order {
            let next = if *side == Side::Primary { ours.next() } else { theirs.next() };
            left += rig.frame(*side, &next.expect("as many").build()).0.len();
        }
        assert_eq!((left, rig.wait(Duration::from_mins(1)).1), (4, vec![]), "{}", letters(&order));
    }
}

/// What waits with one tuple is no business of another's.
#[test]
fn two_connections_interleaved() {
    let other = |frame: Tcp| Tcp { ports: (80, 6000), ..frame };
    let ours = served(1000, 5000, 0);
    let others: Vec<Tcp> = fin(3000, 6000).into_iter().map(other).collect();
    let mixed = [&ours[0], &others[0], &ours[1], &others[1], &ours[2], &others[2]];
    let frames: Vec<Tcp> = mixed.into_iter().cloned().collect();
    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
}

/// The twin of all of them: a byte that differs is found in every interleaving, and never leaves.
#[test]
fn a_differing_byte_is_found_in_every_interleaving() {
    let frames = [fin(1000, 5000), served(90_000, 70_000, 0)].concat();
    for wrong in [1, 4] {
        let mut pair = Pair::equal(&frames).with_own_numbers();
        pair.secondary[wrong].payload[0] ^= 1;
        for order in interleavings(6, 6) {
            let mut rig = Rig::new();
            let (mut ours, mut theirs) = (pair.primary.iter(), pair.secondary.iter());
            let (mut left, mut asked) = (Vec::new(), Vec::new());
            for side in &order {
                let next = if *side == Side::Primary { ours.next() } else { theirs.next() };
                let (released, requests) = rig.frame(*side, &next.expect("as many").build());
                left.extend(released);
                asked.extend(requests);
            }
            assert_eq!(asked, [Reason::Payload], "{}", letters(&order));
            assert!(!left.contains(&pair.primary[wrong].build()), "{}", letters(&order));
        }
    }
}

/// The same bytes at the same places of the next connection are other bytes.
#[test]
fn the_old_connection_never_vouches_for_the_new_one() {
    let frames = [fin(1000, 5000), fin(1000 + 100, 70_000)].concat();
    let pair = Pair::equal(&frames).with_own_numbers();
    for order in interleavings(6, 3) {
        let mut rig = Rig::new();
        let (mut ours, mut theirs) = (pair.primary.iter(), pair.secondary.iter());
        let mut left = Vec::new();
        for side in &order {
            let next = if *side == Side::Primary { ours.next() } else { theirs.next() };
            left.extend(rig.frame(*side, &next.expect("as many").build()).0);
        }
        assert_eq!(left, pair.primary[..3].iter().map(Tcp::build).collect::<Vec<_>>());
    }
}

/// The secondary is in the next connection: what is left of the old one only a checkpoint frees.
#[test]
fn what_the_secondary_has_left_behind_is_asked_for_at_once() {
    let mut rig = Rig::new();
    rig.accept(&tcp(0), 1000, 500);
    let left = tcp(1001).ack(501).data(b"left");
    rig.holds(&left);
    let syn = tcp(90_000).syn().ack(7001);
    rig.holds(&syn);
    let (released, requests) = rig.secondary(&tcp(80_000).syn().ack(7001));
    assert_eq!((released, requests), (vec![syn.build()], vec![Reason::TupleReuse]));
    assert_eq!(rig.checkpoint().0, [left.build()]);
}

#[test]
fn what_waits_for_a_syn_is_bounded_and_counted() {
    let limits = Limits { flow_frames_max: 10, ..Limits::default() };
    let mut rig = Rig::with(limits);
    rig.is_kept(&tcp(777).syn().ack(501));
    for n in 0..20 {
        assert_eq!(rig.secondary(&tcp(1001 + n).ack(501).data(b"x")).1, []);
    }
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 20);
    assert!(!rig.engine.has_room_for(Side::Secondary));
    assert_eq!(rig.secondary(&tcp(1021).ack(501).data(b"x")).1, [Reason::Limit]);
    assert_eq!(rig.engine.stats().secondary_dropped.limit, 1);
    rig.checkpoint();
    assert_eq!(rig.engine.stats().secondary_dropped.stale, 20);
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 0);
    assert!(rig.engine.has_room_for(Side::Secondary));
}

/// SYN after SYN with numbers of its own, none of which the primary has sent.
#[test]
fn connections_that_only_the_secondary_opens_are_bounded() {
    let mut rig = Rig::new();
    rig.accept(&tcp(0), 1000, 500);
    let mut asked = Vec::new();
    for n in 0..10_000 {
        asked.extend(rig.secondary(&tcp(50_000 + n * 7919).syn().ack(10_000 + n * 77_777)).1);
    }
    assert_eq!(asked, [Reason::Limit]);
    assert!(rig.engine.stats().secondary_dropped.limit > 9_000);
    // What comes behind those that were dropped is not of the last one that was not.
    rig.is_kept(&tcp(1001).ack(501).data(b"x"));
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 0);
    rig.checkpoint();
    let data = tcp(1001).ack(501).data(b"x");
    rig.is_kept(&data);
    rig.passes(&data);
}

/// A checkpoint that failed leaves the tuple as it was: its next frame asks again.
#[test]
fn a_tuple_with_too_many_connections_asks_again_after_a_failed_checkpoint() {
    let mut rig = Rig::new();
    rig.accept(&tcp(0), 1000, 500);
    let syn = |n: u32| tcp(50_000 + n * 7919).syn().ack(10_000 + n * 77_777);
    let asked: Vec<_> = (0..100).flat_map(|n| rig.secondary(&syn(n)).1).collect();
    assert_eq!(asked, [Reason::Limit]);
    for frame in [syn(100), tcp(60_000).ack(501).data(b"x")] {
        rig.began();
        rig.failed();
        assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
        assert_eq!(rig.secondary(&frame).1, [Reason::Limit]);
    }
    rig.checkpoint();
    assert_eq!(rig.secondary(&syn(101)).1, []);
}

/// The limit is the caller's.
#[test]
fn the_connections_that_the_secondary_may_be_ahead_are_a_limit() {
    let mut rig = Rig::with(Limits { flow_connections_ahead_max: 2, ..Limits::default() });
    rig.accept(&tcp(0), 1000, 500);
    for n in 1..3 {
        rig.is_kept(&tcp(50_000 * n).syn().ack(9000 * n));
    }
    assert_eq!(rig.secondary(&tcp(200_000).syn().ack(90_000)).1, [Reason::Limit]);
    assert_eq!(rig.engine.stats().secondary_dropped.limit, 1);
}

/// Connections without end that the secondary has not begun: where there are too many, only a
/// checkpoint helps, and no SYN passes for another connection's.
#[test]
fn connections_that_only_the_primary_opens_are_bounded() {
    let mut rig = Rig::new();
    let syn = |n: u32| tcp(1000 + n * 100_000).syn();
    let asked: Vec<_> = (0..20).flat_map(|n| rig.primary(&syn(n)).1).collect();
    assert_eq!(asked, [Reason::TupleReuse]);
    let theirs = |n: u32| Tcp { seq: 0x5000_0000 + n * 7919, ..syn(n) };
    let left: Vec<_> = (0..20).flat_map(|n| rig.secondary(&theirs(n)).0).collect();
    assert_eq!(left, (0..16).map(|n| syn(n).build()).collect::<Vec<_>>());
    assert_eq!(rig.checkpoint().0, (16..20).map(|n| syn(n).build()).collect::<Vec<_>>());
    // And the guests are in the same connection again.
    let data = tcp(1000 + 1_900_001).ack(501).data(b"x");
    rig.is_kept(&data);
    rig.passes(&data);
}

/// A bare acknowledgment and a FIN that wait for a SYN are no output that the primary lacks; data are.
#[test]
fn only_data_that_wait_for_a_syn_are_a_reason() {
    let mut rig = Rig::new();
    rig.is_kept(&tcp(777).syn().ack(501));
    rig.is_kept(&tcp(1001).ack(502));
    rig.is_kept(&tcp(1001).ack(502).fin());
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
    // They still count.
    rig.passes(&tcp(1000).syn().ack(501));
    rig.passes(&tcp(1001).ack(502));
    rig.passes(&tcp(1001).ack(502).fin());
    let mut rig = Rig::new();
    rig.is_kept(&tcp(777).syn().ack(501));
    rig.is_kept(&tcp(1001).ack(502).data(b"x"));
    assert_eq!(rig.wait(Duration::from_millis(2999)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::SecondaryOnly]);
    let divergence = rig.engine.divergences().next().expect("recorded");
    assert_eq!(divergence.secondary_byte, Some(b'x'));
    assert!(divergence.secondary_frame.is_some());
}

/// After a checkpoint the guests are equal, and either may be ahead again.
#[test]
fn ahead_again_after_a_checkpoint() {
    let next = served(90_000, 70_000, 0);
    let pair = Pair::equal(&next).with_own_numbers();
    for order in interleavings(3, 3) {
        let mut rig = Rig::new();
        // Of before it: neither what waits for a SYN nor what is held behind one counts.
        rig.accept(&tcp(0), 1000, 500);
        rig.holds(&tcp(1001).ack(501).data(b"left"));
        rig.holds(&tcp(60_000).syn().ack(9001));
        rig.is_kept(&tcp(1001).ack(501));
        assert_eq!(rig.checkpoint().0.len(), 2);
        rig.is_kept(&tcp(60_001).ack(9002).data(b"y"));
        rig.passes(&tcp(60_001).ack(9002).data(b"y"));
        let (mut ours, mut theirs) = (pair.primary.iter(), pair.secondary.iter());
        let mut left = Vec::new();
        for side in &order {
            let next = if *side == Side::Primary { ours.next() } else { theirs.next() };
            let (released, requests) = rig.frame(*side, &next.expect("as many").build());
            assert_eq!(requests, []);
            left.extend(released);
        }
        assert_eq!(left.len(), 3, "{}", letters(&order));
        assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
    }
}

/// Either guest may send a segment in fragments, and be ahead with it.
#[test]
fn a_segment_in_fragments_may_be_ahead() {
    let frames = [tcp(1000).syn().ack(501), tcp(1001).ack(501).data([7; 200])];
    for cut_side in [Side::Primary, Side::Secondary] {
        for order in interleavings(2, 2) {
            let mut rig = Rig::new();
            let (mut ours, mut theirs) = (frames.iter(), frames.iter());
            let mut left = Vec::new();
            for side in &order {
                let next = if *side == Side::Primary { ours.next() } else { theirs.next() };
                let frame = next.expect("as many").build();
                let is_cut = *side == cut_side && frame.ethernet().len() > 200;
                let pieces = if is_cut { cut(&frame, 7, &[64, 128]) } else { vec![frame] };
                for piece in pieces {
                    let (released, requests) = rig.frame(*side, &piece);
                    assert_eq!(requests, []);
                    left.extend(released);
                }
            }
            let expected = if cut_side == Side::Primary { 4 } else { 2 };
            assert_eq!(left.len(), expected, "{}", letters(&order));
            assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
        }
    }
}

/// Keep-alives and repetitions of an old connection, with the secondary in the next one.
#[test]
fn keep_alives_and_repetitions_in_every_interleaving() {
    let frames = [
        tcp(1000).syn().ack(5001),
        tcp(1001).ack(5001).data(b"data"),
        tcp(1004).ack(5001).data([0]),
        tcp(1001).ack(5001).data(b"data"),
        tcp(1005).ack(5001).fin(),
        tcp(900_000).syn().ack(70_001),
        tcp(900_001).ack(70_001).data(b"next"),
    ];
    // A probe has a byte of rubbish at a place that was said before.
    let mut pair = Pair::equal(&frames).with_own_numbers();
    pair.primary[2].payload = b"a".to_vec();
    pair.secondary[2].payload = b"a".to_vec();
    let wrong = interleavings(7, 7)
        .into_iter()
        .find_map(|order| pair.play(&order).err().filter(|wrong| !wrong.contains("too early")));
    assert_eq!(wrong, None);
}

/// The checkpoint comes while the secondary is a connection ahead: all of it is void.
#[test]
fn a_checkpoint_while_the_secondary_is_ahead_makes_it_void() {
    for known in [false, true] {
        let mut rig = Rig::new();
        if known {
            rig.accept(&tcp(0), 1000, 500);
        }
        for frame in served(90_000, 70_000, 0) {
            rig.is_kept(&frame);
        }
        rig.checkpoint();
        assert_eq!(rig.engine.stats().secondary_waiting.frames, 0);
        for frame in served(90_000, 70_000, 0) {
            rig.holds(&frame);
        }
        let mut left = 0;
        for frame in served(90_000, 70_000, 0) {
            left += rig.secondary(&frame).0.len();
        }
        assert_eq!(left, 3);
    }
}

/// A frame that becomes free while the primary's own frame is dealt with leaves with it. It must not
/// wait for the next flow, whose account it would change.
#[test]
fn a_frame_that_the_primarys_next_frame_frees_leaves_with_that_frame() {
    let mut rig = Rig::new();
    let reset = tcp(5000).rst();
    rig.holds(&reset);
    assert_eq!(rig.secondary(&tcp(900).syn().ack(4001)).0, []);
    assert_eq!(rig.secondary(&reset.clone().salt(5)).0, []);
    let segment = tcp(5000).ack(4001).data(b"x");
    let (mut left, _) = rig.primary(&segment);
    // Whatever the two are to each other, nothing is left over for another connection.
    let held_before = rig.engine.stats().held.frames;
    let other = tcp(1).ack(1).data(b"other");
    let mut other = (other.clone(), other.salt(5));
    (other.0.ports, other.1.ports) = ((1, 2), (1, 2));
    left.extend(rig.primary(&other.0).0);
    let (freed, _) = rig.secondary(&other.1);
    assert_eq!(freed, [other.0.build()], "only its own frame");
    assert_eq!(rig.engine.stats().held.frames, held_before);
    assert!(left.iter().all(|frame| *frame == reset.build()), "{left:?}");
}
