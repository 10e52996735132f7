//! A third party and a handshake that is not its own: the effects that it can and cannot have. And
//! the connections that are in another map until the guest has sent something of its own.

use super::*;

/// A number that only somebody who is not on the path would use.
const ELSEWHERE: u32 = PEER_ISN + 90_000;

#[test]
fn a_forged_first_ack_is_held_and_teaches_nothing() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    assert_eq!(world.peer_at(ELSEWHERE, ACK, B.ack(), B.wire_ts), (Out::Park, false));
    assert_eq!(world.peer_at(PEER_ISN, ACK, B.ack(), B.wire_ts), (Out::Park, false));
    // The parked segment waits for the real one, which frees it: it may have overtaken that one.
    assert_eq!(world.peer_at(PEER_ISN + 1, ACK, A.ack(), A.wire_ts), (A.offset(), true));
    assert_eq!(world.peer_at(ELSEWHERE, ACK, B.ack(), B.wire_ts), (A.offset(), false));
}

#[test]
fn a_forged_first_ack_that_comes_before_the_guests_answer_teaches_nothing_either() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    assert_eq!(world.peer_at(ELSEWHERE, ACK, B.ack(), B.wire_ts), (Out::Park, false));
    assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (Out::Pass, true));
    assert_eq!(world.peer_at(ELSEWHERE, ACK, B.ack(), B.wire_ts), (Out::Park, false), "again");
    assert_eq!(world.peer_at(PEER_ISN + 1, ACK, A.ack(), A.wire_ts), (A.offset(), true));
}

#[test]
fn the_twin_with_the_right_number_does_poison_the_offset() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    let (out, _) = world.peer_at(PEER_ISN + 1, ACK, B.ack(), B.wire_ts);
    assert_ne!(out, A.offset());
    assert!(matches!(out, Out::Translate { .. }));
}

#[test]
fn a_forged_reset_does_not_end_a_handshake() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    assert_eq!(world.peer_at(ELSEWHERE, RST, 0, 0), (Out::Pass, false));
    assert_eq!(world.entry().state, state::OPENING_PASSIVE);
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), A.offset());
}

#[test]
fn data_in_the_syn_is_counted() {
    for accepted in [0, 100] {
        let mut world = World::new();
        let mut syn = segment(SYN, PEER_ISN, 0, 5, 0);
        syn.payload_len = 100;
        assert_eq!(world.run(true, &syn), (Out::Pass, false));
        let answer = segment(SYN_ACK, A.guest, PEER_ISN + 1 + accepted, A.guest_ts, 6);
        assert_eq!(world.run(false, &answer), (Out::Pass, false));
        let beyond = world.peer_at(PEER_ISN + 102, ACK, B.ack(), B.wire_ts);
        assert_eq!(beyond, (Out::Park, false));
        let (out, _) = world.peer_at(PEER_ISN + 1 + accepted, ACK, A.ack(), A.wire_ts);
        assert_eq!(out, A.offset());
    }
}

/// There was an earlier attempt with this tuple, and its entry is still there.
#[test]
fn a_new_attempt_on_a_tuple_has_its_own_number() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    assert_eq!(world.peer(ACK, B.ack(), B.wire_ts), Out::Park, "never answered");
    assert_eq!(world.peer_at(ELSEWHERE, SYN, 0, 0), (Out::Pass, false));
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, A.ack(), A.wire_ts), (Out::Park, false));
    let answer = segment(SYN_ACK, A.guest, ELSEWHERE + 1, A.guest_ts, 6);
    assert_eq!(world.run(false, &answer), (A.offset(), true));
}

/// Of two SYNs, the one that the guest has answered counts.
#[test]
fn the_guests_answer_says_which_syn_it_has_taken() {
    for forged_first in [false, true] {
        let mut world = World::new();
        let (first, second) =
            if forged_first { (ELSEWHERE, PEER_ISN) } else { (PEER_ISN, ELSEWHERE) };
        world.peer_at(first, SYN, 0, 0);
        world.peer_at(second, SYN, 0, 0);
        assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (Out::Park, false));
        assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (Out::Pass, true));
        let (out, _) = world.peer_at(PEER_ISN + 1, ACK, A.ack(), A.wire_ts);
        assert_eq!(out, A.offset());
    }
}

#[test]
fn a_tuple_used_again_has_its_own_number() {
    let mut world = closed(A);
    world.peer(SYN, 0, 0);
    assert_eq!(world.peer_at(ELSEWHERE, ACK, A.ack(), 0), (Out::Park, false), "of the old one");
    assert_eq!(world.guest(SYN_ACK, B.guest, B.guest_ts), (Out::Pass, true));
    assert_eq!(world.peer(ACK, B.ack(), B.wire_ts), B.offset());
}

#[test]
fn after_a_failover_what_is_out_of_place_is_dropped_and_not_held() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    world.now.failed_over = true;
    assert_eq!(world.peer_at(ELSEWHERE, ACK, B.ack(), B.wire_ts), (Out::Drop, false));
}

#[test]
fn a_connection_is_kept_apart_until_the_guest_has_spoken() {
    let mut world = established(A);
    assert!(world.flows.is_none() && world.unconfirmed.is_some());
    assert_eq!(world.peer(ACK, A.ack(), 0), A.offset());
    assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (A.offset(), false), "nothing new");
    assert!(world.flows.is_none());
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), false));
    assert!(world.flows.is_some() && world.unconfirmed.is_none());
}

