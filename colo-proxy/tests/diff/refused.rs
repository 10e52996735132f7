//! Files that cannot be compared: the exit code is 2, and the error says why.

use crate::captures::{Connection, GUEST, Manner, PRIMARY, SECONDARY, Tape, text, udp};
use crate::run::{Captures, CommandResult, diff};

fn tape() -> Tape {
    let mut tape = Tape::default();
    let mut connection = Connection::open(&mut tape, PRIMARY, 40_000, 1000);
    connection.ask(&text(2000));
    tape.framed()
}

fn refused(said: &CommandResult, why: &[&str]) {
    assert_eq!((said.code, said.out.as_str()), (2, ""), "{said:?}");
    for part in why {
        assert!(said.err.contains(part), "no `{part}` in {}", said.err);
    }
}

#[test]
fn packets_cut_by_the_snapshot_length() {
    let captures = Captures::new(&tape().pcap(), &tape().pcap_cut(96, 1));
    refused(
        &captures.diff(&[]),
        &["secondary.pcap", "2 frames of the guest are truncated", "packet 6", "tcpdump -s 0"],
    );
}

#[test]
fn packets_of_the_peer_may_be_cut() {
    let mut tape = Tape::default();
    tape.add(1000, udp(false, 9000, &[7; 500]));
    tape.add(1001, udp(true, 9000, b"thanks"));
    let file = tape.framed().pcap_cut(200, 1);
    Captures::new(&file, &file).equal(&["--guest", "10.0.0.2"]);
}

#[test]
fn garbage_and_nothing() {
    let captures = Captures::new(b"this is no capture", &tape().pcap());
    refused(&captures.diff(&[]), &["primary.pcap", "neither pcap nor pcapng"]);
    let captures = Captures::new(&tape().pcap(), b"");
    refused(&captures.diff(&["--json"]), &["secondary.pcap", "empty"]);
    let captures = Captures::new(&tape().pcap(), &Tape::default().pcap());
    let said = captures.diff(&[]);
    refused(&said, &["secondary's capture has no frames"]);
    assert!(!said.err.contains("--guest"), "that does not help: {}", said.err);
}

#[test]
fn another_link_type() {
    let captures = Captures::new(&tape().pcap_cut(65536, 113), &tape().pcap());
    refused(&captures.diff(&[]), &["primary.pcap", "Linux cooked", "TAP"]);
}

#[test]
fn a_file_that_is_not_there_or_is_none() {
    let captures = Captures::of(&tape(), &tape());
    let missing = captures.path("missing.pcap");
    refused(&diff(&missing, &missing, &[]), &["missing.pcap", "No such file"]);
    let folder = captures.path("");
    refused(&diff(&folder, &folder, &[]), &["not a file"]);
}

#[test]
fn a_guest_that_cannot_be_told() {
    // Two stations talk only with each other. Both have other numbers each time, and neither has an
    // address of QEMU's.
    let unnamed = |manner| {
        let mut tape = Tape::default();
        let mut connection = Connection::open(&mut tape, manner, 40_000, 1000);
        connection.ask(&text(2000));
        let mut tape = tape.framed();
        for (_, frame) in &mut tape.frames {
            let at = if frame.starts_with(&GUEST) { 0 } else { 6 };
            frame[at..at + 3].copy_from_slice(&[2, 0, 0]);
        }
        tape
    };
    let later = Manner { peer_isn: 5, ..SECONDARY };
    let captures = Captures::of(&unnamed(PRIMARY), &unnamed(later));
    let candidates = "02:00:00:00:00:01, 02:00:00:00:00:fe";
    refused(&captures.diff(&[]), &[candidates, "--guest"]);
    captures.equal(&["--guest", "02:00:00:00:00:01"]);
}

#[test]
fn captures_of_which_nothing_is_compared() {
    let captures = Captures::of(&tape(), &tape());
    let said = captures.diff(&["--guest", "10.0.0.77"]);
    refused(&said, &["primary.pcap", "none of its 9 frames is from the guest 10.0.0.77", "hint"]);
    let captures = Captures::of(&tape(), &tape().shifted(86_400_000));
    let said = captures.diff(&["--align", "absolute"]);
    refused(&said, &["different times", "--align first"]);
    captures.equal(&["--guest", "10.0.0.2", "--align", "first"]);
    let other = |port| {
        let mut tape = Tape::default();
        tape.add(0, udp(true, port, b"alone"));
        Captures::of(&tape, &Tape { frames: vec![(tape.frames[0].0, udp(true, 1, b"alone"))] })
    };
    refused(&other(2).diff(&[]), &["same work", "same addresses"]);
    other(1).equal(&[]);
}

#[test]
fn wrong_arguments() {
    let captures = Captures::of(&tape(), &tape());
    refused(&captures.diff(&["--guest", "somebody"]), &["neither an IP address nor"]);
    refused(&captures.diff(&["--align", "luck"]), &["is not absolute, first or connections"]);
    let path = captures.path("primary.pcap");
    let over = captures.diff(&["--capture", path.to_str().expect("a name")]);
    refused(&over, &["would be overwritten"]);
    captures.equal(&["--guest", "10.0.0.2"]);
}

#[test]
fn a_capture_that_was_killed_is_compared_up_to_its_end() {
    let whole = tape().pcap();
    let captures = Captures::new(&whole, &whole[..whole.len() - 5]);
    let report = captures.equal(&["--guest", "10.0.0.2"]);
    assert_eq!(report["secondary"]["truncated"], true);
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains("middle of a packet")));
}
