//! Whether the guest is protected, and whether this host serves: the primary's half of that decision.
//!
//! Output is held from the start. A secondary that comes within `secondary_timeout` has missed nothing,
//! and the pair is protected. If the secondary is gone for longer, the guest goes on unprotected: held
//! output leaves under rule (c), and everyone can see it. A secondary that comes back after that is
//! stale, and only a checkpoint makes the pair protected again. There is one exception: a secondary
//! that comes late and for the first time, to a guest that has said nothing yet, needs no checkpoint.
//!
//! A secondary that may take over has to be left behind in good order before the guest goes on without
//! it. The steps are [`PeerLoss`]: it confirms that it will not take over, or it is fenced, and then the
//! record on the disk says that this host serves alone.
//!
//! The decision reads no clock. [`Protection::runs`] says which timers run, and the owner reports their
//! end. [`ProtectionState`] has the states. [`Protection::mode`] gives the state the word that `status`
//! and the log show.

use std::collections::VecDeque;

use super::service_message::ServiceMessage;
use super::service_record::{RecordKeeper, Server, ServiceRecord};
use super::words::OnSecondaryLost;

mod conversation;
mod report;
#[cfg(test)]
mod tests;

use self::conversation::Conversation;

/// Where the pair stands, as the primary knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtectionState {
    /// The secondary is not there, not yet or not any more. Output is held.
    PeerLost(PeerLoss),
    /// Output is compared.
    Protected,
    /// The secondary is there but not equal yet. Output is held for a checkpoint.
    Joining,
    /// Output leaves uncompared.
    Unprotected,
    /// The guest is dead, and the secondary is to take over. No later output leaves.
    GivenUp,
    /// The other host serves. Nothing of this guest leaves until an operator says so.
    TakenOver,
}

/// The steps from a secondary that is gone to a guest that goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerLoss {
    /// It may come back until a timer ends. If nothing may end the wait but an operator or the
    /// secondary, there is no timer.
    Waiting,
    /// Its daemon was asked to confirm that it will not take over.
    Disclaiming,
    /// `quorum` and `fence` are asked.
    Fencing,
    /// It takes over no more. The record has to say so before output leaves.
    Recording,
}

/// The next step of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtectionAction {
    /// Release the held output, and let the kernel pass the guest's output.
    Unprotect,
    /// Capture again, and ask for a checkpoint.
    Join,
    /// Ask `quorum` and `fence`, and report the answer.
    Fence,
    /// The secondary is back. Withdraw the question, if the fence has not begun.
    WithdrawFence,
    /// The other host serves: no output leaves from here on.
    Silence,
    /// Log the new state, and nothing else.
    Announce,
}

/// A timer that the owner keeps. It starts when [`Protection::runs`] becomes true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtectionTimer {
    /// How long a secondary may be gone: `secondary_timeout`.
    PeerLost,
    /// How long its daemon may take to confirm that it will not take over.
    Disclaim,
    /// The pause before a record is written again.
    Record,
}

impl ProtectionTimer {
    /// All timers.
    pub const ALL: [Self; 3] = [Self::PeerLost, Self::Disclaim, Self::Record];
}

/// Why an operator's order is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtectionRefusal {
    /// The other host serves, or served last.
    TakenOver,
    /// The guest is dead, and the secondary is to take over.
    GuestDead,
    /// The guest has started since the pair was protected, and the secondary's may know more.
    NewGuest,
}

/// The configuration for a secondary that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LossPolicy {
    /// What happens to held output when the secondary was gone for too long.
    pub on_lost: OnSecondaryLost,
    /// `quorum` or `fence` is configured: one that may take over is fenced first.
    pub fences: bool,
    /// The secondary may be told that it can take over. It never can if this guest's output passes when
    /// the daemon dies, or if the two do not agree about who serves.
    pub covers: bool,
}

/// What this daemon knows of the secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Acquaintance {
    /// Only what the record says.
    Remembered,
    /// It was there.
    Met,
    /// It has begun its last conversation with the word that its guest could not take over.
    Stale,
}

