//! The primary's side of a connection.

use colo_proxy_common::decode::{Tcp, flag};
use colo_proxy_common::seq::Seq;

use super::difference_frame::{ControlBit, DifferenceFrame};
use super::opening::{Opening, Openings};
use super::segments::StreamPiece;
use super::space::SequenceSpace;
use super::{
    FlowScope, ResetClaim, SecondarySide, SegmentClaim, SegmentNeed, TcpFlow, first_difference,
    note, part, urgent,
};
use crate::compare::divergence::{Difference, DifferingPair};
use crate::compare::ledger::{HeldKind, ReleaseCause};
use crate::compare::packet::WholePacket;
use crate::compare::reason::Reason;
use crate::compare::{Output, Side};
use crate::frame::Frame;

impl TcpFlow {
    /// A frame of the primary: it leaves at once, or is held.
    pub(in crate::compare) fn on_primary(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: WholePacket,
        tcp: &Tcp,
        out: &mut Output,
    ) {
        let octets = frame.ethernet();
        if tcp.flags & flag::SYN != 0 {
            self.open(scope, &Opening::read(octets, tcp), &frame);
            self.release_ready(scope, out);
        }
        let is_met = !self.anchored;
        let Some(segment) = self.segment(scope, octets, tcp) else {
            self.rare.strayed = true;
            scope.ledger.stats.stray += 1;
            scope.ledger.hold(frame, HeldKind::Checkpoint);
            return;
        };
        self.remember(&segment);
        // Where frames of the secondary waited for this one, they can have freed held frames.
        if is_met && self.anchored {
            self.meet_in_middle(scope);
            self.release_ready(scope, out);
        }
        if self.is_apart {
            self.join_answers(scope, &segment);
            self.release_ready(scope, out);
        }
        self.note_headers(scope, Side::Primary, octets, tcp);
        let start = segment.payload_at as usize;
        let payload = octets.get(start..start + tcp.payload_len as usize).unwrap_or_default();
        let is_different = self.compare_with_waiting(scope, segment.start, payload, &frame)
            | self.compare_control_bits(scope, &segment, &frame);
        let needs = self.needs(&segment);
        if !is_different && needs == SegmentNeed::Nothing {
            self.account_for(scope, &segment);
            scope.ledger.pass(frame, ReleaseCause::Compared, out);
            return;
        }
        let len = frame.len();
        let key = scope.ledger.hold(frame, HeldKind::Segment(segment));
        scope.ledger.charge(Side::Primary, &mut self.account, len);
        if !is_different {
            self.enqueue(scope.ledger, key, &segment, needs);
        }
    }

    /// A SYN or SYN/ACK: repeated, or the start of a new connection.
    fn open(&mut self, scope: &mut FlowScope<'_>, opening: &Opening, frame: &Frame) {
        let is_repeated =
            self.anchored && self.isn == Some(opening.isn) && self.opening.may_answer(opening);
        if is_repeated {
            self.opening.set(*opening);
            return;
        }
        if self.anchored {
            scope.ledger.stats.tuples_reused += 1;
        } else if !self.secondary.opening.is_empty() {
            let openings = std::mem::take(&mut self.secondary.opening);
            self.rare.ahead.begin_with(openings);
        }
        let previous_isn = self.secondary.opening.isn().filter(|_| self.anchored);
        let left = self.leave_connection(scope, frame);
        // Its pieces come from the middle of an older connection.
        let dropped = self.secondary.segments.drop_all(scope.ledger);
        scope.ledger.stats.secondary_dropped.old_connection += dropped;
        let openings = self
            .rare
            .used_mut()
            .map_or_else(Openings::default, |rare| rare.ahead.take_opening(scope.ledger, opening));
        let mut old = std::mem::take(self);
        *self = Self {
            seqs: Some(SequenceSpace::new(opening.isn.plus(1), 0)),
            anchored: true,
            isn: Some(opening.isn),
            secondary: SecondarySide {
                opening: openings,
                segments: old.secondary.segments,
                ..SecondarySide::default()
            },
            previous_isn,
            // They are empty, but have their memory.
            account: old.account,
            queues: old.queues,
            ..Self::default()
        };
        if let Some(rare) = old.rare.used_mut() {
            self.rare.witness = rare.witness.take();
            self.rare.ahead = std::mem::take(&mut rare.ahead);
            self.rare.older = std::mem::take(&mut rare.older);
        }
        if let Some(left) = left {
            self.rare.older.push(left);
        }
        self.opening.set(*opening);
        self.acks = opening.ack.or(openings.ack()).map(|ack| SequenceSpace::new(ack, 0));
        self.secondary.ack = self.acks.zip(openings.ack()).and_then(|(acks, ack)| acks.place(ack));
        if self.rare.used().is_some() {
            self.catch_up(scope);
        }
    }

