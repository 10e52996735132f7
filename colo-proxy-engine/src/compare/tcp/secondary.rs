//! The secondary's side of a connection: each of its frames can release frames of the primary.

use colo_proxy_common::decode::{Tcp, flag};
use colo_proxy_common::seq::Seq;

use super::claim::ControlSignal;
use super::data::SecondaryData;
use super::difference_frame::{ControlBit, DifferenceFrame};
use super::opening::Opening;
use super::partial;
use super::space::SequenceSpace;
use super::{FlowScope, ResetClaim, SegmentClaim, SegmentNeed, TcpFlow, note, urgent};
use crate::compare::chain::ChainKey;
use crate::compare::ledger::{HeldKind, ReleaseCause};
use crate::compare::reason::Reason;
use crate::compare::{Output, Side};
use crate::frame::Frame;

/// How far behind its SYN/ACK a connection may be met, in either direction, while the SYN/ACK can
/// still be repeated.
const MET_MAX: i64 = 1 << 20;

impl TcpFlow {
    /// A frame of the secondary.
    pub(in crate::compare) fn on_secondary(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
        tcp: &Tcp,
        out: &mut Output,
    ) {
        if self.is_apart {
            return self.on_secondary_apart(scope, frame, tcp, out);
        }
        if !self.on_secondary_here_inlined(scope, frame, tcp) {
            scope.ledger.stats.secondary_dropped.old_connection += 1;
        }
        self.release_ready_inlined(scope, out);
        self.acknowledge_in_part(scope, out);
    }

    /// A frame of the secondary, which is in the primary's connection or opens the next one. `false`
    /// where the frame belongs to an older connection.
    #[inline(never)]
    pub(super) fn on_secondary_here(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
        tcp: &Tcp,
    ) -> bool {
        self.on_secondary_here_inlined(scope, frame, tcp)
    }

    /// The same for the caller that nearly every frame has.
    #[inline(always)]
    fn on_secondary_here_inlined(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
        tcp: &Tcp,
    ) -> bool {
        if tcp.flags & flag::SYN != 0 {
            return self.on_opening(scope, frame, tcp);
        }
        if self.secondary.opening.is_empty() {
            if self.isn.is_some() {
                // The secondary has not opened this connection yet: the old one is meant.
                return false;
            }
        } else if !self.anchored {
            return self.wait_ahead(scope, frame, tcp);
        }
        if tcp.flags & flag::RST != 0 {
            self.on_reset(scope, frame, tcp);
            return true;
        }
        self.on_segment(scope, frame, tcp)
    }

    /// Acknowledges to the peer what both guests have received, if no frame of the primary does.
    #[inline(always)]
    pub(super) fn acknowledge_in_part(&mut self, scope: &mut FlowScope<'_>, out: &mut Output) {
        let (Some(theirs), Some(ours), Some(acks)) = (self.secondary.ack, self.ack, self.acks)
        else {
            return;
        };
        if theirs >= ours || self.told >= Some(theirs) {
            return;
        }
        let Some(held) = self.queues.first().and_then(|key| scope.ledger.held(key)) else { return };
        let HeldKind::Segment(segment) = held.kind else { return };
        if segment.opening.is_some() || segment.reset.is_some() {
            return;
        }
        let window = self.window_for(theirs, segment.window);
        if let Some(frame) = partial::acknowledgment(&held.frame, acks.seq(theirs), window) {
            self.told = Some(theirs);
            let told = SegmentClaim { ack: self.told, window, ..segment };
            self.edge = self.edge.max(self.edge(&told));
            scope.ledger.stats.partial_acknowledgments += 1;
            out.acknowledgments.push(frame);
        }
    }

