//! Where the guests agree, the engine allocates nothing.

#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use super::packet::{Link, tcp};
use crate::compare::{Engine, Limits, Output, Side};
use crate::frame::Frame;

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

/// Three datagrams in one frame.
fn batch(round: u32) -> Frame {
    let payload: Vec<u8> = (0..2500).map(|n| (n / 1000 + round) as u8).collect();
    let mut octets = Link::default().udp((53, 4000), &payload, 0).bytes().to_vec();
    octets[1] = 5;
    octets[4..6].copy_from_slice(&1000u16.to_le_bytes());
    Frame::new(octets.into(), 12).expect("longer than its header")
}

/// `rounds` rounds of frames: data in segments, some of it urgent, the same as one super-frame, bare
/// acknowledgments, datagrams, and a batch of them.
fn rounds(from: u32, rounds: u32) -> Vec<Vec<Frame>> {
    let mut all = Vec::new();
    for round in from..from + rounds {
        let seq = 1000 + round * 4000;
        let ack = 500 + round;
        let small = |at: u32| tcp(seq + at).ack(ack).data([round as u8; 1000]).build();
        all.push(vec![
            small(0),
            small(1000),
            tcp(seq + 2000).ack(ack).data([7; 2000]).urgent(9).build(),
            tcp(seq + 4000).ack(ack + 1).build(),
            Link::default().udp((53, 4000), &round.to_be_bytes(), 0),
            batch(round),
        ]);
    }
    all
}

/// Hands both guests' frames in, the primary `lead` rounds ahead of the secondary or behind it.
fn play(engine: &mut Engine, out: &mut Output, frames: &[Vec<Frame>], lead: usize, first: Side) {
    let now = std::time::Instant::now();
    let second = if first == Side::Primary { Side::Secondary } else { Side::Primary };
    for round in 0..frames.len() + lead {
        for (side, round) in [(first, Some(round)), (second, round.checked_sub(lead))] {
            for frame in round.and_then(|round| frames.get(round)).into_iter().flatten() {
                engine.on_frame(now, side, frame.clone(), out);
                out.clear();
            }
        }
    }
}

#[test]
fn agreeing_guests_cost_no_allocation() {
    for (lead, first) in
        [(0, Side::Primary), (0, Side::Secondary), (20, Side::Primary), (20, Side::Secondary)]
    {
        let mut engine = Engine::new(Limits { awake_flows_max: 2, ..Limits::default() }, 1);
        let mut out = Output::default();
        // The buffers grow to what this load needs.
        play(&mut engine, &mut out, &rounds(0, 100), lead, first);
        let frames = rounds(100, 500);
        // The first clone of a buffer allocates its reference count.
        let _kept = frames.clone();
        let count = allocations(|| play(&mut engine, &mut out, &frames, lead, first));
        assert_eq!(count, 0, "lead {lead}, {first:?} first");
        let stats = engine.stats();
        assert_eq!((stats.held.frames, stats.released.compared.frames), (0, 3600));
        assert_eq!(stats.reasons.total(), 0);
    }
}

/// The twin: the counter counts.
#[test]
fn differing_guests_do_allocate() {
    let mut engine = Engine::new(Limits { awake_flows_max: 2, ..Limits::default() }, 1);
    let mut out = Output::default();
    let now = std::time::Instant::now();
    let (ours, theirs) = (tcp(1).data(b"a").build(), tcp(1).data(b"b").build());
    let count = allocations(|| {
        engine.on_frame(now, Side::Primary, ours.clone(), &mut out);
        engine.on_frame(now, Side::Secondary, theirs.clone(), &mut out);
    });
    assert!(count > 0);
}
