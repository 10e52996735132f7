//! Frames in flight at a checkpoint.

use std::time::Duration;

use super::udp;
use crate::offline::in_flight::{InFlight, LEAD_MAX_NS, LeadFrame};
use colo_proxy_engine::compare::{Content, DatagramContent, content};
use colo_proxy_engine::frame::Frame;

const KEEP: Duration = Duration::from_secs(3);
const KEEP_NS: u64 = 3_000_000_000;

fn frame(payload: &[u8]) -> Frame {
    Frame::new(udp(payload).into(), 0).expect("a frame")
}

fn datagram(frame: &Frame) -> DatagramContent<'_> {
    match content(frame) {
        Some(Content::Datagram(datagram)) => datagram,
        other => panic!("{other:?}"),
    }
}

fn primary(in_flight: &mut InFlight, at_ns: u64, payload: &[u8]) {
    in_flight.on_primary(at_ns, &datagram(&frame(payload)));
}

/// Says whether the engine is to get the frame.
fn secondary(in_flight: &mut InFlight, number: u64, at_ns: u64, payload: &[u8]) -> bool {
    let frame = frame(payload);
    let lead = LeadFrame { number, at_ns, frame: frame.clone(), tcp: None };
    in_flight.on_secondary(&datagram(&frame), lead)
}

fn numbers(leads: &[LeadFrame]) -> Vec<u64> {
    leads.iter().map(|lead| lead.number).collect()
}

#[test]
fn what_both_have_sent_is_neither_lead_nor_arrears() {
    let mut in_flight = InFlight::new(KEEP);
    primary(&mut in_flight, 0, b"a");
    assert!(secondary(&mut in_flight, 1, 1, b"a"));
    assert!(secondary(&mut in_flight, 2, 2, b"b"));
    primary(&mut in_flight, 3, b"b");
    assert!(in_flight.on_checkpoint(4).is_empty());
    assert!(secondary(&mut in_flight, 3, 5, b"a"), "the same once more");
}

#[test]
fn arrears_of_the_secondary_are_dropped_once_each() {
    let mut in_flight = InFlight::new(KEEP);
    primary(&mut in_flight, 0, b"a");
    primary(&mut in_flight, 1, b"a");
    in_flight.on_checkpoint(2);
    assert!(!secondary(&mut in_flight, 1, 3, b"a"));
    assert!(!secondary(&mut in_flight, 2, 4, b"a"));
    assert!(secondary(&mut in_flight, 3, 5, b"a"));
}

#[test]
fn a_lead_of_the_secondary_is_handed_in_once_more_in_its_order() {
    let mut in_flight = InFlight::new(KEEP);
    for (number, payload) in [(7, b"a"), (8, b"b"), (9, b"c")] {
        assert!(secondary(&mut in_flight, number, number, payload));
    }
    primary(&mut in_flight, 10, b"b");
    assert_eq!(numbers(&in_flight.on_checkpoint(11)), [7, 9]);
    // This holds until the primary has sent it, too.
    primary(&mut in_flight, 12, b"a");
    assert_eq!(numbers(&in_flight.on_checkpoint(13)), [9]);
}

#[test]
fn what_is_older_than_any_lead_is_missing() {
    let mut in_flight = InFlight::new(KEEP);
    primary(&mut in_flight, 0, b"a");
    assert!(secondary(&mut in_flight, 1, 0, b"b"));
    assert!(in_flight.on_checkpoint(LEAD_MAX_NS + 1).is_empty());
    assert!(secondary(&mut in_flight, 2, LEAD_MAX_NS + 2, b"a"), "it is another one");
}

#[test]
fn settled_datagrams_do_not_count_for_ever() {
    let mut in_flight = InFlight::new(KEEP);
    primary(&mut in_flight, 0, b"a");
    in_flight.on_checkpoint(1);
    assert!(secondary(&mut in_flight, 1, LEAD_MAX_NS + 2, b"a"));
}

#[test]
fn what_waits_is_forgotten_in_the_end() {
    let mut in_flight = InFlight::new(KEEP);
    primary(&mut in_flight, 0, b"a");
    primary(&mut in_flight, KEEP_NS + 1, b"b");
    assert!(secondary(&mut in_flight, 1, KEEP_NS + 2, b"a"));
    // The late one is a lead now, although its counterpart was sent long ago.
    assert_eq!(numbers(&in_flight.on_checkpoint(KEEP_NS + 3)), [1]);
}
