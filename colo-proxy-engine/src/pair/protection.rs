//! Whether the guest is protected.
//!
//! Output is held from the start. A secondary that comes within `secondary_timeout` has missed nothing,
//! and the pair is protected. If the secondary is gone for longer, the guest goes on unprotected: held
//! output leaves under rule (c), and everyone can see it. A secondary that comes back after that is
//! stale, and only a checkpoint makes the pair protected again. There is one exception: a secondary
//! that comes late and for the first time, to a guest that has said nothing yet, needs no checkpoint.
//!
//! [`ProtectionState`] has the states. `Protection::transition` is the table that says where an event
//! leads. [`Protection::mode`] gives the state the word that `status` and the log show.

use std::time::{Duration, Instant};

use super::words::{Mode, OnSecondaryLost};

/// Where the pair stands, as the primary knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtectionState {
    /// The secondary is not there, not yet or not any more. Output is held.
    PeerLost(PeerLoss),
    /// Output is compared.
    Protected,
    /// The secondary is there but not equal yet. Output is held for a checkpoint.
    Joining,
    /// Output leaves uncompared.
    Unprotected,
    /// The secondary takes over, or has taken over. Nothing of this guest leaves until an operator
    /// says so.
    TakenOver,
}

/// What ends the time without the secondary, beside the secondary itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLoss {
    /// The timeout, which runs from this time. With `on_secondary_lost = "hold"` only an operator.
    Since(Instant),
    /// The answer of the fence.
    Fencing,
}

/// What the owner is to do after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtectionAction {
    /// Release the held output, and let the kernel pass the guest's output.
    Unprotect,
    /// Capture again, and ask for a checkpoint.
    Join,
    /// Make sure that the secondary does not take over, and report whether that was done.
    Fence,
    /// Log the new state, and nothing else.
    Announce,
}

/// The configuration for a secondary that is lost.
#[derive(Clone, Copy, Debug)]
pub struct LossPolicy {
    /// How long the secondary may be gone.
    pub timeout: Duration,
    /// What happens to held output then.
    pub on_lost: OnSecondaryLost,
    /// A secondary that was there is fenced before the guest goes on without it.
    pub fences: bool,
}

/// An event, as the table knows it.
#[derive(Clone, Copy, Debug)]
enum ProtectionEvent {
    /// All lanes of the secondary are up, and the COLO-frame has a pair.
    PeerUp,
    /// One of them is not.
    PeerDown(Instant),
    /// The secondary has completely received a checkpoint that covers the held output.
    CheckpointDone,
    /// The timeout of [`PeerLoss::Since`] is over.
    TimedOut,
    /// The secondary was fenced.
    Fenced,
    /// The secondary could not be fenced.
    FenceFailed(Instant),
    /// The COLO-frame says that no secondary follows the guest.
    Alone,
    /// The guest is dead.
    GuestDead,
    /// The secondary has taken over.
    TakenOver,
    /// The operator or the COLO-frame says that the secondary is gone for good.
    Ended,
}

/// A row of the table: the new state, and what the owner is to do.
type Transition = (ProtectionState, Option<ProtectionAction>);

/// The state, and the facts that it depends on.
#[derive(Debug)]
pub struct Protection {
    state: ProtectionState,
    policy: LossPolicy,
    /// An operator has ended protection. Only an operator or a new daemon begins it again.
    ended: bool,
    /// A secondary has been there, and may take over.
    met: bool,
    /// The network knows something of the guest that no secondary has vouched for.
    exposed: bool,
}

impl Protection {
    /// The state of a daemon that has just started.
    pub fn new(now: Instant, policy: LossPolicy) -> Self {
        let state = ProtectionState::PeerLost(PeerLoss::Since(now));
        Self { state, policy, ended: false, met: false, exposed: false }
    }

    /// Takes over from an earlier daemon. `was_off`: its guest was on its own. `was_there`: it had a
    /// secondary.
    #[must_use]
    pub fn after(mut self, was_off: bool, was_there: bool) -> Self {
        self.exposed |= was_off;
        self.met |= was_there && !was_off;
        self
    }

    /// Where the pair stands.
    pub fn state(&self) -> ProtectionState {
        self.state
    }

    /// Where the pair stands, in the word that `status` shows.
    pub fn mode(&self) -> Mode {
        match self.state {
            ProtectionState::PeerLost(_) if self.is_held_for_somebody() => Mode::Held,
            ProtectionState::PeerLost(_) if self.exposed => Mode::CoveredNotEqual,
            ProtectionState::PeerLost(_) => Mode::PeerLost,
            ProtectionState::Protected => Mode::Protected,
            ProtectionState::Joining => Mode::Joining,
            ProtectionState::Unprotected => Mode::Unprotected,
            ProtectionState::TakenOver => Mode::TakenOver,
        }
    }

