//! Who serves, checked exhaustively: both halves of the decision as the daemon uses them, in every order
//! of messages, timers, answers and writes, with faults and an operator's commands at every step.
//!
//! `COLO_PROXY_MODEL_FAULTS` has the number of faults, if it is not the default.
#![expect(clippy::disallowed_methods, reason = "a test reads its environment")]

mod recovery;
mod world;

use colo_proxy_engine::pair::protection::Protection;
use stateright::{Checker, HasDiscoveries, Model, Property};

use self::world::{Deciders, Sabotage, Step, World};

/// Faults and commands in a run, unless the environment says otherwise.
const FAULTS: u8 = 1;
/// Faults that are enough to find every sabotage.
const SABOTAGE_FAULTS: u8 = 2;

/// Messages on their way to one host.
const UNREAD_MAX: usize = 4;
/// Notices in one conversation.
const NOTICES_MAX: u32 = 5;

struct WhoServes {
    deciders: Deciders,
    faults: u8,
    sabotage: Sabotage,
}

impl Model for WhoServes {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut worlds = starts(self.deciders, self.faults);
        for world in &mut worlds {
            world.sabotage = self.sabotage;
        }
        worlds
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        world.steps(steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        next.take(step);
        (next != *world).then_some(next)
    }

    /// Timers that end again and again before any message arrives lead nowhere new.
    fn within_boundary(&self, world: &World) -> bool {
        world.wires.iter().all(|wire| wire.len() <= UNREAD_MAX) && world.notices() <= NOTICES_MAX
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one guest serves", |_, world: &World| {
                world.waived || !world.hosts.iter().all(world::Host::serves)
            }),
            Property::always("a guest that serves knows what clients know", |_, world: &World| {
                let knows = |host: &world::Host| host.guest.is_some_and(|guest| guest.knows);
                world.waived || world.hosts.iter().all(|host| !host.serves() || knows(host))
            }),
            Property::always("one protect is enough", |_, world: &World| {
                world.waived || recovery::recover(world).is_ok()
            }),
            Property::sometimes("the pair is protected", |_, world: &World| world.is_protected()),
            Property::sometimes("the secondary serves", |_, world: &World| world.hosts[1].serves()),
        ]
    }
}

/// Cold, joining, protected, joining again while the secondary is covered, and taken over.
fn starts(deciders: Deciders, faults: u8) -> Vec<World> {
    let cold = World::cold(deciders, faults);
    let mut up = cold.clone();
    for at in 0..2 {
        up.take(Step::PowerOn(at));
    }
    up.take(Step::Connect);
    up.take(Step::LanesUp);
    quiet(&mut up);
    let mut joining = up;
    joining.pair();
    let mut protected = joining.clone();
    protected.take(Step::Checkpoint);
    quiet(&mut protected);
    assert!(protected.is_protected(), "{protected:#?}");
    let mut again = protected.clone();
    again.with_primary(0, Protection::expose);
    again.take(Step::LanesDown);
    again.take(Step::LanesUp);
    let mut all = vec![cold, joining, protected.clone(), again];
    if deciders.any() {
        let mut taken_over = protected;
        taken_over.take(Step::CrashHost(0, false));
        taken_over.take(Step::TakeoverTimer(1));
        quiet(&mut taken_over);
        assert!(taken_over.hosts[1].serves(), "{taken_over:#?}");
        all.push(taken_over);
    }
    for world in &mut all {
        world.budget = faults;
    }
    all
}

/// Messages arrive, records are written, and commands answer.
fn quiet(world: &mut World) {
    let mut steps = Vec::new();
    loop {
        steps.clear();
        world.free_steps(&mut steps);
        let is_prompt = |step: &&Step| {
            matches!(step, Step::Deliver(_) | Step::Written(..) | Step::Quorum(_) | Step::Fence(..))
        };
        match steps.iter().find(is_prompt) {
            Some(step) => world.take(*step),
            None => return,
        }
    }
}

const FENCE: Deciders = Deciders { fence: true, quorum: false };
const QUORUM: Deciders = Deciders { fence: false, quorum: true };
const BOTH: Deciders = Deciders { fence: true, quorum: true };
const NOBODY: Deciders = Deciders { fence: false, quorum: false };

fn faults() -> u8 {
    let number = std::env::var("COLO_PROXY_MODEL_FAULTS").ok();
    number.and_then(|number| number.parse().ok()).unwrap_or(FAULTS)
}

fn check(deciders: Deciders) {
    let model = WhoServes { deciders, faults: faults(), sabotage: Sabotage::Nothing };
    let checker = model.checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{deciders:?}: {states} states, {} in all, depth {depth}", checker.state_count());
    checker.assert_properties();
}

#[test]
fn with_a_fence() {
    check(FENCE);
}

#[test]
fn with_a_quorum() {
    check(QUORUM);
}

#[test]
fn with_both() {
    check(BOTH);
}

#[test]
fn with_nobody_to_ask() {
    check(NOBODY);
}

/// Each property finds the sabotage that breaks it.
#[test]
fn a_sabotage_of_each_property_is_found() {
    for (deciders, sabotage, property) in [
        (FENCE, Sabotage::LyingFence, "one guest serves"),
        (QUORUM, Sabotage::DeafSecondary, "one guest serves"),
        (FENCE, Sabotage::EmptyCheckpoint, "a guest that serves knows what clients know"),
        (FENCE, Sabotage::ForgetfulDisk, "one guest serves"),
        (NOBODY, Sabotage::DeadDisk, "one protect is enough"),
    ] {
        let model = WhoServes { deciders, faults: SABOTAGE_FAULTS, sabotage };
        let is_found = HasDiscoveries::AnyOf([property].into());
        let checker = model.checker().threads(2).finish_when(is_found).spawn_bfs().join();
        assert!(checker.discovery(property).is_some(), "{sabotage:?} was not found");
    }
}
