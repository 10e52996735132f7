//! Which of the two guests is on the network: what this daemon tells the secondary's and hears from it,
//! and what the fence says.

use std::time::Instant;

use super::{Decisions, Hands};
use crate::control::Message;
use crate::datapath::Mode;
use crate::protection::State;

impl Decisions {
    /// The guest goes on alone from here.
    pub(in crate::instance) fn end_protection(&mut self, now: Instant, hands: &mut impl Hands) {
        let action = self.protection.end();
        self.act(now, action, hands);
    }

    /// The secondary was fenced, or could not be.
    pub(in crate::instance) fn on_fenced(
        &mut self,
        now: Instant,
        is_done: bool,
        hands: &mut impl Hands,
    ) {
        let action = self.protection.on_fenced(now, is_done);
        self.act(now, action, hands);
    }

    /// The secondary has heard whether it could take over.
    pub(in crate::instance) fn on_protection_known(
        &mut self,
        now: Instant,
        protected: bool,
        hands: &mut impl Hands,
    ) {
        if !protected && self.disclaiming.take().is_some() {
            self.on_fenced(now, true, hands);
        }
    }

    pub(super) fn fence(&mut self) {
        log::warn!("{}: the secondary is lost; fencing it before going on", self.name);
        self.disclaiming = None;
        self.is_fence_due = true;
    }

    /// The guest may be dead; whether it is, its TAP tells.
    pub(in crate::instance) fn may_be_dead(&self) -> bool {
        self.may_be_dead && self.protection.state() == State::Waiting
    }

    /// Nobody holds the guest's TAP: the secondary may take over at once, for nothing of this guest
    /// leaves any more.
    pub(in crate::instance) fn on_guest_dead(&mut self, hands: &mut impl Hands) {
        self.may_be_dead = false;
        // What may leave and has not had its turn: not after the other one speaks.
        self.release(hands);
        if self.has_control && self.protection.give_up() {
            log::error!("{}: the guest is dead; its secondary is told to take over", self.name);
            self.tell_protection();
        }
    }

    /// The secondary answers the network. Two must not, so this guest does not any more.
    pub(in crate::instance) fn on_taken_over(&mut self, hands: &mut impl Hands) {
        // What may leave and has not had its turn: now or never.
        self.release(hands);
        if self.protection.be_taken_over() {
            log::error!(
                "{}: the secondary has taken over; this guest's output is held. To serve from here \
                 again, end the other one and restart this daemon",
                self.name
            );
            hands.set_mode(Mode::Protected);
        }
    }

    /// The secondary has to know whether it could take over.
    pub(super) fn tell_protection(&mut self) {
        if !self.has_control || !self.control_up {
            return;
        }
        // One that may be left alone by the death of this daemon is not to be taken over from.
        let protected = self.protection.is_covered() && !self.passes_on_death;
        self.messages.push_back(Message::Protection { protected });
        if self.protection.is_given_up() {
            self.messages.push_back(Message::GuestGone);
        }
    }
}
