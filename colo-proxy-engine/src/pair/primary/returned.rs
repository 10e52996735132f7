//! The secondary's output: its epoch, and its frames if digests came in their place.

use std::time::Instant;

use super::lanes::ControlState;
use super::{Checkpoint, Intake, Primary};
use crate::compare::{Reason, Side};
use crate::digest::ReturnedRecord;
use crate::pair::cut::SortedFrame;
use crate::pair::message::ControlMessage;
use crate::record::LaneRecord;

/// Frames asked for in one message. Each takes ten digits, and a line of the control lane is bounded.
const QUESTIONS_MAX: usize = 1024;

impl Primary {
    /// More of the secondary's output can be taken.
    pub fn takes_secondary(&self) -> bool {
        self.engine.has_room_for(Side::Secondary) && self.expander.has_room()
    }

    /// One batch of the secondary's output, as its lane carried it. The engine gets it as one batch.
    pub fn on_secondary(&mut self, now: Instant, returned: Vec<ReturnedRecord>) {
        for returned in returned {
            if !returned.is_frame() {
                self.expand(now, returned);
                continue;
            }
            match self.cut.on_frame(returned) {
                SortedFrame::Fresh(returned) => self.expand(now, returned),
                SortedFrame::Unknown => {}
                SortedFrame::Stale => self.engine.dropped_stale(1),
            }
        }
        self.compare_secondary(now);
    }

    /// Whole frames of the secondary's present epoch, by the kernel lane or a socket; see
    /// [`Self::sorts`].
    pub fn on_returned(&mut self, now: Instant, mut frames: Intake<'_>) {
        if self.protection.compares() {
            frames.compare(&mut self.engine, now, Side::Secondary, &mut self.out);
        } else {
            self.counts.secondary_ignored += frames.drain().count() as u64;
        }
    }

    /// A cut is awaited, so the epoch of frames that come now is not known. The caller leaves frames
    /// of the kernel lane unread meanwhile.
    pub fn sorts(&self) -> bool {
        self.cut.awaited().is_some()
    }

    /// Frames of the secondary that were dropped because too many were unsorted.
    pub fn unsorted_overflowed(&self) -> u64 {
        self.cut.overflowed
    }

    /// The secondary reports the cut of `epoch`: `sent` frames of the lane's present connection belong
    /// to the older epoch.
    pub fn on_epoch_done(&mut self, now: Instant, epoch: u64, sent: u64) {
        let (stale, fresh) = self.cut.on_cut(epoch, sent);
        self.engine.dropped_stale(stale);
        for returned in fresh {
            self.expand(now, returned);
        }
        self.compare_secondary(now);
    }

    /// Asks the secondary for the cut, if that is awaited.
    pub(super) fn ask_for_cut(&mut self) {
        // The cut of a checkpoint that is still being made is not asked for.
        let awaited = self.cut.awaited().filter(|epoch| *epoch == self.epoch);
        if let Some(epoch) = awaited.filter(|_| self.is_control_up()) {
            self.messages.push_back(ControlMessage::Epoch { session: self.session, epoch });
        }
    }

    /// The checkpoint that was to begin `epoch` has made no cut in the secondary's output.
    pub(super) fn compare_unsorted(&mut self, now: Instant, epoch: u64) {
        if self.cut.awaited() == Some(epoch) {
            for returned in self.cut.cancel() {
                self.expand(now, returned);
            }
            self.compare_secondary(now);
        }
    }

    /// A frame of the secondary's present epoch, or a record that helps to make one.
    fn expand(&mut self, now: Instant, returned: ReturnedRecord) {
        // A key is taken in any state: digests that count may follow it.
        if !self.protection.compares() && returned.is_frame() {
            self.counts.secondary_ignored += 1;
            return;
        }
        self.expander.on_returned(now, returned, &mut self.comparing);
    }

    /// Hands whole frames of the secondary to the engine. The state may have changed since they came,
    /// so it is asked once more whether they count.
    pub(super) fn compare_secondary(&mut self, now: Instant) {
        if !self.comparing.is_empty() {
            let mut frames = std::mem::take(&mut self.comparing);
            self.on_returned(now, Intake::All(&mut frames));
            self.comparing = frames;
        }
    }

    /// Asks the secondary for frames whose digests did not suffice.
    pub(super) fn ask_for_frames(&mut self, now: Instant) {
        let is_full = !self.expander.has_room();
        if is_full && !self.was_full && self.is_protected() {
            self.engine.request_checkpoint(now, Reason::Limit, &mut self.out);
        }
        self.was_full = is_full;
        let is_lost = std::mem::take(&mut self.expander.is_lost);
        // While the control lane is down, the questions stay. Without a control lane nobody can be
        // asked.
        let questions = if self.is_control_up() {
            std::mem::take(&mut self.expander.questions)
        } else {
            Vec::new()
        };
        let has_control = self.lanes.control != ControlState::Absent;
        if is_lost || (!has_control && !questions.is_empty()) {
            if let Checkpoint::Running { settles } = &mut self.checkpoint {
                // The frames were sent before it began, so it makes up for them.
                settles.get_or_insert(Reason::LaneLoss);
            } else {
                self.on_lane_loss(now, 1, false);
            }
        }
        if has_control {
            for frames in questions.chunks(QUESTIONS_MAX) {
                self.messages.push_back(ControlMessage::FramesWanted { frames: frames.to_vec() });
            }
        }
    }

    /// The control lane did not take `message`. `true` if it will be sent again.
    pub fn on_untold(&mut self, message: ControlMessage) -> bool {
        let ControlMessage::FramesWanted { frames } = message else { return false };
        self.expander.questions.extend(frames);
        true
    }
}
