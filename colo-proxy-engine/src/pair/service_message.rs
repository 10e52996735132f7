//! What the two daemons say to each other about who serves: the part of the control lane that the
//! decisions of both halves read and write.

use super::message::ControlMessage;
use super::service_record::ServiceRecord;

/// What the secondary is told: whether its guest could take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CoverNotice {
    /// Its guest could take over.
    pub protected: bool,
    /// The number of this notice in its conversation, from 1.
    pub number: u32,
}

/// A message about who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceMessage {
    /// From both ends, first in every conversation and after every change: the sender's record.
    Standing(Option<ServiceRecord>),
    /// From the primary, whose record has this generation.
    Notice {
        /// What it says.
        notice: CoverNotice,
        /// The generation of the primary's record.
        generation: u64,
    },
    /// From the secondary: it obeys the notice with this number, and its record says so.
    NoticeKnown(u32),
    /// From the secondary: whether there is a connection to its QEMU. It counts as there at first.
    Guest {
        /// There is one.
        there: bool,
    },
    /// From the primary: its guest is dead, and no later output of it leaves.
    GuestGone,
}

impl From<ServiceMessage> for ControlMessage {
    fn from(message: ServiceMessage) -> Self {
        match message {
            ServiceMessage::Standing(record) => Self::Standing {
                generation: record.map_or(0, |record| record.generation),
                server: record.map(|record| record.server),
            },
            ServiceMessage::Notice { notice: CoverNotice { protected, number }, generation } => {
                Self::Protection { protected, number, generation }
            }
            ServiceMessage::NoticeKnown(number) => Self::ProtectionKnown { number },
            ServiceMessage::Guest { there } => Self::Guest { there },
            ServiceMessage::GuestGone => Self::GuestGone,
        }
    }
}

impl ServiceMessage {
    /// The message, if it is one about who serves.
    pub fn of(message: &ControlMessage) -> Option<Self> {
        Some(match *message {
            ControlMessage::Standing { generation, server } => {
                Self::Standing(server.map(|server| ServiceRecord::new(generation, server)))
            }
            ControlMessage::Protection { protected, number, generation } => {
                Self::Notice { notice: CoverNotice { protected, number }, generation }
            }
            ControlMessage::ProtectionKnown { number } => Self::NoticeKnown(number),
            ControlMessage::Guest { there } => Self::Guest { there },
            ControlMessage::GuestGone => Self::GuestGone,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::service_record::Server;

    #[test]
    fn a_message_about_who_serves_is_one_on_the_control_lane() {
        let record = ServiceRecord::new(4, Server::OtherHost);
        let notice = CoverNotice { protected: true, number: 3 };
        for message in [
            ServiceMessage::Standing(None),
            ServiceMessage::Standing(Some(record)),
            ServiceMessage::Notice { notice, generation: 4 },
            ServiceMessage::NoticeKnown(3),
            ServiceMessage::Guest { there: true },
            ServiceMessage::GuestGone,
        ] {
            assert_eq!(ServiceMessage::of(&message.into()), Some(message));
        }
        assert_eq!(ServiceMessage::of(&ControlMessage::Heartbeat), None);
    }
}
