//! How long checkpoints stop a guest, measured by QEMU's own clock.

use std::fmt;
use std::time::Duration;

use super::ms;
use crate::client::Latency;
use crate::qmp::{EventPlace, Qmp};

/// Every pause of the guest.
#[derive(Clone, Debug, Default)]
pub(super) struct Pauses(Latency);

impl Pauses {
    /// The pauses since `place`.
    pub(super) fn since(qmp: &Qmp, place: EventPlace) -> Self {
        let mut pauses = Latency::default();
        let mut stopped = None;
        for event in qmp.events(place) {
            match event.name.as_str() {
                "STOP" => stopped = Some(event.at),
                "RESUME" => {
                    if let Some(at) = stopped.take() {
                        pauses.add(event.at.saturating_sub(at));
                    }
                }
                _ => {}
            }
        }
        Self(pauses)
    }

    pub(super) fn count(&self) -> usize {
        self.0.count()
    }

    pub(super) fn longest(&self) -> Duration {
        self.0.max()
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, median, max] = [0.0, 50.0, 100.0].map(|rank| ms(self.0.percentile(rank)));
        write!(f, "median {median}, {min} to {max}, of {}", self.count())
    }
}
