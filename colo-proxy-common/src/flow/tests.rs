//! Scenarios of the flow machine: each is a conversation on one tuple, with the numbers that the
//! primary guest (the network) and this guest chose.

use proptest::prelude::*;

use super::*;

mod base;
mod forged;

const SYN: u8 = flag::SYN;
const SYN_ACK: u8 = flag::SYN | flag::ACK;
const ACK: u8 = flag::ACK;
const FIN: u8 = flag::FIN | flag::ACK;
const RST: u8 = flag::RST;
const RST_ACK: u8 = flag::RST | flag::ACK;
const PEER_ISN: u32 = 76;

/// One tuple, in the three maps.
#[derive(Debug)]
struct World {
    now: FlowContext,
    half_open: Option<FlowRecord>,
    unconfirmed: Option<FlowRecord>,
    flows: Option<FlowRecord>,
    flows_full: bool,
}

/// The result of a frame, for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    Pass,
    Park,
    Drop,
    Translate { seq: u32, ts: u32 },
}

impl World {
    fn new() -> Self {
        let now = FlowContext { failed_over: false, epoch: 1, ns: 1 };
        Self { now, half_open: None, unconfirmed: None, flows: None, flows_full: false }
    }

    fn run(&mut self, inward: bool, segment: &FlowSegment) -> (Out, bool) {
        self.now.ns += 1;
        let now = self.now;
        let mut record = FlowRecord::default();
        let entries = [&mut self.flows, &mut self.unconfirmed, &mut self.half_open];
        let entry = entries.into_iter().find_map(Option::as_mut).map(FlowEntry::from_mut);
        let step = if inward {
            to_guest(&now, segment, entry, &mut record)
        } else {
            from_guest(&now, segment, entry, &mut record)
        };
        if step.change != FlowChange::Keep {
            (self.half_open, self.unconfirmed, self.flows) = (None, None, None);
        }
        match step.change {
            FlowChange::Keep | FlowChange::Forget => {}
            FlowChange::Open => self.half_open = Some(record),
            FlowChange::Establish if record.known & known::CONFIRMED != 0 && !self.flows_full => {
                self.flows = Some(record);
            }
            FlowChange::Establish => {
                record.known &= !known::CONFIRMED;
                self.unconfirmed = Some(record);
            }
        }
        if step.frees_parked {
            assert_ne!(record, FlowRecord::default(), "an event tells of something");
        }
        let out = match step.verdict {
            FlowVerdict::Pass => Out::Pass,
            FlowVerdict::Park => Out::Park,
            FlowVerdict::Drop => Out::Drop,
            FlowVerdict::Translate(t) => Out::Translate { seq: t.seq, ts: t.ts },
        };
        (out, step.frees_parked)
    }

    /// A frame of the peer, with its acknowledgment and `TSecr`.
    fn peer(&mut self, flags: u8, ack: u32, echo: u32) -> Out {
        let seq = PEER_ISN + u32::from(flags != SYN && flags != SYN_ACK);
        let (out, released) = self.peer_at(seq, flags, ack, echo);
        assert!(!released, "the peer's frames release nothing that was not out of place");
        out
    }

    /// The same with a sequence number.
    fn peer_at(&mut self, seq: u32, flags: u8, ack: u32, echo: u32) -> (Out, bool) {
        self.run(true, &segment(flags, seq, ack, 5, echo))
    }

    /// A frame of the guest, with its sequence number and `TSval`; `true` if parked input may go.
    fn guest(&mut self, flags: u8, seq: u32, value: u32) -> (Out, bool) {
        self.run(false, &segment(flags, seq, PEER_ISN + 1, value, 6))
    }

    fn entry(&self) -> &FlowRecord {
        let entries = [&self.flows, &self.unconfirmed, &self.half_open];
        entries.into_iter().find_map(Option::as_ref).expect("there is an entry")
    }

    fn is_empty(&self) -> bool {
        self.flows.is_none() && self.unconfirmed.is_none() && self.half_open.is_none()
    }

    fn checkpoint(&mut self) {
        self.now.epoch += 1;
    }
}

fn segment(flags: u8, seq: u32, ack: u32, value: u32, echo: u32) -> FlowSegment {
    let timestamps = Some(Timestamps { value, echo, at: 0 });
    FlowSegment { flags, seq, ack, payload_len: 0, timestamps }
}

/// The numbers that both guests chose.
#[derive(Clone, Copy, Debug)]
struct Isn {
    guest: u32,
    wire: u32,
    guest_ts: u32,
    wire_ts: u32,
}

impl Isn {
    const WRAPPING: Self =
        Self { guest: 5, wire: u32::MAX - 3, guest_ts: u32::MAX, wire_ts: 1_000 };
    const OTHER: Self = Self { guest: 900, wire: 100, guest_ts: 40, wire_ts: 30 };

