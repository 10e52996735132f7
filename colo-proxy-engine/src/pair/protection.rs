//! Whether the guest is protected.
//!
//! Output is held from the start. A secondary that comes within `secondary_timeout` finds nothing
//! lost, and the pair is protected. If the secondary is gone for longer, the guest goes on
//! unprotected: held output leaves under rule (c), and everyone can see it. A secondary that comes
//! back after that is stale: only a checkpoint makes the pair protected again. The exception is a
//! secondary that comes for the first time, late, to a guest that has said nothing yet.
//!
//! [`ProtectionState`] has the states; each `on_…` of [`Protection`] is one row of the table that
//! says where an event leads.

use std::time::{Duration, Instant};

use super::words::{Mode, OnSecondaryLost};

/// Where the pair stands, as the primary knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtectionState {
    /// The secondary is not there; output is held.
    PeerLost(PeerLoss),
    /// Output is compared.
    Protected,
    /// The secondary is there but not equal yet; output is held for a checkpoint.
    Joining,
    /// Output leaves uncompared.
    Unprotected,
    /// The secondary takes over, or has: nothing of this guest leaves until an operator says so.
    TakenOver,
}

/// What ends the wait for the secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLoss {
    /// The timeout, which runs from then; with `on_secondary_lost = "hold"` only the secondary or an
    /// operator.
    Since(Instant),
    /// The answer of the fence.
    Fencing,
}

impl ProtectionState {
    /// What the log says.
    pub fn description(self) -> &'static str {
        match self {
            Self::PeerLost(_) => "the secondary is not there; output is held",
            Self::Protected => "protected",
            Self::Joining => "the secondary is back; output is held until a checkpoint",
            Self::Unprotected => "UNPROTECTED: no secondary; the guest goes on alone",
            Self::TakenOver => "the secondary has taken over; output is held",
        }
    }
}

/// What the owner is to do about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtectionAction {
    /// Release what is held, and let the kernel pass the guest's output.
    Unprotect,
    /// Capture again, and ask for a checkpoint.
    Join,
    /// Make sure that the secondary does not take over, and report whether that was done.
    Fence,
    /// Nothing but to log it.
    Announce,
}

/// What the configuration says about a secondary that is lost.
#[derive(Clone, Copy, Debug)]
pub struct LossPolicy {
    /// How long it may be gone.
    pub timeout: Duration,
    /// What becomes of held output then.
    pub on_lost: OnSecondaryLost,
    /// A secondary that was there is fenced before the guest goes on without it.
    pub fences: bool,
}

/// The state and what it depends on.
#[derive(Debug)]
pub struct Protection {
    state: ProtectionState,
    policy: LossPolicy,
    /// An operator has ended protection; only he or a new daemon begins it again.
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