#[test]
fn a_reset_of_the_guest_confirms_nothing() {
    let mut world = established(A);
    assert_eq!(world.guest(RST, A.next(), 0), (A.offset(), false));
    assert!(world.flows.is_none() && world.entry().state == state::CLOSED);
}

#[test]
fn a_connection_that_the_guest_has_from_before_protection_is_confirmed() {
    let mut world = World::new();
    world.guest(ACK, 5, 5);
    assert!(world.flows.is_some());
}

/// An established connection, a reset by the peer, and a SYN for the same tuple.
fn reset_and_syn() -> World {
    let mut world = established(A);
    world.guest(ACK, A.next(), 0);
    world.peer(RST, 0, 0);
    assert_eq!(world.peer_at(ELSEWHERE, SYN, 0, 0), (Out::Pass, false));
    world
}

#[test]
fn a_tuple_used_again_after_a_reset_by_the_peer_when_the_primary_is_faster() {
    let mut world = reset_and_syn();
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (Out::Park, false));
    assert_eq!(world.peer_at(ELSEWHERE, SYN, 0, 0), (Out::Pass, false), "the same again");
    let answer = segment(SYN_ACK, B.guest, ELSEWHERE + 1, B.guest_ts, 6);
    assert_eq!(world.run(false, &answer), (B.offset(), true));
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (B.offset(), false));
}

#[test]
fn a_tuple_used_again_after_a_reset_by_the_peer() {
    let mut world = reset_and_syn();
    let answer = segment(SYN_ACK, B.guest, ELSEWHERE + 1, B.guest_ts, 6);
    assert_eq!(world.run(false, &answer), (Out::Pass, false));
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (B.offset(), false));
}

#[test]
fn a_checkpoint_after_a_reset_and_a_syn_makes_the_new_connection_known() {
    let mut world = reset_and_syn();
    world.checkpoint();
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (Out::Pass, false));
    let again = segment(SYN_ACK, B.wire, ELSEWHERE + 1, B.wire_ts, 6);
    assert_eq!(world.run(false, &again), (Out::Pass, false));
    assert_eq!(world.entry().state, state::ESTABLISHED);
}

#[test]
fn after_a_checkpoint_the_answer_to_a_syn_behind_a_reset_frees_what_was_parked() {
    let mut world = reset_and_syn();
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (Out::Park, false));
    world.checkpoint();
    let answer = segment(SYN_ACK, B.wire, ELSEWHERE + 1, B.wire_ts, 6);
    assert_eq!(world.run(false, &answer), (Out::Pass, true));
    assert_eq!(world.entry().state, state::ESTABLISHED);
}

/// The guests were made equal in the middle of the old connection's handshake.
#[test]
fn a_tuple_used_again_after_a_reset_has_no_number_of_an_old_connection_without_an_offset() {
    let near = Isn { guest: 100, wire: 900, guest_ts: 30, wire_ts: 40 };
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.checkpoint();
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Pass);
    assert_eq!(world.guest(ACK, A.ack(), A.wire_ts), (Out::Pass, false));
    world.peer(RST, 0, 0);
    assert_eq!(world.peer_at(ELSEWHERE, SYN, 0, 0), (Out::Pass, false));
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, near.ack(), near.wire_ts), (Out::Park, false));
    let answer = segment(SYN_ACK, near.guest, ELSEWHERE + 1, near.guest_ts, 6);
    assert_eq!(world.run(false, &answer), (near.offset(), true));
}

#[test]
fn a_forged_reset_and_syn_do_not_disturb_an_established_connection() {
    let mut world = reset_and_syn();
    assert_eq!(world.peer(ACK, A.ack(), 0), A.offset(), "follows another SYN");
    assert_eq!(world.peer_at(ELSEWHERE + 1, RST, 0, 0).0, A.offset());
    assert_eq!(world.entry().state, state::RESET);
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (Out::Park, false));
    assert_eq!(world.peer(ACK, A.ack(), 0), A.offset());
    // The guest goes on with the connection that it has.
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), true));
    assert_eq!(world.entry().state, state::ESTABLISHED);
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, A.ack(), 0), (A.offset(), false));
    assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (A.offset(), false), "its own");
}

#[test]
fn a_reset_alone_holds_nothing() {
    let mut world = established(A);
    world.peer(RST, 0, 0);
    assert_eq!(world.peer_at(PEER_ISN + 1, ACK, A.ack(), 0), (A.offset(), false));
}

#[test]
fn a_guest_that_refuses_the_connection_behind_a_reset_gets_what_was_held() {
    let mut world = reset_and_syn();
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (Out::Park, false));
    assert_eq!(world.guest(RST_ACK, 0, 0), (Out::Pass, true));
    assert_eq!(world.entry().state, state::CLOSED);
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, B.ack(), B.wire_ts), (A.offset(), false));
}

#[test]
fn after_a_failover_nothing_behind_a_reset_and_a_syn_waits() {
    let mut world = reset_and_syn();
    world.now.failed_over = true;
    assert_eq!(world.peer_at(ELSEWHERE + 1, ACK, A.ack(), 0), (A.offset(), false));
}