    fn offset(self) -> Out {
        Out::Translate {
            seq: self.wire.wrapping_sub(self.guest),
            ts: self.wire_ts.wrapping_sub(self.guest_ts),
        }
    }

    /// The acknowledgment of the primary guest's SYN.
    fn ack(self) -> u32 {
        self.wire.wrapping_add(1)
    }

    fn next(self) -> u32 {
        self.guest.wrapping_add(1)
    }
}

const A: Isn = Isn::WRAPPING;
const B: Isn = Isn::OTHER;

/// A connection that the peer has opened.
fn established(isn: Isn) -> World {
    let mut world = World::new();
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.guest(SYN_ACK, isn.guest, isn.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(ACK, isn.ack(), isn.wire_ts), isn.offset());
    world
}

#[test]
fn passive_open() {
    let mut world = established(A);
    assert!(world.half_open.is_none() && world.entry().state == state::ESTABLISHED);
    assert_eq!(world.peer(ACK, A.ack().wrapping_add(9), 0), A.offset());
    for _ in 0..2 {
        assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), false));
    }
    assert_eq!((world.entry().to_guest_frames, world.entry().from_guest_frames), (1, 1));
}

#[test]
fn passive_open_when_the_primary_is_faster() {
    let mut world = World::new();
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Park);
    // Data behind it acknowledges more, and does not give the offset.
    assert_eq!(world.peer(ACK, A.ack().wrapping_add(500), 9), Out::Park);
    assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (A.offset(), true));
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), A.offset());
}

#[test]
fn active_open() {
    let mut world = World::new();
    assert_eq!(world.guest(SYN, A.guest, A.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(SYN_ACK, A.ack(), A.wire_ts), A.offset());
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), false));
}

#[test]
fn active_open_when_the_primary_is_faster() {
    let mut world = World::new();
    assert_eq!(world.peer(SYN_ACK, A.ack(), A.wire_ts), Out::Park);
    assert_eq!(world.guest(SYN, A.guest, A.guest_ts), (A.offset(), true));
    assert_eq!(world.peer(SYN_ACK, A.ack(), A.wire_ts), A.offset());
}

#[test]
fn a_refused_connection_is_translated_too() {
    let mut world = World::new();
    world.guest(SYN, A.guest, A.guest_ts);
    assert_eq!(world.peer(RST_ACK, A.ack(), A.wire_ts), A.offset());
    assert_eq!(world.entry().state, state::CLOSED);

    let mut world = World::new();
    world.guest(SYN, A.guest, A.guest_ts);
    world.checkpoint();
    assert_eq!(world.peer(RST_ACK, A.ack(), A.wire_ts), Out::Pass);
}

#[test]
fn simultaneous_open() {
    let mut world = World::new();
    assert_eq!(world.guest(SYN, A.guest, A.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(SYN_ACK, A.ack(), A.wire_ts), A.offset());
}

#[test]
fn the_last_timestamp_of_a_repeated_syn_counts() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, 10);
    world.guest(SYN_ACK, A.guest, 1_010);
    let ts = A.wire_ts.wrapping_sub(1_010);
    let seq = A.wire.wrapping_sub(A.guest);
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Translate { seq, ts });
}

#[test]
fn without_timestamps_on_both_sides_none_are_translated() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    let mut answer = segment(SYN_ACK, A.guest, PEER_ISN + 1, 0, 0);
    answer.timestamps = None;
    world.run(false, &answer);
    let seq = A.wire.wrapping_sub(A.guest);
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Translate { seq, ts: 0 });
}

#[test]
fn the_guest_waits_for_its_offset() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    assert_eq!(world.guest(ACK, A.next(), 0), (Out::Drop, false));
    assert_eq!(world.guest(RST, A.next(), 0), (Out::Pass, false));
    assert_eq!(world.entry().state, state::CLOSED);
}

#[test]
fn older_than_protection() {
    let mut world = World::new();
    assert_eq!(world.peer(ACK, 5, 5), Out::Pass);
    assert_eq!(world.peer(RST, 5, 5), Out::Pass);
    assert_eq!(world.guest(RST, 5, 5), (Out::Pass, false));
    assert!(world.is_empty(), "the peer opens no entry");
    assert_eq!(world.guest(ACK, 5, 5), (Out::Pass, false));
    // A forged SYN then finds the connection established.
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.peer(ACK, 5, 5), Out::Pass);
    assert_eq!(world.guest(ACK, 5, 5), (Out::Pass, false));
}

#[test]
fn a_forged_syn_before_the_guest_has_spoken_delays_but_does_not_break() {
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    assert_eq!(world.peer(ACK, 5, 5), Out::Park);
    assert_eq!(world.guest(ACK, 7, 5), (Out::Pass, true));
    assert_eq!(world.peer(ACK, 5, 5), Out::Pass);
}

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