    /// A SYN or SYN/ACK, whose number may be the secondary's own: it never places anything.
    fn on_opening(&mut self, scope: &mut FlowScope<'_>, frame: &Frame, tcp: &Tcp) -> bool {
        let opening = Opening::read(frame.ethernet(), tcp);
        let is_own = self.is_own(&opening);
        if !self.anchored {
            if !is_own && (self.seqs.is_some() || !self.secondary.opening.is_empty()) {
                return self.wait_ahead(scope, frame, tcp);
            }
            self.secondary.opening.set(opening);
            self.keep_witness(scope, ControlBit::Opening, frame);
            return tcp.payload_len == 0 || self.wait_ahead(scope, frame, tcp);
        }
        if !is_own && (self.isn.is_none() || !self.secondary.opening.is_empty()) {
            return self.wait_ahead(scope, frame, tcp);
        }
        if !is_own && (self.answers_another(&opening) || self.previous_isn == Some(opening.isn)) {
            return false;
        }
        self.secondary.opening.set(opening);
        self.keep_witness(scope, ControlBit::Opening, frame);
        if let Some(ack) = opening.ack {
            self.on_ack(scope, ack);
        }
        let signal = if opening.ack.is_some() { ControlSignal::SynAck } else { ControlSignal::Syn };
        self.revisit_control_bits(scope, frame, &signal);
        // Its number is its own, and the SYN comes before the first byte.
        self.on_urgent(scope, urgent(-1, tcp));
        self.note_headers(scope, Side::Secondary, frame.ethernet(), tcp);
        // RFC 7413: data may come with a SYN; its first byte is the first of the stream.
        if tcp.payload_len > 0 && self.isn.is_some() {
            self.on_data(scope, &SecondaryData::new(frame, tcp, 0));
        }
        true
    }

    /// The secondary sends `opening` for the connection that the primary is in, as far as its number
    /// tells.
    pub(super) fn is_own(&self, opening: &Opening) -> bool {
        if self.secondary.opening.belongs(opening) || self.isn == Some(opening.isn) {
            return true;
        }
        if !self.anchored {
            return false;
        }
        if self.isn.is_none() {
            return self.was_met_behind(opening);
        }
        // The guest answers the same SYN of the peer once more, and the primary has gone on.
        opening.ack.is_some()
            && self.secondary.opening.ack() == opening.ack
            && self.secondary_only_answers()
            && !self.is_half_open()
    }

    /// The secondary repeats `opening` in a connection that was met behind it, and has said nothing
    /// else there.
    ///
    /// A guest that still repeats it was at its opening when the engine began, and so was its equal.
    /// So the number of the opening is the primary's too, and the primary was met at the next number.
    /// Behind a SYN/ACK it can have sent data already (RFC 7413), and received data; there are two
    /// numbers to tell it from others. Where the numbers differ, the opening is the next connection's.
    pub(super) fn was_met_behind(&self, opening: &Opening) -> bool {
        let distance = |space: Option<SequenceSpace>, seq: Seq, place: Option<i64>| {
            space.and_then(|space| Some(place? - space.place(seq)?))
        };
        if self.secondary.ack.is_some() {
            return false;
        }
        let from_first = distance(self.seqs, opening.isn.plus(1), Some(self.low));
        let Some(ack) = opening.ack else { return from_first == Some(0) };
        [from_first, distance(self.acks, ack, self.ack)]
            .iter()
            .all(|distance| distance.is_some_and(|distance| (0..MET_MAX).contains(&distance)))
    }

    /// The secondary has sent its SYN/ACK and no more, so that it may answer the same SYN once more.
    pub(super) fn secondary_only_answers(&self) -> bool {
        let theirs = &self.secondary;
        let answer = self.acks.zip(theirs.opening.ack()).and_then(|(acks, ack)| acks.place(ack));
        theirs.ack == answer
            && theirs.fin.is_none()
            && theirs.segments.is_empty()
            && self.verified.is(self.start, self.start)
    }

    /// `opening` answers another SYN of the peer than the primary has.
    pub(super) fn answers_another(&self, opening: &Opening) -> bool {
        !self.opening.may_answer(opening)
    }