/// The operator's word about a secondary that is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum EndOrder {
    None,
    /// Protection has ended. Only an operator or a new daemon begins it again.
    End,
    /// The same, and nobody else is asked.
    Forced,
}

/// The guest that an earlier daemon of this host has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeftGuest {
    /// Its programs are still there, so the guest has run on.
    Lives {
        /// The programs let its output pass.
        was_off: bool,
    },
    /// There is none: the guest of this TAP has started since.
    None,
}

/// The state, and the facts that it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    state: ProtectionState,
    policy: LossPolicy,
    keeper: RecordKeeper,
    conversation: Conversation,
    /// The standing that the secondary was told in this conversation.
    told_standing: Option<ServiceMessage>,
    /// All lanes of the secondary are up, and the COLO-frame has a pair.
    peer_up: bool,
    order: EndOrder,
    /// The network knows something of the guest that no secondary has vouched for.
    exposed: bool,
    secondary: Acquaintance,
    /// The record of the secondary's host, as its daemon said last.
    theirs: Option<ServiceRecord>,
    /// The guest has started since the record was written: it knows nothing of what that says.
    is_new_guest: bool,
    actions: VecDeque<ProtectionAction>,
}

impl Protection {
    /// The state of a daemon that has just started, with the record on its disk.
    pub fn new(policy: LossPolicy, keeper: RecordKeeper, left: LeftGuest) -> Self {
        let server = keeper.server();
        let was_off = left == LeftGuest::Lives { was_off: true };
        let is_new_guest =
            left == LeftGuest::None || keeper.record().is_some_and(|record| record.guest_is_new);
        let state = match server {
            Some(Server::OtherHost) => ProtectionState::TakenOver,
            _ => ProtectionState::PeerLost(PeerLoss::Waiting),
        };
        Self {
            state,
            policy,
            keeper,
            conversation: Conversation::None,
            told_standing: None,
            peer_up: false,
            order: EndOrder::None,
            exposed: was_off || matches!(server, Some(Server::ThisHost | Server::OtherHost)),
            secondary: Acquaintance::Remembered,
            theirs: None,
            is_new_guest,
            actions: VecDeque::new(),
        }
    }

    /// Where the pair stands.
    pub fn state(&self) -> ProtectionState {
        self.state
    }

    /// The record, for the owner to write.
    pub fn keeper(&self) -> &RecordKeeper {
        &self.keeper
    }

    /// The secondary may take over, as far as this host knows.
    pub fn may_be_taken_over(&self) -> bool {
        self.keeper.server() == Some(Server::Either)
    }

    /// The secondary's guest could take over: it knows all that the network knows of the primary's
    /// guest. This also holds while the secondary is away for a moment, because output is held
    /// meanwhile. It is told so only after the record says it.
    pub fn is_covered(&self) -> bool {
        let is_recorded = self.may_be_taken_over() && self.keeper.is_kept();
        match self.state {
            ProtectionState::PeerLost(PeerLoss::Waiting) | ProtectionState::Joining => {
                is_recorded && self.secondary != Acquaintance::Stale
            }
            ProtectionState::Protected => is_recorded,
            ProtectionState::GivenUp => self.keeper.is_kept(),
            ProtectionState::PeerLost(_)
            | ProtectionState::Unprotected
            | ProtectionState::TakenOver => false,
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
            | ProtectionState::GivenUp
            | ProtectionState::TakenOver => false,
        }
    }

    /// The other host may answer the network at any moment, so not even output leaves that nobody compares.
    pub fn withholds_all(&self) -> bool {
        self.is_lost() && self.may_be_taken_over()
    }

    /// The guest goes on alone.
    pub fn is_unprotected(&self) -> bool {
        self.state == ProtectionState::Unprotected
    }

    /// The secondary is to take over, or has taken over.
    pub fn is_taken_over(&self) -> bool {
        matches!(self.state, ProtectionState::GivenUp | ProtectionState::TakenOver)
    }