#[test]
fn fins_close_and_retransmissions_go_on() {
    let mut world = established(A);
    assert_eq!(world.peer(FIN, A.ack(), 0), A.offset());
    assert_eq!(world.entry().state, state::FIN_PEER);
    assert_eq!(world.guest(FIN, A.next(), 0), (A.offset(), false));
    assert_eq!(world.entry().state, state::CLOSED);
    assert_eq!(world.peer(FIN, A.ack(), 0), A.offset());
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), false));
    assert_eq!(world.entry().state, state::CLOSED);
}

#[test]
fn a_reset_of_the_guest_closes_and_one_of_the_peer_may_be_forged() {
    let mut world = established(A);
    assert_eq!(world.peer(RST, 0, 0), A.offset());
    assert_eq!(world.entry().state, state::RESET);
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), false));
    assert_eq!(world.entry().state, state::ESTABLISHED);
    assert_eq!(world.guest(RST, A.next(), 0), (A.offset(), false));
    assert_eq!(world.entry().state, state::CLOSED);
}

#[test]
fn a_reset_with_number_zero_is_nobodys_number() {
    let mut world = established(A);
    assert_eq!(world.guest(RST_ACK, 0, 0), (Out::Pass, false));
}

#[test]
fn a_syn_does_not_disturb_an_established_connection() {
    let mut world = established(A);
    let before = *world.entry();
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    let after = *world.entry();
    assert_eq!(after, FlowRecord { last_seen_ns: after.last_seen_ns, ..before });
    assert_eq!(world.peer(ACK, A.ack(), 0), A.offset());
    // The same SYN/ACK again is part of it, another one is a new connection.
    assert_eq!(world.guest(SYN_ACK, A.guest, 0), (A.offset(), false));
    assert_eq!(world.guest(SYN_ACK, B.guest, B.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(ACK, B.ack(), B.wire_ts), B.offset());
}

fn closed(isn: Isn) -> World {
    let mut world = established(isn);
    world.peer(FIN, isn.ack(), 0);
    world.guest(FIN, isn.next(), 0);
    world
}

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

#[test]
fn after_a_failover_known_connections_go_on_and_new_ones_are_not_recorded() {
    let mut world = established(A);
    world.now.failed_over = true;
    assert_eq!(world.peer(ACK, A.ack(), 0), A.offset());
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), false));
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.guest(SYN_ACK, B.guest, 0), (Out::Pass, false));
    assert!(world.is_empty());
    for out in [world.peer(SYN, 0, 0), world.peer(SYN_ACK, 7, 0), world.peer(ACK, 7, 0)] {
        assert_eq!(out, Out::Pass);
    }
    for flags in [SYN, SYN_ACK, ACK, RST] {
        assert_eq!(world.guest(flags, 9, 0), (Out::Pass, false));
    }
    assert!(world.is_empty());
}

#[test]
fn a_failover_in_the_middle_of_a_handshake() {
    // The peer has the primary's SYN/ACK.
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    world.now.failed_over = true;
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), A.offset());
    // It has not, and gets the secondary's.
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.now.failed_over = true;
    assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(ACK, A.next(), A.guest_ts), Out::Pass);
    // There may be no daemon that parks a frame.
    let mut world = World::new();
    world.peer(SYN, 0, 0);
    world.now.failed_over = true;
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), Out::Drop);
    // The guest gives up and tries again.
    let mut world = World::new();
    world.guest(SYN, A.guest, A.guest_ts);
    world.now.failed_over = true;
    assert_eq!(world.guest(SYN, B.guest, B.guest_ts), (Out::Pass, false));
    assert!(world.half_open.is_none());
}

#[test]
fn a_full_table_leaves_the_connection_among_the_unconfirmed_until_there_is_room() {
    let mut world = World::new();
    world.flows_full = true;
    world.peer(SYN, 0, 0);
    world.guest(SYN_ACK, A.guest, A.guest_ts);
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), A.offset());
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), false));
    assert_eq!(world.peer(ACK, A.ack(), 0), A.offset());
    assert!(world.unconfirmed.is_some() && world.flows.is_none());
    world.flows_full = false;
    assert_eq!(world.guest(ACK, A.next(), 0), (A.offset(), false));
    assert!(world.unconfirmed.is_none() && world.flows.is_some());
}

