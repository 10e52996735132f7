//! When the secondary's guest takes over by itself.
//!
//! Three things are necessary.
//!
//! 1. The primary is lost: its daemon was silent for longer than a break of the link may last. If QEMU
//!    has lost its other half as well, that time need not pass.
//! 2. The guest can take over: the primary said last that the pair was protected.
//! 3. `fence` has made sure that the other guest no longer answers, or `quorum` has chosen this host. If
//!    neither is configured, an operator decides.

use std::time::{Duration, Instant};

use super::Mode;

/// The next step of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverAction {
    /// The guest is out of reach: log it.
    TellUnreachable,
    /// Run the commands of `[guest.takeover]`.
    Ask,
    /// Put the guest on the network.
    TakeOver,
    /// Only an operator may decide: log it.
    TellOperator,
    /// This guest is not the primary's equal: log it.
    TellStale,
}

/// The answer of the commands of `[guest.takeover]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverPermission {
    /// This guest may go on.
    Granted,
    /// The other guest could not be fenced.
    NotFenced,
    /// The other host goes on.
    Denied,
}

/// Who is asked before the guest takes over.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakeoverDeciders {
    /// A command makes sure that the other guest no longer answers. After it there is no way back.
    pub fence: bool,
    /// A command says which host goes on.
    pub quorum: bool,
}

/// The primary's daemon, on the control lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerDaemon {
    NeverHeard,
    Heard,
    /// Silent since this time. `was_silent`: for longer than a break may last.
    Lost {
        since: Instant,
        was_silent: bool,
    },
}

/// This host's QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Qemu {
    /// It has its other half, or says nothing about it.
    Paired,
    /// It has lost its other half.
    Alone,
    /// There is no connection to it, or it is ending: nobody knows whether this guest lives.
    Unreachable { was_alone: bool },
}

/// The progress of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is open. Nobody is asked before this time.
    Open { not_before: Option<Instant> },
    /// The commands run.
    Asking,
    /// All steps are done.
    Settled,
}

/// The decision and its grounds.
#[derive(Debug)]
pub struct Takeover {
    deciders: TakeoverDeciders,
    timeout: Duration,
    peer: PeerDaemon,
    qemu: Qemu,
    decision: Decision,
    /// The primary's daemon says that its guest is dead.
    is_guest_gone: bool,
    /// The primary said that this guest can take over.
    covered: bool,
}

impl Takeover {
    /// A break of the control lane may last for `timeout`.
    pub fn new(deciders: TakeoverDeciders, timeout: Duration) -> Self {
        Self {
            deciders,
            timeout,
            peer: PeerDaemon::NeverHeard,
            qemu: Qemu::Paired,
            decision: Decision::Open { not_before: None },
            is_guest_gone: false,
            covered: false,
        }
    }

    /// The primary says whether the pair is protected.
    pub fn on_protection(&mut self, protected: bool) {
        self.covered = protected;
    }

    /// The primary said last that this guest can take over.
    pub fn is_covered(&self) -> bool {
        self.covered
    }

    /// How a guest stands that has not taken over.
    pub fn mode(&self) -> Mode {
        match (self.peer, self.covered, self.qemu) {
            (PeerDaemon::NeverHeard, ..) => Mode::Standby,
            (PeerDaemon::Heard, true, Qemu::Paired) => Mode::Protected,
            (PeerDaemon::Heard, true, Qemu::Alone) => Mode::CoveredNotEqual,
            (PeerDaemon::Lost { .. }, true, Qemu::Paired | Qemu::Alone) => Mode::PeerLost,
            // Nobody knows whether a guest lives whose QEMU is out of reach, so it promises nothing.
            (PeerDaemon::Heard, ..) => Mode::Joining,
            (PeerDaemon::Lost { .. }, ..) => Mode::Unprotected,
        }
    }

    /// The control lane to the primary's daemon is up.
    pub fn on_peer_up(&mut self) {
        (self.peer, self.is_guest_gone) = (PeerDaemon::Heard, false);
        if self.decision != Decision::Asking {
            self.decision = Decision::Open { not_before: None };
        }
    }