    /// The guest is dead, and the secondary is to take over.
    pub fn is_given_up(&self) -> bool {
        self.state == ProtectionState::GivenUp
    }

    /// A secondary that comes now needs a checkpoint.
    pub fn is_exposed(&self) -> bool {
        self.exposed
    }

    /// The next step of the owner, who asks after every event.
    pub fn next_action(&mut self) -> Option<ProtectionAction> {
        self.actions.pop_front()
    }

    /// The record to write now, once. The owner answers with [`Self::on_recorded`].
    pub fn next_record(&mut self) -> Option<ServiceRecord> {
        self.keeper.next_write()
    }

    /// `timer` runs, or is to start.
    pub fn runs(&self, timer: ProtectionTimer) -> bool {
        match timer {
            ProtectionTimer::PeerLost => {
                self.state == ProtectionState::PeerLost(PeerLoss::Waiting)
                    && self.policy.on_lost == OnSecondaryLost::Release
                    && self.can_leave_secondary()
            }
            ProtectionTimer::Disclaim => {
                self.state == ProtectionState::PeerLost(PeerLoss::Disclaiming)
            }
            ProtectionTimer::Record => self.keeper.has_failed(),
        }
    }

    /// There is a way on without the secondary. A daemon that knows only from the disk that the
    /// secondary may take over has none, unless it can ask somebody.
    fn can_leave_secondary(&self) -> bool {
        !self.may_be_taken_over()
            || self.secondary != Acquaintance::Remembered
            || self.policy.fences
            || self.is_heard()
    }

    fn is_lost(&self) -> bool {
        matches!(self.state, ProtectionState::PeerLost(_))
    }

    /// `timer` has ended.
    pub fn on_timer(&mut self, timer: ProtectionTimer) {
        if !self.runs(timer) {
            return;
        }
        match timer {
            ProtectionTimer::PeerLost => self.leave_secondary(),
            ProtectionTimer::Disclaim => self.leave_silent_secondary(),
            ProtectionTimer::Record => self.keeper.retry(),
        }
        self.settle();
    }

    /// The guest is to go on without the secondary.
    fn leave_secondary(&mut self) {
        if !self.may_be_taken_over() {
            // A secondary that has been there misses what its guest is given from here on.
            self.exposed |= self.secondary != Acquaintance::Remembered;
            self.go_alone();
        } else if self.is_heard() {
            self.enter(PeerLoss::Disclaiming, None);
        } else {
            self.leave_silent_secondary();
        }
    }

    /// The secondary does not answer.
    fn leave_silent_secondary(&mut self) {
        match (self.secondary, self.order) {
            // Its disk says that it takes over no more.
            (Acquaintance::Stale, _) | (_, EndOrder::Forced) => self.record_service(),
            _ if self.policy.fences => self.enter(PeerLoss::Fencing, Some(ProtectionAction::Fence)),
            (Acquaintance::Met, _) | (_, EndOrder::End) => self.record_service(),
            (Acquaintance::Remembered, EndOrder::None) => self.enter(PeerLoss::Waiting, None),
        }
    }

    fn enter(&mut self, loss: PeerLoss, action: Option<ProtectionAction>) {
        self.state = ProtectionState::PeerLost(loss);
        self.actions.extend(action);
    }

    /// The secondary takes over no more.
    fn record_service(&mut self) {
        self.exposed = true;
        self.enter(PeerLoss::Recording, None);
        self.keeper.want(self.generation().saturating_add(1), Server::ThisHost);
    }

    /// The highest generation that is known.
    fn generation(&self) -> u64 {
        self.keeper.generation().max(self.theirs.map_or(0, |record| record.generation))
    }

    fn go_alone(&mut self) {
        self.is_new_guest = false;
        self.state = ProtectionState::Unprotected;
        self.actions.push_back(ProtectionAction::Unprotect);
    }

