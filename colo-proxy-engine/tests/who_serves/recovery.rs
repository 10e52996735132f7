//! From every state, one `protect` has to be enough once both hosts and the link are up.

use colo_proxy_engine::pair::Role;

use super::world::{Half, Step, World};

/// More steps than a recovery needs.
const STEPS_MAX: usize = 400;

/// Lets the world run without faults, has an operator protect the guest, and says what is left to want.
pub(crate) fn recover(world: &World) -> Result<(), String> {
    let mut world = world.clone();
    world.budget = 0;
    run(&mut world, |_| false);
    if world.is_protected() {
        return Ok(());
    }
    protect(&mut world);
    run(&mut world, World::is_protected);
    if world.is_protected() { Ok(()) } else { Err(format!("{world:#?}")) }
}

/// Takes steps until nothing is left to do but to wait.
fn run(world: &mut World, is_enough: impl Fn(&World) -> bool) {
    let mut steps = Vec::new();
    for turn in 0..STEPS_MAX {
        if is_enough(world) {
            return;
        }
        steps.clear();
        world.free_steps(&mut steps);
        // Time passes when nothing else happens, and each timer has its turn.
        let is_timer = |step: &Step| matches!(step, Step::Timer(..) | Step::TakeoverTimer(_));
        let (mut timers, mut next): (Vec<Step>, Vec<Step>) =
            steps.iter().copied().partition(is_timer);
        let first = turn % timers.len().max(1);
        timers.rotate_left(first);
        next.extend(timers);
        let changes = next.into_iter().find_map(|step| {
            let mut after = world.clone();
            after.take(step);
            (after != *world).then_some(after)
        });
        match changes {
            Some(after) => *world = after,
            None => return,
        }
    }
}

/// What an operator does who wants the guest protected: a new guest waits on the other host, and
/// `protect` runs on the host that serves.
fn protect(world: &mut World) {
    let server = world.rightful();
    if world.hosts[server].role != Role::Primary {
        for (at, role) in [(server, Role::Primary), (1 - server, Role::Secondary)] {
            world.take(Step::CrashDaemon(at, false));
            world.hosts[at].role = role;
        }
        let other = &mut world.hosts[1 - server];
        (other.guarded, other.passes) = (false, false);
    }
    for at in [server, 1 - server] {
        if at != server || world.hosts[at].guest.is_none() {
            world.start_guest(at);
        }
        if world.hosts[at].daemon.is_none() {
            world.start_daemon(at);
        }
    }
    world.settle();
    run(world, |_| false);
    world.with_half(server, |half| {
        if let Half::Primary(half) = half {
            half.begin_again();
        }
    });
    world.settle();
    run(world, |_| false);
    world.pair();
}
