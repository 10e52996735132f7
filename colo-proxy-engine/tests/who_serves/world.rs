//! Two hosts, their guests, daemons, disks and programs, the link between them, and those who are asked.
//!
//! The decisions are the daemon's own types. The rest is the smallest world that can go wrong: a guest
//! either knows everything that a client was told or it does not, and a program either lets output pass
//! or it does not.

use std::collections::VecDeque;

use colo_proxy_engine::pair::protection::{
    LeftGuest, LossPolicy, Protection, ProtectionAction, ProtectionState, ProtectionTimer,
};
use colo_proxy_engine::pair::service_message::ServiceMessage;
use colo_proxy_engine::pair::service_record::{RecordKeeper, Server, ServiceRecord};
use colo_proxy_engine::pair::takeover::{
    Takeover, TakeoverAction, TakeoverDeciders, TakeoverOrder, TakeoverPermission,
};
use colo_proxy_engine::pair::{Mode, OnSecondaryLost, Role};

/// A guest that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Guest {
    /// It knows, or can produce again, everything that a client was told.
    pub(crate) knows: bool,
    /// Its QEMU has its other half, as far as that one knows.
    pub(crate) paired: bool,
    /// It has been started by itself, and has never got another guest's state.
    pub(crate) is_new: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Half {
    Primary(Protection),
    Secondary(Takeover),
}

/// How far the commands of `[guest.takeover]` have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    None,
    Quorum,
    Fence,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Daemon {
    pub(crate) half: Half,
    pub(crate) question: Question,
    /// A record that is being written.
    pub(crate) writing: Option<ServiceRecord>,
    /// What the primary's half was told last of its peer.
    peer_up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) role: Role,
    pub(crate) is_on: bool,
    pub(crate) guest: Option<Guest>,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) disk: Option<ServiceRecord>,
    /// The programs of a daemon are on the guest's TAP, also after it has died.
    pub(crate) guarded: bool,
    /// The programs let the guest's output pass.
    pub(crate) passes: bool,
}

impl Host {
    /// Its guest answers the network.
    pub(crate) fn serves(&self) -> bool {
        self.is_on && self.guest.is_some() && self.passes
    }
}

/// What an operator has configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Deciders {
    pub(crate) fence: bool,
    pub(crate) quorum: bool,
}

impl Deciders {
    pub(crate) fn any(self) -> bool {
        self.fence || self.quorum
    }
}

/// A sabotage of the world, which a property must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sabotage {
    Nothing,
    /// A fence says that it was done, and was not.
    LyingFence,
    /// The disk forgets what it was given.
    ForgetfulDisk,
    /// A checkpoint copies nothing.
    EmptyCheckpoint,
    /// The secondary confirms that it takes over no more, and does not obey.
    DeafSecondary,
    /// The disk takes nothing any more.
    DeadDisk,
}

/// What is between the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Between {
    pub(crate) link: bool,
    /// The control lane is connected.
    pub(crate) talks: bool,
    /// The lanes of the frames are connected.
    pub(crate) lanes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) hosts: [Host; 2],
    pub(crate) between: Between,
    /// Messages on their way to each host.
    pub(crate) wires: [VecDeque<ServiceMessage>; 2],
    /// The host that the quorum has chosen.
    pub(crate) quorum: Option<usize>,
    /// Faults and commands that may still happen.
    pub(crate) budget: u8,
    /// An operator has answered for what the daemons cannot know.
    pub(crate) waived: bool,
    pub(crate) deciders: Deciders,
    pub(crate) sabotage: Sabotage,
}

/// A step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// The first message on the wire arrives at this host.
    Deliver(usize),
    Timer(usize, ProtectionTimer),
    TakeoverTimer(usize),
    Written(usize, bool),
    Quorum(usize),
    Fence(usize, bool),
    Connect,
    LanesUp,
    LanesDown,
    PairBreaks(usize),
    Checkpoint,
    GuestFoundDead(usize),
    StartDaemon(usize),
    PowerOn(usize),
    CutLink,
    HealLink,
    /// A record that is being written reaches the disk, or not.
    CrashDaemon(usize, bool),
    CrashHost(usize, bool),
    KillGuest(usize),
    Failover(usize),
}