    /// Where `tcp` lies in the stream; `None` where it is far outside of it.
    fn segment(
        &mut self,
        scope: &mut FlowScope<'_>,
        octets: &[u8],
        tcp: &Tcp,
    ) -> Option<SegmentClaim> {
        let syn = tcp.flags & flag::SYN != 0;
        let ack = (tcp.flags & flag::ACK != 0).then_some(Seq(tcp.ack));
        let mut segment = SegmentClaim {
            start: self.high,
            end: self.high,
            origin: self.start,
            payload_at: tcp.payload_at,
            ack: None,
            urgent: None,
            window: tcp.window,
            opening: syn.then(|| Opening::read(octets, tcp)),
            fin: tcp.flags & flag::FIN != 0,
            reset: None,
        };
        if tcp.flags & flag::RST != 0 {
            // A reset may answer a segment of any place, so it tells nothing about the stream.
            segment.fin = false;
            let reset = ResetClaim { seq: Seq(tcp.seq), ack };
            segment.reset = Some(reset);
            let ack = self.acks.zip(reset.ack_of_stream());
            segment.ack = ack.and_then(|(acks, ack)| acks.place(ack));
            return Some(segment);
        }
        let first = Seq(tcp.seq).plus(u32::from(syn));
        segment.start = self.anchor(scope, first)?;
        segment.origin = self.start;
        segment.end = segment.start + i64::from(tcp.payload_len);
        segment.urgent = urgent(segment.start - i64::from(syn), tcp);
        if let Some(ack) = ack {
            segment.ack = Some(self.place_ack(ack)?);
        }
        Some(segment)
    }

    /// The place of `first`; the stream is met here if it was not before.
    fn anchor(&mut self, scope: &mut FlowScope<'_>, first: Seq) -> Option<i64> {
        if self.anchored {
            return self.seqs?.place(first);
        }
        self.anchored = true;
        let place = self.seqs.and_then(|seqs| seqs.place(first));
        let place = place.unwrap_or_else(|| {
            // The secondary's frames so far belong to another connection.
            let dropped = self.secondary.segments.drop_all(scope.ledger);
            scope.ledger.stats.secondary_dropped.old_connection += dropped;
            self.secondary.fin = None;
            self.seqs = Some(SequenceSpace::new(first, 0));
            0
        });
        self.start = place;
        self.low = place;
        self.high = place;
        Some(place)
    }

    /// The place of an acknowledgment of the primary; before the primary's first, the secondary's
    /// do not count against it.
    fn place_ack(&mut self, ack: Seq) -> Option<i64> {
        match self.acks {
            Some(acks) if self.ack.is_some() => acks.place(ack),
            Some(acks) => Some(acks.place(ack).unwrap_or_else(|| {
                self.secondary.ack = None;
                self.acks = Some(SequenceSpace::new(ack, 0));
                0
            })),
            None => {
                self.acks = Some(SequenceSpace::new(ack, 0));
                Some(0)
            }
        }
    }

