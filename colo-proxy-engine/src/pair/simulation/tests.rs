//! The runs.

use super::plan::{
    DaemonWire, Fault, KINDS, ReturnForm, RunPlan, RunSabotage, SecondaryNews, Site, TalkKind,
};
use super::random::SeededRandom;
use super::world::{PairWorld, play};

/// Runs of each kind, unless `COLO_PROXY_SIMULATIONS` has another number.
const RUNS: u64 = 60;
/// Runs in which a sabotage has to show.
const SABOTAGE_RUNS: u64 = 400;

/// The number in the environment variable `name`.
pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays the plans of many seeds, or of the one that was asked for.
pub(super) fn many(plan: impl Fn(u64, &mut SeededRandom) -> RunPlan) -> Vec<PairWorld> {
    let runs = number("COLO_PROXY_SIMULATIONS").unwrap_or(RUNS);
    let seeds = number("COLO_PROXY_SEED").map_or(0..runs, |seed| seed..seed + 1);
    let planned = |seed| plan(seed, &mut SeededRandom::new(seed ^ 0xc0105));
    seeds.map(|seed| play(&planned(seed)).unwrap_or_else(|wrong| panic!("{wrong}"))).collect()
}

/// The last events of a run that ended well.
fn again(plan: &RunPlan) -> String {
    let mut world = PairWorld::new(plan.clone()).traced();
    let ended = world.run();
    format!("{}\n{ended:?}", world.last_events())
}

pub(super) fn need_no_checkpoint(worlds: &[PairWorld]) {
    for world in worlds {
        let seed = world.plan.seed;
        let asked = world.requests;
        assert_eq!(asked, 0, "{}\nagain with COLO_PROXY_SEED={seed}", again(&world.plan));
        assert!(world.oracle.checked > 5, "seed {seed} released nothing");
    }
}

#[test]
fn equal_guests_need_no_checkpoint() {
    need_no_checkpoint(&many(|seed, random| RunPlan::quiet(seed).with_conversations(random, 5)));
}

#[test]
fn a_lossy_network_is_no_reason_for_one() {
    need_no_checkpoint(&many(|seed, random| {
        let plan = RunPlan::quiet(seed).with_bad_links(random).with_conversations(random, 5);
        RunPlan { input_loss: [0; 2], ..plan }
    }));
}

#[test]
fn a_failover_at_any_event_is_a_pause_and_not_a_lie() {
    let worlds = many(|seed, random| {
        let at = random.within(0..300);
        let plan = RunPlan::quiet(seed).with_bad_links(random).with_conversations(random, 4);
        plan.with_fault(at, Fault::FailOver)
    });
    assert!(worlds.iter().filter(|world| world.has_failed_over).count() > worlds.len() / 2);
}

/// Data go with the SYN, and with the SYN/ACK.
#[test]
fn fast_open_is_no_reason_for_one() {
    let worlds = many(|seed, random| {
        let plan = RunPlan::quiet(seed).with_fast_open().with_same_numbers();
        plan.with_conversations(random, 5)
    });
    need_no_checkpoint(&worlds);
    let early = worlds.iter().flat_map(|world| world.primary.guest.machine.all());
    assert!(early.filter(|connection| connection.endpoint.took_early()).count() > worlds.len() / 2);
}

/// The same tuple again and again: neither guest waits for the other to be done with it.
#[test]
fn tuples_used_again_are_no_reason_for_one() {
    let worlds = many(|seed, random| RunPlan::quiet(seed).with_tuples_used_again(random, 4));
    need_no_checkpoint(&worlds);
    let engines = worlds.iter().filter_map(|world| world.primary.daemon.as_ref());
    let reused: u64 = engines.map(|daemon| daemon.engine().stats().tuples_reused).sum();
    assert!(reused > worlds.len() as u64 / 2, "{reused}");
}

/// Checkpoints all the time, some of which fail, with guests that differ.
pub(super) fn with_checkpoints(seed: u64, random: &mut SeededRandom) -> RunPlan {
    let plan = RunPlan::quiet(seed).with_bad_links(random).with_lotteries(random, 4);
    let mut plan = plan.with_little_room(random);
    plan.checkpoint_failures = random.within(0..300);
    plan.connect_us = 1..20_000;
    let mut at = 0;
    while at < 1_500 {
        at += random.within(10..300);
        plan = plan.with_fault(at, Fault::Checkpoint);
    }
    plan
}

#[test]
fn checkpoints_heal_guests_that_differ() {
    let worlds = many(with_checkpoints);
    assert!(worlds.iter().any(|world| world.checkpoints.failed > 0));
    assert!(worlds.iter().any(|world| world.requests > 0));
}

