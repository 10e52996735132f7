//! Checkpoints in the middle of a handshake.

use super::*;

#[test]
fn a_checkpoint_makes_the_guests_equal() {
    let mut world = established(A);
    world.checkpoint();
    assert_eq!(world.peer(ACK, 5, 5), Out::Pass);
    assert_eq!(world.guest(ACK, 5, 5), (Out::Pass, false));
    // The guest counts as the network does now: this is its old SYN/ACK.
    assert_eq!(world.guest(SYN_ACK, A.wire, A.wire_ts), (Out::Pass, false));
    assert_eq!(world.entry().state, state::ESTABLISHED);
}

#[test]
fn a_checkpoint_between_syn_ack_and_ack() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    world.checkpoint();
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Pass);
    assert_eq!(world.guest(ACK, A.ack(), A.wire_ts), (Out::Pass, false));
}

#[test]
fn a_syn_ack_repeated_after_a_checkpoint_begins_no_other_connection() {
    // The peer's first acknowledgment may be of more than the SYN.
    for more in [0, 100, 0xffff] {
        let mut world = World::new();
        world.peer(SYN, 0, 0);
        world.checkpoint();
        assert_eq!(world.peer(ACK, A.ack().wrapping_add(more), A.wire_ts), Out::Pass);
        // The copy of the primary has not seen that yet, and repeats the primary's segment.
        assert_eq!(world.guest(SYN_ACK, A.wire, A.wire_ts), (Out::Pass, false));
        assert_eq!(world.guest(ACK, A.ack(), A.wire_ts), (Out::Pass, false), "its data leave");
    }
}

#[test]
fn a_syn_repeated_after_a_checkpoint_and_its_answer_begins_no_other_connection() {
    let mut world = World::new();
    world.guest(SYN, A.guest, A.guest_ts);
    world.checkpoint();
    assert_eq!(world.peer(SYN_ACK, A.ack(), A.wire_ts), Out::Pass);
    assert_eq!(world.guest(SYN, A.wire, A.wire_ts), (Out::Pass, false));
    assert_eq!(world.guest(ACK, A.ack(), A.wire_ts), (Out::Pass, false));
}

/// The twin: a number that is not of this connection belongs to the next one.
#[test]
fn another_syn_ack_after_a_checkpoint_begins_another_connection() {
    for isn in [A.wire.wrapping_add(1), A.wire.wrapping_sub(0x10000)] {
        let mut world = World::new();
        world.peer(SYN, 0, 0);
        world.checkpoint();
        assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Pass);
        assert_eq!(world.guest(SYN_ACK, isn, A.guest_ts), (Out::Pass, false));
        assert_eq!(world.entry().state, state::OPENING_PASSIVE);
    }
}

#[test]
fn a_checkpoint_between_syn_and_a_new_syn_ack() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.checkpoint();
    assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), A.offset());
}

#[test]
fn a_checkpoint_while_input_is_held() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Park);
    world.checkpoint();
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Pass);
}

#[test]
fn a_checkpoint_in_an_active_open() {
    let mut world = World::new();
    world.guest(SYN, A.guest, A.guest_ts);
    world.checkpoint();
    assert_eq!(world.peer(SYN_ACK, A.ack(), A.wire_ts), Out::Pass);
    assert_eq!(world.guest(ACK, A.ack(), A.wire_ts), (Out::Pass, false));

    // The guest repeats its SYN, which is the primary's since the checkpoint.
    let mut world = World::new();
    world.guest(SYN, A.guest, A.guest_ts);
    world.checkpoint();
    assert_eq!(world.guest(SYN, A.wire, A.wire_ts), (Out::Pass, false));
    assert_eq!(world.peer(SYN_ACK, A.ack(), A.wire_ts), Out::Pass);
}
