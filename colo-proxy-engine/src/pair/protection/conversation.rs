//! The conversation with the secondary's daemon about who serves.

use super::{Acquaintance, PeerLoss, Protection, ProtectionAction, ProtectionState};
use crate::pair::service_message::{CoverNotice, ServiceMessage};
use crate::pair::service_record::{Server, ServiceRecord};

/// The conversation with the secondary's daemon, on the control lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Conversation {
    None,
    /// The secondary's daemon has not said yet where it stands.
    Begun,
    /// `told` is the last notice, and `is_confirmed` says that the secondary has it. `told_gone`: it was
    /// told that the guest is dead. `has_guest`: its QEMU is there.
    Heard {
        told: Option<CoverNotice>,
        is_confirmed: bool,
        told_gone: bool,
        has_guest: bool,
    },
}

impl Conversation {
    pub(super) const HEARD: Self =
        Self::Heard { told: None, is_confirmed: false, told_gone: false, has_guest: true };
}

impl Protection {
    /// The next message for the secondary's daemon.
    pub fn next_message(&mut self) -> Option<ServiceMessage> {
        if self.conversation == Conversation::None {
            return None;
        }
        let standing = Some(ServiceMessage::Standing(self.keeper.standing()));
        if self.told_standing != standing {
            self.told_standing = standing;
            return standing;
        }
        if let Some(notice) = self.next_notice() {
            let generation = self.keeper.generation();
            return Some(ServiceMessage::Notice { notice, generation });
        }
        // A daemon that starts again must not forget it.
        let is_gone = self.is_given_up() && self.keeper.is_kept();
        match &mut self.conversation {
            Conversation::Heard { told_gone, .. } if is_gone && !*told_gone => {
                *told_gone = true;
                Some(ServiceMessage::GuestGone)
            }
            _ => None,
        }
    }

    /// The next notice, if the last one is not true any more.
    pub(super) fn next_notice(&mut self) -> Option<CoverNotice> {
        let protected = self.is_covered();
        let Conversation::Heard { told, is_confirmed, .. } = &mut self.conversation else {
            return None;
        };
        if told.is_some_and(|told| told.protected == protected) {
            return None;
        }
        let number = told.map_or(0, |told| told.number).wrapping_add(1);
        let notice = CoverNotice { protected, number };
        (*told, *is_confirmed) = (Some(notice), false);
        Some(notice)
    }

    /// The secondary's daemon has said where it stands.
    pub fn is_heard(&self) -> bool {
        matches!(self.conversation, Conversation::Heard { .. })
    }

    /// The control lane is connected. Each end says first where it stands.
    pub fn on_conversation_begins(&mut self) {
        self.conversation = Conversation::Begun;
        self.told_standing = None;
    }

    /// The control lane is gone.
    pub fn on_conversation_ends(&mut self) {
        self.conversation = Conversation::None;
        if self.state == ProtectionState::PeerLost(PeerLoss::Disclaiming) {
            self.leave_silent_secondary();
        }
        self.settle();
    }

    /// A message of the secondary's daemon.
    pub fn on_message(&mut self, message: ServiceMessage) {
        match message {
            ServiceMessage::Standing(theirs) => {
                if self.conversation == Conversation::Begun {
                    self.conversation = Conversation::HEARD;
                    self.on_first_standing(theirs);
                }
                if let Some(theirs) = theirs {
                    self.on_standing(theirs);
                }
            }
            ServiceMessage::NoticeKnown(number) => {
                if let Conversation::Heard { told: Some(told), is_confirmed, .. } =
                    &mut self.conversation
                    && told.number == number
                {
                    *is_confirmed = true;
                }
            }
            ServiceMessage::Guest { there } => {
                if let Conversation::Heard { has_guest, .. } = &mut self.conversation {
                    *has_guest = there;
                }
                self.on_peer_changed();
            }
            // Only a primary says so.
            ServiceMessage::Notice { .. } | ServiceMessage::GuestGone => {}
        }
        self.settle();
    }

    /// Later in a conversation, a standing may be the answer to an earlier notice.
    fn on_first_standing(&mut self, theirs: Option<ServiceRecord>) {
        let could_take_over = theirs.is_some_and(|theirs| theirs.server == Server::Either);
        if self.may_be_taken_over() && !could_take_over {
            (self.secondary, self.exposed) = (Acquaintance::Stale, true);
        }
    }

    fn on_standing(&mut self, theirs: ServiceRecord) {
        let is_behind = self.keeper.server() == Some(Server::ThisHost)
            && theirs.generation < self.keeper.generation();
        self.theirs = Some(theirs);
        if theirs.server == Server::ThisHost && !is_behind {
            self.be_taken_over();
        }
        if theirs.server == Server::Either && self.keeper.server().is_none() {
            self.keeper.want(self.generation(), Server::Either);
        }
        // The guest that the secondary follows is dead, and this one has started since.
        let is_outlived = self.is_new_guest && self.may_be_taken_over();
        if is_outlived && self.is_lost() && theirs.server == Server::Either {
            self.be_given_up();
            self.actions.push_back(ProtectionAction::Announce);
        }
    }

    /// The number of the last notice in this conversation, and the generation of the record.
    pub fn last_notice(&self) -> (u32, u64) {
        let number = match self.conversation {
            Conversation::Heard { told: Some(told), .. } => told.number,
            _ => 0,
        };
        (number, self.keeper.generation())
    }
}