/// Two processors handle the peer's ACK and the guest's SYN/ACK at the same time. In any order, if the
/// ACK is parked, then the SYN/ACK frees it.
#[test]
fn frames_that_cross_do_not_miss_each_other() {
    struct Shared(*mut FlowRecord);
    // SAFETY: the test's threads access the flow through `FlowEntry` alone, and end before it does.
    unsafe impl Sync for Shared {}

    let now = FlowContext { failed_over: false, epoch: 1, ns: 1 };
    for _ in 0..5_000 {
        let mut flow =
            FlowRecord { epoch: 1, state: state::OPENING_PASSIVE, ..FlowRecord::default() };
        let shared = &Shared(&raw mut flow);
        let start = &std::sync::Barrier::new(2);
        let (peer, guest) = std::thread::scope(|scope| {
            let peer = scope.spawn(move || {
                // SAFETY: see above.
                let entry = unsafe { FlowEntry::from_ptr(shared.0) };
                start.wait();
                let ack = segment(ACK, PEER_ISN + 1, A.ack(), 5, A.wire_ts);
                to_guest(&now, &ack, entry, &mut FlowRecord::default())
            });
            // SAFETY: see above.
            let entry = unsafe { FlowEntry::from_ptr(shared.0) };
            start.wait();
            let answer = segment(SYN_ACK, A.guest, PEER_ISN + 1, A.guest_ts, 6);
            let guest = from_guest(&now, &answer, entry, &mut FlowRecord::default());
            (peer.join().expect("the peer's thread"), guest)
        });
        assert!(peer.verdict != FlowVerdict::Park || guest.frees_parked, "{peer:?} {guest:?}");
    }
}

fn any_segment() -> impl Strategy<Value = FlowSegment> {
    let number = || prop_oneof![0u32..4, any::<u32>()];
    (any::<u8>(), number(), number(), proptest::option::of((number(), number()))).prop_map(
        |(flags, seq, ack, timestamps)| FlowSegment {
            flags: flags & 0x3f,
            seq,
            ack,
            payload_len: ack & 3,
            timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo, at: 0 }),
        },
    )
}

#[derive(Clone, Debug)]
enum Op {
    Peer(FlowSegment),
    Guest(FlowSegment),
    Checkpoint,
    FailOver,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => any_segment().prop_map(Op::Peer),
        10 => any_segment().prop_map(Op::Guest),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::FailOver),
    ]
}

proptest! {
    /// Both handshakes, in both orders, for any numbers: the offset is the difference, and the parked
    /// frames are freed.
    #[test]
    fn offsets_are_differences(
        (guest, wire, guest_ts, wire_ts) in any::<(u32, u32, u32, u32)>(),
        active in any::<bool>(),
        primary_first in any::<bool>(),
    ) {
        let isn = Isn { guest, wire, guest_ts, wire_ts };
        let mut world = World::new();
        let (mine, theirs) = if active { (SYN, SYN_ACK) } else { (SYN_ACK, ACK) };
        if !active {
            prop_assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
        }
        let known = match isn.offset() {
            Out::Translate { seq: 0, ts: 0 } => Out::Pass,
            other => other,
        };
        if primary_first {
            prop_assert_eq!(world.peer(theirs, isn.ack(), wire_ts), Out::Park);
            prop_assert_eq!(world.guest(mine, guest, guest_ts), (known, true));
        } else {
            prop_assert_eq!(world.guest(mine, guest, guest_ts), (Out::Pass, false));
        }
        prop_assert_eq!(world.peer(theirs, isn.ack(), wire_ts), known);
        prop_assert_eq!(world.guest(ACK, isn.next(), guest_ts), (known, false));
    }

    /// Any frames in any order: no panic. Only the guest's frames free parked ones. The guest's frames
    /// are never parked. An entry of this epoch that has an offset translates by it. After a failover
    /// no entry is made.
    #[test]
    fn any_conversation(ops in proptest::collection::vec(any_op(), 1..60)) {
        let mut world = World::new();
        for op in ops {
            let had = !world.is_empty();
            match op {
                Op::Checkpoint => world.checkpoint(),
                Op::FailOver => world.now.failed_over = true,
                Op::Peer(segment) => {
                    let (out, _) = world.run(true, &segment);
                    prop_assert!(!(world.now.failed_over && out == Out::Park));
                }
                Op::Guest(segment) => {
                    let (out, _) = world.run(false, &segment);
                    prop_assert!(out != Out::Park);
                }
            }
            let has = !world.is_empty();
            prop_assert!(!world.now.failed_over || had || !has);
            prop_assert!(world.flows.is_none_or(|flow| flow.known & known::CONFIRMED != 0));
            if let Some(flow) = world.flows.or(world.unconfirmed) {
                prop_assert!(flow.known & known::OFFSET != 0, "{flow:?}");
                let both = known::GUEST | known::WIRE;
                if flow.known & both == both && flow.state != state::REOPENING {
                    prop_assert_eq!(
                        flow.seq_offset,
                        flow.wire_isn.wrapping_sub(flow.guest_isn)
                    );
                }
            }
        }
    }
}