    /// The steps that follow from the state, after every event.
    fn settle(&mut self) {
        if let Conversation::Heard { told: Some(told), is_confirmed: true, .. } = self.conversation
            && !told.protected
            && self.state == ProtectionState::PeerLost(PeerLoss::Disclaiming)
        {
            self.record_service();
        }
        if self.state == ProtectionState::PeerLost(PeerLoss::Recording) && self.keeper.is_kept() {
            self.go_alone();
        }
        let waits = matches!(
            self.state,
            ProtectionState::PeerLost(PeerLoss::Waiting | PeerLoss::Disclaiming)
                | ProtectionState::Unprotected
        );
        if waits && self.is_peer_there() && self.order == EndOrder::None && self.can_join() {
            self.meet();
        }
    }

    /// A daemon that starts while a secondary joins must not take it for an equal one, so a guest that
    /// has been alone has a record of it before.
    fn can_join(&self) -> bool {
        !self.exposed || self.may_be_taken_over() || self.keeper.is_kept()
    }

    /// The secondary is there.
    fn meet(&mut self) {
        if self.secondary == Acquaintance::Remembered {
            self.secondary = Acquaintance::Met;
        }
        if self.exposed {
            self.state = ProtectionState::Joining;
            self.actions.push_back(ProtectionAction::Join);
        } else {
            // A secondary that comes in time has missed nothing.
            self.protect();
        }
    }

    fn protect(&mut self) {
        self.state = ProtectionState::Protected;
        (self.is_new_guest, self.secondary) = (false, Acquaintance::Met);
        if self.policy.covers {
            self.keeper.want(self.generation(), Server::Either);
        }
        self.actions.push_back(ProtectionAction::Announce);
    }

    fn be_taken_over(&mut self) {
        self.keeper.want(self.generation(), Server::OtherHost);
        self.exposed = true;
        if self.state != ProtectionState::TakenOver {
            self.state = ProtectionState::TakenOver;
            self.actions.push_back(ProtectionAction::Silence);
        }
    }

    /// All lanes of the secondary are up and the COLO-frame has a pair, or not.
    pub fn on_peer(&mut self, up: bool) {
        self.peer_up = up;
        self.on_peer_changed();
        self.settle();
    }

    /// The secondary can be compared with.
    fn is_peer_there(&self) -> bool {
        let has_guest = !matches!(self.conversation, Conversation::Heard { has_guest: false, .. });
        self.peer_up && has_guest
    }

    fn on_peer_changed(&mut self) {
        let up = self.is_peer_there();
        match self.state {
            ProtectionState::Protected if !up => {
                self.enter(PeerLoss::Waiting, Some(ProtectionAction::Announce));
            }
            // Nothing has left since it was covered, so it still may take over.
            ProtectionState::Joining if !up && self.may_be_taken_over() => {
                self.enter(PeerLoss::Waiting, Some(ProtectionAction::Announce));
            }
            // It was stale, and is stale when it is back.
            ProtectionState::Joining if !up => self.go_alone(),
            ProtectionState::PeerLost(PeerLoss::Fencing) if up => {
                self.actions.push_back(ProtectionAction::WithdrawFence);
            }
            _ => {}
        }
    }

    /// The secondary has completely received a checkpoint that covers the held output.
    pub fn on_checkpoint_done(&mut self) {
        if self.state == ProtectionState::Joining {
            self.exposed = false;
            self.protect();
        }
        self.settle();
    }

    /// `quorum` and `fence` have answered: the secondary takes over no more, or that is not certain. It
    /// may take over any moment then, so output stays held, and they are asked again later.
    pub fn on_fenced(&mut self, is_done: bool) {
        if self.state == ProtectionState::PeerLost(PeerLoss::Fencing) {
            if is_done {
                self.record_service();
            } else {
                self.enter(PeerLoss::Waiting, None);
            }
        }
        self.settle();
    }

