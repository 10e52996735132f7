//! Decides which translated connections are removed. The kernel itself evicts none from `flows`.
//!
//! Some are removed because they were silent for too long. If the table is nearly full, more are
//! removed: the least useful class first, and in each class the longest silent first. So a connection
//! in use goes only if there is no other, whatever connections a client opens. Before one in use goes,
//! a checkpoint is asked for, because most connections need no entry after it. Connections in which
//! the guest has not sent anything of its own are in `unconfirmed`. They evict only each other, and
//! are removed when they are silent for too long.

use colo_proxy_common::flow::state;
use colo_proxy_common::record::{FlowKey, FlowRecord};

/// The time for which a connection without a frame stays. The defaults are longer than the times for
/// which a guest remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeLimits {
    /// Closed by both sides, or reset by the guest.
    pub closed_ns: u64,
    /// Reset by the peer, or by a forger.
    pub reset_ns: u64,
    /// Any connection.
    pub idle_ns: u64,
    /// A connection in which the guest has not sent anything of its own. Newer ones evict it earlier.
    pub unconfirmed_ns: u64,
    /// Fill level of the table in percent beyond which the least useful connections go at once.
    pub full_percent: u8,
    /// Beyond that level, a connection that is silent for this long counts as idle.
    pub pressed_idle_ns: u64,
    /// The time for which a checkpoint may fail to come, before a connection in use goes.
    pub checkpoint_patience_ns: u64,
    /// The most connections that one look removes, because it takes the thread's time.
    pub victims_max: usize,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Default for AgeLimits {
    fn default() -> Self {
        Self {
            closed_ns: 60 * SECOND_NS,
            // At least as long as an idle connection: the reset may be forged.
            reset_ns: 7440 * SECOND_NS,
            // RFC 5382, REQ-5: no less than 2 hours and 4 minutes. Five days, as in conntrack.
            idle_ns: 5 * 24 * 3600 * SECOND_NS,
            unconfirmed_ns: 7440 * SECOND_NS,
            full_percent: 90,
            pressed_idle_ns: 7440 * SECOND_NS,
            checkpoint_patience_ns: 10 * SECOND_NS,
            victims_max: 8192,
        }
    }
}

