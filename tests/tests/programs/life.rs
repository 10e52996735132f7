//! The rules of a connection's life, each tested with the programs alone, on the frames of both
//! sides.

use colo_proxy_common::decode::flag;
use colo_proxy_common::flow::state;
use colo_proxy_common::record::{Settings, mode};
use colo_proxy_common::rewrite::Translation;

use crate::frame::{Checksum, Shape, TcpOption};
use crate::harness::{DROP, MARK, NEXT, Programs, REDIRECT, settings};
use crate::secondary::{
    ACK, FROM_GUEST, SYN, SYN_ACK, T, TO_GUEST, Talk, established, key_of, rewritten,
};
use colo_lab::lab_test;

const FIN: u8 = flag::FIN | flag::ACK;
const RST: u8 = flag::RST;
/// The peer acknowledges this number when it has seen the primary's SYN or SYN/ACK.
const WIRE_ACK: u32 = 4_000_000_001;
/// Of another connection, whose numbers wrap.
const OTHER: Translation = Translation { seq: 10u32.wrapping_sub(4_294_967_290), ts: 3 };

fn talk() -> Talk {
    Talk::new(mode::PROTECTED, Shape::default())
}

/// The peer has opened a connection, and the guest has sent data in it.
fn open() -> Talk {
    let mut talk = talk();
    talk.peer(SYN, 0, 0);
    talk.guest(SYN_ACK, 1_000, 300);
    talk.peer(ACK, WIRE_ACK, 50_000);
    both_are_translated(&mut talk, T);
    talk
}

fn both_are_translated(talk: &mut Talk, by: Translation) {
    let (run, bytes) = talk.peer(ACK, 7, 7);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, by)));
    let (run, bytes) = talk.guest(ACK, 7, 7);
    assert_eq!((run.verdict, run.frame), (REDIRECT, rewritten(&bytes, false, by)));
}

fn checkpoint(talk: &mut Talk) {
    talk.programs.set(&Settings { epoch: 4, ..settings(mode::PROTECTED) });
}

fn state_of(talk: &Talk) -> u32 {
    let mut all = talk.programs.entries("flows");
    all.extend(talk.programs.entries("unconfirmed"));
    all.extend(talk.programs.entries("half_open"));
    assert_eq!(all.len(), 1, "one tuple, one entry: {all:?}");
    all[0].1.state
}

#[lab_test(root)]
fn a_checkpoint_between_syn_ack_and_ack_makes_the_numbers_the_networks() {
    let mut talk = talk();
    talk.peer(SYN, 0, 0);
    talk.guest(SYN_ACK, 1_000, 300);
    checkpoint(&mut talk);
    let (run, bytes) = talk.peer(ACK, WIRE_ACK, 50_000);
    assert_eq!((run.verdict, run.frame), (NEXT, bytes));
    let (run, bytes) = talk.guest(ACK, WIRE_ACK, 50_001);
    assert_eq!((run.verdict, run.frame), (REDIRECT, bytes));
}

#[lab_test(root)]
fn a_guest_segment_before_its_offset_is_known_is_dropped_and_the_peers_is_held() {
    let mut talk = talk();
    talk.peer(SYN, 0, 0);
    let (run, bytes) = talk.peer(ACK, WIRE_ACK, 50_000);
    assert_eq!((run.verdict, run.mark, run.frame), (REDIRECT, MARK, bytes), "back to the daemon");
    let mut talk = self::talk();
    talk.peer(SYN, 0, 0);
    talk.guest(SYN_ACK, 1_000, 300);
    assert_eq!(talk.guest(ACK, 1_001, 300).0.verdict, DROP);
}

#[lab_test(root)]
fn a_simultaneous_open_is_translated() {
    let mut talk = talk();
    assert_eq!(talk.guest(SYN, 1_000, 300).0.verdict, REDIRECT);
    let (run, bytes) = talk.peer(SYN, 0, 0);
    assert_eq!((run.verdict, run.frame), (NEXT, bytes));
    talk.guest(SYN_ACK, 1_000, 300);
    let (run, bytes) = talk.peer(SYN_ACK, WIRE_ACK, 50_000);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
    both_are_translated(&mut talk, T);
}

#[lab_test(root)]
fn retransmissions_in_time_wait_are_translated() {
    let mut talk = open();
    talk.guest(FIN, 1_001, 300);
    talk.peer(FIN, WIRE_ACK + 1, 50_000);
    assert_eq!(state_of(&talk), state::CLOSED);
    for _ in 0..2 {
        let (run, bytes) = talk.peer(FIN, WIRE_ACK + 1, 50_000);
        assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
        let (run, bytes) = talk.guest(ACK, 1_002, 300);
        assert_eq!((run.verdict, run.frame), (REDIRECT, rewritten(&bytes, false, T)));
    }
    assert_eq!(state_of(&talk), state::CLOSED);
}

#[lab_test(root)]
fn a_reset_is_translated_and_only_the_guests_own_closes() {
    let mut talk = open();
    let (run, bytes) = talk.peer(RST | ACK, WIRE_ACK, 50_000);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
    assert_eq!(state_of(&talk), state::RESET);
    both_are_translated(&mut talk, T);
    assert_eq!(state_of(&talk), state::ESTABLISHED, "the guest has gone on");
    let (run, bytes) = talk.guest(RST, 1_001, 300);
    assert_eq!((run.verdict, run.frame), (REDIRECT, rewritten(&bytes, false, T)));
    assert_eq!(state_of(&talk), state::CLOSED);
}

