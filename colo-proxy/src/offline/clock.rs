//! The time of the comparison: the time of the captures, plus the time for which checkpoints stopped
//! both guests.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use colo_proxy_engine::compare::Side;

/// Frames whose place in the capture is remembered. The engine may still hold them.
const PLACES_MAX: usize = 1 << 20;

/// The longest time that captures, or all checkpoints together, take. Only a damaged file goes
/// beyond; its frames come at the end of this time.
const SPAN_MAX: Duration = Duration::from_hours(40 * 365 * 24);

/// The place of a frame in its capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameOrigin {
    pub(super) side: Side,
    pub(super) number: u64,
    /// In the time of its own capture.
    pub(super) time_ns: u64,
}

/// Turns capture time into the engine's time and back.
#[derive(Debug)]
pub(super) struct CaptureClock {
    base: Instant,
    /// Capture time at `base`.
    start_ns: u64,
    now: Instant,
    paused: Duration,
    /// The frames by the time at which the engine got them, in order.
    origins: VecDeque<(Instant, FrameOrigin)>,
}

impl CaptureClock {
    /// A clock that starts at `start_ns`.
    pub(super) fn new(start_ns: u64) -> Self {
        // Any instant will do: only distances matter.
        let base = Instant::now();
        Self { base, start_ns, now: base, paused: Duration::ZERO, origins: VecDeque::new() }
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// The instant of the comparison for the capture time `time_ns`.
    pub(super) fn at(&self, time_ns: u64) -> Instant {
        let since = Duration::from_nanos(time_ns.saturating_sub(self.start_ns)).min(SPAN_MAX);
        let at = self.base.checked_add(since).and_then(|at| at.checked_add(self.paused));
        at.unwrap_or(self.now).max(self.now)
    }

    /// Capture time at `at`, in nanoseconds since the clock's start. It is right since the last pause.
    pub(super) fn since_start_ns(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base).saturating_sub(self.paused);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Goes on to `at`.
    pub(super) fn advance(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }

    /// An instant that belongs to this frame alone, so that the frame can be found by it.
    pub(super) fn stamp(&mut self, time_ns: u64, origin: FrameOrigin, keep: Duration) -> Instant {
        let mut at = self.at(time_ns);
        if let Some((last, _)) = self.origins.back()
            && at <= *last
        {
            at = last.checked_add(Duration::from_nanos(1)).unwrap_or(*last);
        }
        self.advance(at);
        let oldest = at.checked_sub(keep);
        while self.origins.len() >= PLACES_MAX
            || self.origins.front().is_some_and(|(first, _)| Some(*first) < oldest)
        {
            self.origins.pop_front();
        }
        self.origins.push_back((at, origin));
        at
    }

    /// The frame that the engine got at `at`.
    pub(super) fn origin(&self, at: Instant) -> Option<FrameOrigin> {
        let found = self.origins.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        self.origins.get(found).map(|(_, origin)| *origin)
    }

    /// Both guests stand still for `pause`.
    pub(super) fn pause(&mut self, pause: Duration) {
        let pause = pause.min(SPAN_MAX.saturating_sub(self.paused));
        if let Some(now) = self.now.checked_add(pause) {
            self.now = now;
            self.paused += pause;
        }
    }
}

/// What has to be added to `from` to get `to`.
pub(super) fn difference(to: u64, from: u64) -> i64 {
    let distance = i64::try_from(to.abs_diff(from)).unwrap_or(i64::MAX);
    if to >= from { distance } else { -distance }
}
