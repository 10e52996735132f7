//! Datagrams of one flow: a multiset on either side, released in the primary's order of arrival.
//!
//! A datagram is looked up by a hash of its bytes ([`super::multiset`]) and compared once, with the
//! oldest one of the same hash: the work for a frame does not depend on how many wait, before a
//! difference was reported or after.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use super::body::{DatagramBody, DatagramBytes};
use super::chain::ChainKey;
use super::classify::is_of_fragments;
use super::divergence::{Difference, DifferingPair};
use super::ledger::{FlowAccount, HeldKind, Ledger, ReleaseCause};
use super::limits::Limits;
use super::multiset::{DatagramLine, DatagramTag, UnmatchedDatagram};
use super::packet::{HeldTicket, WholePacket};
use super::reason::Reason;
use super::{Output, Side, shrink};
use crate::frame::Frame;

/// The state of one flow of datagrams; an empty one remembers nothing.
#[derive(Debug, Default)]
pub(super) struct DatagramFlow {
    /// Held packets of the primary in order of arrival, matched or not.
    held: VecDeque<HeldTicket>,
    /// Datagrams in those that have no match.
    unmatched: DatagramLine,
    account: FlowAccount,
    /// Datagrams of the secondary without a match, whose bytes the ledger keeps.
    waiting: DatagramLine,
    /// Likewise repetitions of datagrams that the last checkpoint covered. They may come from before
    /// that checkpoint, and are no reason for another one.
    repeated: DatagramLine,
    waiting_account: FlowAccount,
    /// A timer looks after the grace of this flow.
    timed: bool,
    /// The difference was reported in this epoch.
    reported: bool,
    /// The flow compares fragments that stayed alone.
    of_fragments: bool,
}

impl DatagramFlow {
    /// It remembers nothing, so it is as good as one that is made anew.
    pub(super) fn is_new(&self) -> bool {
        let waits = self.unmatched.len() + self.waiting.len() + self.repeated.len();
        waits == 0
            && self.held.is_empty()
            && self.account.is_clear()
            && self.waiting_account.is_clear()
            && !self.timed
            && !self.reported
    }

    /// Makes this, which remembers nothing, a flow of that `name`.
    pub(super) fn rename(&mut self, name: &FlowKey) {
        self.of_fragments = is_of_fragments(name);
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.held.is_empty()
    }

    /// A checkpoint was made: the ledger has released and dropped everything.
    pub(super) fn begin_epoch(&mut self) {
        self.held.clear();
        *self = Self {
            held: std::mem::take(&mut self.held),
            of_fragments: self.of_fragments,
            ..Self::default()
        };
    }

    /// Drops the waiting datagrams of the secondary, before the flow itself is forgotten.
    pub(super) fn drop_waiting(&mut self, ledger: &mut Ledger) {
        for line in [&mut self.waiting, &mut self.repeated] {
            while let Some(entry) = ledger.multisets.secondary.pop_front(line) {
                ledger.stats.secondary_dropped.no_flow += 1;
                ledger.forget(&mut self.waiting_account, entry.key);
            }
        }
    }

    /// Drops repetitions of covered datagrams that the primary has not repeated in time. Returns
    /// whether there were any.
    pub(super) fn drop_repeated(&mut self, ledger: &mut Ledger) -> bool {
        let mut dropped = 0;
        while let Some(key) =
            ledger.multisets.secondary.front(&self.repeated).map(|entry| entry.key)
            && ledger.waiting(key).is_none_or(|waiting| ledger.is_overdue(waiting.since))
        {
            ledger.multisets.secondary.pop_front(&mut self.repeated);
            ledger.forget(&mut self.waiting_account, key);
            dropped += 1;
        }
        ledger.stats.secondary_dropped.stale += dropped;
        dropped > 0
    }

    /// The waiting datagrams of the secondary among which this one belongs.
    fn line(&mut self, ledger: &Ledger, tag: &DatagramTag) -> &mut DatagramLine {
        if ledger.multisets.is_covered(tag) { &mut self.repeated } else { &mut self.waiting }
    }

    /// A packet of the primary: it leaves at once if the secondary sent the same and none is held
    /// before it.
    pub(super) fn on_primary(
        &mut self,
        ledger: &mut Ledger,
        flow: ChainKey,
        packet: WholePacket,
        body: DatagramBody,
        out: &mut Output,
    ) {
        if let Some(datagram) = body.single().filter(|_| self.held.is_empty()) {
            let octets = datagram.octets(packet.ethernet());
            let tag = ledger.multisets.tag(flow, datagram, octets);
            if is_waiting(ledger, &tag, octets) {
                self.take_waiting(ledger, &tag, octets.len());
                ledger.pass(packet, ReleaseCause::Compared, out);
                return;
            }
        }
        let key = ledger.hold(packet, HeldKind::Datagram { body, missing: 0 });
        if let Some(ticket) = ledger.ticket(key) {
            self.adopt(ledger, flow, ticket, body, out);
        }
    }

