//! The connections of the two guests are matched.

use super::{guest, packet, tcp};
use crate::offline::Connections;
use crate::offline::translation::{CaptureTranslator, TcpVerdict};
use colo_proxy_engine::compare::{Content, Side, content};
use colo_proxy_engine::frame::Frame;

/// Learns from the output of both guests, with a nanosecond between two frames.
fn learned(primary: &[Vec<u8>], secondary: &[Vec<u8>]) -> Connections {
    let mut connections = Connections::default();
    for (side, frames) in [(Side::Primary, primary), (Side::Secondary, secondary)] {
        for (at, frame) in (1..).zip(frames) {
            connections.add(side, &packet(at, at, frame.clone()), &guest());
        }
    }
    connections.settle();
    connections
}

/// Sequence number and acknowledgment as they are compared; `None` if the frame is not compared.
fn taken(translator: &mut CaptureTranslator, side: Side, bytes: &[u8]) -> Option<(u32, u32)> {
    let frame = Frame::new(bytes.to_vec().into(), 0).expect("a frame");
    let Some(Content::Tcp(name, segment)) = content(&frame) else { panic!("{frame:?}") };
    match translator.take(side, &name, &segment, frame.clone()) {
        TcpVerdict::Undecided => None,
        TcpVerdict::Compare(frame) | TcpVerdict::Early(frame) => match content(&frame) {
            Some(Content::Tcp(_, tcp)) => Some((tcp.seq, tcp.ack)),
            other => panic!("{other:?}"),
        },
    }
}

fn all(
    translator: &mut CaptureTranslator,
    side: Side,
    frames: &[Vec<u8>],
) -> Vec<Option<(u32, u32)>> {
    frames.iter().map(|frame| taken(translator, side, frame)).collect()
}

#[test]
fn the_secondary_counts_like_the_primary() {
    let ours = [tcp(100, 501, "SA", b""), tcp(101, 510, "A", b"abc")];
    let theirs = [tcp(u32::MAX, 501, "SA", b""), tcp(0, 510, "A", b"abc")];
    let mut translator = CaptureTranslator::new(learned(&ours, &theirs));
    assert_eq!(all(&mut translator, Side::Primary, &ours), [Some((100, 501)), Some((101, 510))]);
    assert_eq!(
        all(&mut translator, Side::Secondary, &theirs),
        [Some((100, 501)), Some((101, 510))]
    );
}

#[test]
fn a_connection_is_known_again_by_the_number_of_its_peer() {
    // The primary never answered the first.
    let ours = [tcp(100, 701, "SA", b"")];
    let theirs = [tcp(5, 501, "SA", b""), tcp(9, 701, "SA", b""), tcp(10, 701, "A", b"x")];
    let connections = learned(&ours, &theirs);
    assert_eq!(connections.matched(), 1);
    let mut translator = CaptureTranslator::new(connections);
    assert_eq!(
        all(&mut translator, Side::Secondary, &theirs),
        [Some((5, 501)), Some((100, 701)), Some((101, 701))]
    );
}

#[test]
fn without_it_connections_are_matched_in_order_and_the_peers_numbers_translated() {
    let ours = [tcp(100, 501, "SA", b""), tcp(200, 601, "SA", b"")];
    let theirs = [tcp(7, 901, "SA", b""), tcp(8, 10, "SA", b""), tcp(9, 15, "A", b"")];
    let mut translator = CaptureTranslator::new(learned(&ours, &theirs));
    assert_eq!(
        all(&mut translator, Side::Secondary, &theirs),
        [Some((100, 501)), Some((200, 601)), Some((201, 606))]
    );
}

#[test]
fn a_guest_that_opens_has_the_number_of_its_peer_from_its_answer() {
    let opens = |isn: u32, peer: u32| {
        [
            tcp(isn, 0, "S", b""),
            tcp(isn, 0, "S", b""),
            tcp(isn + 1, peer + 1, "A", b""),
            tcp(isn + 1, peer + 4, "A", b"x"),
        ]
    };
    let connections = learned(&opens(100, 500), &opens(900, 300));
    assert_eq!(connections.matched(), 1);
    let mut translator = CaptureTranslator::new(connections);
    let theirs = all(&mut translator, Side::Secondary, &opens(900, 300));
    assert_eq!(theirs, [Some((100, 0)), Some((100, 0)), Some((101, 501)), Some((101, 504))]);
}

#[test]
fn what_was_opened_before_both_captures_keeps_its_numbers() {
    let frames = [tcp(100, 501, "A", b"abc"), tcp(103, 501, "FA", b"")];
    let mut translator = CaptureTranslator::new(learned(&frames, &frames));
    for side in [Side::Primary, Side::Secondary] {
        let taken = all(&mut translator, side, &frames);
        assert_eq!(taken, [Some((100, 501)), Some((103, 501))]);
    }
}

#[test]
fn what_was_opened_before_one_capture_is_undecided_until_the_next_connection() {
    let next = |isn| [tcp(isn, 801, "SA", b""), tcp(isn + 1, 801, "A", b"y")];
    let ours = [&[tcp(103, 501, "FA", b"")][..], &next(300)].concat();
    let theirs = [&[tcp(7, 501, "SA", b""), tcp(11, 501, "FA", b"")][..], &next(30)].concat();
    let mut translator = CaptureTranslator::new(learned(&ours, &theirs));
    let is_decided = [Some((300, 801)), Some((301, 801))];
    assert_eq!(all(&mut translator, Side::Primary, &ours), [&[None][..], &is_decided].concat());
    let theirs = all(&mut translator, Side::Secondary, &theirs);
    assert_eq!(theirs, [&[None, None][..], &is_decided].concat());
}

#[test]
fn a_refusal_counts_from_nothing() {
    let opened = tcp(7, 501, "SA", b"");
    let refusal = tcp(0, 900, "RA", b"");
    let ours = [tcp(100, 501, "SA", b""), refusal.clone()];
    let mut translator = CaptureTranslator::new(learned(&ours, &[opened.clone(), refusal.clone()]));
    let theirs = all(&mut translator, Side::Secondary, &[opened, refusal]);
    assert_eq!(theirs, [Some((100, 501)), Some((0, 900))]);
}
