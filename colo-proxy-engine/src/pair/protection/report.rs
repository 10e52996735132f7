//! What people read about the state: the mode, the log line, and the reason.

use super::{Acquaintance, PeerLoss, Protection, ProtectionState};
use crate::pair::words::{Mode, OnSecondaryLost};

impl Protection {
    /// Where the pair stands, in the word that `status` shows.
    pub fn mode(&self) -> Mode {
        match self.state {
            ProtectionState::PeerLost(_) if self.is_held_for_somebody() => Mode::Held,
            ProtectionState::PeerLost(_) if self.exposed => Mode::CoveredNotEqual,
            ProtectionState::PeerLost(_) => Mode::PeerLost,
            // The secondary cannot take over before the disk says so.
            ProtectionState::Protected if !self.keeper.is_kept() => Mode::Joining,
            ProtectionState::Protected => Mode::Protected,
            ProtectionState::Joining => Mode::Joining,
            ProtectionState::Unprotected => Mode::Unprotected,
            ProtectionState::GivenUp | ProtectionState::TakenOver => Mode::TakenOver,
        }
    }

    /// Output is held, and not only for the moment in which a known secondary may come back.
    fn is_held_for_somebody(&self) -> bool {
        self.state != ProtectionState::PeerLost(PeerLoss::Waiting)
            || self.secondary == Acquaintance::Remembered
            || self.policy.on_lost == OnSecondaryLost::Hold
    }

    /// The log line of the present state. It begins with the word of [`Self::mode`].
    pub fn description(&self) -> &'static str {
        match (self.mode(), self.state) {
            (Mode::Protected, _) => {
                "protected: output is compared, and the secondary can take over"
            }
            (Mode::Joining, ProtectionState::Protected) => {
                "joining: output is compared, and the secondary can take over as soon as the disk has \
                 the record of it"
            }
            (Mode::Joining, _) => {
                "joining: the secondary is there, and is not equal yet; output is held until a \
                 checkpoint is done"
            }
            (Mode::CoveredNotEqual, _) => {
                "covered-not-equal: the secondary is lost, and has to be made equal when it is back; \
                 output is held"
            }
            (Mode::PeerLost, _) => {
                "peer-lost: the secondary is lost; output is held until it is back"
            }
            (Mode::TakenOver, ProtectionState::GivenUp) => {
                "taken-over: the guest is dead, and the secondary is to take over; output is held"
            }
            (Mode::TakenOver, _) => "taken-over: the other host serves; output is held",
            (Mode::Unprotected, _) => {
                "UNPROTECTED: no secondary can take over; the guest goes on alone until one is back"
            }
            (_, ProtectionState::PeerLost(PeerLoss::Disclaiming)) => {
                "held: output is held until the secondary confirms that it does not take over"
            }
            (_, ProtectionState::PeerLost(PeerLoss::Fencing)) => {
                "held: output is held until the secondary is fenced"
            }
            (_, ProtectionState::PeerLost(PeerLoss::Recording)) => {
                "held: output is held until the disk has the record that this host serves alone"
            }
            _ if self.may_be_taken_over() => {
                "held: the pair was protected when the last daemon ended, and the secondary may have \
                 taken over; output is held until it is heard, a fence answers or an operator decides"
            }
            _ => "held: the secondary is not there; output is held until it comes",
        }
    }

    /// Why the guest stands as [`Self::mode`] says: the log line without the mode.
    pub fn reason(&self) -> &'static str {
        let line = self.description();
        line.split_once(": ").map_or(line, |(_, reason)| reason)
    }
}