impl World {
    /// Two hosts that are off, and have never been on.
    pub(crate) fn cold(deciders: Deciders, budget: u8) -> Self {
        let host = |role| Host {
            role,
            is_on: false,
            guest: None,
            daemon: None,
            disk: None,
            guarded: false,
            passes: false,
        };
        Self {
            hosts: [host(Role::Primary), host(Role::Secondary)],
            between: Between { link: true, talks: false, lanes: false },
            wires: [VecDeque::new(), VecDeque::new()],
            quorum: None,
            budget,
            waived: false,
            deciders,
            sabotage: Sabotage::Nothing,
        }
    }

    /// All steps that can come next.
    pub(crate) fn steps(&self, steps: &mut Vec<Step>) {
        self.free_steps(steps);
        if self.budget > 0 {
            self.faults(steps);
        }
    }

    /// Steps that a world takes by itself.
    pub(crate) fn free_steps(&self, steps: &mut Vec<Step>) {
        for at in 0..2 {
            let host = &self.hosts[at];
            if !self.wires[at].is_empty() {
                steps.push(Step::Deliver(at));
            }
            if !host.is_on {
                steps.push(Step::PowerOn(at));
            }
            let Some(daemon) = &host.daemon else {
                if host.is_on {
                    steps.push(Step::StartDaemon(at));
                }
                continue;
            };
            if daemon.writing.is_some() {
                steps.push(Step::Written(at, true));
            }
            match daemon.question {
                Question::None => {}
                Question::Quorum => steps.push(Step::Quorum(at)),
                Question::Fence => steps.push(Step::Fence(at, true)),
            }
            match &daemon.half {
                Half::Primary(half) => {
                    let timers = ProtectionTimer::ALL.into_iter();
                    let running = timers.filter(|timer| half.runs(*timer));
                    steps.extend(running.map(|timer| Step::Timer(at, timer)));
                    let can_be_found = matches!(half.state(), ProtectionState::PeerLost(_));
                    if host.guest.is_none() && can_be_found && half.may_be_taken_over() {
                        steps.push(Step::GuestFoundDead(at));
                    }
                }
                Half::Secondary(half) => {
                    steps.extend(half.timer().map(|_| Step::TakeoverTimer(at)));
                }
            }
            if host.guest.is_some_and(|guest| guest.paired) && !self.is_paired() {
                steps.push(Step::PairBreaks(at));
            }
        }
        if !self.between.link {
            steps.push(Step::HealLink);
        }
        let can_connect = self.between.link && self.hosts.iter().all(|host| host.daemon.is_some());
        if can_connect && !self.between.talks {
            steps.push(Step::Connect);
        }
        if can_connect && !self.between.lanes && !self.secondary_serves() {
            steps.push(Step::LanesUp);
        }
        if self.is_paired() && matches!(self.primary_state(), Some(ProtectionState::Joining)) {
            steps.push(Step::Checkpoint);
        }
    }

    fn faults(&self, steps: &mut Vec<Step>) {
        if self.between.link {
            steps.push(Step::CutLink);
        }
        if self.between.lanes {
            steps.push(Step::LanesDown);
        }
        for at in 0..2 {
            let host = &self.hosts[at];
            let is_writing = host.daemon.as_ref().is_some_and(|daemon| daemon.writing.is_some());
            if host.is_on {
                steps.push(Step::CrashHost(at, false));
            }
            if is_writing {
                steps.push(Step::CrashHost(at, true));
                steps.push(Step::CrashDaemon(at, true));
            }
            if host.guest.is_some() {
                steps.push(Step::KillGuest(at));
            }
            let Some(daemon) = &host.daemon else { continue };
            steps.push(Step::CrashDaemon(at, false));
            if daemon.writing.is_some() {
                steps.push(Step::Written(at, false));
            }
            if daemon.question == Question::Fence {
                steps.push(Step::Fence(at, false));
            }
            let obeys = match &daemon.half {
                Half::Primary(half) => half.refusal().is_none(),
                Half::Secondary(half) => half.refusal().is_none() && !half.serves(),
            };
            if obeys {
                steps.push(Step::Failover(at));
            }
        }
    }

