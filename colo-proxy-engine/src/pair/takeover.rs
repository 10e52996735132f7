//! When the secondary's guest takes over, and whether this host serves: the secondary's half of that
//! decision.
//!
//! Four things are necessary for a takeover without an operator.
//!
//! 1. The primary is lost: its daemon was silent for longer than a break of the link may last. If QEMU
//!    has lost its other half as well, that time need not pass.
//! 2. The guest can take over: the primary said last that the pair was protected, and the record on the
//!    disk says so too.
//! 3. `fence` has made sure that the other guest no longer answers, or `quorum` has chosen this host. If
//!    neither is configured, an operator decides.
//! 4. The record on the disk says that this host serves.
//!
//! The decision reads no clock. [`Takeover::timer`] says which timer runs, and the owner reports its end.

use std::collections::VecDeque;

use super::Mode;
use super::service_message::{CoverNotice, ServiceMessage};
use super::service_record::{RecordKeeper, Server, ServiceRecord};

/// The next step of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TakeoverAction {
    /// The guest is out of reach: log it.
    TellUnreachable,
    /// Run the commands of `[guest.takeover]`.
    Ask,
    /// The primary is back. Withdraw the question, if the fence has not begun.
    WithdrawQuestion,
    /// Put the guest on the network.
    TakeOver,
    /// Take the guest off the network: the primary's host serves, by an operator's word.
    StepDown,
    /// Only an operator may decide: log it.
    TellOperator,
    /// This guest is not the primary's equal: log it.
    TellStale,
    /// The record cannot be written, which forbids a takeover: log it.
    TellUnrecorded,
}

/// The answer of the commands of `[guest.takeover]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TakeoverPermission {
    /// This guest may go on.
    Granted,
    /// The other guest could not be fenced.
    NotFenced,
    /// The other host goes on.
    Denied,
}

/// A timer that the owner keeps. It starts when [`Takeover::timer`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TakeoverTimer {
    /// How long a break of the control lane may last, and the pause before somebody is asked again.
    Timeout,
    /// None: there is something to do now.
    Now,
}

/// Who is asked before the guest takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TakeoverDeciders {
    /// A command makes sure that the other guest no longer answers. After it there is no way back.
    pub fence: bool,
    /// A command says which host goes on.
    pub quorum: bool,
}

/// Who orders a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TakeoverOrder {
    /// The COLO-frame, which has decided for both hosts.
    ColoFrame,
    /// An operator.
    Operator,
    /// An operator, who knows better than this daemon.
    Forced,
}

/// Why an operator's order is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TakeoverRefusal {
    /// The primary's daemon is heard, so its guest serves or is about to.
    PrimaryHeard,
    /// This guest was never the primary's equal, as far as this daemon knows.
    NeverEqual,
    /// It was, and the primary's guest has gone on without it.
    Stale,
}

/// The primary's daemon, on the control lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PeerDaemon {
    NeverHeard,
    Heard,
    /// Silent. `was_silent`: for longer than a break may last.
    Lost {
        was_silent: bool,
    },
}

/// This host's QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Qemu {
    /// It has its other half, or says nothing about it.
    Paired,
    /// It has lost its other half.
    Alone,
    /// There is no connection to it, or it is ending: nobody knows whether this guest lives.
    Unreachable { was_alone: bool },
}

/// This host's guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SecondaryGuest {
    /// It is no half of a pair yet, whatever the primary says.
    New,
    /// The primary has not said that it could take over, or has said that it could not.
    Stale,
    /// The primary said that it could take over.
    Covered,
    /// It answers the network.
    Serves,
}

/// Why the guest takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TakeoverCause {
    /// Quorum and fence have said yes. `was_fenced`: the other guest answers no more.
    Permission { was_fenced: bool },
    /// The primary's daemon keeps its dead guest off the network.
    GuestGone,
    /// An operator or the COLO-frame ordered it. `forced`: also if it cannot be recorded.
    Order { forced: bool },
}

/// The progress of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Decision {
    /// It is open. `asked`: the answer was no, and there is a pause before the next question.
    Open { asked: bool },
    /// The commands run.
    Asking,
    /// The guest takes over as soon as the record says so.
    Recording(TakeoverCause),
    /// All steps are done.
    Settled,
}