    /// Takes note of how far the primary is.
    fn remember(&mut self, segment: &SegmentClaim) {
        if let Some(ack) = segment.ack.filter(|ack| self.ack.is_none_or(|known| known < *ack)) {
            self.ack = Some(ack);
            if let Some(acks) = &mut self.acks {
                acks.advance(ack);
            }
        }
        if let Some(reset) = segment.reset {
            self.rare.reset = Some(reset);
            if reset.is_own() {
                note(&mut self.rare.own_resets, reset.seq);
            }
            return;
        }
        self.urgent = self.urgent.max(segment.urgent);
        self.offered = self.offered.max(self.edge(segment));
        self.low = self.low.min(segment.start);
        self.produced.add(segment.start, segment.end);
        if segment.end > self.high {
            self.high = segment.end;
            if let Some(seqs) = &mut self.seqs {
                seqs.advance(segment.end);
            }
        }
        if segment.fin {
            self.fin = Some(segment.end);
        }
    }

    /// Compares the payload with the waiting pieces of the secondary; `true` where they differ.
    fn compare_with_waiting(
        &mut self,
        scope: &mut FlowScope<'_>,
        start: i64,
        payload: &[u8],
        frame: &Frame,
    ) -> bool {
        let end = start + payload.len() as i64;
        let mut is_different = false;
        let mut from = start;
        while let Some(piece) = self.secondary.segments.overlapping(from, end) {
            let (lo, hi) = (piece.start.max(from), piece.end.min(end));
            let theirs = scope.ledger.waiting(piece.key).map_or(&[][..], |w| w.octets.as_slice());
            let ours = part(payload, start, lo, hi);
            let difference = first_difference(ours, part(theirs, piece.start, lo, hi));
            let equal_to = difference.map_or(hi, |at| lo + at as i64);
            if difference.is_some() {
                is_different = true;
                self.report_waiting(scope, equal_to, (start, payload, frame), piece);
            }
            self.verify(scope, lo, equal_to);
            self.secondary.segments.cut(scope.ledger, piece, lo, equal_to);
            from = hi;
        }
        is_different
    }

    fn report_waiting(
        &mut self,
        scope: &mut FlowScope<'_>,
        place: i64,
        (start, payload, frame): (i64, &[u8], &Frame),
        piece: StreamPiece,
    ) {
        if !self.is_first_report(place) {
            return;
        }
        let theirs = scope.ledger.waiting(piece.key).map(|w| w.octets.as_slice().to_vec());
        let theirs = theirs.unwrap_or_default();
        // Aligned at the start of the overlap, so that one index names the place in both.
        let lo = start.max(piece.start);
        let pair = DifferingPair {
            primary: payload.get((lo - start) as usize..).unwrap_or_default(),
            secondary: theirs.get((lo - piece.start) as usize..).unwrap_or_default(),
            at: (place - lo) as usize,
        };
        let difference = Difference::octets(Reason::Payload, place - self.start, pair);
        let (ours, theirs) = (DifferenceFrame::InHand(frame), DifferenceFrame::Waiting(piece.key));
        let difference = difference.frames(self.show(scope, ours), self.show(scope, theirs));
        scope.ledger.diverge(scope.name, difference);
    }

    /// Both guests have produced `start..end` alike.
    pub(super) fn verify(&mut self, scope: &mut FlowScope<'_>, start: i64, end: i64) {
        if start < end {
            self.verified.add(start, end);
            scope.ledger.stats.compared.bytes += (end - start) as u64;
        }
    }

