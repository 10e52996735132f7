//! Random schedules of both guests, with the engine and the model of the rule side by side.
//!
//! After every event the engine must have released exactly what the model allows. More of them with
//! `COLO_PROXY_STREAMS=150000`; one again with `COLO_PROXY_SEED=n`.

use super::random::{number, streams};
use super::schedule::{Run, Sabotage};

/// Runs schedules until `streams` connections were played.
fn many(streams: usize, first_seed: u64, mut one: impl FnMut(u64) -> (usize, Result<(), String>)) {
    if let Some(seed) = number("COLO_PROXY_SEED") {
        let (_, result) = one(seed);
        assert_eq!(result, Ok(()), "seed {seed}");
        return;
    }
    let mut played = 0;
    let mut seed = first_seed;
    while played < streams {
        let (count, result) = one(seed);
        assert_eq!(result, Ok(()), "again with COLO_PROXY_SEED={seed}");
        played += count.max(1);
        seed += 1;
    }
}

#[test]
fn equal_guests_release_everything_and_ask_for_nothing() {
    many(streams() / 2, 0, |seed| {
        let mut run = Run::new(seed, Sabotage::Nothing, false);
        let result = run.play(false).and_then(|()| run.is_clean());
        (run.streams(), result)
    });
}

#[test]
fn checkpoints_at_any_moment_change_nothing_of_that() {
    many(streams() / 4, 1 << 32, |seed| {
        let mut run = Run::new(seed, Sabotage::Nothing, false);
        let result = run.play(true).and_then(|()| run.is_clean());
        (run.streams(), result)
    });
}

#[test]
fn one_differing_byte_is_held_and_named() {
    many(streams() / 4, 2 << 32, |seed| {
        let mut run = Run::new(seed, Sabotage::Nothing, true);
        let result = run.play(false).and_then(|()| run.is_named());
        (run.streams(), result)
    });
}

#[test]
fn one_differing_byte_of_a_datagram_is_held_and_named() {
    many(streams() / 4, 3 << 32, |seed| {
        let mut run = Run::of_datagrams(seed);
        let result = run.play(false).and_then(|()| run.is_datagram_named());
        (1, result)
    });
}

/// Nobody waits for anybody: either guest may be ahead by all its connections on a tuple.
#[test]
fn equal_guests_need_no_checkpoint_in_any_interleaving() {
    many(streams() / 2, 4 << 32, |seed| {
        let mut run = Run::free(seed, Sabotage::Nothing, false);
        let result = run.play(false).and_then(|()| run.is_clean());
        (run.streams(), result)
    });
}

#[test]
fn checkpoints_at_any_moment_of_any_interleaving_change_nothing_of_that() {
    many(streams() / 4, 5 << 32, |seed| {
        let mut run = Run::free(seed, Sabotage::Nothing, false);
        let result = run.play(true).and_then(|()| run.is_clean());
        (run.streams(), result)
    });
}

#[test]
fn one_differing_byte_is_found_in_any_interleaving() {
    many(streams() / 4, 6 << 32, |seed| {
        let mut run = Run::free(seed, Sabotage::Nothing, true);
        let result = run.play(false).and_then(|()| run.is_found());
        (run.streams(), result)
    });
}

#[test]
fn one_missing_byte_is_found_in_any_interleaving() {
    many(streams() / 4, 7 << 32, |seed| {
        let mut run = Run::free_with_a_gap(seed);
        let result = run.play(false).and_then(|()| run.is_missed());
        (run.streams(), result)
    });
}

/// The schedules contain what they are about.
#[test]
fn schedules_have_fragments_batches_and_bytes_that_differ() {
    let mut flipped = 0;
    let mut seen = [0; 3];
    for seed in 0..100 {
        let mut run = Run::of_datagrams(seed);
        assert_eq!(run.play(false), Ok(()));
        flipped += usize::from(run.is_flipped());
        let mut run = Run::new(seed, Sabotage::Nothing, false);
        assert_eq!(run.play(true), Ok(()));
        let found = run.found();
        seen = [0, 1, 2].map(|n| seen[n] + found[n]);
    }
    assert!(flipped > 50, "{flipped}");
    // Packets put together, left incomplete by a checkpoint, and datagrams in batches.
    let [whole, incomplete, batches] = seen;
    assert!(whole > 100 && incomplete > 0 && batches > 100, "{seen:?}");
}

/// The twin of the tests above: each way of deceiving the engine must show.
#[test]
fn a_deceived_engine_is_found_out() {
    let sabotages =
        [Sabotage::Octet, Sabotage::Ack, Sabotage::Fin, Sabotage::Urgent, Sabotage::Checkpoint];
    for sabotage in sabotages {
        let found = (0..40).filter(|seed| {
            let mut run = Run::new(*seed, sabotage, false);
            run.play(true).and_then(|()| run.is_clean()).is_err()
        });
        let found = found.count();
        assert!(found > 20, "{sabotage:?} was found in {found} of 40 schedules only");
    }
}

/// Likewise where nobody waits for anybody.
#[test]
fn an_engine_that_is_deceived_in_any_interleaving_is_found_out() {
    let sabotages = [
        Sabotage::Octet,
        Sabotage::Ack,
        Sabotage::Fin,
        Sabotage::Urgent,
        Sabotage::Checkpoint,
        Sabotage::Syn,
        Sabotage::Order,
    ];
    for sabotage in sabotages {
        let found = (0..40).filter(|seed| {
            let mut run = Run::free(*seed, sabotage, false);
            let with_checkpoints = sabotage == Sabotage::Checkpoint;
            run.play(with_checkpoints).and_then(|()| run.is_clean()).is_err()
        });
        let found = found.count();
        assert!(found > 20, "{sabotage:?} was found in {found} of 40 schedules only");
    }
}
