//! Bounds: what happens when they are reached, and that nothing held is ever lost.

use std::time::Duration;

use super::packet::{Link, Tcp, tcp};
use super::rig::Rig;
use crate::compare::{Evicted, Limits, Reason, Side};

fn numbered(n: u32) -> Tcp {
    Tcp { ports: (80, n as u16), ..tcp(1000) }
}

#[test]
fn a_full_queue_holds_the_reader_back_and_asks_once() {
    let limits = Limits { frames_max: 10, ..Limits::default() };
    let mut rig = Rig::with(limits);
    let mut frames = Vec::new();
    let mut requests = Vec::new();
    for n in 0..12 {
        assert_eq!(rig.engine.has_room(), n < 10);
        let segment = tcp(1000 + n).data([n as u8]);
        let (released, asked) = rig.primary(&segment);
        assert!(released.is_empty());
        requests.extend(asked);
        frames.push(segment.build());
    }
    assert_eq!(requests, [Reason::Limit]);
    assert_eq!(rig.checkpoint(), (frames, vec![]));
    assert!(rig.engine.has_room());
}

#[test]
fn room_comes_back_without_a_checkpoint_too() {
    let limits = Limits { bytes_max: 300, ..Limits::default() };
    let mut rig = Rig::with(limits);
    let segments: Vec<Tcp> = (0..5).map(|n| tcp(1000 + n).data([n as u8])).collect();
    for segment in &segments {
        rig.primary(segment);
    }
    assert!(!rig.engine.has_room());
    for segment in &segments {
        rig.frees(segment, &[segment]);
    }
    assert!(rig.engine.has_room());
}

#[test]
fn one_flow_cannot_take_all_the_room() {
    let limits = Limits { flow_frames_max: 5, ..Limits::default() };
    let mut rig = Rig::with(limits);
    for n in 0..4 {
        rig.holds(&tcp(1000 + n).data([1]));
    }
    assert!(rig.engine.has_room());
    assert_eq!(rig.primary(&tcp(1004).data([1])).1, [Reason::Limit]);
    assert!(!rig.engine.has_room());
    rig.secondary(&tcp(1000).data([1; 5]));
    assert!(rig.engine.has_room());
}

#[test]
fn a_secondary_that_is_ahead_is_held_back_first_and_dropped_at_twice_the_limit() {
    let limits = Limits { flow_frames_max: 5, ..Limits::default() };
    let mut rig = Rig::with(limits);
    for n in 0..10 {
        assert_eq!(rig.engine.has_room_for(Side::Secondary), n < 5);
        assert_eq!(rig.secondary(&tcp(1000 + n).data([1])).1, []);
    }
    assert!(rig.engine.has_room());
    assert_eq!(rig.secondary(&tcp(1010).data([1])).1, [Reason::Limit]);
    assert_eq!(rig.engine.stats().secondary_dropped.limit, 1);
    assert_eq!(rig.engine.stats().secondary_waiting.frames, 10);
}

#[test]
fn a_full_table_forgets_closed_then_half_open_flows_and_never_one_that_holds() {
    let limits = Limits { flows_max: 3, ..Limits::default() };
    let mut rig = Rig::with(limits);
    // Established and holding; half-open; closed.
    let held = numbered(1).data(b"held");
    rig.holds(&held);
    rig.accept(&numbered(2), 1000, 500);
    let reset = numbered(3).rst();
    rig.is_kept(&reset);
    rig.passes(&reset);
    rig.accept(&numbered(4), 1000, 500);
    assert_eq!(rig.engine.stats().flows_evicted.closed, 1);
    rig.accept(&numbered(5), 1000, 500);
    assert_eq!(rig.engine.stats().flows_evicted.half_open, 1);
    // A flood of half-open ones only churns itself.
    for n in 100..200 {
        rig.accept(&numbered(n), 1000, 500);
    }
    rig.frees(&held, &[&held]);
    assert_eq!(rig.engine.stats().flows_evicted.idle, 0);
    assert_eq!(rig.engine.stats().flows, 3);
}

/// One flow of each class, and what is left in the table's way; a table of six is full of them.
fn one_of_each(rig: &mut Rig) {
    // Established, the first of them silent for long.
    for n in 1..3 {
        rig.is_kept(&numbered(n).data(b"x"));
        rig.passes(&numbered(n).data(b"x"));
        rig.now += Duration::from_mins(1);
    }
    rig.accept(&numbered(3), 1000, 500);
    let datagram = Link::default().udp((53, 4), b"x", 0);
    rig.frame(Side::Secondary, &datagram);
    rig.frame(Side::Primary, &datagram);
    rig.is_kept(&numbered(5).rst());
    rig.passes(&numbered(5).rst());
    rig.holds(&numbered(6).data(b"held"));
    rig.now += Duration::from_mins(1);
    rig.passes(&numbered(2).data(b"x"));
}