    pub(super) fn on_reset(&mut self, scope: &mut FlowScope<'_>, frame: &Frame, tcp: &Tcp) {
        let ack = (tcp.flags & flag::ACK != 0).then_some(Seq(tcp.ack));
        let reset = ResetClaim { seq: Seq(tcp.seq), ack };
        note(&mut self.rare.resets, reset);
        if let Some(ack) = reset.ack_of_stream().filter(|_| self.ack.is_some()) {
            self.on_ack(scope, ack);
        }
        self.keep_witness(scope, ControlBit::Reset, frame);
        self.revisit_control_bits(scope, frame, &ControlSignal::Reset { reset, is_exact: false });
    }

    /// Data, acknowledgment and FIN; `false` where they are far outside of the stream.
    #[inline(always)]
    fn on_segment(&mut self, scope: &mut FlowScope<'_>, frame: &Frame, tcp: &Tcp) -> bool {
        let first = Seq(tcp.seq);
        if !self.anchored && self.seqs.is_none_or(|seqs| seqs.place(first).is_none()) {
            self.secondary.segments.drop_all(scope.ledger);
            self.seqs = Some(SequenceSpace::new(first, 0));
        }
        let Some(start) = self.seqs.and_then(|seqs| seqs.place(first)) else {
            scope.ledger.stats.secondary_dropped.out_of_window += 1;
            return true;
        };
        let end = start + i64::from(tcp.payload_len);
        if !self.anchored
            && let Some(seqs) = &mut self.seqs
        {
            seqs.advance(end);
        }
        if tcp.flags & flag::ACK != 0 {
            self.on_ack(scope, Seq(tcp.ack));
        }
        self.on_urgent(scope, urgent(start, tcp));
        self.note_headers(scope, Side::Secondary, frame.ethernet(), tcp);
        if end > start {
            self.on_data(scope, &SecondaryData::new(frame, tcp, start));
        }
        let is_fin = tcp.flags & flag::FIN != 0;
        if is_fin {
            self.secondary.fin = Some(end);
            if self.matched_fin != Some(end) {
                self.keep_witness(scope, ControlBit::Fin, frame);
            }
            self.revisit_control_bits(scope, frame, &ControlSignal::Fin);
        }
        if let Some(fin) = self.fin.filter(|fin| self.matched_fin != Some(*fin))
            && ((end > start && end > fin) || (is_fin && end != fin))
        {
            let shown = (self.held_fin(scope), DifferenceFrame::InHand(frame));
            self.report_control_bits(scope, Reason::FinPosition, end.min(fin), shown);
        }
        true
    }