    /// Output is held, and not only for the moment in which a known secondary may come back.
    fn is_held_for_somebody(&self) -> bool {
        self.is_fencing() || !self.met || self.policy.on_lost == OnSecondaryLost::Hold
    }

    fn is_fencing(&self) -> bool {
        self.state == ProtectionState::PeerLost(PeerLoss::Fencing)
    }

    /// The log line of the present state. It begins with the word of [`Self::mode`].
    pub fn description(&self) -> &'static str {
        match self.mode() {
            Mode::Protected => "protected: output is compared, and the secondary can take over",
            Mode::Joining => {
                "joining: the secondary is there, and is not equal yet; output is held until a \
                 checkpoint is done"
            }
            Mode::CoveredNotEqual => {
                "covered-not-equal: the secondary is lost, and has to be made equal when it is back; \
                 output is held"
            }
            Mode::PeerLost => "peer-lost: the secondary is lost; output is held until it is back",
            Mode::TakenOver => "taken-over: the secondary has taken over; output is held",
            Mode::Unprotected => {
                "UNPROTECTED: no secondary can take over; the guest goes on alone until one is back"
            }
            _ if self.is_fencing() => "held: output is held until the secondary is fenced",
            _ => "held: the secondary is not there; output is held until it comes",
        }
    }

    /// The secondary's guest could take over: it knows all that the network knows of the primary's
    /// guest. This also holds while the secondary is away for a moment, because output is held
    /// meanwhile.
    pub fn is_covered(&self) -> bool {
        match self.state {
            ProtectionState::Protected => true,
            ProtectionState::PeerLost(_) | ProtectionState::TakenOver => self.met,
            ProtectionState::Joining | ProtectionState::Unprotected => false,
        }
    }

    /// Output of the secondary counts. A secondary that is not equal says things that look like
    /// answers: its connection on the same ports is another connection.
    pub fn compares(&self) -> bool {
        match self.state {
            ProtectionState::Protected => true,
            ProtectionState::PeerLost(_) => !self.exposed,
            ProtectionState::Joining
            | ProtectionState::Unprotected
            | ProtectionState::TakenOver => false,
        }
    }

    /// The guest goes on alone.
    pub fn is_unprotected(&self) -> bool {
        self.state == ProtectionState::Unprotected
    }

    /// The secondary takes over, or has taken over.
    pub fn is_taken_over(&self) -> bool {
        self.state == ProtectionState::TakenOver
    }

    /// A secondary that comes now needs a checkpoint.
    pub fn is_exposed(&self) -> bool {
        self.exposed
    }

    /// The table: where `event` leads from the present state. `None`: nowhere.
    #[expect(clippy::match_same_arms, reason = "each row of the table has its own cause")]
    fn transition(&self, event: ProtectionEvent) -> Option<Transition> {
        use ProtectionAction::{Announce, Fence, Join, Unprotect};
        use ProtectionEvent as On;
        use ProtectionState::{Joining, PeerLost, Protected, TakenOver, Unprotected};
        let fences = self.policy.fences && self.met;
        let holds = self.policy.on_lost == OnSecondaryLost::Hold;
        Some(match (event, self.state) {
            (On::Ended, Unprotected) => return None,
            (On::Ended, _) => (Unprotected, Some(Unprotect)),
            (On::TakenOver, _) => (TakenOver, None),
            // Until an operator says otherwise.
            (_, TakenOver) => return None,

            (On::PeerUp, PeerLost(_) | Unprotected) if self.exposed => (Joining, Some(Join)),
            // A secondary that comes in time has missed nothing.
            (On::PeerUp, PeerLost(_) | Unprotected) => (Protected, Some(Announce)),
            (On::PeerDown(now), Protected) => (PeerLost(PeerLoss::Since(now)), Some(Announce)),
            // It was stale, and is stale when it is back.
            (On::PeerDown(_), Joining) => (Unprotected, Some(Unprotect)),

            (On::CheckpointDone, Joining) => (Protected, Some(Announce)),

            (On::TimedOut, PeerLost(PeerLoss::Since(_))) if fences => {
                (PeerLost(PeerLoss::Fencing), Some(Fence))
            }
            (On::TimedOut, PeerLost(PeerLoss::Since(_))) => (Unprotected, Some(Unprotect)),
            (On::Fenced, PeerLost(PeerLoss::Fencing)) => (Unprotected, Some(Unprotect)),
            // It may take over any moment, so output stays held. The fence is tried again later.
            (On::FenceFailed(now), PeerLost(PeerLoss::Fencing)) => {
                (PeerLost(PeerLoss::Since(now)), None)
            }

            (On::Alone, Unprotected | PeerLost(PeerLoss::Fencing)) => return None,
            (On::Alone, _) if holds => return None,
            (On::Alone, Protected | PeerLost(_)) if fences => {
                (PeerLost(PeerLoss::Fencing), Some(Fence))
            }
            (On::Alone, _) => (Unprotected, Some(Unprotect)),

            (On::GuestDead, PeerLost(_)) => (TakenOver, None),

            (On::PeerUp, Protected | Joining)
            | (On::PeerDown(_), PeerLost(_) | Unprotected)
            | (On::CheckpointDone, PeerLost(_) | Protected | Unprotected)
            | (On::TimedOut | On::GuestDead, Protected | Joining | Unprotected)
            | (On::TimedOut, PeerLost(PeerLoss::Fencing))
            | (
                On::Fenced | On::FenceFailed(_),
                PeerLost(PeerLoss::Since(_)) | Protected | Joining | Unprotected,
            ) => return None,
        })
    }

    /// Goes where the table leads. `None`: nowhere.
    fn step(&mut self, event: ProtectionEvent) -> Option<Transition> {
        let transition = self.transition(event)?;
        self.state = transition.0;
        Some(transition)
    }

    /// All lanes of the secondary are up, or one of them is not.
    pub fn on_peer(&mut self, now: Instant, up: bool) -> Option<ProtectionAction> {
        if self.ended || self.is_taken_over() {
            return None;
        }
        self.met |= up;
        self.step(if up { ProtectionEvent::PeerUp } else { ProtectionEvent::PeerDown(now) })?.1
    }

    /// The secondary has completely received a checkpoint that covers the held output.
    pub fn on_checkpoint_done(&mut self) -> Option<ProtectionAction> {
        let (_, action) = self.step(ProtectionEvent::CheckpointDone)?;
        self.exposed = false;
        action
    }

    /// The operator or the COLO-frame says that the secondary is gone for good.
    pub fn end(&mut self) -> Option<ProtectionAction> {
        (self.ended, self.exposed) = (true, true);
        self.step(ProtectionEvent::Ended)?.1
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.policy.on_lost, self.state) {
            (OnSecondaryLost::Release, ProtectionState::PeerLost(PeerLoss::Since(since))) => {
                Some(since + self.policy.timeout)
            }
            _ => None,
        }
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) -> Option<ProtectionAction> {
        self.poll_timeout().filter(|at| *at <= now)?;
        let (_, action) = self.step(ProtectionEvent::TimedOut)?;
        // A secondary that has been there misses what its guest is given from here on.
        self.exposed |= self.met && self.is_unprotected();
        action
    }

    /// The secondary was fenced, or could not be fenced.
    pub fn on_fenced(&mut self, now: Instant, is_done: bool) -> Option<ProtectionAction> {
        if !is_done {
            return self.step(ProtectionEvent::FenceFailed(now))?.1;
        }
        let (_, action) = self.step(ProtectionEvent::Fenced)?;
        // It is gone for good, and so need not be fenced again.
        (self.exposed, self.met) = (true, false);
        action
    }

    /// The COLO-frame says that no secondary follows the guest. A secondary that was met all the same
    /// may be about to take over.
    pub fn on_alone(&mut self) -> Option<ProtectionAction> {
        self.exposed = true;
        self.step(ProtectionEvent::Alone)?.1
    }

    /// A secondary may take over: its guest follows this one, or an earlier daemon left one that may.
    pub fn on_pair(&mut self) {
        self.met = true;
    }

    /// The guest is dead, and the secondary takes over. Held output stays held, and no later output
    /// leaves. `false` if it is too late for that.
    pub fn give_up(&mut self) -> bool {
        self.step(ProtectionEvent::GuestDead).is_some()
    }

    /// The secondary has taken over. `false` if that was known.
    pub fn be_taken_over(&mut self) -> bool {
        let was_known = self.is_taken_over();
        self.step(ProtectionEvent::TakenOver);
        !was_known
    }

    /// The operator wants protection again.
    pub fn begin_again(&mut self) {
        self.ended = false;
    }

    /// Output of the guest leaves for which no secondary has vouched.
    pub fn expose(&mut self) {
        self.exposed = true;
    }
}

#[cfg(test)]
mod tests;
