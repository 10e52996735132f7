//! Datagrams of one flow: a multiset on either side, released in the primary's order of arrival.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use super::chain::Key;
use super::classify::Body;
use super::divergence::{Difference, Pair};
use super::ledger::{Account, Cause, Ledger, What};
use super::reason::Reason;
use super::{Output, Side, shrink};
use crate::frame::Frame;

/// The state of one flow of datagrams; an empty one remembers nothing.
#[derive(Debug, Default)]
pub(super) struct DatagramFlow {
    /// Held frames of the primary in order of arrival, matched or not.
    held: VecDeque<Key>,
    /// Those of them without a match.
    unmatched: VecDeque<Key>,
    account: Account,
    /// Datagrams of the secondary without a match, in order of arrival.
    waiting: VecDeque<Unmatched>,
    waiting_account: Account,
    /// A timer looks after the grace of this flow.
    timed: bool,
    /// The difference was reported in this epoch.
    reported: bool,
}

/// A datagram of the secondary, whose octets the ledger keeps.
#[derive(Clone, Copy, Debug)]
struct Unmatched {
    key: Key,
    fragment: Option<(u16, bool)>,
}

impl DatagramFlow {
    pub(super) fn holds_nothing(&self) -> bool {
        self.held.is_empty()
    }

    /// A checkpoint was made: the ledger has released and dropped everything.
    pub(super) fn begin_epoch(&mut self) {
        self.held.clear();
        self.unmatched.clear();
        self.waiting.clear();
        *self = Self {
            held: std::mem::take(&mut self.held),
            unmatched: std::mem::take(&mut self.unmatched),
            waiting: std::mem::take(&mut self.waiting),
            ..Self::default()
        };
    }

    /// Forgets what waits of the secondary, before the flow itself is forgotten.
    pub(super) fn drop_waiting(&mut self, ledger: &mut Ledger) {
        ledger.stats.secondary_dropped.no_flow += self.waiting.len() as u64;
        for unmatched in self.waiting.drain(..) {
            ledger.forget(&mut self.waiting_account, unmatched.key);
        }
    }

    /// A datagram of the primary: it leaves at once if the secondary sent the same and none is
    /// held before it.
    pub(super) fn on_primary(
        &mut self,
        ledger: &mut Ledger,
        frame: Frame,
        body: Body,
        out: &mut Output,
    ) {
        let octets = octets(&frame, body);
        let found = self.waiting.iter().position(|unmatched| {
            unmatched.fragment == body.fragment
                && ledger
                    .waiting(unmatched.key)
                    .is_some_and(|waiting| is_same(octets, waiting.octets.as_slice(), body))
        });
        let matched = found.and_then(|at| self.waiting.remove(at));
        if let Some(unmatched) = matched {
            ledger.forget(&mut self.waiting_account, unmatched.key);
            ledger.stats.compared.add(octets.len());
            if self.held.is_empty() {
                ledger.pass(frame, Cause::Compared, out);
                self.give_back_memory();
                return;
            }
        }
        let len = frame.len();
        let is_matched = matched.is_some();
        let key = ledger.hold(frame, What::Datagram { body, matched: is_matched });
        ledger.charge(Side::Primary, &mut self.account, len);
        self.held.push_back(key);
        if !is_matched {
            self.unmatched.push_back(key);
        }
    }

    /// A datagram of the secondary: it matches the oldest equal one of the primary, or waits.
    pub(super) fn on_secondary(
        &mut self,
        ledger: &mut Ledger,
        flow: Key,
        frame: &Frame,
        body: Body,
        out: &mut Output,
    ) {
        let octets = octets(frame, body);
        let found = self.unmatched.iter().position(|key| {
            ledger.held(*key).is_some_and(|held| match held.what {
                What::Datagram { body: ours, .. } => {
                    let held = self::octets(&held.frame, ours);
                    ours.fragment == body.fragment && is_same(held, octets, body)
                }
                _ => false,
            })
        });
        let Some(key) = found.and_then(|at| self.unmatched.remove(at)) else {
            let range = body.at as usize..body.end as usize;
            if let Some(key) = ledger.wait(flow, &mut self.waiting_account, frame, range) {
                self.waiting.push_back(Unmatched { key, fragment: body.fragment });
            }
            return;
        };
        ledger.stats.compared.add(octets.len());
        if let Some(held) = ledger.held_mut(key)
            && let What::Datagram { matched, .. } = &mut held.what
        {
            *matched = true;
        }
        self.release_front(ledger, out);
    }

    /// Releases from the front for as long as what is there is matched.
    fn release_front(&mut self, ledger: &mut Ledger, out: &mut Output) {
        while let Some(key) = self.held.front().copied() {
            match ledger.held(key).map(|held| (held.what, held.frame.len())) {
                Some((What::Datagram { matched: false, .. }, _)) => break,
                Some((_, len)) => {
                    ledger.discharge(Side::Primary, &mut self.account, len);
                    ledger.release(key, Cause::Compared, out);
                }
                None => {}
            }
            self.held.pop_front();
        }
        self.give_back_memory();
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
        let ours = ledger.held(*self.unmatched.front()?)?.since;
        let theirs = ledger.waiting(self.waiting.front()?.key)?.since;
        let grace: Duration = ledger.limits.datagram_grace;
        ours.max(theirs).checked_add(grace)
    }

    fn report(&mut self, ledger: &mut Ledger, name: &FlowKey) {
        if self.reported {
            return;
        }
        self.reported = true;
        let Some(key) = self.unmatched.front().copied() else { return };
        let Some(front) = ledger.held(key) else { return };
        let What::Datagram { body, .. } = front.what else { return };
        let ours = octets(&front.frame, body).to_vec();
        let primary = ledger.capture_held(key);
        let theirs = self.waiting.front().map(|unmatched| unmatched.key);
        let secondary = theirs.and_then(|key| ledger.capture_waiting(key));
        let theirs = theirs.and_then(|key| ledger.waiting(key));
        let theirs = theirs.map(|waiting| waiting.octets.as_slice().to_vec()).unwrap_or_default();
        let at = difference(&ours, &theirs, body);
        let pair = Pair { primary: &ours, secondary: &theirs, at };
        let difference = Difference::octets(Reason::Datagram, at as i64, pair);
        ledger.diverge(name, difference.frames(primary, secondary));
    }

    fn give_back_memory(&mut self) {
        shrink(&mut self.held);
        shrink(&mut self.unmatched);
        shrink(&mut self.waiting);
    }
}

fn octets(frame: &Frame, body: Body) -> &[u8] {
    frame.ethernet().get(body.at as usize..body.end as usize).unwrap_or_default()
}

/// Equal but for the checksum, which may be partial in one and full in the other.
fn is_same(a: &[u8], b: &[u8], body: Body) -> bool {
    let Some(checksum_at) = body.checksum_at else { return a == b };
    let at = checksum_at as usize;
    a.len() == b.len() && a.get(..at) == b.get(..at) && a.get(at + 2..) == b.get(at + 2..)
}

/// The first place where the two differ, the checksum aside.
fn difference(a: &[u8], b: &[u8], body: Body) -> usize {
    let checksum = body.checksum_at.map_or(0..0, |at| at as usize..at as usize + 2);
    (0..a.len().min(b.len()))
        .find(|at| !checksum.contains(at) && a.get(*at) != b.get(*at))
        .unwrap_or(a.len().min(b.len()))
}
