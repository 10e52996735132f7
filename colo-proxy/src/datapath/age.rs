//! Which translated connections are forgotten. The kernel evicts none of `flows` by itself.
//!
//! Some are over by the clock. Where the table fills beyond a mark, more go, the least useful class
//! first, and in each class the longest silent: whatever others open, no connection goes that is in
//! use while there is another. Before one goes that is in use, a checkpoint is asked for, because
//! after that most of them need no entry. Connections in which the guest has not spoken yet are in
//! `unconfirmed`: they push out each other only, and go by the clock.

use colo_proxy_common::flow::state;
use colo_proxy_common::record::{Flow, FlowKey};

/// How long a connection is remembered without a frame. The defaults outlast what a guest
/// remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeLimits {
    /// Closed by both sides, or reset by the guest.
    pub closed_ns: u64,
    /// Reset by the peer, or in the name of the peer.
    pub reset_ns: u64,
    /// Anything.
    pub idle_ns: u64,
    /// One in which the guest has not spoken. Newer ones push it out earlier.
    pub unconfirmed_ns: u64,
    /// Percent of the table beyond which the least useful connections go at once.
    pub full_percent: u8,
    /// Beyond that mark, one that has been silent for so long counts as idle.
    pub pressed_idle_ns: u64,
    /// How long a checkpoint that was asked for is waited for, before one in use goes.
    pub checkpoint_patience_ns: u64,
    /// Connections that go in one look at the most: it takes the thread's time.
    pub victims_max: usize,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Default for AgeLimits {
    fn default() -> Self {
        Self {
            closed_ns: 60 * SECOND_NS,
            // As long as an idle connection at the least: the reset may be forged.
            reset_ns: 7440 * SECOND_NS,
            // RFC 5382, REQ-5: no less than 2 hours and 4 minutes. Five days, as conntrack has it.
            idle_ns: 5 * 24 * 3600 * SECOND_NS,
            unconfirmed_ns: 7440 * SECOND_NS,
            full_percent: 90,
            pressed_idle_ns: 7440 * SECOND_NS,
            checkpoint_patience_ns: 10 * SECOND_NS,
            victims_max: 8192,
        }
    }
}

/// How much a connection would be missed, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Closed by both sides, or reset by the guest; only retransmissions would miss it.
    Closed,
    /// Both guests count alike since a checkpoint, or always have: without an entry the frames pass
    /// untranslated, which is all that this one asks for.
    Identity,
    /// Reset in the name of the peer, which may be forged.
    Reset,
    /// Silent for long.
    Idle,
    /// In use.
    Established,
}

/// Connections of each class.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
pub struct PerClass {
    /// Both guests closed them.
    pub closed: u64,
    /// They need no translation.
    pub identity: u64,
    /// Reset in the name of the peer, which may be forged.
    pub reset: u64,
    /// Silent for long.
    pub idle: u64,
    /// In use.
    pub established: u64,
}

impl PerClass {
    fn of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Closed => &mut self.closed,
            Class::Identity => &mut self.identity,
            Class::Reset => &mut self.reset,
            Class::Idle => &mut self.idle,
            Class::Established => &mut self.established,
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.closed += other.closed;
        self.identity += other.identity;
        self.reset += other.reset;
        self.idle += other.idle;
        self.established += other.established;
    }
}

/// What was forgotten, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aged {
    /// By the clock.
    pub expired: PerClass,
    /// To make room. Their clients lose those that were established.
    pub evicted: PerClass,
    pub kept: u64,
    /// The table is nearly full of connections in use: a checkpoint would make most of them need no
    /// entry. Said once for each epoch.
    pub wants_checkpoint: bool,
}

impl Aged {
    pub(super) fn note(&mut self, victim: &Victim) {
        self.kept = self.kept.saturating_sub(1);
        let counts = if victim.expired { &mut self.expired } else { &mut self.evicted };
        *counts.of(victim.class) += 1;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) key: FlowKey,
    pub(super) class: Class,
    /// By the clock, and not to make room.
    pub(super) expired: bool,
}

/// What one look leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) victims: Vec<Victim>,
    pub(super) wants_checkpoint: bool,
}

