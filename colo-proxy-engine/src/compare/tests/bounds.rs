//! What one frame may cost, whatever the guests hold: counted, not timed.

use super::packet::{Tcp, at, tcp};
use super::rig::{self, Rig};
use crate::compare::Limits;

const LONG: u32 = 4000;

/// A connection at 1001, the peer's at 501.
fn open() -> (Rig, Tcp) {
    rig::open_with(Limits { context_bytes: 1, ..Limits::default() })
}

/// The steps that a frame of the secondary takes.
fn steps(rig: &mut Rig, segment: &Tcp) -> u64 {
    let before = rig.engine.ledger.work;
    rig.secondary(segment);
    rig.engine.ledger.work - before
}

#[test]
fn a_byte_looks_at_the_frames_that_have_it_and_no_others() {
    let (mut rig, base) = open();
    for n in 0..LONG {
        rig.holds(&at(&base, 1001 + n).data([1]));
    }
    // From the far end on, so that all the others are in front of it.
    for n in (0..LONG).rev() {
        assert_eq!(steps(&mut rig, &at(&base, 1001 + n).data([1])), 1);
    }
    assert_eq!(rig.engine.stats().held.frames, 0);
}

#[test]
fn frames_that_overlap_are_looked_at_up_to_a_bound_and_the_others_leave_with_a_checkpoint() {
    let (mut rig, base) = open();
    let frames: Vec<Tcp> =
        (0..LONG).map(|n| base.clone().data(vec![1; 5000 + n as usize])).collect();
    for frame in &frames {
        rig.holds(frame);
    }
    // The first, and 256 on top of it.
    assert_eq!(rig.engine.stats().unwatched, u64::from(LONG) - 257);
    for n in 0..100 {
        let steps = steps(&mut rig, &at(&base, 1001 + n).data([1]));
        assert_eq!(steps, 257);
    }
    let released = rig.secondary(&base.clone().data(vec![1; 60_000])).0;
    assert_eq!(released, frames[..257].iter().map(Tcp::build).collect::<Vec<_>>());
    let released = rig.checkpoint().0;
    assert_eq!(released, frames[257..].iter().map(Tcp::build).collect::<Vec<_>>());
}

#[test]
fn a_mark_looks_at_the_frames_that_it_concerns_and_no_others() {
    let (mut rig, base) = open();
    let reset = |seq: u32| Tcp { ack: None, ..at(&base, seq) }.rst();
    for n in 0..LONG {
        rig.holds(&reset(5000 + n));
    }
    // Control bits that nothing waits for: other resets, a FIN, a SYN/ACK.
    for n in 0..100 {
        assert_eq!(steps(&mut rig, &reset(50_000 + n)), 0);
        assert_eq!(steps(&mut rig, &at(&base, 1001 + n).fin()), 0);
        assert_eq!(steps(&mut rig, &tcp(1000).syn().ack(501)), 0);
    }
    for n in (0..LONG).rev() {
        assert_eq!(steps(&mut rig, &reset(5000 + n)), 1);
    }
    assert_eq!(rig.engine.stats().held.frames, 0);
}

/// A peer that goes on sending gets a reset for each segment, all of them alike.
#[test]
fn a_burst_of_resets_leaves_with_the_secondarys_first() {
    let (mut rig, base) = open();
    let reset = Tcp { ack: None, ..base }.rst();
    for _ in 0..LONG {
        rig.holds(&reset);
    }
    assert_eq!(rig.secondary(&reset), (vec![reset.build(); LONG as usize], vec![]));
    assert_eq!(rig.engine.stats().unwatched, 0);
}

#[test]
fn frames_that_wait_for_a_mark_are_bounded_and_the_others_leave_with_a_checkpoint() {
    let (mut rig, base) = open();
    let fin = base.clone().fin();
    for _ in 0..5000 {
        rig.holds(&fin);
    }
    assert_eq!(rig.engine.stats().unwatched, 5000 - 4096);
    assert_eq!(rig.secondary(&fin).0.len(), 4096);
    assert_eq!(rig.checkpoint().0.len(), 5000 - 4096);
}

#[test]
fn a_guest_whose_every_byte_differs_is_recorded_up_to_a_bound() {
    let (mut rig, base) = open();
    for n in 0..LONG {
        rig.primary(&at(&base, 1001 + n).data([1]));
        assert!(steps(&mut rig, &at(&base, 1001 + n).data([2])) <= 1);
    }
    assert_eq!(rig.engine.stats().divergences, 16);
    assert_eq!(rig.engine.stats().requests.total(), 1);
    assert_eq!(rig.checkpoint().0.len(), LONG as usize);
}

#[test]
fn a_frame_cut_into_bytes_is_kept_up_to_the_limit() {
    let limits = Limits { flow_frames_max: 50, ..Limits::default() };
    let mut rig = Rig::with(limits);
    let base = tcp(1001).ack(501);
    rig.accept(&base, 1000, 500);
    rig.is_kept(&base.clone().data([1; 1400]));
    // The primary says every other byte first.
    for n in 0..700 {
        rig.primary(&at(&base, 1002 + 2 * n).data([1]));
        assert!(rig.engine.stats().secondary_waiting.frames <= 101);
    }
    assert!(rig.engine.stats().secondary_dropped.limit > 0);
    rig.checkpoint();
    assert_eq!(rig.engine.stats().secondary_waiting.bytes, 0);
}
