//! One outstanding checkpoint request. Further reasons that come up meanwhile are collected.

use std::time::{Duration, Instant};

use super::reason::{Reason, ReasonCounts, ReasonSet};
use super::stats::Stats;

/// The requests to the COLO-frame, and the state of the checkpoint that it makes.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Reasons that no checkpoint has settled yet.
    due: ReasonSet,
    /// How often each of them came up.
    collected: ReasonCounts,
    /// A request was raised for this reason, then, and has not been answered.
    outstanding: Option<(Reason, Instant)>,
    /// A checkpoint is being made, asked for or not: it will settle whatever is due.
    underway: bool,
    /// After a failure: not before this.
    not_before: Option<Instant>,
}

impl Requests {
    /// Notes that a checkpoint is needed.
    pub(super) fn ask(&mut self, reason: Reason, stats: &mut Stats) {
        stats.reasons.add(reason);
        self.collected.add(reason);
        self.due.insert(reason);
    }

    /// The request to raise now, if there is one.
    #[inline]
    pub(super) fn raise(&mut self, now: Instant, stats: &mut Stats) -> Option<Reason> {
        let reason = self.due.first()?;
        if !self.may_raise(now) {
            return None;
        }
        self.outstanding = Some((reason, now));
        stats.requests.add(reason);
        Some(reason)
    }

    /// A request can be raised at `now`.
    #[inline]
    pub(super) fn may_raise(&self, now: Instant) -> bool {
        !self.is_waiting() && self.not_before.is_none_or(|at| now >= at)
    }

    /// A checkpoint will come by itself: no timer needs to run.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.outstanding.is_some() || self.underway
    }

    /// The request that has not been answered: its reason, its time, and all reasons that it would
    /// settle.
    pub(super) fn outstanding(&self) -> Option<(Reason, Instant, ReasonCounts)> {
        self.outstanding.map(|(reason, since)| (reason, since, self.collected))
    }

    #[inline]
    pub(super) fn is_underway(&self) -> bool {
        self.underway
    }

    /// When a request that is due may be raised.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().and(self.not_before)
    }

    /// After a failure, the earliest time for any request.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    pub(super) fn began(&mut self) {
        self.underway = true;
    }

    /// Everything that was due is settled.
    pub(super) fn done(&mut self) {
        *self = Self::default();
    }

    /// Nothing is settled: differences that were found remain reasons. A limit or a wait may have
    /// passed meanwhile; if it has not, it is found again.
    pub(super) fn failed(&mut self, now: Instant, retry: Duration) {
        self.outstanding = None;
        self.underway = false;
        self.due.keep_facts();
        self.collected.keep(self.due);
        self.not_before = now.checked_add(retry);
    }
}
