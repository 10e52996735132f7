//! Equal guests, in any order that QEMU can follow. Both engines do the same at every step.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use colo_lab::colo_compare::{Engine, Outcome, Setup, datagram, segment};
use colo_lab::lab_test;

use super::{Checkpoint, P, S, Step, play};

const SCHEDULES: u64 = 24;
const STEPS: usize = 60;
/// Segments that one guest may be ahead of the other.
const AHEAD_MAX: usize = 6;

#[lab_test(qemu)]
fn equal_guests_are_released_alike_at_every_step() -> Result<()> {
    for seed in 0..SCHEDULES {
        let steps = Schedule::new(seed).steps();
        let setup = Setup { vnet_hdr: seed % 2 == 1, ..Setup::default() };
        let qemu = play(Engine::Qemu, &setup, &steps)?;
        let ours = play(Engine::Ours, &setup, &steps)?;
        let mut left = 0;
        for (i, (qemu, ours)) in qemu.iter().zip(&ours).enumerate() {
            let same = by_flow(qemu) == by_flow(ours) && qemu.requests == ours.requests;
            ensure!(
                same && ours.requests == 0,
                "seed {seed}, step {i}, {:02x?}\nQEMU: {qemu:02x?}\nours: {ours:02x?}",
                steps[i]
            );
            left += ours.frames.len();
        }
        let sent = steps.iter().filter(|step| matches!(step, P(_))).count();
        ensure!(left == sent, "seed {seed}: {left} of {sent} frames left");
    }
    Ok(())
}

/// The frames by flow, because the engines flush the flows in different orders.
fn by_flow(outcome: &Outcome) -> BTreeMap<Vec<u8>, Vec<&[u8]>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for frame in &outcome.frames {
        // The protocol and the ports.
        let flow = [frame.get(23..24), frame.get(34..38)].into_iter().flatten().flatten().copied();
        flows.entry(flow.collect()).or_default().push(frame.as_slice());
    }
    flows
}

/// The output of both guests, in an order that the seed decides.
struct Schedule {
    random: u64,
    flows: Vec<Flow>,
}

struct Flow {
    kind: Kind,
    /// The frames of each guest so far.
    sent: [usize; 2],
}

#[derive(Clone, Copy)]
enum Kind {
    Tcp(u16),
    Udp(u16),
    Icmp,
}

impl Flow {
    /// Datagrams. QEMU goes wrong if a flow has more than one.
    fn ahead_max(&self) -> usize {
        if matches!(self.kind, Kind::Tcp(_)) { AHEAD_MAX } else { 1 }
    }

    /// The `i`th frame. Both guests send the same, except for the IP identification, which is their
    /// own.
    fn frame(&self, i: usize, id: u16) -> Vec<u8> {
        let data: Vec<u8> = (0..40 + i % 7 * 100).map(|at| (at * 7 + i) as u8).collect();
        match self.kind {
            Kind::Tcp(port) => {
                let before: usize = (0..i).map(|i| 40 + i % 7 * 100).sum();
                // The numbers wrap after some of the frames.
                let seq = (u32::MAX - 2000).wrapping_add(before as u32);
                segment(seq).port(port).ack(1).data(&data).ip_id(id).build()
            }
            Kind::Udp(port) => datagram(port).data(&data).ip_id(id).build(),
            Kind::Icmp => datagram(0).icmp().data(&data).ip_id(id).build(),
        }
    }
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let kinds = [Kind::Tcp(5001), Kind::Tcp(5002), Kind::Udp(53), Kind::Udp(123), Kind::Icmp];
        let flows = kinds.map(|kind| Flow { kind, sent: [0; 2] }).into();
        Self { random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, flows }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % limit
    }

    fn steps(mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while steps.len() < STEPS {
            if self.below(20) == 0 {
                steps.push(Checkpoint);
                // The secondary continues where the primary is.
                self.flows.iter_mut().for_each(|flow| flow.sent[1] = flow.sent[0]);
                continue;
            }
            let (at, side) = (self.below(self.flows.len()), self.below(2));
            steps.extend(self.say(at, side));
        }
        // The frames that have not been sent yet.
        for at in 0..self.flows.len() {
            while self.flows[at].sent[0] != self.flows[at].sent[1] {
                let behind = usize::from(self.flows[at].sent[0] > self.flows[at].sent[1]);
                steps.extend(self.say(at, behind));
            }
        }
        steps
    }

    /// The guest of `side` sends the next frame of a flow, unless it is too far ahead.
    fn say(&mut self, at: usize, side: usize) -> Option<Step> {
        let id = self.below(60_000) as u16;
        let flow = self.flows.get_mut(at)?;
        let i = flow.sent[side];
        if i >= flow.sent[1 - side] + flow.ahead_max() {
            return None;
        }
        flow.sent[side] += 1;
        let frame = flow.frame(i, id);
        Some(if side == 0 { P(frame) } else { S(frame) })
    }
}

/// The schedules contain what the test is about.
#[lab_test(qemu)]
fn the_twin_with_one_byte_changed_is_asked_for() -> Result<()> {
    for engine in [Engine::Qemu, Engine::Ours] {
        let mut steps = Schedule::new(1).steps();
        let last = steps.iter_mut().rev().find_map(|step| match step {
            S(frame) if frame.get(23) == Some(&6) => frame.last_mut(),
            _ => None,
        });
        *last.context("a segment of the secondary")? ^= 1;
        let outcomes = play(engine, &Setup::default(), &steps)?;
        let requests: usize = outcomes.iter().map(|outcome| outcome.requests).sum();
        ensure!(requests > 0, "{engine:?}");
    }
    Ok(())
}
