//! When the secondary's guest takes over by itself. No I/O and no clock.
//!
//! The primary has to be lost: its daemon is not heard of, and for as long as a break of the link
//! may last, unless QEMU has lost its other half as well. The guest has to be one that can take
//! over: the primary said last that the pair was protected. And somebody has to make sure that the
//! other guest does not answer any more, or say that this host is the one to go on (`fence`,
//! `quorum`); where nobody was configured, an operator decides.

use std::time::{Duration, Instant};

use crate::config;
use crate::instance::permission::Refused;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::instance) enum Action {
    /// This guest is out of reach: say so.
    TellUnreachable,
    /// Run the commands of `[guest.takeover]`.
    Ask,
    TakeOver,
    /// Nobody may decide but an operator: say so.
    TellOperator,
    /// This guest is not the primary's equal: say so.
    TellStale,
}

/// The primary is lost, on these grounds.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    peer: Option<Instant>,
    /// It was silent for as long as a break may last.
    was_silent: bool,
    /// This host's QEMU has lost its other half.
    pair: bool,
    /// The primary's daemon says that its guest is dead.
    guest: bool,
}

#[derive(Debug)]
pub(in crate::instance) struct Takeover {
    /// Somebody was configured to decide.
    is_automatic: bool,
    /// Who decides also ends the other guest: then there is no way back.
    fences: bool,
    timeout: Duration,
    lost: Lost,
    /// The primary said that this guest can take over.
    covered: bool,
    /// There is no connection to this host's QEMU, or it is ending: nobody knows whether this guest
    /// lives.
    is_unreachable: bool,
    /// It was done, or said, what there was to do.
    is_settled: bool,
    is_asking: bool,
    not_before: Option<Instant>,
}

impl Takeover {
    pub(in crate::instance) fn new(deciders: &config::Takeover, timeout: Duration) -> Self {
        Self {
            is_automatic: !deciders.is_manual(),
            fences: deciders.fence.is_some(),
            timeout,
            lost: Lost::default(),
            covered: false,
            is_unreachable: false,
            is_settled: false,
            is_asking: false,
            not_before: None,
        }
    }

    /// The primary says whether the pair is protected.
    pub(in crate::instance) fn on_protection(&mut self, protected: bool) {
        self.covered = protected;
    }

    pub(in crate::instance) fn is_covered(&self) -> bool {
        self.covered
    }

    /// The primary's daemon is heard of again.
    pub(in crate::instance) fn on_peer_up(&mut self) {
        self.lost = Lost { pair: self.lost.pair, ..Lost::default() };
        (self.is_settled, self.not_before) = (false, None);
    }

    /// It is not heard of any more.
    pub(in crate::instance) fn on_peer_down(&mut self, now: Instant, was_silent: bool) {
        self.lost.peer.get_or_insert(now);
        self.lost.was_silent |= was_silent;
    }

    /// The primary's daemon says that its guest is dead, and keeps it off the network: nobody need be
    /// fenced. Anybody could say so, but this host's QEMU has to have noticed as well.
    pub(in crate::instance) fn on_guest_gone(&mut self) -> Option<Action> {
        self.lost.guest = true;
        self.if_guest_is_gone()
    }

    /// QEMU has its other half, or has lost it.
    pub(in crate::instance) fn on_pair(&mut self, is_there: bool) -> Option<Action> {
        self.lost.pair = !is_there;
        self.lost.guest &= !is_there;
        self.is_unreachable = false;
        self.if_guest_is_gone()
    }

    fn if_guest_is_gone(&mut self) -> Option<Action> {
        let is_gone = self.lost.guest && self.lost.pair && self.covered;
        (is_gone && !std::mem::replace(&mut self.is_settled, true)).then_some(Action::TakeOver)
    }

    /// What becomes of this guest is not known, until QEMU is heard of again.
    pub(in crate::instance) fn on_unreachable(&mut self) {
        self.is_unreachable = true;
    }