/// The decision and its grounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Takeover {
    deciders: TakeoverDeciders,
    keeper: RecordKeeper,
    peer: PeerDaemon,
    qemu: Qemu,
    decision: Decision,
    /// The primary's daemon says that its guest is dead, and keeps it off the network. So the guest need
    /// not be fenced.
    is_guest_gone: bool,
    guest: SecondaryGuest,
    /// The number of the primary's notice that is not answered yet.
    unanswered: Option<u32>,
    /// The standing that the primary was told in this conversation.
    told_standing: Option<ServiceMessage>,
    /// The primary was told in this conversation that this host's QEMU is out of reach.
    told_unreachable: bool,
    /// The record of the primary's host, as its daemon said last.
    theirs: Option<ServiceRecord>,
    /// The highest generation that the primary's daemon has named.
    heard_generation: u64,
    actions: VecDeque<TakeoverAction>,
}

impl Takeover {
    /// The decision of a daemon that has just started, with the record on its disk. `left`: an earlier
    /// daemon's programs are still there, so the guest has run on.
    pub fn new(deciders: TakeoverDeciders, mut keeper: RecordKeeper, left: bool) -> Self {
        let covered = left && keeper.server() == Some(Server::Either);
        if keeper.server() == Some(Server::Either) && !covered {
            // The guest that could take over has ended, and this one has started since.
            keeper.want(keeper.generation(), Server::OtherHost);
        }
        let peer =
            if covered { PeerDaemon::Lost { was_silent: false } } else { PeerDaemon::NeverHeard };
        Self {
            deciders,
            keeper,
            peer,
            qemu: Qemu::Paired,
            decision: Decision::Open { asked: false },
            is_guest_gone: false,
            guest: if covered { SecondaryGuest::Covered } else { SecondaryGuest::Stale },
            unanswered: None,
            told_standing: None,
            told_unreachable: false,
            theirs: None,
            heard_generation: 0,
            actions: VecDeque::new(),
        }
    }

    /// The guest is on the network already: an earlier daemon has put it there.
    #[must_use]
    pub fn serving(mut self) -> Self {
        self.guest = SecondaryGuest::Serves;
        self.decision = Decision::Settled;
        self.keeper.want(self.keeper.generation(), Server::ThisHost);
        self
    }

    /// The record, for the owner to write.
    pub fn keeper(&self) -> &RecordKeeper {
        &self.keeper
    }

    /// What the primary's daemon is told first, and after every change.
    fn standing(&self) -> Option<ServiceRecord> {
        if self.serves() { self.keeper.record() } else { self.keeper.standing() }
    }

    /// The primary said last that this guest can take over, and the record says so.
    pub fn is_covered(&self) -> bool {
        self.guest == SecondaryGuest::Covered && self.may_take_over() && self.keeper.is_kept()
    }

    /// How a guest stands that has not taken over.
    pub fn mode(&self) -> Mode {
        match (self.peer, self.is_covered(), self.qemu) {
            (PeerDaemon::NeverHeard, ..) => Mode::Standby,
            (PeerDaemon::Heard, true, Qemu::Paired) => Mode::Protected,
            (PeerDaemon::Heard, true, Qemu::Alone) => Mode::CoveredNotEqual,
            (PeerDaemon::Lost { .. }, true, Qemu::Paired | Qemu::Alone) => Mode::PeerLost,
            // Nobody knows whether a guest lives whose QEMU is out of reach, so it promises nothing.
            (PeerDaemon::Heard, ..) => Mode::Joining,
            (PeerDaemon::Lost { .. }, ..) => Mode::Unprotected,
        }
    }

