//! Is the guest protected? A small state machine without I/O or a clock.
//!
//! Output is held from the start. A secondary that comes within `secondary_timeout` finds nothing
//! lost, and the pair is protected. One that is gone for longer leaves the guest unprotected: held
//! output leaves under rule (c), and everyone can see it. When it comes back, its state is stale,
//! and only a checkpoint makes the pair protected again; but for one that comes for the first time,
//! late, and finds that the guest has said nothing yet.

use std::time::{Duration, Instant};

use crate::config::OnSecondaryLost;

/// Where the pair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// The secondary is not there, for less than the timeout; output is held.
    Waiting,
    /// Output is compared.
    Protected,
    /// The secondary is back but not equal yet: output is held for a checkpoint.
    Resync,
    /// Output leaves uncompared.
    Unprotected,
}

impl State {
    /// What the log says.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Waiting => "the secondary is not there; output is held",
            Self::Protected => "protected",
            Self::Resync => "the secondary is back; output is held until a checkpoint",
            Self::Unprotected => "UNPROTECTED: no secondary; the guest goes on alone",
        }
    }
}

/// What the owner is to do about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Release what is held, and let the kernel pass the guest's output.
    Unprotect,
    /// Capture again, and ask for a checkpoint.
    Resync,
    /// Make sure that the secondary does not take over, and say whether that was done.
    Fence,
    /// Nothing but to say so.
    Announce,
}

/// The state and what it depends on.
#[derive(Debug)]
pub(crate) struct Protection {
    state: State,
    /// Since when the secondary has been gone.
    lost_since: Option<Instant>,
    timeout: Duration,
    policy: OnSecondaryLost,
    /// An operator has ended protection; only a new daemon begins it again.
    ended: bool,
    /// A secondary has been there.
    met: bool,
    /// The network knows something of the guest that no secondary has vouched for.
    exposed: bool,
    /// A secondary that was there is fenced before the guest goes on without it.
    fences: bool,
    /// That is being done.
    is_fencing: bool,
    /// The secondary takes over, or has: nothing of this guest leaves until an operator says so.
    given_up: bool,
}

impl Protection {
    pub(crate) fn new(now: Instant, timeout: Duration, policy: OnSecondaryLost) -> Self {
        Self {
            state: State::Waiting,
            lost_since: Some(now),
            timeout,
            policy,
            ended: false,
            met: false,
            exposed: false,
            fences: false,
            is_fencing: false,
            given_up: false,
        }
    }

    /// One whose secondary may take over by itself, and is fenced first.
    pub(crate) fn fencing(mut self, fences: bool) -> Self {
        self.fences = fences;
        self
    }