#[lab_test(root)]
fn a_tuple_that_is_used_again_gets_a_new_offset_that_may_wrap() {
    let mut talk = open();
    talk.guest(FIN, 1_001, 300);
    talk.peer(FIN, WIRE_ACK, 50_000);
    let (run, bytes) = talk.peer(SYN, 0, 0);
    assert_eq!((run.verdict, run.frame), (NEXT, bytes));
    let (run, bytes) = talk.guest(SYN_ACK, 4_294_967_290, 20);
    assert_eq!((run.verdict, run.frame), (REDIRECT, bytes));
    let (run, bytes) = talk.peer(ACK, 11, 23);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, OTHER)));
    both_are_translated(&mut talk, OTHER);
    assert_eq!(talk.programs.entries("flows").len(), 1);
}

/// The reset may be forged, and the guest has not answered the SYN after it yet. Data that follows
/// that SYN is parked. Other data belongs to the old connection.
#[lab_test(root)]
fn a_tuple_that_is_used_again_after_a_reset_by_the_peer_waits_for_the_guest() {
    let mut talk = open();
    talk.peer(RST | ACK, WIRE_ACK, 50_000);
    talk.peer(SYN, 0, 0);
    let old = talk.build(true, ACK, 90_000, WIRE_ACK, (5, 50_000));
    let run = talk.programs.run(TO_GUEST, &old, MARK);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&old, true, T)));
    let (run, held) = talk.peer(ACK, 11, 23);
    assert_eq!((run.verdict, run.mark, &run.frame), (REDIRECT, MARK, &held), "held");
    let (run, bytes) = talk.guest(SYN_ACK, 4_294_967_290, 20);
    assert_eq!((run.verdict, run.frame), (REDIRECT, rewritten(&bytes, false, OTHER)));
    assert_eq!(talk.programs.announced(), [key_of(&talk.shape, true)]);
    let run = talk.programs.run(TO_GUEST, &held, MARK);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&held, true, OTHER)));
    both_are_translated(&mut talk, OTHER);
}

#[lab_test(root)]
fn selective_acknowledgments_are_translated_edge_by_edge() {
    let mut programs = Programs::load();
    programs.set(&settings(mode::PROTECTED));
    for blocks in 1..=4u32 {
        // Across the end of the numbers.
        let edges = |by: u32| -> Vec<(u32, u32)> {
            let edge = |i: u32| (u32::MAX - 10).wrapping_add(i * 4).wrapping_sub(by);
            (0..blocks).map(|i| (edge(2 * i), edge(2 * i + 1))).collect()
        };
        let shape =
            Shape { options: vec![TcpOption::Sack(edges(0))], flags: ACK, ..Shape::default() };
        programs.insert_flow(key_of(&shape, true), established(T));
        let run = programs.run(TO_GUEST, &shape.build(Checksum::Full), MARK);
        let wanted = Shape {
            ack: shape.ack.wrapping_sub(T.seq),
            options: vec![TcpOption::Sack(edges(T.seq))],
            ..shape
        };
        assert_eq!(run.frame, wanted.build(Checksum::Full), "{blocks} blocks");
    }
}

/// A host that is not on the path does not know the peer's number.
#[lab_test(root)]
fn a_forged_first_ack_is_held_and_poisons_nothing() {
    let mut talk = talk();
    talk.peer(SYN, 0, 0);
    talk.guest(SYN_ACK, 1_000, 300);
    let forged = talk.build(true, ACK, 90_000, 5, (5, 5));
    let run = talk.programs.run(TO_GUEST, &forged, MARK);
    assert_eq!((run.verdict, run.mark, &run.frame), (REDIRECT, MARK, &forged), "held");
    assert!(talk.programs.announced().is_empty());
    let (run, bytes) = talk.peer(ACK, WIRE_ACK, 50_000);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
    // The segment may be the peer's, and out of order.
    assert_eq!(talk.programs.announced(), [key_of(&talk.shape, true)]);
    let run = talk.programs.run(TO_GUEST, &forged, MARK);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&forged, true, T)));
}

#[lab_test(root)]
fn a_failover_leaves_open_connections_translated_and_makes_none_known() {
    let mut talk = open();
    talk.programs.set(&settings(mode::FAILED_OVER));
    let bytes = talk.build(true, ACK, 7, 7, (5, 7));
    let run = talk.programs.run(TO_GUEST, &bytes, 0);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
    let bytes = talk.build(false, ACK, 7, 7, (7, 5));
    let run = talk.programs.run(FROM_GUEST, &bytes, 0);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, false, T)));
    talk.shape.ports = (talk.shape.ports.0 + 1, talk.shape.ports.1);
    talk.peer(SYN, 0, 0);
    talk.guest(SYN_ACK, 1_000, 300);
    assert!(talk.programs.entries("half_open").is_empty());
    assert_eq!(talk.programs.entries("flows").len(), 1);
}
