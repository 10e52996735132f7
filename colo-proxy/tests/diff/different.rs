//! Guests that differ, and the places of the differences.

use colo_proxy::capture_file::Reader;
use serde_json::Value;

use crate::captures::{Connection, MS, PRIMARY, SECONDARY, START_NS, Tape, text, udp};
use crate::run::Captures;

/// Both guests answer the same, but the secondary's byte at `place` differs.
fn with_a_flipped_byte(place: usize) -> (Tape, Tape) {
    let tape = |manner, answer: &[u8]| {
        let mut tape = Tape::default();
        let mut connection = Connection::open(&mut tape, manner, 40_000, 1000);
        connection.ask(answer);
        connection.close();
        tape.framed()
    };
    let good = text(3000);
    let mut bad = good.clone();
    bad[place] ^= 0x20;
    (tape(PRIMARY, &good), tape(SECONDARY, &bad))
}

#[test]
fn a_flipped_byte_is_named_with_its_place_and_its_frames() {
    let good = text(3000);
    let (ours, theirs) = with_a_flipped_byte(1234);
    let captures = Captures::of(&ours, &theirs);
    let report = captures.different(&[]);
    assert_eq!(report["divergences_total"], 1, "{report:#}");
    assert_eq!(report["flows_diverged"], 1);
    assert_eq!(report["checkpoints"], 1);
    let per_minute = report["checkpoints_per_minute"].as_f64().expect("a rate");
    assert!((per_minute - 1.0).abs() < 0.01, "{per_minute}");
    let found = &report["divergences"][0];
    assert_eq!(found["reason"], "payload");
    assert_eq!(found["stream_offset"], 1234);
    assert_eq!(found["primary_byte"], good[1234]);
    assert_eq!(found["secondary_byte"], good[1234] ^ 0x20);
    assert_eq!(found["name"], "tcp 10.0.0.2:80 -> 10.1.0.9:40000");
    // The first frame, SYN, SYN/ACK, ACK and the question, 1000 bytes; 700 bytes of the secondary's.
    assert_eq!((&found["primary"]["frame"], &found["secondary"]["frame"]), (&7.into(), &7.into()));
    let said = captures.diff(&[]);
    assert_eq!(said.code, 1);
    let line = format!("frame 7 at 2026-09-21T14:13:21.005000000Z: {:02x} in ", good[1234]);
    assert!(said.out.contains(&line), "{}", said.out);
    assert!(said.out.contains(&format!("[{:02x}]", good[1234] ^ 0x20)), "{}", said.out);
    assert!(said.out.contains("checkpoints needed: 1, 1.0 a minute"), "{}", said.out);
}

/// Compares the names of an object with those of its schema. Every field is always there.
fn has_the_names_of(schema: &Value, object: &Value) {
    let names = |value: &Value| -> Vec<String> {
        value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    };
    let mut required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    required.sort_unstable();
    assert_eq!(names(object), required);
    assert_eq!(names(object), names(&schema["properties"]));
}

#[test]
fn the_report_has_the_names_of_its_schema() {
    let (ours, theirs) = with_a_flipped_byte(1234);
    let report = Captures::of(&ours, &theirs).different(&[]);
    let text = include_str!("../../../docs/reference/diff.schema.json");
    let schema: Value = serde_json::from_str(text).expect("JSON");
    let kinds = &schema["$defs"];
    has_the_names_of(&schema, &report);
    has_the_names_of(&kinds["CaptureReport"], &report["secondary"]);
    has_the_names_of(&kinds["UndecidedCounts"], &report["undecided"]);
    let found = &report["divergences"][0];
    has_the_names_of(&kinds["ComparedDivergence"], found);
    has_the_names_of(&kinds["FlowReport"], &found["flow"]);
    has_the_names_of(&kinds["Context"], &found["primary_context"]);
    has_the_names_of(&kinds["FramePlace"], &found["secondary"]);
    // The places on a daemon's clock are not in it.
    for daemons_own in ["epoch", "primary_at_ms", "secondary_at_ms", "time_ns"] {
        assert_eq!(found.get(daemons_own), None);
    }
}

#[test]
fn both_frames_are_written_for_wireshark() {
    let (ours, theirs) = with_a_flipped_byte(1234);
    let captures = Captures::of(&ours, &theirs);
    let path = captures.path("found.pcapng");
    std::fs::write(&path, "an old file").expect("written");
    captures.different(&["--capture", path.to_str().expect("a name")]);
    let file = std::fs::read(&path).expect("written");
    let packets: Vec<_> =
        Reader::new(&file[..]).expect("a capture").map(|packet| packet.expect("whole")).collect();
    let [primary, secondary] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!((primary.interface, secondary.interface), (0, 1));
    assert_eq!(primary.time_ns, START_NS + 1005 * MS);
    assert_eq!(primary.bytes, ours.frames[6].1);
    let payload = |bytes: &[u8]| bytes[bytes.len() - 700..].to_vec();
    assert_eq!(payload(&secondary.bytes), payload(&theirs.frames[6].1));
    let comment = "divergence 1, tcp 10.0.0.2:80 -> 10.1.0.9:40000: payload: byte 1234 differs";
    assert!(file.windows(comment.len()).any(|part| part == comment.as_bytes()));
}