    /// The frame with the primary's FIN, if it is held: nothing of the stream lies behind it.
    fn held_fin(&self, scope: &FlowScope<'_>) -> DifferenceFrame<'static> {
        let is_fin = |key: &ChainKey| held_segment(scope, *key).is_some_and(|segment| segment.fin);
        self.queues.last().find(is_fin).map_or(DifferenceFrame::Nothing, DifferenceFrame::Held)
    }

    pub(super) fn on_ack(&mut self, scope: &mut FlowScope<'_>, ack: Seq) {
        let acks = *self.acks.get_or_insert(SequenceSpace::new(ack, 0));
        let Some(place) = acks.place(ack) else {
            if self.ack.is_none() {
                // No frame of the primary depends on the earlier numbers.
                self.acks = Some(SequenceSpace::new(ack, 0));
                self.secondary.ack = Some(0);
            }
            return;
        };
        if self.secondary.ack.is_some_and(|known| place <= known) {
            return;
        }
        self.secondary.ack = Some(place);
        if let Some(acks) = &mut self.acks {
            acks.advance(place);
        }
        while let Some(key) = self.queues.unacknowledged.pop_up_to(place) {
            ready(scope, key);
        }
    }

    fn on_urgent(&mut self, scope: &mut FlowScope<'_>, place: Option<i64>) {
        let Some(place) = place.filter(|place| self.secondary.urgent < Some(*place)) else {
            return;
        };
        self.secondary.urgent = Some(place);
        while let Some(key) = self.queues.unpointed().pop_up_to(place) {
            self.advance(scope, key);
        }
    }

    /// Control bits of the secondary came: looks again at the frames that need them.
    fn revisit_control_bits(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
        signal: &ControlSignal,
    ) {
        let mut settled = std::mem::take(&mut scope.ledger.settled);
        self.queues.take_settled(signal, |key| settled.push(key));
        for key in settled.drain(..) {
            scope.ledger.count_work();
            let Some(segment) = held_segment(scope, key).copied() else { continue };
            let shown = (DifferenceFrame::Held(key), DifferenceFrame::InHand(frame));
            if !self.has_other_control_bits(scope, &segment, shown) {
                self.advance(scope, key);
            }
        }
        scope.ledger.settled = settled;
    }

    /// The secondary has sent other control bits than `segment` has.
    fn has_other_control_bits(
        &mut self,
        scope: &mut FlowScope<'_>,
        segment: &SegmentClaim,
        shown: (DifferenceFrame<'_>, DifferenceFrame<'_>),
    ) -> bool {
        if let Some(opening) = &segment.opening
            && self.differs_in_opening(scope, opening, shown)
        {
            return true;
        }
        if segment.fin
            && let Some(fin) = self.secondary.fin
            && fin != segment.end
        {
            self.report_control_bits(scope, Reason::FinPosition, fin.min(segment.end), shown);
            return true;
        }
        segment.reset.is_some_and(|reset| self.differs_in_reset(scope, reset, shown))
    }

    /// Sends a held frame to its next queue, or on its way.
    pub(super) fn advance(&mut self, scope: &mut FlowScope<'_>, key: ChainKey) {
        let Some(segment) = held_segment(scope, key) else { return };
        match self.needs(segment) {
            SegmentNeed::Nothing => ready(scope, key),
            needs => {
                let segment = *segment;
                self.enqueue(scope.ledger, key, &segment, needs);
            }
        }
    }

    /// Releases the frames that became ready, in order of arrival.
    #[inline(never)]
    pub(super) fn release_ready(&mut self, scope: &mut FlowScope<'_>, out: &mut Output) {
        self.release_ready_inlined(scope, out);
    }

    /// The same for the caller that nearly every frame has.
    #[inline(always)]
    fn release_ready_inlined(&mut self, scope: &mut FlowScope<'_>, out: &mut Output) {
        if scope.ledger.ready.is_empty() {
            return;
        }
        let mut ready = std::mem::take(&mut scope.ledger.ready);
        if ready.len() > 1 {
            ready.sort_unstable();
        }
        for (arrival, key) in ready.drain(..) {
            // The place of a frame that has left can be another frame's.
            if scope.ledger.held(key).is_none_or(|held| held.arrival != arrival) {
                continue;
            }
            let Some(held) = scope.ledger.take(key) else { continue };
            if let HeldKind::Segment(segment) = &held.kind {
                self.account_for(scope, segment);
            }
            scope.ledger.discharge(Side::Primary, &mut self.account, held.frame.len());
            scope.ledger.pass(held, ReleaseCause::Compared, out);
        }
        scope.ledger.ready = ready;
    }
}

/// Notes that a held frame may leave after the frame in hand is dealt with.
fn ready(scope: &mut FlowScope<'_>, key: ChainKey) {
    if let Some(held) = scope.ledger.held(key) {
        let arrival = held.arrival;
        scope.ledger.ready.push((arrival, key));
    }
}

fn held_segment<'a>(scope: &'a FlowScope<'_>, key: ChainKey) -> Option<&'a SegmentClaim> {
    match &scope.ledger.held(key)?.kind {
        HeldKind::Segment(segment) => Some(segment),
        _ => None,
    }
}
