//! Fragments on their way through the engine: into their packet, and with it or alone to a flow.

use colo_proxy_common::record::FlowKey;

use super::body::DatagramBody;
use super::classify::{Fragment, FrameSubject, classify, fragment_body};
use super::ledger::{HeldKind, Ledger};
use super::packet::{HeldFragments, HeldTicket, WholePacket};
use super::reassembly::{FragmentOutcome, FragmentPiece, WholeFragments, whole};
use super::table::FlowKind;
use super::{Engine, Output, Side};
use crate::frame::Frame;

impl Engine {
    pub(super) fn on_fragment(
        &mut self,
        side: Side,
        (name, fragment): (FlowKey, Fragment),
        frame: Frame,
        out: &mut Output,
    ) {
        let (frame, ticket) = match side {
            Side::Primary => {
                let key = self.ledger.hold(frame.clone(), HeldKind::Fragment { packet: None });
                (frame, self.ledger.ticket(key))
            }
            Side::Secondary => (frame.compact(), None),
        };
        let piece = FragmentPiece { fragment, frame, name, ticket, serial: 0 };
        let now = self.ledger.now();
        let Ledger { limits, stats, .. } = &mut self.ledger;
        match self.reassembly.add(now, side, piece, limits, &mut stats.fragments) {
            FragmentOutcome::Kept => {}
            FragmentOutcome::Alone(pieces) => self.compare_alone(side, pieces, out),
            FragmentOutcome::Whole(whole) => self.compare_whole(side, whole, out),
        }
    }

    /// Compares the fragments of packets that stay incomplete on their own.
    pub(super) fn check_fragments(&mut self, out: &mut Output) {
        let now = self.ledger.now();
        loop {
            let Ledger { limits, stats, .. } = &mut self.ledger;
            let due = self.reassembly.pop_due(now, limits, &mut stats.fragments);
            let Some((side, pieces)) = due else { return };
            self.compare_alone(side, pieces, out);
        }
    }

    /// Compares a complete packet like one that came in a single frame.
    fn compare_whole(&mut self, side: Side, whole: WholeFragments, out: &mut Output) {
        let Some(whole) = self.take_back(side, whole, out) else { return };
        let copy = self::whole(&whole.pieces).map(|copy| (classify(&copy), copy));
        let all = whole.into_arrivals();
        let Some(((subject, malformed), copy)) = copy else {
            return self.compare_alone(side, all, out);
        };
        if matches!(subject, FrameSubject::Fragment(..)) {
            return self.compare_alone(side, all, out);
        }
        if let Some(malformed) = malformed {
            self.ledger.stats.malformed.add(malformed);
        }
        let originals: HeldFragments = all.iter().filter_map(|piece| piece.ticket).collect();
        let packet = WholePacket { frame: copy, originals: Some(originals) };
        let policy = self.policy(&subject, malformed);
        self.admit(side, (&subject, policy), packet, out);
    }

    /// Makes `whole` a packet again if it was late, so that its fragments were compared on their
    /// own. If one of them has been matched, all of them stay alone.
    fn take_back(
        &mut self,
        side: Side,
        whole: WholeFragments,
        out: &mut Output,
    ) -> Option<WholeFragments> {
        if !whole.were_alone {
            return Some(whole);
        }
        let mut pieces = whole.pieces.iter().chain(&whole.repeated).cloned().collect::<Vec<_>>();
        pieces.sort_unstable_by_key(|piece| piece.serial);
        let last = pieces.pop();
        let taken = pieces.iter().take_while(|piece| self.take_back_one(side, piece, out)).count();
        if taken == pieces.len() {
            return Some(whole);
        }
        pieces.truncate(taken);
        pieces.extend(last);
        self.compare_alone(side, pieces, out);
        None
    }

    /// Takes a fragment out of the flow in which it is compared on its own, if it is still there.
    fn take_back_one(&mut self, side: Side, piece: &FragmentPiece, out: &mut Output) -> bool {
        let Some(flow) = self.table.key_of(&piece.name) else { return false };
        let Some(state) = self.table.get_mut(flow) else { return false };
        let FlowKind::Datagram(state) = &mut state.kind else { return false };
        let body = fragment_body(&piece.fragment);
        match (side, piece.ticket) {
            (Side::Primary, Some(ticket)) => state.give_back(&mut self.ledger, flow, ticket, out),
            (Side::Primary, None) => false,
            (Side::Secondary, _) => {
                state.give_back_waiting(&mut self.ledger, flow, &piece.frame, body)
            }
        }
    }

    /// Compares fragments by their bytes and place.
    fn compare_alone(&mut self, side: Side, pieces: Vec<FragmentPiece>, out: &mut Output) {
        for piece in pieces {
            let body = fragment_body(&piece.fragment);
            match (side, piece.ticket) {
                (Side::Primary, Some(ticket)) => self.adopt(&piece.name, ticket, body, out),
                // The ledger holds every fragment of the primary.
                (Side::Primary, None) => {}
                (Side::Secondary, _) => {
                    self.compare_datagram(side, &piece.name, body, piece.frame.into(), out);
                }
            }
        }
    }

    /// Gives a fragment that is held already to the flow `name`.
    fn adopt(&mut self, name: &FlowKey, ticket: HeldTicket, body: DatagramBody, out: &mut Output) {
        let is_taken = self.with_datagrams(name, |state, ledger, flow| {
            state.adopt(ledger, flow, ticket, body, out);
        });
        if is_taken.is_none() {
            if let Some(held) = self.ledger.held_for(ticket) {
                held.kind = HeldKind::Checkpoint;
            }
            self.overflowed(name);
        }
    }
}
