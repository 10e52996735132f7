//! Finds the frames of a difference, for its record.

use std::time::Instant;

use super::{FlowScope, TcpFlow};
use crate::compare::chain::ChainKey;
use crate::compare::divergence::Captured;
use crate::compare::waiting_bytes::WaitingBytes;
use crate::frame::Frame;

/// A frame that a record is to show. It is copied only when there is a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum DifferenceFrame<'a> {
    Nothing,
    /// The frame that came just now.
    InHand(&'a Frame),
    /// A held frame of the primary.
    Held(ChainKey),
    /// A frame of the secondary, a piece of which waits.
    Waiting(ChainKey),
    /// The last frame of the secondary with control bits, if it has this one.
    ControlBit(ControlBit),
}

/// A change of the connection by control bits: SYN or SYN/ACK, FIN, RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlBit {
    Opening,
    Fin,
    Reset,
}

/// The start of the last frame of the secondary that had control bits. No data of that frame need
/// wait, so nothing else keeps it.
#[derive(Debug)]
pub(super) struct ControlWitness {
    control: ControlBit,
    head: WaitingBytes,
    original_len: usize,
    since: Instant,
}

impl TcpFlow {
    /// Keeps the start of a frame of the secondary until the primary sends its counterpart.
    pub(super) fn keep_witness(
        &mut self,
        scope: &mut FlowScope<'_>,
        control: ControlBit,
        frame: &Frame,
    ) {
        self.drop_witness(scope);
        let head = scope.ledger.blocks.keep_head(frame);
        let (original_len, since) = (frame.ethernet().len(), scope.ledger.now());
        self.rare.witness = Some(ControlWitness { control, head, original_len, since });
    }

    pub(super) fn drop_witness(&mut self, scope: &mut FlowScope<'_>) {
        if let Some(witness) = self.rare.used_mut().and_then(|rare| rare.witness.take()) {
            scope.ledger.blocks.give_back(witness.head);
        }
    }

    /// A copy of the frame that is to be shown, if it is there.
    pub(super) fn show(
        &self,
        scope: &FlowScope<'_>,
        shown: DifferenceFrame<'_>,
    ) -> Option<Captured> {
        let ledger = &scope.ledger;
        match shown {
            DifferenceFrame::Nothing => None,
            DifferenceFrame::InHand(frame) => Some(ledger.capture(frame)),
            DifferenceFrame::Held(key) => ledger.capture_held(key),
            DifferenceFrame::Waiting(key) => ledger.capture_waiting(key),
            DifferenceFrame::ControlBit(control) => {
                let witness = self.rare.witness.as_ref().filter(|w| w.control == control)?;
                Some(ledger.captured(witness.head.frame(), witness.original_len, witness.since))
            }
        }
    }
}
