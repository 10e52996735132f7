//! Records of differences, with copies of the frames that show them.

use std::time::Instant;

use bytes::Bytes;
use colo_proxy_common::record::FlowKey;

use super::Ledger;
use crate::compare::chain::ChainKey;
use crate::compare::divergence::{Captured, Difference, Divergence, FoundDifference};
use crate::frame::Frame;

impl Ledger {
    /// Records a difference and asks for a checkpoint.
    pub(in crate::compare) fn diverge(&mut self, key: &FlowKey, difference: Difference<'_>) {
        self.stats.divergences += 1;
        self.ask(difference.reason);
        let found = FoundDifference {
            number: self.stats.divergences,
            epoch: self.epoch,
            at: self.now,
            at_ms: self.ms_since_start(self.now),
            context_bytes: self.limits.context_bytes,
        };
        let divergence = Divergence::new(*key, difference, &found);
        self.stats.divergence_frames_dropped += self.divergences.push(
            divergence,
            self.limits.divergences_max,
            self.limits.divergence_frames_bytes,
        );
    }

    /// A copy of the frame in hand, for a record.
    pub(in crate::compare) fn capture(&self, frame: &Frame) -> Captured {
        self.captured(frame.ethernet(), frame.ethernet().len(), self.now)
    }

    /// A copy of a frame held of the primary.
    pub(in crate::compare) fn capture_held(&self, key: ChainKey) -> Option<Captured> {
        let held = self.held(key)?;
        let octets = held.frame.ethernet();
        Some(self.captured(octets, octets.len(), held.since))
    }

    /// A copy of a frame of the secondary of which a piece waits.
    pub(in crate::compare) fn capture_waiting(&self, key: ChainKey) -> Option<Captured> {
        let waiting = self.waiting(key)?;
        let octets = waiting.octets.frame();
        Some(self.captured(octets, octets.len(), waiting.arrived))
    }

    /// A copy of `octets`, the first of a frame of `original_len` that came at `since`.
    pub(in crate::compare) fn captured(
        &self,
        octets: &[u8],
        original_len: usize,
        since: Instant,
    ) -> Captured {
        Captured {
            octets: Bytes::copy_from_slice(octets),
            original_len,
            since,
            since_ms: self.ms_since_start(since),
        }
    }

    pub(in crate::compare) fn ms_since_start(&self, at: Instant) -> u64 {
        self.start.map_or(0, |start| at.saturating_duration_since(start).as_millis() as u64)
    }
}
