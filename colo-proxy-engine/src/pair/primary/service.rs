//! Which of the two guests is on the network: the agreement with the secondary's daemon, and the fence.

use std::time::Instant;

use super::{ControlState, FenceOrder, OutputPath, Pairing, PeerLane, Primary};
use crate::pair::ProgramMode;
use crate::pair::protection::ProtectionState;
use crate::pair::service_message::ServiceMessage;
use crate::pair::service_record::ServiceRecord;

impl Primary {
    /// The guest is to go on alone. `forced`: nobody else is asked.
    pub fn end_protection(&mut self, now: Instant, forced: bool, path: &mut impl OutputPath) {
        self.protection.end(forced);
        self.act(now, path);
    }

    /// The operator wants protection again.
    pub fn begin_protection_again(&mut self, now: Instant, path: &mut impl OutputPath) {
        self.protection.begin_again();
        self.act(now, path);
    }

    /// `quorum` and `fence` have answered, or the question was withdrawn.
    pub fn on_fenced(&mut self, now: Instant, is_done: bool, path: &mut impl OutputPath) {
        self.protection.on_fenced(is_done);
        self.act(now, path);
    }

    /// A conversation with the secondary's daemon begins. Each end says first where it stands.
    pub fn on_conversation_begins(&mut self, now: Instant, path: &mut impl OutputPath) {
        self.protection.on_conversation_begins();
        self.act(now, path);
    }

    /// A message of the secondary's daemon. In a conversation that has just begun, the first one makes
    /// the control lane count as connected.
    pub fn on_service_message(
        &mut self,
        now: Instant,
        message: ServiceMessage,
        path: &mut impl OutputPath,
    ) {
        self.protection.on_message(message);
        self.act(now, path);
        if self.lanes.control == ControlState::Down && self.protection.is_heard() {
            self.on_lane(now, PeerLane::Control, true, path);
        }
    }

    /// The record to write now, once. The caller answers with [`Self::on_recorded`].
    pub fn next_record(&mut self) -> Option<ServiceRecord> {
        self.protection.next_record()
    }

    /// The record was written, and stays when the host dies; or it could not be written.
    pub fn on_recorded(&mut self, now: Instant, is_done: bool, path: &mut impl OutputPath) {
        self.protection.on_recorded(is_done);
        self.act(now, path);
    }

    /// The next order about `quorum` and `fence`.
    pub fn next_fence_order(&mut self) -> Option<FenceOrder> {
        self.fence_orders.pop_front()
    }

    /// The guest may be dead. It is, if nobody has its TAP open.
    pub fn may_be_dead(&self) -> bool {
        self.pairing == Pairing::GuestMayBeDead
            && matches!(self.protection.state(), ProtectionState::PeerLost(_))
    }

    /// The guest is dead: nobody has its TAP open. The secondary may take over at once, because no
    /// later output of this guest leaves.
    pub fn on_guest_dead(&mut self, now: Instant, path: &mut impl OutputPath) {
        self.pairing = Pairing::Alone;
        // Frames that may leave and have had no turn yet must not leave after the other guest speaks.
        self.release_all(path);
        if self.lanes.control != ControlState::Absent && self.protection.give_up() {
            log::error!(
                "{}: the guest is dead, because nobody has its TAP open; telling the secondary to take \
                 over",
                self.name
            );
        }
        self.act(now, path);
    }

    /// The other host serves. Two guests must not, so output of this one leaves no more.
    pub(super) fn be_silent(&mut self, path: &mut impl OutputPath) {
        // Frames that may leave and have had no turn yet leave now or never.
        self.release_all(path);
        log::error!(
            "{}: the secondary has taken over; this guest's output is held. To serve from here again, \
             stop the other guest and run: colo-proxy failover --force {0}",
            self.name
        );
        path.set_mode(ProgramMode::Protected);
    }

    /// The daemon is about to end in good order, and the secondary takes over no more: this guest goes
    /// on alone. Returns the record to write before [`Self::finish`].
    pub fn end_service(&mut self) -> Option<ServiceRecord> {
        self.protection.finish();
        self.protection.next_record()
    }
}