#[test]
fn a_full_table_forgets_closed_datagram_half_open_and_idle_flows_in_that_order() {
    let mut rig = Rig::with(Limits { flows_max: 6, ..Limits::default() });
    one_of_each(&mut rig);
    let none = rig.engine.stats().flows_evicted;
    let steps = [
        Evicted { closed: 1, ..none },
        Evicted { closed: 1, datagram: 1, ..none },
        Evicted { closed: 1, datagram: 1, half_open: 1, ..none },
        Evicted { closed: 1, datagram: 1, half_open: 1, idle: 1, ..none },
    ];
    for (n, expected) in (100..).zip(steps) {
        rig.holds(&numbered(n).data(b"new"));
        assert_eq!(rig.engine.stats().flows_evicted, expected);
        assert_eq!(rig.engine.stats().flows, 6);
    }
    // What is left is established or holds output: only a checkpoint makes room.
    assert_eq!(rig.primary(&numbered(104).data(b"new")), (vec![], vec![Reason::FlowTableFull]));
    assert_eq!(rig.engine.stats().flows_evicted, steps[3]);
    rig.checkpoint();
    rig.holds(&numbered(104).data(b"new"));
    assert_eq!(rig.engine.stats().flows_evicted, Evicted { covered: 1, ..steps[3] });
    assert_eq!(rig.engine.stats().flows_evicted.total(), 5);
}

#[test]
fn among_flows_of_a_class_the_longest_silent_goes() {
    let mut rig = Rig::with(Limits { flows_max: 4, ..Limits::default() });
    for n in 1..5 {
        rig.accept(&numbered(n), 1000, 500);
        rig.now += Duration::from_secs(1);
    }
    // Heard again, all but the second.
    for n in [1, 3, 4] {
        rig.passes(&numbered(n).syn().ack(501));
        rig.is_kept(&numbered(n).syn().ack(501));
    }
    rig.accept(&numbered(9), 1000, 500);
    assert_eq!(rig.engine.stats().flows_evicted.half_open, 1);
    for n in [1, 3, 4, 9] {
        rig.passes(&numbered(n).syn().ack(501));
    }
    // The secondary's word for it is forgotten.
    rig.holds(&numbered(2).syn().ack(501));
}

#[test]
fn a_forgotten_flow_takes_its_timer_with_it() {
    let mut rig = Rig::with(Limits { flows_max: 2, ..Limits::default() });
    for n in 1..100 {
        rig.is_kept(&numbered(n).ack(1).rst());
        rig.is_kept(&numbered(n).ack(1).window(0));
        rig.passes(&numbered(n).ack(1).window(9));
        rig.passes(&numbered(n).ack(1).rst());
        assert!(rig.engine.ledger.timers.len() <= 2);
    }
    assert_eq!(rig.engine.ledger.timers.len(), 2);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, [], "they are closed");
    assert_eq!(rig.engine.ledger.timers.len(), 0);
}

#[test]
fn an_established_flow_goes_only_when_it_was_silent_for_long() {
    let limits = Limits { flows_max: 2, ..Limits::default() };
    let mut rig = Rig::with(limits);
    for n in 1..3 {
        rig.is_kept(&numbered(n).data(b"x"));
        rig.passes(&numbered(n).data(b"x"));
    }
    // The table is full of live flows: the frame waits for a checkpoint.
    let segment = numbered(3).data(b"x");
    assert_eq!(rig.primary(&segment), (vec![], vec![Reason::FlowTableFull]));
    assert_eq!(rig.engine.stats().overflowed, 1);
    rig.now += Duration::from_mins(2);
    rig.holds(&numbered(4).data(b"x"));
    assert_eq!(rig.engine.stats().flows_evicted.idle, 1);
}

#[test]
fn a_checkpoint_makes_room_for_flows() {
    let mut rig = Rig::with(Limits { flows_max: 2, ..Limits::default() });
    for n in 1..3 {
        rig.is_kept(&numbered(n).data(b"x"));
        rig.passes(&numbered(n).data(b"x"));
    }
    assert_eq!(rig.primary(&numbered(3).data(b"x")).1, [Reason::FlowTableFull]);
    rig.checkpoint();
    // One that has spoken since stays; one that only the checkpoint answers for goes.
    rig.passes(&numbered(2).data(b"x"));
    rig.holds(&numbered(3).data(b"y"));
    rig.passes(&numbered(2).data(b"x"));
    assert_eq!(rig.primary(&numbered(4).data(b"y")).1, [Reason::FlowTableFull]);
}

