//! The compare engine with guests that send anything, in virtual time, with checkpoints at any
//! moment.
//!
//! For every input: a frame leaves at most once and unchanged. The engine adds only its own
//! acknowledgments. No frame is lost. The datagrams of one flow keep their order. No byte leaves
//! that the secondary has not sent at the same place. Every limit of `Limits` holds. A checkpoint
//! settles everything before it. At most one request is outstanding. A timer that is due has an
//! effect.

mod books;
mod build;
mod frames;
mod witness;
mod world;

use std::time::Duration;

use colo_proxy_engine::compare::{Limits, Reason, Side};

use crate::choices::Choices;
use world::World;

/// An input is a row of operations. More than this number only take time.
const OPERATIONS_MAX: usize = 400;

pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let limits = any_limits(&mut choices);
    let is_patient = choices.octet() & 1 == 0;
    let mut world = World::new(limits, is_patient);
    for _ in 0..OPERATIONS_MAX {
        if choices.is_over() {
            break;
        }
        one(&mut world, &mut choices);
        world.keeps_within_limits();
    }
    world.ends();
}

fn one(world: &mut World, choices: &mut Choices<'_>) {
    match choices.octet() {
        0..8 => world.checkpoint_began(),
        8..16 => world.checkpoint_done(),
        16..20 => world.checkpoint_failed(),
        20 => world.release_all(),
        21 => world.request(Reason::Resync),
        22 => world.stale(choices.octet()),
        23..32 => world.wait(Duration::from_millis(u64::from(choices.octet()))),
        32 => world.wait(Duration::from_secs(u64::from(choices.octet()))),
        33 => world.early_timeout(),
        34..90 => world.echo(choices, Side::Secondary),
        90..100 => world.echo(choices, Side::Primary),
        kind => {
            let side = if kind & 1 == 0 { Side::Primary } else { Side::Secondary };
            let frame = frames::any(choices);
            world.frame(side, &frame);
        }
    }
}

/// The limits are small, so that the engine reaches them.
fn any_limits(choices: &mut Choices<'_>) -> Limits {
    let mut ms = |most: usize| Duration::from_millis(choices.below(most) as u64);
    let (compare_timeout, datagram_grace) = (ms(200), ms(50));
    let (flow_idle, request_retry) = (ms(256), ms(100));
    Limits {
        flows_max: 1 + choices.below(12),
        frames_max: 1 + choices.below(100),
        bytes_max: 1 + 100 * choices.below(200),
        flow_frames_max: 1 + choices.below(50),
        flow_bytes_max: 1 + 100 * choices.below(100),
        datagram_grace_count: choices.below(8),
        divergences_max: 1 + choices.below(4),
        context_bytes: choices.below(20),
        compare_timeout,
        datagram_grace,
        flow_idle,
        request_retry,
        ..Limits::default()
    }
}