    /// QEMU is heard of again.
    pub(in crate::instance) fn on_reachable(&mut self) {
        self.is_unreachable = false;
    }

    /// When [`Self::on_timeout`] has something to do.
    pub(in crate::instance) fn poll_timeout(&self) -> Option<Instant> {
        let since = self.lost.peer.filter(|_| !self.is_settled && !self.is_asking)?;
        let is_certain = self.lost.was_silent || self.lost.pair;
        let due = if is_certain { since } else { since + self.timeout };
        Some(self.not_before.map_or(due, |at| due.max(at)))
    }

    pub(in crate::instance) fn on_timeout(&mut self, now: Instant) -> Option<Action> {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return None;
        }
        let action = self.judge();
        (self.is_asking, self.is_settled) = (action == Action::Ask, action != Action::Ask);
        Some(action)
    }

    fn judge(&self) -> Action {
        match (self.covered, self.is_unreachable, self.is_automatic) {
            (false, _, _) => Action::TellStale,
            (true, true, _) => Action::TellUnreachable,
            (true, false, true) => Action::Ask,
            (true, false, false) => Action::TellOperator,
        }
    }

    /// The commands have said yes, or why not. What they were asked for may not be so any more.
    pub(in crate::instance) fn on_permission(
        &mut self,
        now: Instant,
        answer: Result<(), &Refused>,
    ) -> Option<Action> {
        self.is_asking = false;
        match answer {
            Ok(()) => {}
            // The other one goes on, without this guest: from here on it is another's past.
            Err(Refused::Quorum(_)) => {
                self.covered = false;
                return None;
            }
            Err(Refused::Fence(_)) => {
                self.not_before = Some(now + self.timeout);
                return None;
            }
        }
        // A primary that is back lives, unless it was fenced.
        if self.lost.peer.is_none() && !self.fences {
            return None;
        }
        self.is_settled = true;
        Some(match self.judge() {
            Action::Ask | Action::TellOperator => Action::TakeOver,
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    fn start(is_automatic: bool, fences: bool) -> (Instant, Takeover) {
        let path = |wanted: bool| wanted.then(|| "/command".into());
        let quorum = path(is_automatic && !fences);
        let deciders = config::Takeover { fence: path(fences), quorum, timeout: TIMEOUT };
        let mut takeover = Takeover::new(&deciders, TIMEOUT);
        takeover.on_protection(true);
        (Instant::now(), takeover)
    }

    #[test]
    fn a_break_that_may_be_short_is_waited_for() {
        let (now, mut t) = start(true, true);
        t.on_peer_down(now, false);
        assert_eq!(t.on_timeout(now + TIMEOUT.saturating_sub(MOMENT)), None);
        assert_eq!(t.on_timeout(now + TIMEOUT), Some(Action::Ask));
        assert_eq!(t.on_permission(now + TIMEOUT, Ok(())), Some(Action::TakeOver));
        assert_eq!(t.poll_timeout(), None, "once");
    }

    #[test]
    fn the_twin_whose_primary_is_back_in_time_does_nothing() {
        let (now, mut t) = start(true, true);
        t.on_peer_down(now, false);
        t.on_peer_up();
        assert_eq!((t.poll_timeout(), t.on_timeout(now + TIMEOUT * 9)), (None, None));
    }

    #[test]
    fn silence_and_a_lost_pair_need_no_further_wait() {
        let (now, mut t) = start(true, false);
        t.on_peer_down(now, true);
        assert_eq!(t.on_timeout(now), Some(Action::Ask));
        let (now, mut t) = start(true, false);
        t.on_pair(false);
        assert_eq!(t.poll_timeout(), None, "its daemon lives, and will tell");
        t.on_peer_down(now, false);
        assert_eq!(t.on_timeout(now), Some(Action::Ask));
    }

    #[test]
    fn without_a_fence_or_a_quorum_the_operator_decides_and_is_told_once() {
        let (now, mut t) = start(false, false);
        t.on_peer_down(now, true);
        assert_eq!(t.on_timeout(now), Some(Action::TellOperator));
        assert_eq!(t.on_timeout(now + TIMEOUT), None);
        // The next time, again.
        t.on_peer_up();
        t.on_peer_down(now, true);
        assert_eq!(t.on_timeout(now), Some(Action::TellOperator));
    }

    #[test]
    fn a_guest_that_is_not_the_primarys_equal_stays_where_it_is() {
        let (now, mut t) = start(true, true);
        t.on_protection(false);
        t.on_peer_down(now, true);
        assert_eq!(t.on_timeout(now), Some(Action::TellStale));
        assert_eq!(t.on_timeout(now + TIMEOUT * 9), None);
    }

    #[test]
    fn a_dead_guest_whose_daemon_lives_needs_no_fence() {
        let (_, mut t) = start(false, false);
        assert_eq!(t.on_guest_gone(), None, "anybody could say so");
        assert_eq!(t.on_pair(false), Some(Action::TakeOver));
        assert_eq!(t.on_guest_gone(), None, "once");
        let (_, mut t) = start(false, false);
        assert_eq!(t.on_pair(false), None);
        assert_eq!(t.on_guest_gone(), Some(Action::TakeOver), "in either order");
        let (_, mut t) = start(true, true);
        t.on_protection(false);
        t.on_pair(false);
        assert_eq!(t.on_guest_gone(), None, "this guest is not its equal");
    }

    #[test]
    fn a_guest_out_of_reach_takes_over_from_nobody() {
        let (now, mut t) = start(true, true);
        t.on_unreachable();
        t.on_peer_down(now, true);
        assert_eq!(t.on_timeout(now), Some(Action::TellUnreachable));
        let (now, mut t) = start(true, true);
        t.on_unreachable();
        t.on_reachable();
        t.on_peer_down(now, true);
        assert_eq!(t.on_timeout(now), Some(Action::Ask));
    }

    #[test]
    fn a_quorum_that_said_no_is_not_asked_again_of_a_guest_that_grows_old() {
        let (now, mut t) = start(true, false);
        t.on_peer_down(now, true);
        assert_eq!(t.on_timeout(now), Some(Action::Ask));
        assert_eq!(t.on_permission(now, Err(&Refused::Quorum("no".into()))), None);
        assert_eq!(t.on_timeout(now + TIMEOUT * 9), Some(Action::TellStale));
    }

    #[test]
    fn a_late_yes_does_not_bring_back_a_guest_that_is_not_equal_any_more() {
        let (now, mut t) = start(true, true);
        t.on_peer_down(now, true);
        t.on_timeout(now);
        t.on_peer_up();
        t.on_protection(false);
        t.on_peer_down(now, false);
        assert_eq!(t.on_permission(now, Ok(())), Some(Action::TellStale));
    }

    #[test]
    fn a_refusal_is_asked_again_later() {
        let (now, mut t) = start(true, true);
        t.on_peer_down(now, true);
        assert_eq!(t.on_timeout(now), Some(Action::Ask));
        assert_eq!(t.on_timeout(now), None, "being asked");
        assert_eq!(t.on_permission(now, Err(&Refused::Fence("no".into()))), None);
        assert_eq!(t.on_timeout(now + TIMEOUT.saturating_sub(MOMENT)), None);
        assert_eq!(t.on_timeout(now + TIMEOUT), Some(Action::Ask));
    }

    #[test]
    fn a_primary_that_is_back_meanwhile_lives_unless_it_was_fenced() {
        for (fences, then) in [(false, None), (true, Some(Action::TakeOver))] {
            let (now, mut t) = start(true, fences);
            t.on_peer_down(now, true);
            t.on_timeout(now);
            t.on_peer_up();
            assert_eq!(t.on_permission(now, Ok(())), then);
        }
    }
}