    /// The control lane to the primary's daemon is down. `was_silent`: the daemon was silent before, for
    /// longer than a break may last.
    pub fn on_peer_down(&mut self, now: Instant, was_silent: bool) {
        self.peer = match self.peer {
            PeerDaemon::Lost { since, was_silent: before } => {
                PeerDaemon::Lost { since, was_silent: before || was_silent }
            }
            PeerDaemon::NeverHeard | PeerDaemon::Heard => {
                PeerDaemon::Lost { since: now, was_silent }
            }
        };
    }

    /// The primary's daemon says that its guest is dead, and keeps it off the network. So the guest need
    /// not be fenced. Anybody could say so, and therefore this host's QEMU must have noticed as well.
    pub fn on_guest_gone(&mut self) -> Option<TakeoverAction> {
        self.is_guest_gone = true;
        self.if_guest_is_gone()
    }

    /// QEMU has its other half, or has lost it.
    pub fn on_pair(&mut self, is_there: bool) -> Option<TakeoverAction> {
        self.qemu = if is_there { Qemu::Paired } else { Qemu::Alone };
        self.is_guest_gone &= !is_there;
        self.if_guest_is_gone()
    }

    fn if_guest_is_gone(&mut self) -> Option<TakeoverAction> {
        if !self.is_guest_gone || !self.has_lost_pair() || !self.covered {
            return None;
        }
        let before = std::mem::replace(&mut self.decision, Decision::Settled);
        (before != Decision::Settled).then_some(TakeoverAction::TakeOver)
    }

    fn has_lost_pair(&self) -> bool {
        matches!(self.qemu, Qemu::Alone | Qemu::Unreachable { was_alone: true })
    }

    /// QEMU does not answer, so nobody knows whether this guest lives.
    pub fn on_unreachable(&mut self) {
        self.qemu = Qemu::Unreachable { was_alone: self.has_lost_pair() };
    }

    /// QEMU answers again.
    pub fn on_reachable(&mut self) {
        if let Qemu::Unreachable { was_alone } = self.qemu {
            self.qemu = if was_alone { Qemu::Alone } else { Qemu::Paired };
        }
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (PeerDaemon::Lost { since, was_silent }, Decision::Open { not_before }) =
            (self.peer, self.decision)
        else {
            return None;
        };
        let is_certain = was_silent || self.has_lost_pair();
        let due = if is_certain { since } else { since + self.timeout };
        Some(not_before.map_or(due, |at| due.max(at)))
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) -> Option<TakeoverAction> {
        self.poll_timeout().filter(|at| *at <= now)?;
        let action = self.judge();
        let asks = action == TakeoverAction::Ask;
        self.decision = if asks { Decision::Asking } else { Decision::Settled };
        Some(action)
    }

    fn judge(&self) -> TakeoverAction {
        let is_automatic = self.deciders.fence || self.deciders.quorum;
        match (self.covered, self.qemu) {
            (false, _) => TakeoverAction::TellStale,
            (true, Qemu::Unreachable { .. }) => TakeoverAction::TellUnreachable,
            (true, _) if is_automatic => TakeoverAction::Ask,
            (true, _) => TakeoverAction::TellOperator,
        }
    }

    /// The commands have answered. The state may have changed since they were asked.
    pub fn on_permission(
        &mut self,
        now: Instant,
        answer: TakeoverPermission,
    ) -> Option<TakeoverAction> {
        let was_asked = self.decision == Decision::Asking;
        if was_asked {
            self.decision = Decision::Open { not_before: None };
        }
        match answer {
            TakeoverPermission::Granted => {}
            // The other guest goes on without this one, whose state is stale from here on.
            TakeoverPermission::Denied => {
                self.covered = false;
                return None;
            }
            TakeoverPermission::NotFenced => {
                if was_asked {
                    self.decision = Decision::Open { not_before: Some(now + self.timeout) };
                }
                return None;
            }
        }
        // A primary that is back is alive, unless it was fenced.
        if !matches!(self.peer, PeerDaemon::Lost { .. }) && !self.deciders.fence {
            return None;
        }
        self.decision = Decision::Settled;
        Some(match self.judge() {
            TakeoverAction::Ask | TakeoverAction::TellOperator => TakeoverAction::TakeOver,
            other => other,
        })
    }
}

#[cfg(test)]
mod tests;