    /// Takes charge of a frame that is held already.
    pub(super) fn adopt(
        &mut self,
        ledger: &mut Ledger,
        flow: ChainKey,
        ticket: HeldTicket,
        body: DatagramBody,
        out: &mut Output,
    ) {
        let key = ticket.key;
        let Some(len) = ledger.held_for(ticket).map(|held| held.frame.len()) else { return };
        let mut missing = 0;
        for datagram in body.datagrams() {
            let Some(held) = ledger.held(key) else { return };
            let octets = datagram.octets(held.frame.ethernet());
            let tag = ledger.multisets.tag(flow, datagram, octets);
            if is_waiting(ledger, &tag, octets) {
                let len = octets.len();
                self.take_waiting(ledger, &tag, len);
            } else {
                ledger.multisets.primary.push(&mut self.unmatched, UnmatchedDatagram { key, tag });
                missing += 1;
            }
        }
        if missing > 1 {
            ledger.ask_if_full();
        }
        ledger.charge(Side::Primary, &mut self.account, len);
        self.held.push_back(ticket);
        if let Some(held) = ledger.held_mut(key) {
            held.kind = HeldKind::Datagram { body, missing };
        }
        self.release_front(ledger, out);
    }

    /// Uses up the oldest equal datagram of the secondary.
    fn take_waiting(&mut self, ledger: &mut Ledger, tag: &DatagramTag, len: usize) {
        let line = self.line(ledger, tag);
        if let Some(entry) = ledger.multisets.secondary.take(line, tag) {
            ledger.forget(&mut self.waiting_account, entry.key);
        }
        ledger.stats.compared.add(len);
    }

    /// Datagrams of the secondary: each matches the oldest equal one of the primary, or waits.
    pub(super) fn on_secondary(
        &mut self,
        ledger: &mut Ledger,
        flow: ChainKey,
        frame: &Frame,
        body: DatagramBody,
        out: &mut Output,
    ) {
        for datagram in body.datagrams() {
            let octets = datagram.octets(frame.ethernet());
            let tag = ledger.multisets.tag(flow, datagram, octets);
            if !self.take_unmatched(ledger, &tag, octets) {
                self.wait(ledger, flow, (frame, body), tag);
            }
        }
        self.release_front(ledger, out);
    }

    fn take_unmatched(&mut self, ledger: &mut Ledger, tag: &DatagramTag, octets: &[u8]) -> bool {
        let Some(entry) = ledger.multisets.primary.oldest(tag).copied() else { return false };
        let Some(held) = ledger.held_mut(entry.key) else { return false };
        let ours = entry.tag.datagram.octets(held.frame.ethernet());
        let HeldKind::Datagram { missing, .. } = &mut held.kind else { return false };
        if !entry.tag.datagram.is_same(ours, tag.datagram, octets) {
            return false;
        }
        *missing = missing.saturating_sub(1);
        ledger.multisets.primary.take(&mut self.unmatched, tag);
        ledger.stats.compared.add(octets.len());
        true
    }

    fn wait(
        &mut self,
        ledger: &mut Ledger,
        flow: ChainKey,
        (frame, body): (&Frame, DatagramBody),
        tag: DatagramTag,
    ) {
        let DatagramBytes { at, end, .. } = tag.datagram;
        let range = at as usize..end as usize;
        let account = &mut self.waiting_account;
        let key = match body.head_len() {
            Some(head_len) => ledger.wait_part(flow, account, (frame, head_len), range),
            None => ledger.wait(flow, account, frame, range),
        };
        if let Some(key) = key {
            let line = self.line(ledger, &tag);
            ledger.multisets.secondary.push(line, UnmatchedDatagram { key, tag });
        }
    }

    /// Lets go of a fragment of the primary that has no match, for its packet is complete.
    pub(super) fn give_back(
        &mut self,
        ledger: &mut Ledger,
        flow: ChainKey,
        ticket: HeldTicket,
        out: &mut Output,
    ) -> bool {
        if ledger.held_for(ticket).is_none() {
            return false;
        }
        let Some(held) = ledger.held(ticket.key) else { return false };
        let HeldKind::Datagram { body, missing: 1 } = held.kind else { return false };
        let Some(datagram) = body.single() else { return false };
        let tag = ledger.multisets.tag(flow, datagram, datagram.octets(held.frame.ethernet()));
        let len = held.frame.len();
        let line = &mut self.unmatched;
        if ledger.multisets.primary.withdraw(line, &tag, ticket.key).is_none() {
            return false;
        }
        if let Some(held) = ledger.held_for(ticket) {
            held.kind = HeldKind::Fragment { packet: None };
        }
        ledger.discharge(Side::Primary, &mut self.account, len);
        self.release_front(ledger, out);
        true
    }