/// Decides; no I/O, no clock.
#[derive(Debug)]
pub(super) struct Ageing {
    limits: AgeLimits,
    /// Epoch and time in which a checkpoint was asked for.
    asked: Option<(u32, u64)>,
}

impl Ageing {
    pub(super) fn new(limits: AgeLimits) -> Self {
        Self { limits, asked: None }
    }

    /// The connections to forget, of a table with room for `capacity`: by the clock first, then as
    /// many more as it is too full by.
    pub(super) fn look(
        &mut self,
        entries: &[(FlowKey, Flow)],
        capacity: u32,
        now_ns: u64,
        epoch: u32,
    ) -> Plan {
        let mut plan = Plan::default();
        let mut rest = Vec::new();
        for (key, flow) in entries {
            // The clock of the programs is a coarse one and may be a little ahead.
            let silent_ns = now_ns.saturating_sub(flow.last_seen_ns);
            let class = self.class(flow, silent_ns, epoch);
            if self.is_expired(flow, silent_ns) {
                plan.victims.push(Victim { key: *key, class, expired: true });
            } else {
                rest.push((class, flow.last_seen_ns, key));
            }
        }
        let room = u64::from(capacity) * u64::from(self.limits.full_percent.min(100)) / 100;
        let excess = rest.len().saturating_sub(room as usize);
        if excess > 0 {
            rest.sort_unstable_by_key(|(class, last_seen_ns, _)| (*class, *last_seen_ns));
            rest.truncate(excess);
            if rest.last().is_some_and(|(class, ..)| *class == Class::Established)
                && !self.may_evict_established(&mut plan, now_ns, epoch)
            {
                rest.retain(|(class, ..)| *class != Class::Established);
            }
            let evicted = rest.iter().map(|(class, _, key)| Victim {
                key: **key,
                class: *class,
                expired: false,
            });
            plan.victims.extend(evicted);
        }
        plan.victims.truncate(self.limits.victims_max);
        plan
    }

    /// Those to forget of the connections in which the guest has not spoken: by the clock.
    pub(super) fn look_at_unconfirmed(
        &self,
        entries: &[(FlowKey, Flow)],
        now_ns: u64,
        epoch: u32,
    ) -> Vec<Victim> {
        let silent_ns = |flow: &Flow| now_ns.saturating_sub(flow.last_seen_ns);
        let is_expired = |flow: &Flow| {
            silent_ns(flow) > self.limits.unconfirmed_ns || self.is_expired(flow, silent_ns(flow))
        };
        entries
            .iter()
            .filter(|(_, flow)| is_expired(flow))
            .take(self.limits.victims_max)
            .map(|(key, flow)| {
                let class = self.class(flow, silent_ns(flow), epoch);
                Victim { key: *key, class, expired: true }
            })
            .collect()
    }

    /// Only when a checkpoint was asked for in this epoch, and has not come for long.
    fn may_evict_established(&mut self, plan: &mut Plan, now_ns: u64, epoch: u32) -> bool {
        match self.asked {
            Some((asked, since)) if asked == epoch => {
                now_ns.saturating_sub(since) >= self.limits.checkpoint_patience_ns
            }
            _ => {
                self.asked = Some((epoch, now_ns));
                plan.wants_checkpoint = true;
                false
            }
        }
    }

    fn class(&self, flow: &Flow, silent_ns: u64, epoch: u32) -> Class {
        match flow.state {
            state::CLOSED => Class::Closed,
            _ if flow.translation(epoch).is_identity() => Class::Identity,
            state::RESET => Class::Reset,
            _ if silent_ns > self.limits.pressed_idle_ns => Class::Idle,
            _ => Class::Established,
        }
    }

    fn is_expired(&self, flow: &Flow, silent_ns: u64) -> bool {
        silent_ns
            > match flow.state {
                state::CLOSED => self.limits.closed_ns,
                state::RESET => self.limits.reset_ns,
                _ => self.limits.idle_ns,
            }
    }
}

/// The connection goes on, and would break if its frames passed as they are.
pub(super) fn needs_translation(flow: &Flow, epoch: u32) -> bool {
    !matches!(flow.state, state::CLOSED | state::RESET) && !flow.translation(epoch).is_identity()
}

#[cfg(test)]
mod tests;
