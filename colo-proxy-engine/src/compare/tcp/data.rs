//! Data of the secondary against the frames of the primary that are held.

use std::ops::Range;

use colo_proxy_common::decode::Tcp;

use super::difference_frame::DifferenceFrame;
use super::queues::Unverified;
use super::segments::StreamPiece;
use super::{FlowScope, TcpFlow, first_difference, part};
use crate::compare::chain::ChainKey;
use crate::compare::divergence::{Difference, DifferingPair};
use crate::compare::ledger::HeldKind;
use crate::compare::reason::Reason;
use crate::frame::Frame;

/// The data of a frame of the secondary, and its place in the stream.
#[derive(Debug)]
pub(super) struct SecondaryData<'a> {
    frame: &'a Frame,
    payload_at: usize,
    start: i64,
    end: i64,
}

impl<'a> SecondaryData<'a> {
    pub(super) fn new(frame: &'a Frame, tcp: &Tcp, start: i64) -> Self {
        let end = start + i64::from(tcp.payload_len);
        Self { frame, payload_at: tcp.payload_at as usize, start, end }
    }

    /// Where the part `from..to` of the stream lies in the Ethernet frame.
    fn range(&self, from: i64, to: i64) -> Range<usize> {
        let at = |place: i64| self.payload_at + (place - self.start) as usize;
        at(from)..at(to)
    }

    fn part(&self, from: i64, to: i64) -> &'a [u8] {
        self.frame.ethernet().get(self.range(from, to)).unwrap_or_default()
    }
}

impl TcpFlow {
    /// Compares the new part of `data` with the held frames. The rest waits.
    pub(super) fn on_data(&mut self, scope: &mut FlowScope<'_>, data: &SecondaryData<'_>) {
        let mut from = data.start;
        while let Some((lo, hi)) = self.gap(from, data.end) {
            self.compare_with_held(scope, data, lo, hi);
            let mut at = lo;
            while let Some((lo, hi)) = self.verified.gap(at, hi) {
                let account = &mut self.secondary.segments.account;
                let range = data.range(lo, hi);
                if let Some(key) = scope.ledger.wait(scope.flow, account, data.frame, range) {
                    self.secondary.segments.insert(StreamPiece { start: lo, end: hi, key });
                }
                at = hi;
            }
            from = hi;
        }
    }

    /// The first part of `start..end` that is neither verified nor waiting already.
    fn gap(&self, start: i64, end: i64) -> Option<(i64, i64)> {
        let mut from = start;
        while let Some((lo, hi)) = self.verified.gap(from, end) {
            if let Some(gap) = self.secondary.segments.gap(lo, hi) {
                return Some(gap);
            }
            from = hi;
        }
        None
    }

    /// Compares the part `start..end` of `data` with every held frame that reaches into it.
    fn compare_with_held(
        &mut self,
        scope: &mut FlowScope<'_>,
        data: &SecondaryData<'_>,
        start: i64,
        end: i64,
    ) {
        let mut settled = std::mem::take(&mut scope.ledger.settled);
        let mut at = self.queues.first_behind(start);
        while let Some(entry) = self.queues.unverified(at, end) {
            if self.stays_unverified(scope, &entry, data, (start, end), &mut settled) {
                at += 1;
            } else {
                self.queues.forget_unverified(at);
            }
        }
        if self.queues.has_overlapping() {
            let mut overlapping = self.queues.take_overlapping();
            overlapping.retain(|entry| {
                entry.start >= end
                    || entry.end <= start
                    || self.stays_unverified(scope, entry, data, (start, end), &mut settled)
            });
            self.queues.put_overlapping(overlapping);
        }
        for key in settled.drain(..) {
            self.advance(scope, key);
        }
        scope.ledger.settled = settled;
        self.queues.give_back_memory();
    }

    /// Compares the part of `data` that the frame `entry` reaches into; `false` where it does not
    /// wait for bytes any more.
    fn stays_unverified(
        &mut self,
        scope: &mut FlowScope<'_>,
        entry: &Unverified,
        data: &SecondaryData<'_>,
        (start, end): (i64, i64),
        settled: &mut Vec<ChainKey>,
    ) -> bool {
        scope.ledger.count_work();
        let part = (entry.start.max(start), entry.end.min(end));
        if self.differs(scope, entry.key, data, part) {
            // Only a checkpoint can let it go.
            return false;
        }
        let is_complete = self.verified.covers(entry.start, entry.end);
        if is_complete {
            settled.push(entry.key);
        }
        !is_complete
    }

    /// Compares the part `lo..hi` of `data` with the bytes that the frame `key` has there.
    fn differs(
        &mut self,
        scope: &mut FlowScope<'_>,
        key: ChainKey,
        data: &SecondaryData<'_>,
        (lo, hi): (i64, i64),
    ) -> bool {
        let theirs = data.part(lo, hi);
        let Some((at, payload)) = held_payload(scope, key) else { return true };
        let ours = part(payload, at, lo, hi);
        let Some(at) = first_difference(ours, theirs) else {
            self.verify(scope, lo, hi);
            return false;
        };
        let place = lo + at as i64;
        if self.is_first_report(place) {
            let ours = ours.to_vec();
            let pair = DifferingPair { primary: &ours, secondary: theirs, at };
            let difference = Difference::octets(Reason::Payload, place - self.start, pair);
            let (ours, theirs) = (DifferenceFrame::Held(key), DifferenceFrame::InHand(data.frame));
            let difference = difference.frames(self.show(scope, ours), self.show(scope, theirs));
            scope.ledger.diverge(scope.name, difference);
        }
        self.verify(scope, lo, place);
        true
    }
}

/// The place and the data of a held frame.
fn held_payload<'a>(scope: &'a FlowScope<'_>, key: ChainKey) -> Option<(i64, &'a [u8])> {
    let held = scope.ledger.held(key)?;
    let HeldKind::Segment(segment) = &held.kind else { return None };
    let octets = held.frame.ethernet().get(segment.payload_at as usize..)?;
    Some((segment.start, octets.get(..(segment.end - segment.start) as usize)?))
}