    /// What an earlier daemon has left: a guest on its own, or a pair.
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
        let is_fencing = self.state == ProtectionState::PeerLost(PeerLoss::Fencing);
        is_fencing || !self.met || self.policy.on_lost == OnSecondaryLost::Hold
    }

    /// The secondary's guest could take over: it knows all that the network knows of the primary's
    /// guest. This also holds while the secondary is not there for a moment, because output is held
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

    /// All lanes of the secondary are up, or they are not.
    pub fn on_peer(&mut self, now: Instant, up: bool) -> Option<ProtectionAction> {
        use ProtectionState::{Joining, PeerLost, Protected, TakenOver, Unprotected};
        if self.ended || self.state == TakenOver {
            return None;
        }
        self.met |= up;
        match (self.state, up) {
            // A secondary that comes in time is exposed only by what an earlier daemon let out.
            (PeerLost(_) | Unprotected, true) if !self.exposed => {
                self.enter(Protected, ProtectionAction::Announce)
            }
            (PeerLost(_) | Unprotected, true) => self.enter(Joining, ProtectionAction::Join),
            (Protected, false) => {
                self.enter(PeerLost(PeerLoss::Since(now)), ProtectionAction::Announce)
            }
            // Its state was stale when it went, and so it is when it returns.
            (Joining, false) => self.enter(Unprotected, ProtectionAction::Unprotect),
            (PeerLost(_) | Unprotected, false) | (Protected | Joining, true) | (TakenOver, _) => {
                None
            }
        }
    }

    /// The secondary has received a checkpoint completely.
    pub fn on_checkpoint_done(&mut self) -> Option<ProtectionAction> {
        if self.state != ProtectionState::Joining {
            return None;
        }
        self.exposed = false;
        self.enter(ProtectionState::Protected, ProtectionAction::Announce)
    }

    /// The operator or the COLO-frame says that the secondary is gone for good.
    pub fn end(&mut self) -> Option<ProtectionAction> {
        (self.ended, self.exposed) = (true, true);
        match self.state {
            ProtectionState::Unprotected => None,
            _ => self.enter(ProtectionState::Unprotected, ProtectionAction::Unprotect),
        }
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
        if self.policy.fences && self.met {
            return self
                .enter(ProtectionState::PeerLost(PeerLoss::Fencing), ProtectionAction::Fence);
        }
        // A secondary that has been there has missed what its guest is given since.
        self.exposed |= self.met;
        self.enter(ProtectionState::Unprotected, ProtectionAction::Unprotect)
    }

    /// The secondary was fenced, or could not be. If it could not be, it may take over any moment:
    /// output stays held, and the fence is tried again after a while.
    pub fn on_fenced(&mut self, now: Instant, is_done: bool) -> Option<ProtectionAction> {
        if self.state != ProtectionState::PeerLost(PeerLoss::Fencing) {
            return None;
        }
        if !is_done {
            self.state = ProtectionState::PeerLost(PeerLoss::Since(now));
            return None;
        }
        // It is gone for good, and so need not be fenced again.
        (self.exposed, self.met) = (true, false);
        self.enter(ProtectionState::Unprotected, ProtectionAction::Unprotect)
    }

    /// The COLO-frame says that no secondary follows the guest. A secondary that was met all the same
    /// may be about to take over.
    pub fn on_alone(&mut self) -> Option<ProtectionAction> {
        self.exposed = true;
        let is_over = matches!(
            self.state,
            ProtectionState::Unprotected
                | ProtectionState::TakenOver
                | ProtectionState::PeerLost(PeerLoss::Fencing)
        );
        if is_over || self.policy.on_lost == OnSecondaryLost::Hold {
            return None;
        }
        if self.policy.fences && self.met && self.state != ProtectionState::Joining {
            return self
                .enter(ProtectionState::PeerLost(PeerLoss::Fencing), ProtectionAction::Fence);
        }
        self.enter(ProtectionState::Unprotected, ProtectionAction::Unprotect)
    }

    /// The guest of a secondary follows this one, or an earlier daemon left one that may: it may take
    /// over.
    pub fn on_pair(&mut self) {
        self.met = true;
    }

    /// The guest is dead, and the secondary takes over: all that is held stays held, and nothing that
    /// comes from here on leaves. `false` if it is too late for that.
    pub fn give_up(&mut self) -> bool {
        matches!(self.state, ProtectionState::PeerLost(_)) && self.be_taken_over()
    }

    /// The secondary has taken over. `false` if that is known.
    pub fn be_taken_over(&mut self) -> bool {
        let before = std::mem::replace(&mut self.state, ProtectionState::TakenOver);
        before != ProtectionState::TakenOver
    }

    /// The secondary takes over, or has.
    pub fn is_taken_over(&self) -> bool {
        self.state == ProtectionState::TakenOver
    }

    /// The operator wants protection again.
    pub fn begin_again(&mut self) {
        self.ended = false;
    }

    /// Output of the guest leaves for which no secondary has vouched.
    pub fn expose(&mut self) {
        self.exposed = true;
    }

    /// A secondary that comes now needs a checkpoint.
    pub fn is_exposed(&self) -> bool {
        self.exposed
    }

    #[expect(clippy::unnecessary_wraps, reason = "every arm of a transition table reads alike")]
    fn enter(
        &mut self,
        state: ProtectionState,
        action: ProtectionAction,
    ) -> Option<ProtectionAction> {
        self.state = state;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "a test makes the clock that its subject is given"
    )]

    use super::ProtectionState::{Joining, PeerLost, Protected, TakenOver, Unprotected};
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    fn protection(now: Instant, on_lost: OnSecondaryLost, fences: bool) -> Protection {
        Protection::new(now, LossPolicy { timeout: TIMEOUT, on_lost, fences })
    }

    fn start() -> (Instant, Protection) {
        let now = Instant::now();
        (now, protection(now, OnSecondaryLost::Release, false))
    }

    fn start_fencing() -> (Instant, Protection) {
        let now = Instant::now();
        (now, protection(now, OnSecondaryLost::Release, true))
    }

    fn since(at: Instant) -> ProtectionState {
        PeerLost(PeerLoss::Since(at))
    }

    #[test]
    fn a_secondary_in_time_needs_no_checkpoint() {
        let (now, mut p) = start();
        assert_eq!(p.on_timeout(now + TIMEOUT.saturating_sub(MOMENT)), None);
        assert_eq!(p.on_peer(now, true), Some(ProtectionAction::Announce));
        assert_eq!((p.state(), p.poll_timeout()), (Protected, None));
    }

    #[test]
    fn a_late_one_needs_none_where_the_guest_has_said_nothing() {
        let (now, mut p) = start();
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Unprotect));
        assert_eq!(p.on_peer(now + TIMEOUT * 9, true), Some(ProtectionAction::Announce));
        assert_eq!(p.state(), Protected);
        // But one that has been there and is gone for as long does.
        p.on_peer(now + TIMEOUT * 9, false);
        p.on_timeout(now + TIMEOUT * 10);
        assert_eq!(p.on_peer(now + TIMEOUT * 10, true), Some(ProtectionAction::Join));
    }

    #[test]
    fn the_twin_a_millisecond_later_is_unprotected_and_needs_one() {
        let (now, mut p) = start();
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Unprotect));
        p.expose();
        assert_eq!(p.on_peer(now + TIMEOUT, true), Some(ProtectionAction::Join));
        assert_eq!(p.on_checkpoint_done(), Some(ProtectionAction::Announce));
        assert_eq!(p.state(), Protected);
    }

    #[test]
    fn what_an_earlier_daemon_let_out_needs_a_checkpoint_too() {
        let (now, mut p) = start();
        p.expose();
        assert_eq!(p.on_peer(now, true), Some(ProtectionAction::Join), "however soon it comes");
        assert_eq!(p.on_checkpoint_done(), Some(ProtectionAction::Announce));
        // Then a short break is one again.
        p.on_peer(now, false);
        assert_eq!(p.on_peer(now, true), Some(ProtectionAction::Announce));
        assert_eq!(p.state(), Protected);
    }

    #[test]
    fn a_short_break_loses_nothing() {
        let (now, mut p) = start();
        p.on_peer(now, true);
        assert_eq!(p.on_peer(now, false), Some(ProtectionAction::Announce));
        assert_eq!(p.state(), since(now));
        p.on_peer(now + TIMEOUT / 2, true);
        assert_eq!((p.state(), p.on_timeout(now + TIMEOUT * 2)), (Protected, None));
    }

    #[test]
    fn the_secondary_can_take_over_until_something_leaves_without_it() {
        let (now, mut p) = start();
        assert!(!p.is_covered(), "nobody was there yet");
        p.on_peer(now, true);
        p.on_peer(now, false);
        assert!(p.is_covered(), "output is held");
        p.on_timeout(now + TIMEOUT);
        assert!(!p.is_covered());
        p.on_peer(now + TIMEOUT, true);
        assert!(!p.is_covered(), "a checkpoint is to come");
        p.on_checkpoint_done();
        assert!(p.is_covered());
    }

    #[test]
    fn a_stale_secondary_that_goes_again_leaves_the_guest_unprotected_at_once() {
        let (now, mut p) = start();
        p.on_timeout(now + TIMEOUT);
        p.expose();
        p.on_peer(now + TIMEOUT, true);
        assert_eq!(p.on_peer(now + TIMEOUT, false), Some(ProtectionAction::Unprotect));
        assert_eq!(p.state(), Unprotected);
    }

    #[test]
    fn a_secondary_that_was_there_is_fenced_before_the_guest_goes_on() {
        let (now, mut p) = start_fencing();
        p.on_peer(now, true);
        p.on_peer(now, false);
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Fence));
        assert_eq!(
            (p.state(), p.poll_timeout()),
            (PeerLost(PeerLoss::Fencing), None),
            "held meanwhile"
        );
        // It could not be done: tried again, and held still.
        assert_eq!(p.on_fenced(now + TIMEOUT, false), None);
        assert_eq!(p.on_timeout(now + TIMEOUT * 2), Some(ProtectionAction::Fence));
        assert_eq!(p.on_fenced(now + TIMEOUT * 2, true), Some(ProtectionAction::Unprotect));
        assert!(p.is_exposed());
    }

    #[test]
    fn one_that_never_was_there_needs_no_fence_nor_does_one_that_is_back() {
        let (now, mut p) = start_fencing();
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Unprotect));
        let (now, mut p) = start_fencing();
        p.on_peer(now, true);
        p.on_peer(now, false);
        p.on_timeout(now + TIMEOUT);
        p.on_peer(now + TIMEOUT, true);
        assert_eq!(p.on_fenced(now + TIMEOUT, true), None, "it was back before");
        assert_eq!(p.state(), Protected);
    }

    #[test]
    fn a_guest_that_is_known_to_be_alone_is_not_held() {
        let (now, mut p) = start();
        assert_eq!(p.on_alone(), Some(ProtectionAction::Unprotect));
        assert_eq!(p.on_alone(), None);
        assert_eq!(
            p.on_peer(now, true),
            Some(ProtectionAction::Join),
            "a pair begins with a checkpoint"
        );
        let mut p = protection(now, OnSecondaryLost::Hold, false);
        assert_eq!((p.on_alone(), p.state()), (None, since(now)));
    }

    #[test]
    fn a_dead_guest_is_given_up_and_nothing_of_it_leaves() {
        let (now, mut p) = start();
        p.on_peer(now, true);
        assert!(!p.give_up(), "its secondary is there");
        p.on_peer(now, false);
        assert!(p.give_up());
        assert_eq!((p.poll_timeout(), p.on_timeout(now + TIMEOUT * 9)), (None, None));
        assert_eq!((p.on_peer(now, true), p.state()), (None, TakenOver));
        assert_eq!(p.on_alone(), None, "nor does the next one's, which somebody starts");
        p.begin_again();
        assert_eq!((p.on_peer(now, true), p.state()), (None, TakenOver));
        // Until an operator says otherwise.
        assert_eq!(p.end(), Some(ProtectionAction::Unprotect));
    }

    #[test]
    fn a_secondary_that_has_taken_over_silences_this_guest_whatever_its_state() {
        let (now, mut p) = start();
        p.on_timeout(now + TIMEOUT);
        assert_eq!(p.state(), Unprotected);
        assert!(p.be_taken_over());
        assert!(!p.be_taken_over(), "told once");
        assert_eq!((p.state(), p.on_alone(), p.poll_timeout()), (TakenOver, None, None));
    }

    #[test]
    fn one_that_may_take_over_is_fenced_also_by_a_daemon_that_has_not_met_it() {
        let (now, mut p) = start_fencing();
        p.on_pair();
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Fence));
        let (now, mut p) = start_fencing();
        p.on_peer(now, true);
        assert_eq!(p.on_alone(), Some(ProtectionAction::Fence));
        assert_eq!((p.state(), p.poll_timeout()), (PeerLost(PeerLoss::Fencing), None));
        assert_eq!(p.on_fenced(now, true), Some(ProtectionAction::Unprotect));
    }

    #[test]
    fn protection_that_was_ended_can_be_begun_again() {
        let (now, mut p) = start();
        p.end();
        assert_eq!(p.on_peer(now, true), None);
        p.begin_again();
        assert_eq!(p.on_peer(now, true), Some(ProtectionAction::Join));
    }

    #[test]
    fn the_policy_hold_waits_for_ever_and_an_operator_ends_it() {
        let now = Instant::now();
        let mut p = protection(now, OnSecondaryLost::Hold, false);
        assert_eq!((p.poll_timeout(), p.on_timeout(now + TIMEOUT * 99)), (None, None));
        assert_eq!(p.end(), Some(ProtectionAction::Unprotect));
        assert_eq!(p.on_peer(now, true), None, "ended is ended");
    }
}