/// The value of a connection's entry, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FlowClass {
    /// Closed by both sides, or reset by the guest. Only retransmissions need the entry.
    Closed,
    /// Both guests count alike, since a checkpoint or from the start. Without an entry the frames pass
    /// untranslated, which is the same.
    Identity,
    /// Reset by the peer, or by a forger.
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
pub struct FlowsByClass {
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

impl FlowsByClass {
    fn of(&mut self, class: FlowClass) -> &mut u64 {
        match class {
            FlowClass::Closed => &mut self.closed,
            FlowClass::Identity => &mut self.identity,
            FlowClass::Reset => &mut self.reset,
            FlowClass::Idle => &mut self.idle,
            FlowClass::Established => &mut self.established,
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

/// The numbers of removed and remaining connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgedFlows {
    /// Silent for too long.
    pub expired: FlowsByClass,
    /// Removed to make room. Clients lose the established ones.
    pub evicted: FlowsByClass,
    pub kept: u64,
    /// The table is nearly full of connections in use, and most of them need no entry after a
    /// checkpoint. Set once in each epoch.
    pub wants_checkpoint: bool,
}

impl AgedFlows {
    pub(super) fn note(&mut self, victim: &AgedFlow) {
        self.kept = self.kept.saturating_sub(1);
        let counts = if victim.expired { &mut self.expired } else { &mut self.evicted };
        *counts.of(victim.class) += 1;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AgedFlow {
    pub(super) key: FlowKey,
    pub(super) class: FlowClass,
    /// Silent for too long, and not removed to make room.
    pub(super) expired: bool,
}

/// The result of one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AgeingPlan {
    pub(super) victims: Vec<AgedFlow>,
    pub(super) wants_checkpoint: bool,
}

/// The decisions; no I/O, no clock.
#[derive(Debug)]
pub(super) struct FlowAgeing {
    limits: AgeLimits,
    /// Epoch and time of the last request for a checkpoint.
    asked: Option<(u32, u64)>,
}

impl FlowAgeing {
    pub(super) fn new(limits: AgeLimits) -> Self {
        Self { limits, asked: None }
    }

    /// The connections to remove from a table with room for `capacity`: those that were silent for too
    /// long, then as many more as are above the fill level.
    pub(super) fn look(
        &mut self,
        entries: &[(FlowKey, FlowRecord)],
        capacity: u32,
        now_ns: u64,
        epoch: u32,
    ) -> AgeingPlan {
        let mut plan = AgeingPlan::default();
        let mut rest = Vec::new();
        for (key, flow) in entries {
            // The programs read a coarse clock, which may be a little ahead.
            let silent_ns = now_ns.saturating_sub(flow.last_seen_ns);
            let class = self.class(flow, silent_ns, epoch);
            if self.is_expired(flow, silent_ns) {
                plan.victims.push(AgedFlow { key: *key, class, expired: true });
            } else {
                rest.push((class, flow.last_seen_ns, key));
            }
        }
        let room = u64::from(capacity) * u64::from(self.limits.full_percent.min(100)) / 100;
        let excess = rest.len().saturating_sub(room as usize);
        if excess > 0 {
            rest.sort_unstable_by_key(|(class, last_seen_ns, _)| (*class, *last_seen_ns));
            rest.truncate(excess);
            if rest.last().is_some_and(|(class, ..)| *class == FlowClass::Established)
                && !self.may_evict_established(&mut plan, now_ns, epoch)
            {
                rest.retain(|(class, ..)| *class != FlowClass::Established);
            }
            let evicted = rest.iter().map(|(class, _, key)| AgedFlow {
                key: **key,
                class: *class,
                expired: false,
            });
            plan.victims.extend(evicted);
        }
        plan.victims.truncate(self.limits.victims_max);
        plan
    }

    /// The connections to remove from `unconfirmed`: those that were silent for too long.
    pub(super) fn look_at_unconfirmed(
        &self,
        entries: &[(FlowKey, FlowRecord)],
        now_ns: u64,
        epoch: u32,
    ) -> Vec<AgedFlow> {
        let silent_ns = |flow: &FlowRecord| now_ns.saturating_sub(flow.last_seen_ns);
        let is_expired = |flow: &FlowRecord| {
            silent_ns(flow) > self.limits.unconfirmed_ns || self.is_expired(flow, silent_ns(flow))
        };
        entries
            .iter()
            .filter(|(_, flow)| is_expired(flow))
            .take(self.limits.victims_max)
            .map(|(key, flow)| {
                let class = self.class(flow, silent_ns(flow), epoch);
                AgedFlow { key: *key, class, expired: true }
            })
            .collect()
    }

    /// Connections in use may go if a checkpoint was asked for in this epoch and has not come for long.
    fn may_evict_established(&mut self, plan: &mut AgeingPlan, now_ns: u64, epoch: u32) -> bool {
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

    fn class(&self, flow: &FlowRecord, silent_ns: u64, epoch: u32) -> FlowClass {
        match flow.state {
            state::CLOSED => FlowClass::Closed,
            _ if flow.translation(epoch).is_identity() => FlowClass::Identity,
            state::RESET => FlowClass::Reset,
            _ if silent_ns > self.limits.pressed_idle_ns => FlowClass::Idle,
            _ => FlowClass::Established,
        }
    }

    fn is_expired(&self, flow: &FlowRecord, silent_ns: u64) -> bool {
        silent_ns
            > match flow.state {
                state::CLOSED => self.limits.closed_ns,
                state::RESET => self.limits.reset_ns,
                _ => self.limits.idle_ns,
            }
    }
}

/// The connection is not over, and would break without translation.
pub(super) fn needs_translation(flow: &FlowRecord, epoch: u32) -> bool {
    !matches!(flow.state, state::CLOSED | state::RESET) && !flow.translation(epoch).is_identity()
}

#[cfg(test)]
mod tests;