    /// Compares SYN, FIN and RST with those known of the secondary; `true` where they differ.
    fn compare_control_bits(
        &mut self,
        scope: &mut FlowScope<'_>,
        segment: &SegmentClaim,
        frame: &Frame,
    ) -> bool {
        let shown =
            |control| (DifferenceFrame::InHand(frame), DifferenceFrame::ControlBit(control));
        if let Some(opening) = &segment.opening
            && self.differs_in_opening(scope, opening, shown(ControlBit::Opening))
        {
            return true;
        }
        // The FIN has a number of its own: a bare acknowledgment behind it is beyond it.
        let has_data = segment.end > segment.start;
        if let Some(fin) = self.secondary.fin.filter(|fin| self.matched_fin != Some(*fin))
            && ((has_data && segment.end > fin) || (segment.fin && segment.end != fin))
        {
            self.report_control_bits(
                scope,
                Reason::FinPosition,
                segment.end.min(fin),
                shown(ControlBit::Fin),
            );
            return true;
        }
        segment
            .reset
            .is_some_and(|reset| self.differs_in_reset(scope, reset, shown(ControlBit::Reset)))
    }

    /// An opening of the primary against the secondary's, if it is there.
    pub(super) fn differs_in_opening(
        &mut self,
        scope: &mut FlowScope<'_>,
        opening: &Opening,
        (ours, theirs_shown): (DifferenceFrame<'_>, DifferenceFrame<'_>),
    ) -> bool {
        let Some(theirs) = self.secondary.opening.like(opening) else { return false };
        let mut is_different = false;
        for reason in opening.differences(&theirs) {
            is_different = true;
            // Places that no byte has, one for each reason.
            if self.is_first_report(i64::MIN + reason as i64) {
                let (ours, theirs) = (self.show(scope, ours), self.show(scope, theirs_shown));
                let difference = Difference::new(reason, -1).frames(ours, theirs);
                scope.ledger.diverge(scope.name, difference);
            }
        }
        is_different
    }

    /// Both reset the connection by themselves, but at different places. A reset without an
    /// acknowledgment answers a segment of the peer, and more of them may be on their way.
    pub(super) fn differs_in_reset(
        &mut self,
        scope: &mut FlowScope<'_>,
        reset: ResetClaim,
        shown: (DifferenceFrame<'_>, DifferenceFrame<'_>),
    ) -> bool {
        let resets = &self.rare.resets;
        if !reset.is_own() || resets.iter().any(|r| r.seq == reset.seq) {
            return false;
        }
        // The secondary may be behind, at a reset that the primary has sent before.
        let theirs = resets.last().filter(|last| last.is_own());
        if theirs.is_none_or(|theirs| self.rare.own_resets.contains(&theirs.seq)) {
            return false;
        }
        let place = self.seqs.and_then(|seqs| seqs.place(reset.seq)).unwrap_or(self.high);
        self.report_control_bits(scope, Reason::RstPosition, place, shown);
        true
    }

    /// Reports differing control bits, once for each place.
    pub(super) fn report_control_bits(
        &mut self,
        scope: &mut FlowScope<'_>,
        reason: Reason,
        place: i64,
        (ours, theirs): (DifferenceFrame<'_>, DifferenceFrame<'_>),
    ) {
        if self.is_first_report(place) {
            let (ours, theirs) = (self.show(scope, ours), self.show(scope, theirs));
            let difference = Difference::new(reason, place - self.start).frames(ours, theirs);
            scope.ledger.diverge(scope.name, difference);
        }
    }

    /// A frame leaves because the rule holds for it.
    pub(super) fn account_for(&mut self, scope: &mut FlowScope<'_>, segment: &SegmentClaim) {
        scope.ledger.stats.compared.frames += 1;
        self.told = self.told.max(segment.ack);
        self.edge = self.edge.max(self.edge(segment));
        if let (Some(ours), Some(theirs)) = (&self.headers, &self.secondary.headers) {
            ours.record(theirs, &mut scope.ledger.stats.differences);
        }
        self.closed |= segment.fin || segment.reset.is_some();
        if segment.fin {
            self.matched_fin = Some(segment.end);
        }
        if segment.has_control_bits() {
            self.drop_witness(scope);
        }
    }
}
