//! One tuple of a random schedule: its connections, and the frames that both guests have yet to send.

use std::collections::VecDeque;

use colo_proxy_common::decode::flag;

use super::model::{Claim, Connection};
use super::packet::{self, Link, Tcp};
use super::random::Random;
use super::script::{Ending, Plan};

/// Who waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Causality {
    /// The peer answers only what has left, and a guest uses a tuple again when nothing of it is
    /// held.
    Kept,
    /// Nobody for anybody: either guest may be ahead by all that it says.
    None,
}

/// One tuple, on which connections follow each other.
pub(super) struct Tuple {
    pub(super) link: Link,
    pub(super) port: u16,
    pub(super) plans: Vec<Plan>,
    pub(super) connections: Vec<Connection>,
    /// The connection that the primary is in, and the frames that it has yet to send.
    pub(super) at: usize,
    pub(super) primary: VecDeque<Claim>,
    /// Frames sent and held back by a checkpoint being made.
    pub(super) deferred: Vec<(usize, usize, Claim)>,
    /// The frames that the secondary has yet to send, by connection.
    pub(super) secondary: VecDeque<(usize, Claim)>,
    /// The SYN of each connection has left: the peer has answered.
    pub(super) answered: Vec<bool>,
    pub(super) syns: Vec<(usize, usize)>,
    pub(super) own_isn: u32,
    causality: Causality,
}

impl Tuple {
    pub(super) fn new(random: &mut Random, number: usize, causality: Causality) -> Self {
        let link = Link {
            ip_version: if random.chance(50) { 4 } else { 6 },
            vlan: [[0, 0], [5, 0], [5, 7]][random.below(3)],
            peer: number as u8,
        };
        let mut plans = vec![Plan::random(random, random.clone().chance(70))];
        while plans.len() < 3 && plans.last().is_some_and(|plan| plan.ending != Ending::Open) {
            plans.push(Plan::random(random, true));
        }
        // Nobody can tell a connection from the next by the same numbers.
        for number in 1..plans.len() {
            if plans[number].isn == plans[number - 1].isn {
                plans[number].isn = plans[number].isn.wrapping_add(3);
            }
            if plans[number].peer_isn == plans[number - 1].peer_isn {
                plans[number].peer_isn = plans[number].peer_isn.wrapping_add(2);
            }
        }
        let mut tuple = Self {
            link,
            port: 1000 + number as u16,
            connections: plans.iter().map(|plan| Connection::new(plan.stream.clone())).collect(),
            answered: plans.iter().map(|plan| !plan.has_syn).collect(),
            at: 0,
            primary: VecDeque::new(),
            deferred: Vec::new(),
            secondary: VecDeque::new(),
            syns: Vec::new(),
            own_isn: random.next() as u32,
            plans,
            causality,
        };
        tuple.primary = tuple.plans[0].script(random, 0, 0, true, true).into();
        tuple.plan_secondary(random, 0);
        tuple
    }

    /// Has the secondary open each connection before it has sent the last of the one before.
    pub(super) fn open_too_early(&mut self) {
        for at in 1..self.secondary.len() {
            if self.secondary[at].1.syn {
                self.secondary.swap(at - 1, at);
            }
        }
    }

    /// All that the secondary sends from connection `first` on.
    pub(super) fn plan_secondary(&mut self, random: &mut Random, first: usize) {
        for (number, plan) in self.plans.iter().enumerate().skip(first) {
            let script = plan.script(random, 0, 0, true, true);
            self.secondary.extend(script.into_iter().map(|claim| (number, claim)));
        }
    }

    /// The next segment of the primary: it waits for the peer's answer to its SYN, and it opens the
    /// next connection only when the last has left.
    pub(super) fn next_primary(&mut self, random: &mut Random) -> Option<(usize, Claim)> {
        if self.primary.is_empty() && self.at + 1 < self.plans.len() {
            let is_settled = self.connections[self.at].holds_nothing() && self.deferred.is_empty();
            if self.causality == Causality::Kept && !is_settled {
                return None;
            }
            self.at += 1;
            self.primary = self.plans[self.at].script(random, 0, 0, true, true).into();
        }
        let claim = self.primary.front()?;
        if self.causality == Causality::Kept && !claim.syn && !self.answered[self.at] {
            return None;
        }
        Some((self.at, self.primary.pop_front()?))
    }

    /// The next segment of the secondary: the same, but it may open the next connection as soon as
    /// the primary has said anything on this one.
    pub(super) fn next_secondary(&mut self) -> Option<(usize, Claim)> {
        if self.causality == Causality::None {
            return self.secondary.pop_front();
        }
        let (number, claim) = self.secondary.front()?;
        if *number > 0 && !self.connections[*number - 1].has_started() {
            return None;
        }
        if !claim.syn && !self.answered[*number] {
            return None;
        }
        self.secondary.pop_front()
    }

    /// The secondary has the primary's state at the cut from here on.
    pub(super) fn restart_secondary(&mut self, random: &mut Random) {
        self.secondary.clear();
        for number in 0..=self.at {
            let (plan, model) = (&self.plans[number], &self.connections[number]);
            let deferred = self.deferred.iter().filter(|(_, of, _)| *of == number);
            let unsent = self.primary.iter().filter(|_| number == self.at);
            let rest: Vec<&Claim> = deferred.map(|(_, _, claim)| claim).chain(unsent).collect();
            if rest.is_empty() {
                continue;
            }
            let start = rest.iter().map(|claim| claim.start).min().unwrap_or_default();
            let syn = rest.iter().any(|claim| claim.syn);
            let fin = !model.primary_said_fin() || rest.iter().any(|claim| claim.fin);
            let start = if syn { 0 } else { start };
            let script = plan.script(random, start, model.primary_ack(), syn, fin);
            self.secondary.extend(script.into_iter().map(|claim| (number, claim)));
        }
        let next = self.at + 1;
        self.own_isn = random.next() as u32;
        self.plan_secondary(random, next);
    }

    pub(super) fn packet(&self, number: usize, claim: &Claim, octets: &[u8]) -> Tcp {
        let plan = &self.plans[number];
        let mut packet = packet::tcp(plan.isn.wrapping_add(1).wrapping_add(claim.start as u32));
        packet.link = self.link;
        packet.ports.0 = self.port;
        packet.ack = claim.ack.map(|ack| plan.peer_isn.wrapping_add(1).wrapping_add(ack as u32));
        packet.payload = octets.to_vec();
        if claim.syn {
            packet = packet.syn();
            packet.seq = plan.isn;
        }
        if let Some(place) = claim.urgent {
            packet = packet.urgent((place - claim.start) as u16);
        }
        if claim.fin {
            packet.flags |= flag::FIN;
        }
        if claim.rst {
            packet.flags |= flag::RST;
        }
        packet
    }
}