    /// Why the guest stands as [`Self::mode`] says.
    pub fn reason(&self) -> &'static str {
        match (self.mode(), self.decision) {
            (Mode::Standby, _) => "this daemon has not met a primary yet",
            (Mode::Protected, _) => "this guest follows the primary's, and can take over",
            (Mode::CoveredNotEqual, _) => {
                "this guest can take over, and its QEMU has lost the primary's"
            }
            (Mode::PeerLost, Decision::Asking) => {
                "the primary is silent; quorum and fence are asked whether this guest takes over"
            }
            (Mode::PeerLost, Decision::Settled) => {
                "the primary is silent, and neither quorum nor fence is configured; an operator decides"
            }
            (Mode::PeerLost, _) => "the primary is silent",
            (_, Decision::Recording(_)) => {
                "this guest takes over as soon as the disk has the record of it"
            }
            (Mode::Joining, _) if matches!(self.qemu, Qemu::Unreachable { .. }) => {
                "there is no connection to this guest's QEMU, so nobody knows whether it lives"
            }
            (Mode::Joining, _) if self.guest == SecondaryGuest::Covered => {
                "this guest can take over as soon as the disk has the record of it"
            }
            (Mode::Joining, _) => "the primary is there, and this guest is not its equal yet",
            _ => "the primary is lost, and this guest is not its equal",
        }
    }

    /// The next step of the owner, who asks after every event.
    pub fn next_action(&mut self) -> Option<TakeoverAction> {
        self.actions.pop_front()
    }

    /// The record to write now, once. The owner answers with [`Self::on_recorded`].
    pub fn next_record(&mut self) -> Option<ServiceRecord> {
        self.keeper.next_write()
    }

    /// The next message for the primary's daemon. A notice is answered when the record is as it says.
    pub fn next_message(&mut self) -> Option<ServiceMessage> {
        if self.peer != PeerDaemon::Heard {
            return None;
        }
        let standing = Some(ServiceMessage::Standing(self.standing()));
        if self.told_standing != standing {
            self.told_standing = standing;
            return standing;
        }
        let is_unreachable = matches!(self.qemu, Qemu::Unreachable { .. });
        if is_unreachable != self.told_unreachable {
            self.told_unreachable = is_unreachable;
            return Some(ServiceMessage::Guest { there: !is_unreachable });
        }
        let is_kept = self.keeper.is_kept();
        self.unanswered.take_if(|_| is_kept).map(ServiceMessage::NoticeKnown)
    }

    /// A message of the primary's daemon.
    pub fn on_message(&mut self, message: ServiceMessage) {
        match message {
            ServiceMessage::Standing(theirs) => {
                self.theirs = theirs;
                if let Some(theirs) = theirs {
                    self.on_standing(theirs);
                }
            }
            ServiceMessage::Notice { notice, generation } => self.on_notice(notice, generation),
            // Anybody could say so, and therefore this host's QEMU must have noticed as well.
            ServiceMessage::GuestGone => self.is_guest_gone = true,
            // Only a secondary says so.
            ServiceMessage::NoticeKnown(_) | ServiceMessage::Guest { .. } => {}
        }
        self.settle();
    }

    /// The primary says whether this guest could take over. A secondary that takes over, or has, must
    /// not confirm that it will not.
    fn on_notice(&mut self, notice: CoverNotice, generation: u64) {
        self.heard_generation = self.heard_generation.max(generation);
        if self.is_taking_over() {
            return;
        }
        let is_new = self.guest == SecondaryGuest::New;
        let (guest, server) = match notice.protected {
            true if is_new => return,
            true => (SecondaryGuest::Covered, Server::Either),
            false if is_new => (SecondaryGuest::New, Server::OtherHost),
            false => (SecondaryGuest::Stale, Server::OtherHost),
        };
        self.unanswered = Some(notice.number);
        self.guest = guest;
        self.keeper.want(self.generation(), server);
    }

    fn is_taking_over(&self) -> bool {
        self.serves() || matches!(self.decision, Decision::Recording(_))
    }

    /// The highest generation that is known.
    fn generation(&self) -> u64 {
        self.keeper.generation().max(self.heard_generation)
    }

    fn on_standing(&mut self, theirs: ServiceRecord) {
        self.heard_generation = self.heard_generation.max(theirs.generation);
        let is_over =
            theirs.server == Server::ThisHost && theirs.generation > self.keeper.generation();
        if self.serves() && is_over {
            self.guest = SecondaryGuest::Stale;
            self.decision = Decision::Open { asked: false };
            self.actions.push_back(TakeoverAction::StepDown);
        }
        if theirs.server == Server::ThisHost && !self.is_taking_over() {
            self.be_stale();
        }
    }

    /// The primary's guest goes on without this one.
    fn be_stale(&mut self) {
        if self.guest == SecondaryGuest::Covered {
            self.guest = SecondaryGuest::Stale;
        }
        self.keeper.want(self.generation(), Server::OtherHost);
    }

    /// The control lane to the primary's daemon is up.
    pub fn on_peer_up(&mut self) {
        (self.peer, self.is_guest_gone) = (PeerDaemon::Heard, false);
        (self.unanswered, self.told_standing) = (None, None);
        self.told_unreachable = false;
        match self.decision {
            Decision::Asking => self.actions.push_back(TakeoverAction::WithdrawQuestion),
            // It is alive, and the other guest with it. Nothing was done with the permission yet.
            Decision::Recording(TakeoverCause::Permission { was_fenced: false }) => {
                self.take_claim_back();
                self.decision = Decision::Open { asked: false };
            }
            Decision::Recording(_) => {}
            Decision::Open { .. } | Decision::Settled => {
                self.decision = Decision::Open { asked: false };
            }
        }
        self.settle();
    }

    /// The question was withdrawn: its answer will not come.
    pub fn on_question_withdrawn(&mut self) {
        if self.decision == Decision::Asking {
            self.decision = Decision::Open { asked: false };
        }
    }

    /// The control lane to the primary's daemon is down. `was_silent`: the daemon was silent before, for
    /// longer than a break may last.
    pub fn on_peer_down(&mut self, was_silent: bool) {
        let before = matches!(self.peer, PeerDaemon::Lost { was_silent: true });
        self.peer = PeerDaemon::Lost { was_silent: before || was_silent };
        self.unanswered = None;
        self.settle();
    }

    /// QEMU has its other half, or has lost it.
    pub fn on_pair(&mut self, is_there: bool) {
        self.qemu = if is_there { Qemu::Paired } else { Qemu::Alone };
        self.is_guest_gone &= !is_there;
        if is_there && self.guest == SecondaryGuest::New {
            self.guest = SecondaryGuest::Stale;
        }
        self.settle();
    }

    fn has_lost_pair(&self) -> bool {
        matches!(self.qemu, Qemu::Alone | Qemu::Unreachable { was_alone: true })
    }

    /// The guest is no half of a pair and has not been one, so it has started since this host was told
    /// that its guest could take over.
    pub fn on_new_guest(&mut self) {
        self.on_reachable();
        self.qemu = Qemu::Alone;
        if self.serves() {
            return;
        }
        self.guest = SecondaryGuest::New;
        self.unanswered = None;
        if matches!(self.decision, Decision::Recording(_)) {
            self.take_claim_back();
            self.decision = Decision::Open { asked: false };
        }
        if self.may_take_over() {
            self.keeper.want(self.keeper.generation(), Server::OtherHost);
        }
    }

    fn may_take_over(&self) -> bool {
        self.keeper.server() == Some(Server::Either)
    }

    /// The record is as it was before this host claimed to serve.
    fn take_claim_back(&mut self) {
        self.keeper.want(self.keeper.generation().saturating_sub(1), Server::Either);
    }

    /// QEMU does not answer, so nobody knows whether this guest lives.
    pub fn on_unreachable(&mut self) {
        self.qemu = Qemu::Unreachable { was_alone: self.has_lost_pair() };
        self.settle();
    }

    /// QEMU answers again.
    pub fn on_reachable(&mut self) {
        if let Qemu::Unreachable { was_alone } = self.qemu {
            self.qemu = if was_alone { Qemu::Alone } else { Qemu::Paired };
        }
    }

    /// Why an operator's order is not obeyed unless it is forced. `None`: it is obeyed.
    pub fn refusal(&self) -> Option<TakeoverRefusal> {
        match self.peer {
            _ if self.serves() => None,
            PeerDaemon::Heard if !self.has_given_way() => Some(TakeoverRefusal::PrimaryHeard),
            _ if self.guest == SecondaryGuest::Covered => None,
            PeerDaemon::NeverHeard => Some(TakeoverRefusal::NeverEqual),
            _ => Some(TakeoverRefusal::Stale),
        }
    }

    /// The primary's daemon says that its guest does not serve.
    fn has_given_way(&self) -> bool {
        self.theirs.is_some_and(|theirs| theirs.server == Server::OtherHost)
    }

    /// Somebody orders the takeover. An operator's order asks `quorum` and `fence` first, unless it is
    /// forced.
    pub fn order(&mut self, order: TakeoverOrder) {
        let is_asked = self.deciders.fence || self.deciders.quorum;
        match order {
            _ if self.serves() => return,
            TakeoverOrder::Operator if is_asked => {
                if matches!(self.decision, Decision::Open { .. } | Decision::Settled) {
                    self.decision = Decision::Asking;
                    self.actions.push_back(TakeoverAction::Ask);
                }
            }
            TakeoverOrder::Operator | TakeoverOrder::ColoFrame => {
                self.record_service(TakeoverCause::Order { forced: false });
            }
            TakeoverOrder::Forced => self.record_service(TakeoverCause::Order { forced: true }),
        }
        self.settle();
    }

    /// The timer that runs. Without an event it ends in [`Self::on_timer`].
    pub fn timer(&self) -> Option<TakeoverTimer> {
        if self.serves() {
            return None;
        }
        if self.keeper.has_failed() {
            return Some(TakeoverTimer::Timeout);
        }
        let (PeerDaemon::Lost { was_silent }, Decision::Open { asked }) =
            (self.peer, self.decision)
        else {
            return None;
        };
        let is_certain = was_silent || self.has_lost_pair();
        Some(if is_certain && !asked { TakeoverTimer::Now } else { TakeoverTimer::Timeout })
    }

    /// The timer has ended.
    pub fn on_timer(&mut self) {
        if self.timer().is_none() {
            return;
        }
        let has_failed = self.keeper.has_failed();
        self.keeper.retry();
        if has_failed && matches!(self.decision, Decision::Recording(_)) {
            return;
        }
        if matches!(self.peer, PeerDaemon::Lost { .. })
            && matches!(self.decision, Decision::Open { .. })
        {
            let action = self.judge();
            self.decision = match action {
                TakeoverAction::Ask => Decision::Asking,
                TakeoverAction::TellUnrecorded => Decision::Open { asked: true },
                _ => Decision::Settled,
            };
            self.actions.push_back(action);
        }
    }

    fn judge(&self) -> TakeoverAction {
        let is_automatic = self.deciders.fence || self.deciders.quorum;
        match (self.guest == SecondaryGuest::Covered, self.qemu) {
            (false, _) => TakeoverAction::TellStale,
            (true, _) if !self.is_covered() => TakeoverAction::TellUnrecorded,
            (true, Qemu::Unreachable { .. }) => TakeoverAction::TellUnreachable,
            (true, _) if is_automatic => TakeoverAction::Ask,
            (true, _) => TakeoverAction::TellOperator,
        }
    }

    /// The commands have answered. The state may have changed since they were asked.
    pub fn on_permission(&mut self, answer: TakeoverPermission) {
        if self.decision != Decision::Asking {
            return;
        }
        self.decision = Decision::Open { asked: false };
        match answer {
            TakeoverPermission::Granted => self.on_granted(),
            // The other guest goes on without this one, whose state is stale from here on.
            TakeoverPermission::Denied => {
                self.be_stale();
            }
            TakeoverPermission::NotFenced => self.decision = Decision::Open { asked: true },
        }
        self.settle();
    }

    fn on_granted(&mut self) {
        let was_fenced = self.deciders.fence;
        // A primary that is back is alive, unless it was fenced.
        if !was_fenced && !matches!(self.peer, PeerDaemon::Lost { .. }) {
            return;
        }
        match self.judge() {
            TakeoverAction::Ask | TakeoverAction::TellOperator => {
                self.record_service(TakeoverCause::Permission { was_fenced });
            }
            other => {
                self.decision = Decision::Settled;
                self.actions.push_back(other);
            }
        }
    }

    fn record_service(&mut self, cause: TakeoverCause) {
        if !matches!(self.decision, Decision::Recording(_)) {
            self.keeper.want(self.generation().saturating_add(1), Server::ThisHost);
        }
        self.decision = Decision::Recording(cause);
        self.unanswered = None;
    }

    /// The write of [`Self::next_record`] has ended. `is_done`: the disk has the record.
    pub fn on_recorded(&mut self, is_done: bool) {
        self.keeper.on_written(is_done);
        if !is_done && matches!(self.decision, Decision::Recording(_)) {
            self.actions.push_back(TakeoverAction::TellUnrecorded);
        }
        self.settle();
    }

    /// The steps that follow from the state, after every event.
    fn settle(&mut self) {
        let is_open = matches!(self.decision, Decision::Open { .. } | Decision::Asking);
        if self.is_guest_gone && self.has_lost_pair() && self.is_covered() && is_open {
            if self.decision == Decision::Asking {
                self.actions.push_back(TakeoverAction::WithdrawQuestion);
            }
            self.record_service(TakeoverCause::GuestGone);
        }
        let Decision::Recording(cause) = self.decision else { return };
        let is_ordered = matches!(cause, TakeoverCause::Order { .. });
        if matches!(self.qemu, Qemu::Unreachable { .. }) && !is_ordered {
            self.take_claim_back();
            self.decision = Decision::Settled;
            self.actions.push_back(TakeoverAction::TellUnreachable);
            return;
        }
        let goes_unrecorded =
            self.keeper.has_failed() && cause == TakeoverCause::Order { forced: true };
        if self.keeper.is_kept() || goes_unrecorded {
            self.decision = Decision::Settled;
            self.guest = SecondaryGuest::Serves;
            self.actions.push_back(TakeoverAction::TakeOver);
        }
    }

    /// The guest is on the network, or is about to be put there.
    pub fn serves(&self) -> bool {
        self.guest == SecondaryGuest::Serves
    }
}

#[cfg(test)]
mod tests;
