//! The lanes between the two daemons: up or down, and the frames that they lose.

use std::time::Instant;

use super::{Checkpoint, OutputPath, Primary};
use crate::compare::Reason;
use crate::pair::service_message::ServiceMessage;
use crate::pair::service_record::Server;

/// A lane between the two daemons, which can be up or down.
#[derive(Clone, Copy, Debug)]
pub enum PeerLane {
    /// Input of the guest, to the secondary.
    Mirror,
    /// Output of the secondary's guest.
    Secondary,
    /// Messages of the two daemons.
    Control,
}

/// Whether the two daemons can speak to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlState {
    /// No control lane is configured, because the peer may be a QEMU. Counts as up.
    Absent,
    Up,
    Down,
}

/// The lanes. Only a secondary whose lanes are all up is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerLanes {
    pub(super) mirror_up: bool,
    pub(super) secondary_up: bool,
    pub(super) control: ControlState,
}

impl Primary {
    /// The control lane is up. A control lane that is not configured counts as up.
    pub fn is_control_up(&self) -> bool {
        self.lanes.control != ControlState::Down
    }

    /// A lane was connected, or is gone. The control lane counts as connected when the secondary's
    /// daemon has said where it stands; see [`Self::on_service_message`].
    pub fn on_lane(&mut self, now: Instant, lane: PeerLane, up: bool, path: &mut impl OutputPath) {
        match lane {
            PeerLane::Mirror => self.lanes.mirror_up = up,
            PeerLane::Secondary => {
                self.lanes.secondary_up = up;
                let stale = self.cut.on_connection() + self.expander.on_connection();
                self.engine.dropped_stale(stale);
                // The awaited cut has to count frames of this connection.
                self.ask_for_cut();
            }
            PeerLane::Control => {
                self.lanes.control = if up { ControlState::Up } else { ControlState::Down };
                if up {
                    self.expander.ask_again();
                }
                self.on_control(up);
                self.ask_for_cut();
            }
        }
        self.on_pair_change(now, path);
    }

    fn on_control(&mut self, up: bool) {
        if !up {
            self.protection.on_conversation_ends();
        } else if !self.protection.is_heard() {
            self.protection.on_conversation_begins();
            // Who connects without a word of its own has nothing to say against ours.
            let record = self.protection.keeper().record();
            let theirs = record.filter(|record| record.server == Server::Either);
            self.protection.on_message(ServiceMessage::Standing(theirs));
        }
    }

    /// A lane or the pairing has changed, and with it perhaps whether the secondary can be compared
    /// with.
    pub(super) fn on_pair_change(&mut self, now: Instant, path: &mut impl OutputPath) {
        let lanes_up = self.lanes.mirror_up && self.lanes.secondary_up && self.is_control_up();
        self.protection.on_peer(lanes_up && self.has_pair());
        self.act(now, path);
        self.ask_for_due(now);
    }

    /// `frames` were lost between the hosts, or their lane `is_cut_off`. A checkpoint makes up for
    /// everything that depends on them.
    pub fn on_lane_loss(&mut self, now: Instant, frames: u64, is_cut_off: bool) {
        if frames > 0 || is_cut_off {
            self.due.get_or_insert(Reason::LaneLoss);
            self.ask_for_due(now);
        }
    }

    /// The lane of the frames is gone, and the peer with it. When the peer is back, a checkpoint makes
    /// up for the frames that were under way.
    pub fn on_lane_gone(&mut self) {
        self.due.get_or_insert(Reason::LaneLoss);
    }

    /// Requests a checkpoint for what is due, but not yet during another checkpoint, after whose cut it may
    /// have happened. Nor while the peer is lost: its return alone does not make up for it.
    pub(super) fn ask_for_due(&mut self, now: Instant) {
        let may = self.is_protected() && self.checkpoint == Checkpoint::None;
        if may && let Some(reason) = self.due.take() {
            self.engine.request_checkpoint(now, reason, &mut self.out);
        }
    }
}
