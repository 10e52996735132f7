//! Equal guests, and the ways in which they may differ.

use crate::captures::{
    Connection, GUEST, MS, Manner, PRIMARY, SECONDARY, Tape, text, udp, udp_with_id,
};
use crate::run::{Captures, diff};

fn web_server(manner: Manner) -> Tape {
    let mut tape = Tape::default();
    for client in 0..3 {
        let mut connection =
            Connection::open(&mut tape, manner, 40_000 + client, 1000 + 500 * u64::from(client));
        connection.ask(&text(5000));
        connection.ask(&text(30));
        connection.close();
    }
    tape.framed()
}

#[test]
fn numbers_timestamps_ids_segments_and_lag_are_no_difference() {
    let captures = Captures::of(&web_server(PRIMARY), &web_server(SECONDARY));
    let report = captures.equal(&[]);
    assert_eq!(report["guest"], serde_json::json!([mac(GUEST)]));
    assert_eq!(report["guest_inferred"], true);
    assert_eq!(report["connections_in_both"], 3);
    assert_eq!(report["checkpoints_per_minute"], 0.0);
    assert_eq!(report["undecided"]["primary_frames"], 0, "{report:#}");
    assert_eq!(report["undecided"]["secondary_frames"], 0, "{report:#}");
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The twin of the tests below, in which the captures differ.
#[test]
fn a_capture_is_equal_to_itself() {
    let tape = web_server(PRIMARY);
    let captures = Captures::of(&tape, &tape);
    let path = captures.path("primary.pcap");
    let said = diff(&path, &path, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("no difference\n"), "{said:?}");
    assert!(said.out.contains("checkpoints needed: 0, 0.0 a minute"), "{said:?}");
}

#[test]
fn captures_of_the_output_alone_are_enough() {
    let captures = Captures::of(&web_server(PRIMARY).output(), &web_server(SECONDARY).output());
    let report = captures.equal(&[]);
    assert_eq!(report["guest"], serde_json::json!([mac(GUEST)]));
    assert_eq!(report["connections_in_both"], 3);
    Captures::of(&web_server(PRIMARY), &web_server(SECONDARY).output()).equal(&[]);
}

#[test]
fn captures_taken_one_after_the_other_have_other_numbers_of_the_peer() {
    let later = Manner { peer_isn: 3_000_000_000, ..SECONDARY };
    let captures = Captures::of(&web_server(PRIMARY), &web_server(later).shifted(3_600_000));
    let report = captures.equal(&[]);
    assert_eq!(report["align"], "connections");
    // The secondary's answers are late by 3 ms in its own time.
    assert_eq!(report["shift_ms"], -3_600_003.0);
}

/// The time of a capture before the work began says nothing about the guests.
#[test]
fn captures_taken_one_after_the_other_may_begin_at_other_times() {
    let mut early = web_server(SECONDARY).shifted(3_600_000);
    let (first, frame) = early.frames[0].clone();
    early.frames.insert(0, (first - 10_000 * MS, frame));
    let captures = Captures::of(&web_server(PRIMARY), &early);
    captures.equal(&[]);
    captures.different(&["--align", "first"]);
}

#[test]
fn captures_without_a_connection_go_by_their_first_packets() {
    let mut tape = Tape::default();
    tape.add(0, udp(true, 9000, b"an answer"));
    let captures = Captures::of(&tape, &tape.clone().shifted(3_600_000));
    assert_eq!(captures.equal(&[])["align"], "first");
}

#[test]
fn clocks_that_are_apart_are_brought_together() {
    let (ours, theirs) = (web_server(PRIMARY), web_server(SECONDARY).shifted(20_000));
    let captures = Captures::of(&ours, &theirs);
    for align in ["first", "connections"] {
        captures.equal(&["--align", align]);
    }
    // Without --align the secondary is later than the compare timeout, and a note says so.
    let report = captures.different(&[]);
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains("--align")), "{report:#}");
}

/// This happens if the clock of its host is a little behind.
#[test]
fn a_secondary_may_be_ahead() {
    for ahead_ms in [5, 100, 2000] {
        let theirs = web_server(SECONDARY).shifted(-ahead_ms);
        let report = Captures::of(&web_server(PRIMARY), &theirs).equal(&[]);
        assert_eq!(report["undecided"]["primary_frames"], 0, "{report:#}");
        assert_eq!(report["undecided"]["secondary_frames"], 0, "{report:#}");
    }
}

#[test]
fn datagrams_may_change_places() {
    let tape = |order: [&[u8]; 3]| {
        let mut tape = Tape::default();
        for (at, payload) in order.iter().enumerate() {
            tape.add(1000 + at as u64, udp_with_id(true, 9000, payload, 7 * at as u16));
        }
        tape.framed()
    };
    Captures::of(&tape([b"one", b"two", b"three"]), &tape([b"two", b"three", b"one"])).equal(&[]);
}

#[test]
fn a_connection_that_was_open_before_has_the_numbers_of_both_guests() {
    let tape = |mss| {
        let mut tape = Tape::default();
        let manner = Manner { mss, ..PRIMARY };
        let mut connection = Connection::middle(&mut tape, manner, 40_000, 1000);
        connection.ask(&text(4000));
        connection.close();
        tape.framed()
    };
    Captures::of(&tape(1000), &tape(600)).equal(&[]);
}

#[test]
fn a_connection_that_only_one_capture_met_in_its_middle_is_undecided() {
    let (ours, mut theirs) = (web_server(PRIMARY), web_server(SECONDARY));
    // Drops the beginning of the first connection.
    theirs.frames.retain(|(at, _)| *at == theirs_start() || *at >= theirs_start() + 1_005_000_000);
    let report = Captures::of(&ours, &theirs).equal(&[]);
    assert_ne!(report["undecided"]["primary_frames"], 0, "{report:#}");
}

fn theirs_start() -> u64 {
    crate::captures::START_NS
}

#[test]
fn what_one_capture_lacks_at_its_beginning_and_end_is_undecided() {
    let tape = |from, to| {
        let mut tape = Tape::default();
        for at in from..to {
            tape.add(at * 10, udp(true, 9000, &u64::to_be_bytes(at)));
        }
        tape
    };
    let report = Captures::of(&tape(0, 2000), &tape(500, 1500)).equal(&[]);
    let outside = |side: &str| report[side]["outside_frames"].as_u64().expect("a count");
    let undecided = report["undecided"]["primary_frames"].as_u64().expect("a count");
    assert_eq!(outside("secondary"), 0);
    assert_eq!(outside("primary") + undecided, 1000, "{report:#}");
}

#[test]
fn the_guest_is_told_from_stations_that_are_not_in_all_frames() {
    let (mut ours, theirs) = (web_server(PRIMARY), web_server(SECONDARY));
    // A frame to a neighbour: the gateway is in nearly all, the guest in all.
    let mut frame = udp(true, 1, b"neighbour");
    frame[0..6].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    ours.add(2000, frame.clone());
    let mut theirs = theirs;
    theirs.add(2000, frame);
    Captures::of(&ours, &theirs).equal(&[]);
}

#[test]
fn the_guest_can_be_named_by_any_of_its_addresses() {
    let captures = Captures::of(&web_server(PRIMARY), &web_server(SECONDARY));
    for guest in ["10.0.0.2", "52:54:00:00:00:01"] {
        let report = captures.equal(&["--guest", guest]);
        assert_eq!(report["guest_inferred"], false);
        assert_ne!(report["compared_frames"], 0);
    }
    let both = captures.equal(&["--guest", "10.0.0.99", "--guest", "10.0.0.2"]);
    assert_ne!(both["compared_frames"], 0);
}