/// Datagrams every 10 ms, late by `lag_ms`, without some of them.
fn datagrams(lag_ms: u64, without: &[u64]) -> Tape {
    let mut tape = Tape::default();
    for at in (0..3000_u64).filter(|at| !without.contains(at)) {
        tape.add(at * 10 + lag_ms, udp(true, 9000, &at.to_be_bytes()));
    }
    tape.framed()
}

#[test]
fn a_missing_datagram_costs_one_checkpoint_and_no_more() {
    // The traffic continues during the checkpoint, so some frames are always in flight.
    for lag_ms in [0, 3, 50] {
        let captures = Captures::of(&datagrams(0, &[]), &datagrams(lag_ms, &[1000]));
        let report = captures.different(&[]);
        assert_eq!(report["checkpoints"], 1, "{lag_ms} ms: {report:#}");
        assert_eq!(report["divergences_total"], 1, "{report:#}");
        let found = &report["divergences"][0];
        assert_eq!(
            (&found["reason"], &found["waits_for"]),
            (&"timeout".into(), &"datagram".into())
        );
        assert_eq!(found["primary"]["time_ns"], START_NS + 10_000 * MS);
    }
}

/// Behind the missing frame, more frames wait than the daemon would hold for one flow.
#[test]
fn a_missing_datagram_in_dense_traffic_is_found_for_what_it_is() {
    let dense = |lag_ms, without: Option<u64>| {
        let mut tape = Tape::default();
        for at in (0..40_000_u64).filter(|at| Some(*at) != without) {
            tape.add(at / 8 + lag_ms, udp(true, 9000, &at.to_be_bytes()));
        }
        tape.framed()
    };
    let captures = Captures::of(&dense(0, None), &dense(3, Some(8000)));
    let report = captures.different(&[]);
    assert_eq!(report["divergences_by_reason"], serde_json::json!({ "timeout": 1 }), "{report:#}");
    assert_eq!(report["checkpoints"], 1);
}

#[test]
fn a_secondary_that_is_ahead_costs_no_more_either() {
    let captures = Captures::of(&datagrams(50, &[]), &datagrams(0, &[1000]));
    let report = captures.different(&[]);
    assert_eq!(report["checkpoints"], 1, "{report:#}");
}

#[test]
fn a_datagram_that_only_the_secondary_has_is_a_difference() {
    let captures = Captures::of(&datagrams(0, &[1000]), &datagrams(3, &[]));
    let report = captures.different(&[]);
    assert_eq!(report["checkpoints"], 1, "{report:#}");
    assert_eq!(report["divergences"][0]["reason"], "secondary-only");
}

#[test]
fn tcp_that_was_on_its_way_at_a_checkpoint_is_no_difference() {
    for (ours, theirs) in [(0, 40), (40, 0)] {
        let tape = |lag_ms, without: &[u64]| {
            let mut tape = Tape::default();
            let manner = crate::captures::Manner { lag_ms, ..SECONDARY };
            let mut connection = Connection::open(&mut tape, manner, 40_000, 500);
            for _ in 0..4000 {
                connection.ask(&text(500));
            }
            tape.frames.extend(datagrams(0, without).frames);
            tape.frames.sort_by_key(|(at, _)| *at);
            tape
        };
        let report = Captures::of(&tape(ours, &[]), &tape(theirs, &[300, 900])).different(&[]);
        assert_eq!(report["checkpoints"], 2, "{report:#}");
        assert_eq!(report["divergences_by_reason"], serde_json::json!({ "timeout": 2 }));
    }
}

#[test]
fn a_connection_that_only_the_primary_accepts_is_a_difference() {
    let mut ours = Tape::default();
    Connection::open(&mut ours, PRIMARY, 40_000, 1000).ask(&text(100));
    let report = Captures::of(&ours.framed(), &Tape::default().framed()).different(&[]);
    assert_eq!(report["divergences"][0]["waits_for"], "control-bits");
}

#[test]
fn a_connection_that_only_the_secondary_accepts_is_a_difference() {
    let mut theirs = Tape::default();
    Connection::open(&mut theirs, SECONDARY, 40_000, 1000).ask(&text(100));
    let report = Captures::of(&Tape::default().framed(), &theirs.framed()).different(&[]);
    assert_eq!(report["divergences"][0]["reason"], "secondary-only");
}

#[test]
fn the_time_that_a_guest_may_be_late_can_be_set() {
    let captures = Captures::of(&datagrams(0, &[]), &datagrams(500, &[]));
    captures.equal(&[]);
    captures.different(&["--compare-timeout-ms", "400"]);
}
