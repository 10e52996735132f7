//! Where the frames of a difference are found, for the record of it.

use std::time::Instant;

use super::{Scene, TcpFlow};
use crate::compare::chain::Key;
use crate::compare::divergence::Captured;
use crate::compare::octets::Kept;
use crate::frame::Frame;

/// A frame that a record is to show; it is copied only when there is a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'a> {
    Nothing,
    /// The frame that came just now.
    InHand(&'a Frame),
    /// A frame held of the primary.
    Held(Key),
    /// A frame of the secondary of which a piece waits.
    Waiting(Key),
    /// The secondary's last mark, if it is of this kind.
    Mark(Mark),
}

/// What a frame says about the connection, apart from data and acknowledgment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Opening,
    Fin,
    Reset,
}

/// The start of the last frame of the secondary that had a mark: nothing else of that frame waits,
/// so nothing else keeps it.
#[derive(Debug)]
pub(super) struct Witness {
    mark: Mark,
    head: Kept,
    original_len: usize,
    since: Instant,
}

impl TcpFlow {
    /// Keeps the start of a frame of the secondary until the primary sends the like.
    pub(super) fn keep_witness(&mut self, scene: &mut Scene<'_>, mark: Mark, frame: &Frame) {
        self.drop_witness(scene);
        let head = scene.ledger.blocks.keep_head(frame);
        let (original_len, since) = (frame.ethernet().len(), scene.ledger.now());
        self.unusual.witness = Some(Witness { mark, head, original_len, since });
    }

    pub(super) fn drop_witness(&mut self, scene: &mut Scene<'_>) {
        if let Some(witness) = self.unusual.used_mut().and_then(|unusual| unusual.witness.take()) {
            scene.ledger.blocks.give_back(witness.head);
        }
    }

    /// A copy of the frame that is to be shown, if it is there.
    pub(super) fn show(&self, scene: &Scene<'_>, shown: Shown<'_>) -> Option<Captured> {
        let ledger = &scene.ledger;
        match shown {
            Shown::Nothing => None,
            Shown::InHand(frame) => Some(ledger.capture(frame)),
            Shown::Held(key) => ledger.capture_held(key),
            Shown::Waiting(key) => ledger.capture_waiting(key),
            Shown::Mark(mark) => {
                let witness = self.unusual.witness.as_ref().filter(|w| w.mark == mark)?;
                Some(ledger.captured(witness.head.frame(), witness.original_len, witness.since))
            }
        }
    }
}