    /// What an earlier daemon has left: the guest on its own, or a pair.
    pub(crate) fn after(mut self, was_off: bool, was_there: bool) -> Self {
        self.exposed |= was_off;
        self.met |= was_there && !was_off;
        self
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// The secondary's guest could take over: what the network knows of the primary's, it knows too. A
    /// secondary that is not there for a moment can, for output is held meanwhile.
    pub(crate) fn is_covered(&self) -> bool {
        match self.state {
            State::Protected => true,
            State::Waiting => self.met,
            State::Resync | State::Unprotected => false,
        }
    }

    /// What the secondary says counts. One that is not equal says things that look like answers: its
    /// connection on the same ports is another one.
    pub(crate) fn compares(&self) -> bool {
        match self.state {
            State::Protected => true,
            State::Waiting => !self.exposed,
            State::Resync | State::Unprotected => false,
        }
    }

    /// The secondary's lanes are all up, or they are not.
    pub(crate) fn on_peer(&mut self, now: Instant, up: bool) -> Option<Action> {
        if self.ended || self.given_up {
            return None;
        }
        self.met |= up;
        self.is_fencing &= !up;
        match (self.state, up) {
            (State::Waiting | State::Unprotected, true) if !self.exposed => {
                self.enter(State::Protected, None, Action::Announce)
            }
            // One that waits is exposed only by what an earlier daemon let out.
            (State::Waiting | State::Unprotected, true) => {
                self.enter(State::Resync, None, Action::Resync)
            }
            (State::Protected, false) => self.enter(State::Waiting, Some(now), Action::Announce),
            // Its state was stale when it went, and so it is when it returns.
            (State::Resync, false) => self.enter(State::Unprotected, None, Action::Unprotect),
            _ => None,
        }
    }

    /// A checkpoint has been received completely by the secondary.
    pub(crate) fn on_checkpoint_done(&mut self) -> Option<Action> {
        match self.state {
            State::Resync => {
                self.exposed = false;
                self.enter(State::Protected, None, Action::Announce)
            }
            _ => None,
        }
    }

    /// The operator or the COLO-frame says that the secondary is gone for good.
    pub(crate) fn end(&mut self) -> Option<Action> {
        self.ended = true;
        self.exposed = true;
        self.given_up = false;
        match self.state {
            State::Unprotected => None,
            _ => self.enter(State::Unprotected, None, Action::Unprotect),
        }
    }

    /// When [`Self::on_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.policy {
            OnSecondaryLost::Release if self.is_fencing => None,
            OnSecondaryLost::Release => self.lost_since.map(|since| since + self.timeout),
            OnSecondaryLost::Hold => None,
        }
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) -> Option<Action> {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            if self.fences && self.met {
                self.is_fencing = true;
                return Some(Action::Fence);
            }
            // One that has been there has missed what its guest is given since.
            self.exposed |= self.met;
            return self.enter(State::Unprotected, None, Action::Unprotect);
        }
        None
    }

    /// The secondary was fenced, or could not be: then it may take over any moment, so output stays
    /// held, and it is tried again after a while.
    pub(crate) fn on_fenced(&mut self, now: Instant, is_done: bool) -> Option<Action> {
        if !std::mem::take(&mut self.is_fencing) || self.state != State::Waiting {
            return None;
        }
        if !is_done {
            self.lost_since = Some(now);
            return None;
        }
        // It is gone for good, and so need not be fenced again.
        (self.exposed, self.met) = (true, false);
        self.enter(State::Unprotected, None, Action::Unprotect)
    }

    /// There is no secondary, and it is known that none has been following the guest. One that was
    /// met all the same may be about to take over.
    pub(crate) fn on_alone(&mut self) -> Option<Action> {
        let is_over = self.state == State::Unprotected || self.given_up;
        self.exposed = true;
        if is_over || self.policy == OnSecondaryLost::Hold || self.is_fencing {
            return None;
        }
        if self.fences && self.met && self.state != State::Resync {
            self.state = State::Waiting;
            (self.lost_since, self.is_fencing) = (None, true);
            return Some(Action::Fence);
        }
        self.enter(State::Unprotected, None, Action::Unprotect)
    }

    /// A secondary's guest follows this one, or an earlier daemon left one that may: it may take over.
    pub(crate) fn on_pair(&mut self) {
        self.met = true;
    }

    /// The guest is dead, and the secondary takes over: whatever is held stays held, and nothing that
    /// comes from here on leaves. `false` where it is too late for that.
    pub(crate) fn give_up(&mut self) -> bool {
        self.state == State::Waiting && self.be_taken_over()
    }

    /// The secondary has taken over. `false` where that is known.
    pub(crate) fn be_taken_over(&mut self) -> bool {
        (self.state, self.lost_since, self.is_fencing) = (State::Waiting, None, false);
        !std::mem::replace(&mut self.given_up, true)
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// The operator wants protection again.
    pub(crate) fn begin_again(&mut self) {
        self.ended = false;
    }

    /// Output of the guest leaves that no secondary has vouched for.
    pub(crate) fn expose(&mut self) {
        self.exposed = true;
    }

    /// A secondary that comes now needs a checkpoint.
    pub(crate) fn is_exposed(&self) -> bool {
        self.exposed
    }

    #[expect(clippy::unnecessary_wraps, reason = "every arm of a transition table reads alike")]
    fn enter(&mut self, state: State, lost: Option<Instant>, action: Action) -> Option<Action> {
        self.state = state;
        self.lost_since = lost;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    fn start() -> (Instant, Protection) {
        let now = Instant::now();
        (now, Protection::new(now, TIMEOUT, OnSecondaryLost::Release))
    }

    #[test]
    fn a_secondary_in_time_needs_no_checkpoint() {
        let (now, mut p) = start();
        assert_eq!(p.on_timeout(now + TIMEOUT.saturating_sub(MOMENT)), None);
        assert_eq!(p.on_peer(now, true), Some(Action::Announce));
        assert_eq!((p.state(), p.poll_timeout()), (State::Protected, None));
    }

    #[test]
    fn a_late_one_needs_none_where_the_guest_has_said_nothing() {
        let (now, mut p) = start();
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(Action::Unprotect));
        assert_eq!(p.on_peer(now + TIMEOUT * 9, true), Some(Action::Announce));
        assert_eq!(p.state(), State::Protected);
        // But one that has been there and is gone for as long does.
        p.on_peer(now + TIMEOUT * 9, false);
        p.on_timeout(now + TIMEOUT * 10);
        assert_eq!(p.on_peer(now + TIMEOUT * 10, true), Some(Action::Resync));
    }

    #[test]
    fn the_twin_a_millisecond_later_is_unprotected_and_needs_one() {
        let (now, mut p) = start();
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(Action::Unprotect));
        p.expose();
        assert_eq!(p.on_peer(now + TIMEOUT, true), Some(Action::Resync));
        assert_eq!(p.on_checkpoint_done(), Some(Action::Announce));
        assert_eq!(p.state(), State::Protected);
    }

    #[test]
    fn what_an_earlier_daemon_let_out_needs_a_checkpoint_too() {
        let (now, mut p) = start();
        p.expose();
        assert_eq!(p.on_peer(now, true), Some(Action::Resync), "however soon it comes");
        assert_eq!(p.on_checkpoint_done(), Some(Action::Announce));
        // Then a short break is one again.
        p.on_peer(now, false);
        assert_eq!(p.on_peer(now, true), Some(Action::Announce));
        assert_eq!(p.state(), State::Protected);
    }

    #[test]
    fn a_short_break_loses_nothing() {
        let (now, mut p) = start();
        p.on_peer(now, true);
        assert_eq!(p.on_peer(now, false), Some(Action::Announce));
        assert_eq!(p.state(), State::Waiting);
        p.on_peer(now + TIMEOUT / 2, true);
        assert_eq!((p.state(), p.on_timeout(now + TIMEOUT * 2)), (State::Protected, None));
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
        assert_eq!(p.on_peer(now + TIMEOUT, false), Some(Action::Unprotect));
        assert_eq!(p.state(), State::Unprotected);
    }

    #[test]
    fn a_secondary_that_was_there_is_fenced_before_the_guest_goes_on() {
        let (now, p) = start();
        let mut p = p.fencing(true);
        p.on_peer(now, true);
        p.on_peer(now, false);
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(Action::Fence));
        assert_eq!((p.state(), p.poll_timeout()), (State::Waiting, None), "held meanwhile");
        // It could not be done: tried again, and held still.
        assert_eq!(p.on_fenced(now + TIMEOUT, false), None);
        assert_eq!(p.on_timeout(now + TIMEOUT * 2), Some(Action::Fence));
        assert_eq!(p.on_fenced(now + TIMEOUT * 2, true), Some(Action::Unprotect));
        assert!(p.is_exposed());
    }

    #[test]
    fn one_that_never_was_there_needs_no_fence_nor_does_one_that_is_back() {
        let (now, p) = start();
        assert_eq!(p.fencing(true).on_timeout(now + TIMEOUT), Some(Action::Unprotect));
        let (now, p) = start();
        let mut p = p.fencing(true);
        p.on_peer(now, true);
        p.on_peer(now, false);
        p.on_timeout(now + TIMEOUT);
        p.on_peer(now + TIMEOUT, true);
        assert_eq!(p.on_fenced(now + TIMEOUT, true), None, "it was back before");
        assert_eq!(p.state(), State::Protected);
    }

    #[test]
    fn a_guest_that_is_known_to_be_alone_is_not_held() {
        let (now, mut p) = start();
        assert_eq!(p.on_alone(), Some(Action::Unprotect));
        assert_eq!(p.on_alone(), None);
        assert_eq!(p.on_peer(now, true), Some(Action::Resync), "a pair begins with a checkpoint");
        let mut p = Protection::new(now, TIMEOUT, OnSecondaryLost::Hold);
        assert_eq!((p.on_alone(), p.state()), (None, State::Waiting));
    }

    #[test]
    fn a_dead_guest_is_given_up_and_nothing_of_it_leaves() {
        let (now, mut p) = start();
        p.on_peer(now, true);
        assert!(!p.give_up(), "its secondary is there");
        p.on_peer(now, false);
        assert!(p.give_up());
        assert_eq!((p.poll_timeout(), p.on_timeout(now + TIMEOUT * 9)), (None, None));
        assert_eq!((p.on_peer(now, true), p.state()), (None, State::Waiting));
        assert_eq!(p.on_alone(), None, "nor does the next one's, which somebody starts");
        p.begin_again();
        assert_eq!((p.on_peer(now, true), p.state()), (None, State::Waiting));
        // Until an operator says otherwise.
        assert_eq!(p.end(), Some(Action::Unprotect));
    }

    #[test]
    fn a_secondary_that_has_taken_over_silences_this_guest_whatever_its_state() {
        let (now, mut p) = start();
        p.on_timeout(now + TIMEOUT);
        assert_eq!(p.state(), State::Unprotected);
        assert!(p.be_taken_over());
        assert!(!p.be_taken_over(), "told once");
        assert_eq!((p.state(), p.on_alone(), p.poll_timeout()), (State::Waiting, None, None));
    }

    #[test]
    fn one_that_may_take_over_is_fenced_also_by_a_daemon_that_has_not_met_it() {
        let (now, p) = start();
        let mut p = p.fencing(true);
        p.on_pair();
        assert_eq!(p.on_timeout(now + TIMEOUT), Some(Action::Fence));
        let (now, p) = start();
        let mut p = p.fencing(true);
        p.on_peer(now, true);
        assert_eq!(p.on_alone(), Some(Action::Fence));
        assert_eq!((p.state(), p.poll_timeout()), (State::Waiting, None));
        assert_eq!(p.on_fenced(now, true), Some(Action::Unprotect));
    }

    #[test]
    fn protection_that_was_ended_can_be_begun_again() {
        let (now, mut p) = start();
        p.end();
        assert_eq!(p.on_peer(now, true), None);
        p.begin_again();
        assert_eq!(p.on_peer(now, true), Some(Action::Resync));
    }

    #[test]
    fn the_policy_hold_waits_for_ever_and_an_operator_ends_it() {
        let now = Instant::now();
        let mut p = Protection::new(now, TIMEOUT, OnSecondaryLost::Hold);
        assert_eq!((p.poll_timeout(), p.on_timeout(now + TIMEOUT * 99)), (None, None));
        assert_eq!(p.end(), Some(Action::Unprotect));
        assert_eq!(p.on_peer(now, true), None, "ended is ended");
    }
}
