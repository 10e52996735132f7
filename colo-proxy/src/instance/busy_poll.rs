//! Adaptive busy polling: while one frame soon follows the other, the thread of an instance does not
//! sleep between them.
//!
//! Waking a thread takes longer than all work on a frame, and an exchange wakes each daemon twice. So a
//! task of the instance's runtime stays ready for as long as the next frame is expected. The runtime
//! then looks for events again and again instead of waiting for them. Between two looks other threads
//! get the processor. Frames that are far apart are not polled for. Nor are many that wait at once:
//! during a sleep more of them collect, and one wake-up serves all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::status::BusyPollReport;

/// Reports frames to the task, and the task to `status`. Everything is on one thread, but tasks that
/// share it could move.
#[derive(Clone, Debug, Default)]
pub(crate) struct BusyPoll {
    shared: Arc<Shared>,
    /// Ends with the last one that reports frames.
    _task: Option<Arc<AbortOnDropHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Frames have come since the task looked.
    came: AtomicBool,
    /// The most frames that waited at once since then.
    waiting: AtomicU64,
    is_asleep: AtomicBool,
    wake: Notify,
    /// Times that polling began, and that a frame came while it went on.
    windows: AtomicU64,
    hits: AtomicU64,
}

impl BusyPoll {
    /// Starts the task, which polls for `max` after a frame, if that is anything at all.
    pub(crate) fn spawn(max: Duration) -> Self {
        let shared = Arc::<Shared>::default();
        let task = (!max.is_zero()).then(|| {
            let expectation = Expectation::new(max, Instant::now());
            Arc::new(AbortOnDropHandle::new(tokio::spawn(poll(shared.clone(), expectation))))
        });
        Self { shared, _task: task }
    }

    /// Frames have come. So many wait now: these, and those that wait for their counterparts.
    pub(crate) fn on_frames(&self, waiting: u64) {
        self.shared.came.store(true, Relaxed);
        self.shared.waiting.fetch_max(waiting, Relaxed);
        if self.shared.is_asleep.load(Relaxed) {
            self.shared.wake.notify_one();
        }
    }

    /// One more frame has come, of a batch of unknown length.
    pub(crate) fn on_frame(&self) {
        let before = self.shared.waiting.fetch_add(1, Relaxed);
        self.on_frames(before + 1);
    }

    /// What `status` shows.
    pub(crate) fn report(&self) -> BusyPollReport {
        BusyPollReport {
            windows: self.shared.windows.load(Relaxed),
            hits: self.shared.hits.load(Relaxed),
        }
    }
}

/// Never ends by itself.
async fn poll(shared: Arc<Shared>, mut expectation: Expectation) {
    loop {
        shared.is_asleep.store(true, Relaxed);
        shared.wake.notified().await;
        shared.is_asleep.store(false, Relaxed);
        let mut is_polling = false;
        loop {
            let now = Instant::now();
            if shared.came.swap(false, Relaxed) {
                shared.hits.fetch_add(u64::from(is_polling), Relaxed);
                expectation.on_frames(now, shared.waiting.swap(0, Relaxed));
                is_polling = false;
            } else if expectation.is_due(now) {
                shared.windows.fetch_add(u64::from(!is_polling), Relaxed);
                is_polling = true;
                std::thread::yield_now();
            } else {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A wait that polling would have spared pays for so many waits that it would not.
const GAIN: u8 = 3;
const CREDIT_MAX: u8 = 8;
/// One exchange has a frame of each guest.
const FEW: u64 = 2;
/// How long nothing is polled after more than a few have waited.
const CALM: Duration = Duration::from_millis(1);

/// Whether the next frame is worth waiting for. An exchange has a short wait, for the other guest's
/// answer, and a long one, for the client. So short waits need not be the rule.
#[derive(Debug)]
struct Expectation {
    max: Duration,
    last: Instant,
    credit: u8,
    /// When more than a few waited.
    crowd: Option<Instant>,
}

impl Expectation {
    fn new(max: Duration, now: Instant) -> Self {
        Self { max, last: now, credit: 0, crowd: None }
    }

    fn on_frames(&mut self, now: Instant, waiting: u64) {
        if waiting > FEW {
            self.crowd = Some(now);
        }
        let waited = now.saturating_duration_since(self.last);
        self.last = now;
        self.credit = if waited <= self.max {
            (self.credit + GAIN).min(CREDIT_MAX)
        } else {
            self.credit.saturating_sub(1)
        };
    }

    fn is_due(&self, now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        self.credit > 0
            && since(self.last) < self.max
            && self.crowd.is_none_or(|crowd| since(crowd) > CALM)
    }
}

#[cfg(test)]
mod tests;