    /// Likewise one of the secondary.
    pub(super) fn give_back_waiting(
        &mut self,
        ledger: &mut Ledger,
        flow: ChainKey,
        frame: &Frame,
        body: DatagramBody,
    ) -> bool {
        let Some(datagram) = body.single() else { return false };
        let tag = ledger.multisets.tag(flow, datagram, datagram.octets(frame.ethernet()));
        let line = self.line(ledger, &tag);
        let entry = ledger.multisets.secondary.take(line, &tag);
        if let Some(entry) = entry {
            ledger.forget(&mut self.waiting_account, entry.key);
        }
        entry.is_some()
    }

    /// Releases from the front while the frame there is matched.
    fn release_front(&mut self, ledger: &mut Ledger, out: &mut Output) {
        while let Some(ticket) = self.held.front().copied() {
            let held = ledger.held_for(ticket).map(|held| (held.kind, held.frame.len()));
            match held {
                Some((HeldKind::Datagram { missing: 0, .. }, len)) => {
                    ledger.discharge(Side::Primary, &mut self.account, len);
                    ledger.release(ticket.key, ReleaseCause::Compared, out);
                }
                Some((HeldKind::Datagram { .. }, _)) => break,
                // Another flow looks after it.
                _ => {}
            }
            self.held.pop_front();
        }
        shrink(&mut self.held);
    }

    /// When the flow needs a look, if a timer for it is to be started.
    pub(super) fn start_timer(&mut self, ledger: &Ledger) -> Option<Instant> {
        if self.timed || self.reported {
            return None;
        }
        let at = self.grace_ends(ledger)?;
        self.timed = true;
        Some(at)
    }

    /// The timer ran out: is there still a difference, and since when?
    pub(super) fn on_timer(&mut self, ledger: &mut Ledger, name: &FlowKey) -> Option<Instant> {
        self.timed = false;
        let at = self.grace_ends(ledger)?;
        if at <= ledger.now() {
            self.report(ledger, name);
            return None;
        }
        self.timed = true;
        Some(at)
    }

    /// Too many of both guests are without a match.
    pub(super) fn check_count(&mut self, ledger: &mut Ledger, name: &FlowKey) {
        let unmatched = self.unmatched.len().min(self.waiting.len());
        if unmatched > ledger.limits.datagram_grace_count {
            self.report(ledger, name);
        }
    }

    /// When the grace of the oldest pair without a match ends: the later of the two began it.
    fn grace_ends(&self, ledger: &Ledger) -> Option<Instant> {
        let ours = ledger.multisets.primary.front(&self.unmatched)?;
        let theirs = ledger.multisets.secondary.front(&self.waiting)?;
        let since = ledger.held(ours.key)?.since.max(ledger.waiting(theirs.key)?.since);
        let Limits { datagram_grace, fragment_timeout, .. } = ledger.limits;
        // Of one guest a fragment may be known to stay alone while the other's still has to wait.
        let alone = if self.of_fragments { fragment_timeout } else { Duration::ZERO };
        since.checked_add(datagram_grace)?.checked_add(alone)
    }

    fn report(&mut self, ledger: &mut Ledger, name: &FlowKey) {
        if self.reported {
            return;
        }
        self.reported = true;
        let Some(entry) = ledger.multisets.primary.front(&self.unmatched).copied() else { return };
        let Some(held) = ledger.held(entry.key) else { return };
        let ours = entry.tag.datagram.octets(held.frame.ethernet()).to_vec();
        let primary = ledger.capture_held(entry.key);
        let theirs = ledger.multisets.secondary.front(&self.waiting).map(|entry| entry.key);
        let secondary = theirs.and_then(|key| ledger.capture_waiting(key));
        let theirs = theirs.and_then(|key| ledger.waiting(key));
        let theirs = theirs.map(|waiting| waiting.octets.as_slice().to_vec()).unwrap_or_default();
        let at = entry.tag.datagram.difference(&ours, &theirs);
        let pair = DifferingPair { primary: &ours, secondary: &theirs, at };
        let offset = i64::from(entry.tag.datagram.lead) + at as i64;
        let difference = Difference::octets(Reason::Datagram, offset, pair);
        ledger.diverge(name, difference.frames(primary, secondary));
    }
}

/// The secondary sent a datagram with these bytes that is not used up yet.
fn is_waiting(ledger: &Ledger, tag: &DatagramTag, octets: &[u8]) -> bool {
    ledger.multisets.secondary.oldest(tag).is_some_and(|entry| {
        let theirs = ledger.waiting(entry.key).map(|waiting| waiting.octets.as_slice());
        theirs.is_some_and(|theirs| tag.datagram.is_same(octets, entry.tag.datagram, theirs))
    })
}
