//! A tuple that is used again, and a connection that begins anew.

use super::*;

/// A SYN for the tuple of a closed connection, and a checkpoint before the secondary's guest has
/// answered it: the copy that it is now has answered as the primary did.
#[test]
fn a_checkpoint_while_a_tuple_is_used_again() {
    for failed_over in [false, true] {
        let mut world = closed(A);
        world.peer(SYN, 0, 0);
        world.checkpoint();
        world.now.failed_over = failed_over;
        let (out, _) = world.run(true, &segment(ACK, PEER_ISN + 1, B.ack(), 5, B.wire_ts));
        assert_eq!(out, Out::Pass, "nobody has anything to say before it");
        assert_eq!(world.guest(SYN_ACK, B.wire, B.wire_ts).0, Out::Pass);
        assert_eq!(world.guest(ACK, B.ack(), B.wire_ts).0, Out::Pass);
        let (out, _) = world.run(true, &segment(ACK, PEER_ISN + 9, B.ack(), 5, B.wire_ts));
        assert_eq!(out, Out::Pass);
    }
}

#[test]
fn a_tuple_used_again_by_the_peer() {
    let mut world = closed(A);
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.guest(SYN_ACK, B.guest, B.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(ACK, B.ack(), B.wire_ts), B.offset());
}

#[test]
fn a_tuple_used_again_by_the_peer_when_the_primary_is_faster() {
    let mut world = closed(A);
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.peer(ACK, B.ack(), B.wire_ts), Out::Park);
    assert_eq!(world.guest(SYN_ACK, B.guest, B.guest_ts), (B.offset(), true));
    assert_eq!(world.peer(ACK, B.ack(), B.wire_ts), B.offset());
}

#[test]
fn a_guest_in_time_wait_refuses_the_new_connection() {
    let mut world = closed(A);
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.peer(ACK, A.ack(), 0), Out::Park);
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), true));
    assert_eq!(world.peer(ACK, A.ack(), 0), A.offset());
    assert_eq!((world.entry().state, world.entry().wire_isn), (state::CLOSED, A.wire));
}

#[test]
fn a_tuple_used_again_by_the_guest() {
    let mut world = closed(A);
    assert_eq!(world.guest(SYN, B.guest, B.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(SYN_ACK, B.ack(), B.wire_ts), B.offset());
}

#[test]
fn a_tuple_used_again_by_the_guest_when_the_primary_is_faster() {
    let mut world = closed(A);
    assert_eq!(world.peer(SYN_ACK, A.ack(), 0), A.offset(), "a repetition of the old one");
    assert_eq!(world.peer(SYN_ACK, B.ack(), B.wire_ts), Out::Park);
    assert_eq!(world.guest(SYN, B.guest, B.guest_ts), (B.offset(), true));
    assert_eq!(world.peer(SYN_ACK, B.ack(), B.wire_ts), B.offset());
}

#[test]
fn a_tuple_of_an_older_epoch_used_again() {
    let mut world = closed(A);
    world.checkpoint();
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.peer(ACK, B.ack(), B.wire_ts), Out::Park);
    assert_eq!(world.guest(SYN_ACK, B.guest, B.guest_ts), (B.offset(), true));
}

#[test]
fn an_opening_that_was_reset_begins_anew() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    assert_eq!(world.peer(RST, 0, 0), Out::Pass);
    assert_eq!(world.entry().state, state::CLOSED);
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.peer(ACK, B.ack(), B.wire_ts), Out::Park);
    assert_eq!(world.guest(SYN_ACK, B.guest, B.guest_ts), (B.offset(), true));
}

#[test]
fn an_answer_to_a_stale_connection_leaves_an_active_open_alone() {
    let mut world = World::new();
    world.guest(SYN, A.guest, A.guest_ts);
    // RFC 9293, section 3.5.1: the peer still has the old connection and says so.
    assert_eq!(world.peer(ACK, 123_456, 0), Out::Pass);
    assert_eq!(world.guest(RST, 123_456, 0), (Out::Pass, false));
    assert_eq!(world.guest(SYN, A.guest, A.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(SYN_ACK, A.ack(), A.wire_ts), A.offset());
}
