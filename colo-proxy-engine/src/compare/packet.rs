//! A packet of the primary on its way through a flow.

use std::ops::Deref;

use super::chain::ChainKey;
use crate::frame::Frame;

/// A held frame that may be gone by the time it is looked for: its slot is used again, its arrival
/// number is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldTicket {
    pub(super) key: ChainKey,
    pub(super) arrival: u64,
}

/// Held frames that leave together, in order of arrival.
pub(super) type HeldFragments = Box<[HeldTicket]>;

/// A frame as it came in, or the whole of a packet that came in fragments.
#[derive(Debug)]
pub(super) struct WholePacket {
    /// The frame that is compared. Of a packet in fragments it is a copy that never leaves.
    pub(super) frame: Frame,
    /// The fragments, which the ledger holds already: they leave in its place.
    pub(super) originals: Option<HeldFragments>,
}

impl From<Frame> for WholePacket {
    fn from(frame: Frame) -> Self {
        Self { frame, originals: None }
    }
}

impl Deref for WholePacket {
    type Target = Frame;

    fn deref(&self) -> &Frame {
        &self.frame
    }
}