#[test]
fn frames_without_a_flow_leave_in_order_at_the_checkpoint() {
    let limits = Limits { flows_max: 1, ..Limits::default() };
    let mut rig = Rig::with(limits);
    let mut frames = Vec::new();
    for n in 0..20 {
        let segment = Tcp { ports: (80, n % 4), ..tcp(1000 + u32::from(n)) }.data([1]);
        assert_eq!(rig.primary(&segment).0, []);
        frames.push(segment.build());
    }
    assert_eq!(rig.checkpoint().0, frames);
}

/// There is room again before the checkpoint comes, and the secondary has said the same by then.
#[test]
fn no_frame_overtakes_one_of_its_flow_that_found_no_room() {
    let mut rig = Rig::with(Limits { flows_max: 1, ..Limits::default() });
    let first = Link::default().udp((53, 1), b"x", 0);
    let second = Link::default().udp((53, 2), b"x", 0);
    assert_eq!(rig.frame(Side::Primary, &first), (vec![], vec![]));
    assert_eq!(rig.frame(Side::Primary, &second), (vec![], vec![Reason::FlowTableFull]));
    assert_eq!(rig.frame(Side::Secondary, &first).0, [first]);
    assert_eq!(rig.frame(Side::Secondary, &second).0, []);
    assert_eq!(rig.frame(Side::Primary, &second).0, []);
    assert_eq!(rig.checkpoint().0, [second.clone(), second.clone()]);
    // After it the flow is one like any other.
    rig.frame(Side::Secondary, &second);
    assert_eq!(rig.frame(Side::Primary, &second).0, [second]);
}

#[test]
fn flows_of_datagrams_go_before_connections() {
    let limits = Limits { flows_max: 4, ..Limits::default() };
    let mut rig = Rig::with(limits);
    rig.accept(&numbered(1), 1000, 500);
    for n in 0..1000 {
        let frame = Link::default().udp((53, n), b"x", 0);
        rig.frame(Side::Secondary, &frame);
        assert_eq!(rig.frame(Side::Primary, &frame).0.len(), 1);
    }
    let stats = rig.engine.stats();
    assert_eq!((stats.flows, stats.flows_evicted.datagram), (4, 997));
    assert_eq!(stats.flows_evicted.half_open, 0);
}

#[test]
fn scattered_secondary_pieces_are_bounded_and_all_found() {
    let mut rig = Rig::new();
    // Every other byte first, then a frame over all of it, then the rest.
    for n in 0..500 {
        rig.is_kept(&tcp(1000 + n * 2).data([(n * 2) as u8]));
    }
    let whole = tcp(1000).data((0..1000).map(|n| n as u8).collect::<Vec<u8>>());
    rig.holds(&whole);
    for n in 0..499 {
        rig.is_kept(&tcp(1001 + n * 2).data([(n * 2 + 1) as u8]));
    }
    rig.secondary(&tcp(1999).data([231]));
    // More holes than are remembered: the frame may be held for longer, but is not lost.
    let left = rig.engine.stats().held.frames as usize;
    assert_eq!(rig.checkpoint().0.len(), left);
    assert_eq!(rig.engine.stats().secondary_waiting.bytes, 0);
}

#[test]
fn a_half_open_flow_whose_syn_ack_is_held_is_not_forgotten() {
    let mut rig = Rig::with(Limits { flows_max: 2, ..Limits::default() });
    let syn_ack = numbered(1).syn().ack(501);
    rig.holds(&syn_ack);
    for n in 10..30 {
        rig.accept(&numbered(n), 1000, 500);
    }
    rig.frees(&syn_ack, &[&syn_ack]);
}

#[test]
fn what_waits_of_a_forgotten_flow_is_dropped_with_it() {
    let mut rig = Rig::with(Limits { flows_max: 2, ..Limits::default() });
    for n in 0..10 {
        rig.is_kept(&numbered(n).data(b"x"));
        rig.frame(Side::Secondary, &Link::default().udp((n as u16, 1), b"x", 0));
    }
    let stats = rig.engine.stats();
    assert_eq!(stats.secondary_waiting.frames, 2);
    assert_eq!(stats.secondary_dropped.no_flow, 18);
    assert_eq!(rig.wait(Duration::from_secs(3)).1, [Reason::SecondaryOnly]);
}
