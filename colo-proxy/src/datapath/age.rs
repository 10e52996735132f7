//! Which translated connections are forgotten. The kernel evicts none by itself.

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
    /// Percent of the table beyond which the least useful connections go at once.
    pub full_percent: u8,
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
            full_percent: 90,
        }
    }
}

/// What was forgotten, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aged {
    /// Over for longer than the limit.
    pub over: u64,
    /// Silent for longer than the limit.
    pub idle: u64,
    /// Void, because a checkpoint has made both guests equal; they need no translation.
    pub void: u64,
    /// Live connections that made room: their clients lose them.
    pub evicted: u64,
    pub kept: u64,
}

impl Aged {
    pub(super) fn note(&mut self, victim: &Victim) {
        self.kept = self.kept.saturating_sub(1);
        *match victim.reason {
            Reason::Over => &mut self.over,
            Reason::Idle => &mut self.idle,
            Reason::Void => &mut self.void,
            Reason::Evicted => &mut self.evicted,
        } += 1;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Over,
    Idle,
    Void,
    Evicted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) key: FlowKey,
    pub(super) reason: Reason,
}

/// The connections to forget, by the limits first, then as many more as the table is too full by:
/// void ones, closed ones, reset ones, and the longest silent at last.
pub(super) fn victims(
    entries: &[(FlowKey, Flow)],
    capacity: u32,
    now_ns: u64,
    epoch: u32,
    limits: &AgeLimits,
) -> Vec<Victim> {
    let mut victims = Vec::new();
    let mut rest = Vec::new();
    for (key, flow) in entries {
        match expired(flow, now_ns, limits) {
            Some(reason) => victims.push(Victim { key: *key, reason }),
            None => rest.push((usefulness(flow, epoch), flow.last_seen_ns, key)),
        }
    }
    let room = capacity as usize * usize::from(limits.full_percent.min(100)) / 100;
    let excess = rest.len().saturating_sub(room);
    if excess > 0 {
        rest.sort_unstable_by_key(|(usefulness, last_seen_ns, _)| (*usefulness, *last_seen_ns));
        victims.extend(rest.iter().take(excess).map(|(usefulness, _, key)| Victim {
            key: **key,
            reason: match usefulness {
                Usefulness::Void => Reason::Void,
                Usefulness::Closed | Usefulness::Reset => Reason::Over,
                Usefulness::Live => Reason::Evicted,
            },
        }));
    }
    victims
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Usefulness {
    /// Without an entry the frames pass untranslated, which is all that this one asks for.
    Void,
    Closed,
    Reset,
    Live,
}

fn usefulness(flow: &Flow, epoch: u32) -> Usefulness {
    let identity = flow.seq_offset == 0 && flow.ts_offset == 0;
    match flow.state {
        _ if flow.epoch != epoch || identity => Usefulness::Void,
        state::CLOSED => Usefulness::Closed,
        state::RESET => Usefulness::Reset,
        _ => Usefulness::Live,
    }
}

/// The connection goes on, and would break if its frames passed as they are.
pub(super) fn needs_translation(flow: &Flow, epoch: u32) -> bool {
    usefulness(flow, epoch) == Usefulness::Live
}

fn expired(flow: &Flow, now_ns: u64, limits: &AgeLimits) -> Option<Reason> {
    // The clock of the programs is a coarse one and may be a little ahead.
    let silent_ns = now_ns.saturating_sub(flow.last_seen_ns);
    match flow.state {
        state::CLOSED if silent_ns > limits.closed_ns => Some(Reason::Over),
        state::RESET if silent_ns > limits.reset_ns => Some(Reason::Over),
        _ if silent_ns > limits.idle_ns => Some(Reason::Idle),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