    /// Both QEMUs have each other.
    pub(crate) fn is_paired(&self) -> bool {
        let has_half = |host: &Host| host.guest.is_some_and(|guest| guest.paired);
        self.between.link && self.hosts.iter().all(has_half)
    }

    pub(crate) fn primary(&self) -> usize {
        usize::from(self.hosts[0].role != Role::Primary)
    }

    pub(crate) fn primary_state(&self) -> Option<ProtectionState> {
        match &self.hosts[self.primary()].daemon.as_ref()?.half {
            Half::Primary(half) => Some(half.state()),
            Half::Secondary(_) => None,
        }
    }

    /// Notices of the primary in this conversation.
    pub(crate) fn notices(&self) -> u32 {
        match self.hosts[self.primary()].daemon.as_ref().map(|daemon| &daemon.half) {
            Some(Half::Primary(half)) => half.last_notice().0,
            _ => 0,
        }
    }

    fn secondary_serves(&self) -> bool {
        self.hosts[1 - self.primary()].passes
    }

    /// The pair is protected: the primary says so, and the secondary knows it.
    pub(crate) fn is_protected(&self) -> bool {
        let covered = |host: &Host| match host.daemon.as_ref().map(|daemon| &daemon.half) {
            Some(Half::Secondary(half)) => half.is_covered(),
            _ => false,
        };
        let is_protected = match self.hosts[self.primary()].daemon.as_ref().map(|d| &d.half) {
            Some(Half::Primary(half)) => half.mode() == Mode::Protected,
            _ => false,
        };
        is_protected && covered(&self.hosts[1 - self.primary()])
    }

    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::LanesDown
            | Step::CutLink
            | Step::CrashDaemon(..)
            | Step::CrashHost(..)
            | Step::KillGuest(_)
            | Step::Failover(_)
            | Step::Written(_, false)
            | Step::Fence(_, false) => self.budget = self.budget.saturating_sub(1),
            _ => {}
        }
        self.carry_out(step);
        self.settle();
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Deliver(at) => self.deliver(at),
            Step::Timer(at, timer) => self.with_primary(at, |half| half.on_timer(timer)),
            Step::TakeoverTimer(at) => self.with_secondary(at, Takeover::on_timer),
            Step::Written(at, is_done) => {
                self.written(at, is_done && self.sabotage != Sabotage::DeadDisk);
            }
            Step::Quorum(at) => self.quorum_answers(at),
            Step::Fence(at, is_done) => self.fence_answers(at, is_done),
            Step::Connect => {
                self.between.talks = true;
                for at in 0..2 {
                    self.with_half(at, |half| match half {
                        Half::Primary(half) => half.on_conversation_begins(),
                        Half::Secondary(half) => half.on_peer_up(),
                    });
                }
            }
            Step::LanesUp => self.between.lanes = true,
            Step::LanesDown => self.between.lanes = false,
            Step::PairBreaks(at) => self.pair_breaks(at),
            Step::Checkpoint => self.checkpoint(),
            Step::GuestFoundDead(at) => self.with_primary(at, |half| {
                half.give_up();
            }),
            Step::StartDaemon(at) => self.start_daemon(at),
            Step::PowerOn(at) => self.power_on(at),
            Step::CutLink => {
                self.between.link = false;
                self.hang_up();
            }
            Step::HealLink => self.between.link = true,
            Step::CrashDaemon(at, is_written) => self.crash_daemon(at, is_written),
            Step::CrashHost(at, is_written) => self.crash_host(at, is_written),
            Step::KillGuest(at) => {
                self.hosts[at].guest = None;
                self.with_half(at, |half| match half {
                    Half::Primary(half) => half.expose(),
                    Half::Secondary(half) => half.on_unreachable(),
                });
            }
            Step::Failover(at) => {
                // Without anybody to ask, an operator's word is all there is.
                self.waived |= !self.deciders.any();
                self.with_half(at, |half| match half {
                    Half::Primary(half) => half.end(false),
                    Half::Secondary(half) => half.order(TakeoverOrder::Operator),
                });
            }
        }
    }

    fn deliver(&mut self, at: usize) {
        let Some(message) = self.wires[at].pop_front() else { return };
        match (self.sabotage, message) {
            (Sabotage::DeafSecondary, ServiceMessage::Notice { notice, .. })
                if !notice.protected =>
            {
                self.wires[1 - at].push_back(ServiceMessage::NoticeKnown(notice.number));
            }
            _ => self.with_half(at, |half| match half {
                Half::Primary(half) => half.on_message(message),
                Half::Secondary(half) => half.on_message(message),
            }),
        }
    }

    pub(crate) fn with_half(&mut self, at: usize, event: impl FnOnce(&mut Half)) {
        if let Some(daemon) = &mut self.hosts[at].daemon {
            event(&mut daemon.half);
        }
    }

    pub(crate) fn with_primary(&mut self, at: usize, event: impl FnOnce(&mut Protection)) {
        self.with_half(at, |half| {
            if let Half::Primary(half) = half {
                event(half);
            }
        });
    }

    fn with_secondary(&mut self, at: usize, event: impl FnOnce(&mut Takeover)) {
        self.with_half(at, |half| {
            if let Half::Secondary(half) = half {
                event(half);
            }
        });
    }

    /// Every conversation ends, and both ends notice.
    fn hang_up(&mut self) {
        self.between.lanes = false;
        self.wires.iter_mut().for_each(VecDeque::clear);
        if !std::mem::take(&mut self.between.talks) {
            return;
        }
        for at in 0..2 {
            self.with_half(at, |half| match half {
                Half::Primary(half) => half.on_conversation_ends(),
                Half::Secondary(half) => half.on_peer_down(false),
            });
        }
    }

    fn crash_daemon(&mut self, at: usize, is_written: bool) {
        let writing = self.hosts[at].daemon.take().and_then(|daemon| daemon.writing);
        if is_written && writing.is_some() {
            self.hosts[at].disk = writing;
        }
        self.hang_up();
    }

    fn crash_host(&mut self, at: usize, is_written: bool) {
        self.crash_daemon(at, is_written);
        let host = &mut self.hosts[at];
        (host.is_on, host.guest) = (false, None);
        (host.guarded, host.passes) = (false, false);
    }

    /// The host starts its guest. Its daemon starts before the guest says anything.
    fn power_on(&mut self, at: usize) {
        self.hosts[at].is_on = true;
        self.hosts[at].guest = Some(Self::NEW_GUEST);
        self.start_daemon(at);
    }

    const NEW_GUEST: Guest = Guest { knows: false, paired: false, is_new: true };

    /// A new guest is started in the place of the old one.
    pub(crate) fn start_guest(&mut self, at: usize) {
        self.hosts[at].guest = Some(Self::NEW_GUEST);
        self.with_half(at, |half| match half {
            Half::Primary(half) => half.on_alone(),
            Half::Secondary(half) => half.on_new_guest(),
        });
    }

    pub(crate) fn start_daemon(&mut self, at: usize) {
        let deciders = self.deciders;
        let host = &mut self.hosts[at];
        let is_left = host.guarded && host.guest.is_some();
        if !is_left {
            host.disk = host.disk.map(|record| record.of_a_new_guest(host.role));
        }
        let keeper = RecordKeeper::new(host.disk);
        let is_alone = host.guest.is_none_or(|guest| !guest.paired);
        host.guarded = true;
        let half = if host.role == Role::Primary {
            let policy = LossPolicy {
                on_lost: OnSecondaryLost::Release,
                fences: deciders.any(),
                covers: true,
            };
            let left =
                if is_left { LeftGuest::Lives { was_off: host.passes } } else { LeftGuest::None };
            host.passes = false;
            let mut half = Protection::new(policy, keeper, left);
            if is_alone {
                half.on_alone();
            }
            Half::Primary(half)
        } else {
            let asked = TakeoverDeciders { fence: deciders.fence, quorum: deciders.quorum };
            let mut half = Takeover::new(asked, keeper, is_left);
            if host.passes {
                half = half.serving();
            } else if is_alone {
                half.on_new_guest();
            }
            Half::Secondary(half)
        };
        host.daemon =
            Some(Daemon { half, question: Question::None, writing: None, peer_up: false });
    }

    fn written(&mut self, at: usize, is_done: bool) {
        let Some(daemon) = &mut self.hosts[at].daemon else { return };
        let Some(record) = daemon.writing.take() else { return };
        match &mut daemon.half {
            Half::Primary(half) => half.on_recorded(is_done),
            Half::Secondary(half) => half.on_recorded(is_done),
        }
        if is_done && self.sabotage != Sabotage::ForgetfulDisk {
            self.hosts[at].disk = Some(record);
        }
    }

    fn quorum_answers(&mut self, at: usize) {
        let is_chosen = *self.quorum.get_or_insert(at) == at;
        let fences = self.deciders.fence;
        let Some(daemon) = &mut self.hosts[at].daemon else { return };
        daemon.question = Question::None;
        match &mut daemon.half {
            _ if is_chosen && fences => daemon.question = Question::Fence,
            Half::Primary(half) => half.on_fenced(is_chosen),
            Half::Secondary(half) => half.on_permission(if is_chosen {
                TakeoverPermission::Granted
            } else {
                TakeoverPermission::Denied
            }),
        }
    }

    fn fence_answers(&mut self, at: usize, is_done: bool) {
        if is_done && self.sabotage != Sabotage::LyingFence {
            self.crash_host(1 - at, false);
        }
        let Some(daemon) = &mut self.hosts[at].daemon else { return };
        daemon.question = Question::None;
        match &mut daemon.half {
            Half::Primary(half) => half.on_fenced(is_done),
            Half::Secondary(half) => half.on_permission(if is_done {
                TakeoverPermission::Granted
            } else {
                TakeoverPermission::NotFenced
            }),
        }
    }

    fn pair_breaks(&mut self, at: usize) {
        if let Some(guest) = &mut self.hosts[at].guest {
            guest.paired = false;
        }
        self.with_half(at, |half| match half {
            Half::Primary(half) => half.expose(),
            Half::Secondary(half) => half.on_pair(false),
        });
    }

    /// The secondary gets the primary's state.
    fn checkpoint(&mut self) {
        let at = self.primary();
        let knows = self.hosts[at].guest.is_some_and(|guest| guest.knows);
        if let Some(guest) = &mut self.hosts[1 - at].guest
            && self.sabotage != Sabotage::EmptyCheckpoint
        {
            (guest.knows, guest.is_new) = (knows, false);
        }
        self.with_primary(at, Protection::on_checkpoint_done);
    }

    /// The primary's guest is migrated to a secondary that waits: they are a pair from here on.
    pub(crate) fn pair(&mut self) {
        for at in 0..2 {
            if let Some(guest) = &mut self.hosts[at].guest {
                guest.paired = true;
            }
            self.with_secondary(at, |half| half.on_pair(true));
        }
        self.settle();
    }

    /// What the daemons do at once, and what follows for the guests.
    pub(crate) fn settle(&mut self) {
        loop {
            let before = self.clone();
            for at in 0..2 {
                self.tell_of_peer(at);
                self.obey(at);
            }
            if *self == before {
                break;
            }
        }
        self.speak();
        if self.is_protected() {
            self.quorum = None;
        }
    }

    /// The primary's daemon hears whether it can compare with the secondary.
    fn tell_of_peer(&mut self, at: usize) {
        let lanes = self.between.lanes && self.between.talks;
        let paired = self.hosts[at].guest.is_some_and(|guest| guest.paired);
        let Some(daemon) = &mut self.hosts[at].daemon else { return };
        let Half::Primary(half) = &mut daemon.half else { return };
        let up = lanes && paired && half.is_heard();
        if daemon.peer_up != up {
            daemon.peer_up = up;
            half.on_peer(up);
        }
    }

    fn obey(&mut self, at: usize) {
        let (talks, asks) = (self.between.talks, self.deciders);
        let host = &mut self.hosts[at];
        let Some(daemon) = &mut host.daemon else { return };
        let first = if asks.quorum { Question::Quorum } else { Question::Fence };
        let mut messages = Vec::new();
        match &mut daemon.half {
            Half::Primary(half) => {
                while let Some(action) = half.next_action() {
                    match action {
                        ProtectionAction::Unprotect => {
                            host.passes = true;
                            half.expose();
                        }
                        ProtectionAction::Join | ProtectionAction::Silence => host.passes = false,
                        ProtectionAction::Fence => daemon.question = first,
                        ProtectionAction::WithdrawFence => {
                            if daemon.question == Question::Quorum {
                                daemon.question = Question::None;
                                half.on_fenced(false);
                            }
                        }
                        ProtectionAction::Announce => {}
                    }
                }
                messages.extend(std::iter::from_fn(|| half.next_message()).filter(|_| talks));
                if daemon.writing.is_none() {
                    daemon.writing = half.next_record();
                }
            }
            Half::Secondary(half) => {
                while let Some(action) = half.next_action() {
                    match action {
                        TakeoverAction::TakeOver => host.passes = true,
                        TakeoverAction::StepDown => host.passes = false,
                        TakeoverAction::Ask => daemon.question = first,
                        TakeoverAction::WithdrawQuestion => {
                            if daemon.question == Question::Quorum {
                                daemon.question = Question::None;
                                half.on_question_withdrawn();
                            }
                        }
                        TakeoverAction::TellUnreachable
                        | TakeoverAction::TellOperator
                        | TakeoverAction::TellStale
                        | TakeoverAction::TellUnrecorded => {}
                    }
                }
                messages.extend(std::iter::from_fn(|| half.next_message()).filter(|_| talks));
                if daemon.writing.is_none() {
                    daemon.writing = half.next_record();
                }
            }
        }
        self.wires[1 - at].extend(messages);
    }

    /// A guest that serves tells clients something that no other guest knows.
    fn speak(&mut self) {
        for at in 0..2 {
            if self.hosts[at].serves()
                && let Some(other) = &mut self.hosts[1 - at].guest
            {
                other.knows = false;
            }
        }
        // The last guest that knew is gone, and the service begins again with a new one.
        let knows = |host: &Host| host.guest.is_some_and(|guest| guest.knows);
        let primary = self.primary();
        if !self.hosts.iter().any(knows)
            && let Some(guest) = self.hosts[primary].guest.as_mut().filter(|guest| guest.is_new)
        {
            guest.knows = true;
        }
    }

    /// The host that an operator would let serve: the one that does, or did last, or is to.
    pub(crate) fn rightful(&self) -> usize {
        let claim = |at: &usize| {
            let host = &self.hosts[*at];
            let server = host.disk.map(|record| record.server);
            let alone = host.disk.filter(|record| record.server == Server::ThisHost);
            let generation = alone.map_or(0, |record| record.generation + 1);
            let role = host.role == Role::Primary;
            (host.serves(), generation, server != Some(Server::OtherHost), role)
        };
        (0..2).max_by_key(claim).unwrap_or(0)
    }
}
