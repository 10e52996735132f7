//! Which of the two guests is on the network: the agreement with the secondary's daemon, and the fence.

use std::time::Instant;

use super::{ControlState, Fence, OutputPath, Pairing, Primary};
use crate::pair::ProgramMode;
use crate::pair::message::ControlMessage;
use crate::pair::protection::ProtectionState;

impl Primary {
    /// The guest goes on alone from here.
    pub fn end_protection(&mut self, now: Instant, path: &mut impl OutputPath) {
        let action = self.protection.end();
        self.act(now, action, path);
    }

    /// The operator wants protection again.
    pub fn begin_protection_again(&mut self) {
        self.protection.begin_again();
    }

    /// The secondary was fenced, or could not be fenced.
    pub fn on_fenced(&mut self, now: Instant, is_done: bool, path: &mut impl OutputPath) {
        let action = self.protection.on_fenced(now, is_done);
        self.act(now, action, path);
    }

    /// The secondary confirms the last [`ControlMessage::Protection`]: it takes over if `protected`,
    /// and not otherwise.
    pub fn on_protection_known(
        &mut self,
        now: Instant,
        protected: bool,
        path: &mut impl OutputPath,
    ) {
        if !protected && matches!(self.fence, Fence::Disclaiming(_)) {
            self.fence = Fence::None;
            self.on_fenced(now, true, path);
        }
    }

    pub(super) fn order_fence(&mut self) {
        log::warn!(
            "{}: the secondary is lost and may take over; fencing it before this guest goes on alone",
            self.name
        );
        self.fence = Fence::Due;
    }

    /// The caller is to run the fence now. It is `true` once for each time.
    pub fn take_fence_due(&mut self) -> bool {
        let is_due = self.fence == Fence::Due;
        if is_due {
            self.fence = Fence::None;
        }
        is_due
    }

    /// The guest may be dead. It is, if nobody has its TAP open.
    pub fn may_be_dead(&self) -> bool {
        self.pairing == Pairing::GuestMayBeDead
            && matches!(self.protection.state(), ProtectionState::PeerLost(_))
    }

    /// The guest is dead: nobody has its TAP open. The secondary may take over at once, because no
    /// later output of this guest leaves.
    pub fn on_guest_dead(&mut self, path: &mut impl OutputPath) {
        self.pairing = Pairing::Alone;
        // Frames that may leave and have had no turn yet must not leave after the other guest speaks.
        self.release_all(path);
        if self.lanes.control != ControlState::Absent && self.protection.give_up() {
            log::error!(
                "{}: the guest is dead, because nobody has its TAP open; telling the secondary to take \
                 over",
                self.name
            );
            self.tell_protection();
        }
    }

    /// The secondary answers the network. Two guests must not, so output of this one leaves no more.
    pub fn on_taken_over(&mut self, path: &mut impl OutputPath) {
        // Frames that may leave and have had no turn yet leave now or never.
        self.release_all(path);
        if self.protection.be_taken_over() {
            log::error!(
                "{}: the secondary has taken over; this guest's output is held. To serve from here \
                 again, stop the other guest and restart this daemon",
                self.name
            );
            path.set_mode(ProgramMode::Protected);
        }
    }

    /// Tells the secondary whether it could take over.
    pub(super) fn tell_protection(&mut self) {
        if self.lanes.control != ControlState::Up {
            return;
        }
        // If the guest's output passes on when this daemon dies, the secondary must not take over.
        let protected = self.protection.is_covered() && !self.passes_on_death;
        self.messages.push_back(ControlMessage::Protection { protected });
        if self.protection.is_taken_over() {
            self.messages.push_back(ControlMessage::GuestGone);
        }
    }
}