#[test]
fn digests_say_what_frames_would() {
    let worlds = many(|seed, random| RunPlan {
        return_form: ReturnForm::Digests,
        ..with_checkpoints(seed, random)
    });
    let daemons = worlds.iter().filter_map(|world| world.primary.daemon.as_ref());
    let stats: Vec<_> = daemons.map(|daemon| daemon.expander().stats).collect();
    assert!(stats.iter().any(|stats| stats.expanded > 0), "{stats:?}");
    assert!(stats.iter().any(|stats| stats.asked > 0), "{stats:?}");
    assert!(stats.iter().any(|stats| stats.different > 0), "{stats:?}");
    let asked_for_nothing = stats.iter().filter(|stats| stats.digests > 0 && stats.asked == 0);
    assert!(asked_for_nothing.count() > 0, "{stats:?}");
}

#[test]
fn a_failover_between_checkpoints_loses_nothing() {
    many(|seed, random| {
        let at = random.within(0..800);
        with_checkpoints(seed, random).with_fault(at, Fault::FailOver)
    });
}

/// Lanes are disconnected, daemons are restarted, and the secondary is lost for a short or a long time.
fn with_faults(seed: u64, random: &mut SeededRandom) -> RunPlan {
    let mut plan = with_checkpoints(seed, random);
    for _ in 0..random.within(1..5) {
        let fault = match random.below(6) {
            0 => Fault::Disconnect(DaemonWire::Mirror),
            1 => Fault::Disconnect(DaemonWire::Output),
            2 => Fault::Disconnect(DaemonWire::Control),
            3 => Fault::Restart(Site::Primary),
            4 => Fault::Restart(Site::Secondary),
            _ => Fault::Lose { us: random.within(100_000..4_000_000) },
        };
        plan = plan.with_fault(random.within(0..600), fault);
    }
    plan
}

#[test]
fn a_pair_survives_cut_lanes_and_restarted_daemons() {
    many(with_faults);
}

#[test]
fn a_failover_after_other_faults_loses_nothing() {
    many(|seed, random| {
        let at = random.within(0..1_000);
        with_faults(seed, random).with_fault(at, Fault::FailOver)
    });
}

/// A short conversation of each kind, with a fault at every event of it.
fn sweep(faults: impl Fn(RunPlan, u64, &mut SeededRandom) -> RunPlan) {
    for (seed, kind) in (0..).zip(KINDS.into_iter().chain([TalkKind::Lottery])) {
        let mut random = SeededRandom::new(seed);
        let plain = RunPlan::quiet(seed).with_one(&mut random, kind);
        let events = play(&plain).unwrap_or_else(|wrong| panic!("{wrong}")).events;
        for at in 0..events {
            let plan = faults(plain.clone(), at, &mut random);
            play(&plan).unwrap_or_else(|wrong| panic!("{kind:?}\n{wrong}"));
        }
    }
}

#[test]
fn a_checkpoint_at_every_event_of_a_conversation() {
    sweep(|plan, at, _| plan.with_fault(at, Fault::Checkpoint));
}

#[test]
fn a_failover_at_every_event_of_a_conversation() {
    sweep(|plan, at, _| plan.with_fault(at, Fault::FailOver));
}

#[test]
fn a_failover_during_or_soon_after_a_checkpoint_at_every_event() {
    sweep(|plan, at, random| {
        let later = at + random.within(1..30);
        plan.with_fault(at, Fault::Checkpoint).with_fault(later, Fault::FailOver)
    });
}

/// The twin: if only the primary reports a checkpoint, it must live until it has.
#[test]
fn a_secondary_that_is_not_told_of_a_checkpoint_depends_on_the_primary_for_it() {
    let lost = (0..400).find(|seed| {
        let mut random = SeededRandom::new(*seed);
        let plan = RunPlan::quiet(*seed).with_one(&mut random, TalkKind::Echo);
        let at = random.within(15..40);
        let plan = plan.with_fault(at, Fault::Checkpoint);
        let plan = plan.with_fault(at + random.within(2..12), Fault::FailOver);
        play(&RunPlan { secondary_news: SecondaryNews::Nothing, ..plan }).is_err()
    });
    assert!(lost.is_some(), "it was never lost");
}

#[test]
fn a_run_can_be_repeated_byte_for_byte() {
    let digest = |seed| {
        let plan = with_faults(seed, &mut SeededRandom::new(seed));
        play(&plan).unwrap_or_else(|wrong| panic!("{wrong}")).digest
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

/// The twin of all of them: each way of deceiving the daemons must show.
#[test]
fn a_deceived_pair_is_found_out() {
    use RunSabotage::{
        Acknowledgments, Digests, EarlyResume, NoTranslation, OldOffsets, ReleaseAll, StaleFrames,
    };
    for sabotage in
        [ReleaseAll, Acknowledgments, OldOffsets, StaleFrames, NoTranslation, EarlyResume, Digests]
    {
        let found = (0..SABOTAGE_RUNS).find(|seed| {
            let mut random = SeededRandom::new(*seed);
            let at = random.within(0..800);
            let plan = with_checkpoints(*seed, &mut random).with_fault(at, Fault::FailOver);
            play(&RunPlan { sabotage, ..plan }).is_err()
        });
        assert!(found.is_some(), "{sabotage:?} was not found in {SABOTAGE_RUNS} runs");
    }
}
