//! Scenarios of the flow machine: each is a conversation on one tuple, with the numbers that the
//! primary guest (the network) and this guest chose.

use super::*;

mod any;
mod base;
mod checkpoint;
mod forged;
mod reuse;

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

/// A connection that both ends have closed.
fn closed(isn: Isn) -> World {
    let mut world = established(isn);
    world.peer(FIN, isn.ack(), 0);
    world.guest(FIN, isn.next(), 0);
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