    /// The COLO-frame says that no secondary follows the guest. One that was covered may be about to
    /// take over all the same.
    pub fn on_alone(&mut self) {
        self.expose();
        if self.policy.on_lost == OnSecondaryLost::Release {
            match self.state {
                ProtectionState::PeerLost(PeerLoss::Waiting) if !self.can_leave_secondary() => {}
                ProtectionState::PeerLost(PeerLoss::Waiting)
                | ProtectionState::Protected
                | ProtectionState::Joining => self.leave_secondary(),
                _ => {}
            }
        }
        self.settle();
    }

    /// The guest is dead, and the secondary is to take over. Held output stays held, and no later output
    /// leaves. `false` if it is too late for that.
    pub fn give_up(&mut self) -> bool {
        let can = self.may_be_taken_over()
            && matches!(
                self.state,
                ProtectionState::PeerLost(PeerLoss::Waiting | PeerLoss::Disclaiming)
            );
        if can {
            self.be_given_up();
        }
        can
    }

    fn be_given_up(&mut self) {
        self.state = ProtectionState::GivenUp;
        self.exposed = true;
        self.keeper.want(self.generation(), Server::OtherHost);
    }

    /// The operator or the COLO-frame says that the secondary is gone for good. `forced`: nobody else is
    /// asked.
    pub fn end(&mut self, forced: bool) {
        self.exposed = true;
        self.order = if forced { EndOrder::Forced } else { EndOrder::End };
        match self.state {
            ProtectionState::Unprotected
            | ProtectionState::PeerLost(PeerLoss::Recording | PeerLoss::Disclaiming) => {}
            ProtectionState::TakenOver | ProtectionState::GivenUp => self.record_service(),
            _ => self.leave_secondary(),
        }
        self.settle();
    }

    /// The daemon ends, and the guest goes on alone at once.
    pub fn finish(&mut self) {
        (self.order, self.exposed) = (EndOrder::End, true);
        self.state = ProtectionState::Unprotected;
        self.actions.clear();
        if self.may_be_taken_over() {
            self.keeper.want(self.generation().saturating_add(1), Server::ThisHost);
        }
    }

    /// Why an operator's word that this guest goes on alone is not obeyed unless it is forced. `None`:
    /// it is obeyed.
    pub fn refusal(&self) -> Option<ProtectionRefusal> {
        match self.state {
            ProtectionState::TakenOver => Some(ProtectionRefusal::TakenOver),
            ProtectionState::GivenUp => Some(ProtectionRefusal::GuestDead),
            ProtectionState::PeerLost(_)
                if self.is_new_guest && self.may_be_taken_over() && !self.policy.fences =>
            {
                Some(ProtectionRefusal::NewGuest)
            }
            _ => None,
        }
    }

    /// The guest was taken over from, and the secondary's daemon says that its own does not serve.
    pub fn can_serve_again(&self) -> bool {
        let theirs = self.theirs.map(|record| record.server);
        let serves_not = match self.state {
            // It may take over any moment, or has.
            ProtectionState::TakenOver => {
                !matches!(theirs, Some(Server::ThisHost | Server::Either))
            }
            ProtectionState::GivenUp => theirs == Some(Server::OtherHost),
            _ => false,
        };
        serves_not && self.is_heard()
    }

    /// The operator wants protection again. A guest that was taken over from serves again if it can.
    pub fn begin_again(&mut self) {
        self.order = EndOrder::None;
        if self.can_serve_again() {
            self.record_service();
        }
        self.settle();
    }

    /// Output of the guest leaves for which no secondary has vouched.
    pub fn expose(&mut self) {
        self.exposed = true;
        self.record_exposure();
    }

    /// The secondary that comes next needs a checkpoint, whatever happens to this daemon.
    fn record_exposure(&mut self) {
        if self.keeper.server().is_none() {
            self.keeper.want(self.generation(), Server::ThisHost);
        }
    }

    /// The write of [`Self::next_record`] has ended. `is_done`: the disk has the record.
    pub fn on_recorded(&mut self, is_done: bool) {
        self.keeper.on_written(is_done);
        if self.state == ProtectionState::Protected && self.keeper.is_kept() {
            self.actions.push_back(ProtectionAction::Announce);
        }
        self.settle();
    }
}
