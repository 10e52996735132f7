//! Input that is kept for the secondary guest, between the task that brings it and the lane that
//! carries the guest's output.

use std::sync::Arc;
use std::time::Instant;

use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::repeat::{RepeatLimits, SharedRepeater};
use tokio::sync::Notify;

use crate::deadline::sleep_until;

/// The kept input, and the signal that some of it is to be repeated earlier.
#[derive(Clone, Debug)]
pub(super) struct KeptInput {
    repeater: SharedRepeater,
    earlier: Arc<Notify>,
}

impl KeptInput {
    pub(super) fn new(limits: RepeatLimits) -> Self {
        Self { repeater: SharedRepeater::new(limits), earlier: Arc::default() }
    }

    pub(super) fn repeater(&self) -> SharedRepeater {
        self.repeater.clone()
    }

    /// Output of the guest, which acknowledges input.
    pub(super) fn on_output(&self, frame: &Frame) {
        if self.repeater.lock().on_output(Instant::now(), frame) {
            self.earlier.notify_one();
        }
    }

    /// Waits until input may be due, or until the deadline has changed.
    pub(super) async fn due(&self) {
        let at = self.repeater.lock().poll_timeout();
        tokio::select! {
            () = sleep_until(at) => {}
            () = self.earlier.notified() => {}
        }
    }
}
