//! Somebody on the network opens many more connections than the maps hold. The connections that the
//! guest uses stay translated.

use colo_proxy_common::decode::flag;
use colo_proxy_common::record::{FlowRecord, mode};

use crate::frame::{Checksum, Shape};
use crate::harness::{NEXT, REDIRECT};
use crate::secondary::{ACK, SYN, SYN_ACK, T, Talk, key_of, rewritten};
use colo_lab::lab_test;

/// More than any map that a flood may fill. They hold 16384 entries.
const FLOOD: u16 = 40_000;
/// `flows`.
const FLOWS_MAX: usize = 65_536;

/// A guest with one connection in use.
fn in_use() -> Talk {
    let mut talk = Talk::new(mode::PROTECTED, Shape { ports: (50_000, 80), ..Shape::default() });
    handshake(&mut talk);
    talk.guest(ACK, 1_001, 300);
    assert_eq!(talk.programs.entries("flows").len(), 1);
    talk
}

fn handshake(talk: &mut Talk) {
    talk.peer(SYN, 0, 0);
    talk.guest(SYN_ACK, 1_000, 300);
    talk.peer(ACK, 4_000_000_001, 50_000);
}

fn is_translated(talk: &mut Talk) {
    talk.shape.ports = (50_000, 80);
    let (run, bytes) = talk.peer(ACK, 4_000_000_100, 50_000);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
    let (run, bytes) = talk.guest(ACK, 1_100, 310);
    assert_eq!((run.verdict, run.frame), (REDIRECT, rewritten(&bytes, false, T)));
}

/// Another connection can be opened, and stays.
fn can_be_opened(talk: &mut Talk, port: u16) {
    talk.shape.ports = (port, 80);
    handshake(talk);
    talk.guest(ACK, 1_001, 300);
    let key = key_of(&talk.shape, true);
    assert!(talk.programs.entries("flows").iter().any(|(known, _)| *known == key));
}

#[lab_test(root)]
fn a_flood_of_syns_pushes_out_no_connection_in_use() {
    let mut talk = in_use();
    for port in 1..=FLOOD {
        talk.shape.ports = (port, 81);
        talk.peer(SYN, 0, 0);
    }
    let half_open = talk.programs.entries("half_open").len();
    assert!((8_000..=16_384).contains(&half_open), "full, and churned: {half_open}");
    is_translated(&mut talk);
    can_be_opened(&mut talk, 50_001);
    assert_eq!(talk.programs.entries("flows").len(), 2);
    assert_eq!(talk.programs.counters().flow_table_full, 0);
}

/// Each SYN/ACK gets an answer with a number that nobody has sent, and the guest sends nothing
/// more.
#[lab_test(root)]
fn a_flood_of_handshakes_that_the_guest_never_confirmed_pushes_out_no_connection_in_use() {
    let mut talk = in_use();
    for port in 1..=FLOOD {
        talk.shape.ports = (port, 81);
        handshake(&mut talk);
        if port % 1_000 == 0 {
            can_be_opened(&mut talk, 50_000 + port / 1_000);
        }
    }
    let unconfirmed = talk.programs.entries("unconfirmed").len();
    assert!((8_000..=16_384).contains(&unconfirmed), "full, and churned: {unconfirmed}");
    is_translated(&mut talk);
    assert_eq!(talk.programs.entries("flows").len(), 1 + usize::from(FLOOD / 1_000));
    assert_eq!(talk.programs.counters().flow_table_full, 0);
}

/// The guest sends data in each of them, so they are real connections. The daemon makes room in
/// time if it can. Until then, new connections are translated, but newer ones push them out.
#[lab_test(root)]
fn a_table_full_of_connections_in_use_loses_none_of_them() {
    let mut talk = in_use();
    let key = key_of(&talk.shape, true);
    let mut filler = FlowRecord { seq_offset: 9, ..FlowRecord::default() };
    let (_, real) = talk.programs.entries("flows").remove(0);
    (filler.known, filler.state, filler.epoch) = (real.known, real.state, real.epoch);
    for i in 1..FLOWS_MAX {
        let mut key = key;
        key.guest_port = 1 + (i >> 15) as u16;
        key.peer_port = (i & 0x7fff) as u16;
        talk.programs.insert_flow(key, filler);
    }
    assert_eq!(talk.programs.entries("flows").len(), FLOWS_MAX);
    talk.shape.ports = (50_001, 80);
    handshake(&mut talk);
    for _ in 0..2 {
        let (run, bytes) = talk.guest(ACK, 1_001, 300);
        assert_eq!((run.verdict, run.frame), (REDIRECT, rewritten(&bytes, false, T)));
    }
    assert_eq!(talk.programs.counters().flow_table_full, 2, "each time that it finds no room");
    assert_eq!(talk.programs.entries("unconfirmed").len(), 1);
    is_translated(&mut talk);
    assert_eq!(talk.programs.entries("flows").len(), FLOWS_MAX);
}

/// Resets in the name of the peer, which anybody can send, and then a flood.
#[lab_test(root)]
fn a_forged_reset_does_not_help_a_flood() {
    let mut talk = in_use();
    talk.peer(flag::RST, 0, 0);
    for port in 1..=FLOOD {
        talk.shape.ports = (port, 81);
        handshake(&mut talk);
    }
    is_translated(&mut talk);
}

/// The twin: the same floods do push out connections in which the guest has sent nothing.
#[lab_test(root)]
fn a_connection_that_the_guest_never_confirmed_can_be_pushed_out() {
    let shape = Shape { ports: (50_000, 80), ..Shape::default() };
    let mut talk = Talk::new(mode::PROTECTED, shape);
    handshake(&mut talk);
    for port in 1..=FLOOD {
        talk.shape.ports = (port, 81);
        handshake(&mut talk);
    }
    talk.shape.ports = (50_000, 80);
    let bytes = talk.shape.build(Checksum::Full);
    let run = talk.programs.run(crate::secondary::TO_GUEST, &bytes, crate::harness::MARK);
    assert_eq!(run.frame, bytes, "nothing is known of it any more");
}
