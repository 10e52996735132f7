//! Deadlines: frames held for too long, secondary output that the primary does not produce, flows in
//! which both guests have datagrams without a match, and windows that stay closed.
//!
//! The compare timeout needs no timers: the ledger keeps everything in order of arrival, so the
//! oldest is in front, and no frame that agrees touches a timer. For the others each flow has one
//! timer at most, in a wheel.

use std::time::Instant;

use super::classify::name_of;
use super::divergence::{Difference, DifferingPair, WaitsFor};
use super::ledger::HeldKind;
use super::reason::Reason;
use super::table::FlowKind;
use super::{Engine, Output};

/// Flows with old retransmissions of the secondary that are looked at in one go.
const FLOWS_MAX: usize = 256;

impl Engine {
    /// Looks after what is due at `now`.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Output) {
        self.ledger.set_now(now);
        self.resume_deferred(out);
        self.check_fragments(out);
        if self.ledger.requests.may_raise(self.ledger.now()) {
            self.check_held();
            self.check_waiting();
            self.check_flows();
        }
        self.raise(out);
    }

    /// When to call [`Engine::on_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let fragments = self.reassembly.next_timeout(&self.ledger.limits);
        self.next_request().into_iter().chain(fragments).min()
    }

    /// When something is to be looked at that may ask for a checkpoint.
    fn next_request(&self) -> Option<Instant> {
        let ledger = &self.ledger;
        if !self.deferred.is_empty() && !ledger.requests.is_underway() {
            return Some(ledger.now());
        }
        if ledger.requests.is_waiting() {
            // A checkpoint settles whatever could come due.
            return None;
        }
        let timeout = ledger.limits.compare_timeout;
        let due = [
            ledger.oldest_held().and_then(|held| held.since.checked_add(timeout)),
            ledger.oldest_waiting().and_then(|waiting| waiting.since.checked_add(timeout)),
            ledger.timers.next(),
            ledger.requests.poll_timeout(),
        ];
        let earliest = due.into_iter().flatten().min()?;
        Some(ledger.requests.not_before().map_or(earliest, |at| earliest.max(at)))
    }

    /// Asks for a checkpoint where the oldest held frame is too old.
    fn check_held(&mut self) {
        let ledger = &mut self.ledger;
        let Some((key, held)) = ledger.oldest_held_with_key() else { return };
        if !ledger.is_overdue(held.since) {
            return;
        }
        let name = name_of(&held.frame);
        let flow = self.table.get_by_name(&name);
        let (place, waits_for) = match (held.kind, flow.map(|flow| &flow.kind)) {
            (HeldKind::Segment(segment), Some(FlowKind::Tcp(state))) => {
                (segment.offset(), state.waits_for(key, &segment))
            }
            (HeldKind::Segment(segment), _) => (segment.offset(), None),
            (HeldKind::Datagram { .. }, _) => (0, Some(WaitsFor::Datagram)),
            (HeldKind::Checkpoint | HeldKind::Fragment { .. }, _) => (0, None),
        };
        // The secondary's frame is the missing one.
        let difference = Difference { waits_for, ..Difference::new(Reason::Timeout, place) };
        let primary = ledger.capture_held(key);
        ledger.diverge(&name, difference.frames(primary, None));
    }

    /// Asks for a checkpoint if the oldest waiting piece of the secondary is too old. A piece before
    /// everything seen of the primary is no reason: it repeats output that was sent before the engine
    /// started. All these pieces of the flow are only dropped, and so are repetitions of datagrams
    /// that a checkpoint covered.
    fn check_waiting(&mut self) {
        for _ in 0..FLOWS_MAX {
            let ledger = &mut self.ledger;
            let Some((key, waiting)) = ledger.oldest_waiting_with_key() else { return };
            if !ledger.is_overdue(waiting.since) {
                return;
            }
            let (flow, octets) = (waiting.flow, waiting.octets.as_slice().to_vec());
            if octets.is_empty() {
                // A frame without data that waits for a SYN: the primary lacks no output.
                ledger.postpone(key);
                continue;
            }
            let Some(flow) = self.table.get_mut(flow) else { return };
            let place = match &mut flow.kind {
                FlowKind::Tcp(state) => {
                    if state.drop_old(ledger) {
                        continue;
                    }
                    state.offset_of_waiting(key)
                }
                FlowKind::Datagram(state) => {
                    if state.drop_repeated(ledger) {
                        continue;
                    }
                    0
                }
                FlowKind::AtRest | FlowKind::Silent => 0,
            };
            let pair = DifferingPair { primary: &[], secondary: &octets, at: 0 };
            let difference = Difference::octets(Reason::SecondaryOnly, place, pair);
            let secondary = ledger.capture_waiting(key);
            ledger.diverge(&flow.name, difference.frames(None, secondary));
            return;
        }
    }

    /// Looks at the flows whose timers have run out.
    fn check_flows(&mut self) {
        while let Some((key, flow)) = self.table.pop_due(&mut self.ledger) {
            let at = match &mut flow.kind {
                FlowKind::Datagram(state) => state.on_timer(&mut self.ledger, &flow.name),
                FlowKind::Tcp(state) => state.on_timer(&mut self.ledger, &flow.name),
                FlowKind::AtRest | FlowKind::Silent => None,
            };
            if let Some(at) = at {
                self.table.start_timer(key, at, &mut self.ledger);
            }
        }
    }
}
