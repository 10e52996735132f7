//! The grace of datagram flows of which both guests have some without a match.
//!
//! The compare timeout needs no timers: the ledger keeps everything in order of arrival, so the
//! oldest is in front.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::chain::Key;

/// Flows to look at, earliest first; each is in here once at most.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Key)>>,
}

impl Timers {
    pub(super) fn push(&mut self, at: Instant, flow: Key) {
        self.heap.push(Reverse((at, flow)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Key> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, flow))| flow)
    }

    pub(super) fn clear(&mut self) {
        self.heap.clear();
    }
}
