//! The secondary's output: of which epoch it is, and which frames it is where digests came in their
//! place.

use std::time::Instant;

use super::Decisions;
use crate::compare::{Reason, Side};
use crate::control::Message;
use crate::digest::Returned;
use crate::frame::Frame;
use crate::instance::cut::Sorted;
use crate::lane::Carried;
use crate::protection::State;

/// Frames asked for in one message: ten digits each.
const QUESTIONS_MAX: usize = 1024;

impl Decisions {
    /// More of the secondary's output can be taken.
    pub(in crate::instance) fn takes_secondary(&self) -> bool {
        self.engine.has_room_for(Side::Secondary) && self.expander.has_room()
    }

    /// Output of the secondary, as it came by its lane.
    pub(in crate::instance) fn on_secondary(&mut self, now: Instant, returned: Vec<Returned>) {
        for returned in returned {
            if !returned.is_frame() {
                self.compare(now, returned);
                continue;
            }
            match self.cut.on_frame(returned) {
                Sorted::Fresh(returned) => self.compare(now, returned),
                Sorted::Unknown => {}
                Sorted::Stale => self.engine.dropped_stale(1),
            }
        }
    }

    /// Output of the secondary that came by the kernel lane: of its present epoch, see
    /// [`Self::sorts`].
    pub(in crate::instance) fn on_returned(&mut self, now: Instant, frames: &mut Vec<Frame>) {
        if self.protection.compares() {
            self.compare_all(now, Side::Secondary, frames);
        } else {
            self.counts.secondary_ignored += frames.drain(..).count() as u64;
        }
    }

    /// It is not known of which epoch the secondary's output is that comes now; by the kernel lane
    /// it had better not come.
    pub(in crate::instance) fn sorts(&self) -> bool {
        self.cut.awaited().is_some()
    }

    /// The secondary has told where the epoch ends on its lane.
    pub(in crate::instance) fn on_epoch_done(&mut self, now: Instant, epoch: u64, sent: u64) {
        let (stale, fresh) = self.cut.on_mark(epoch, sent);
        self.engine.dropped_stale(stale);
        for frame in fresh {
            self.compare(now, frame);
        }
    }

    /// Asks the secondary where the epoch ends on its lane, if that is not known.
    pub(super) fn ask_for_mark(&mut self) {
        // That of a checkpoint which is still being made is not asked for.
        let awaited = self.cut.awaited().filter(|epoch| self.control_up && *epoch == self.epoch);
        if let Some(epoch) = awaited {
            self.messages.push_back(Message::Epoch { session: self.session, epoch });
        }
    }

    /// No epoch has ended on the secondary's lane by the checkpoint that would have begun `epoch`.
    pub(super) fn compare_unsorted(&mut self, now: Instant, epoch: u64) {
        if self.cut.awaited() == Some(epoch) {
            for frame in self.cut.cancel() {
                self.compare(now, frame);
            }
        }
    }

    /// A frame of the secondary's present epoch, or what makes one.
    fn compare(&mut self, now: Instant, returned: Returned) {
        // The key is that of all digests to come.
        if !self.protection.compares() && returned.is_frame() {
            self.counts.secondary_ignored += 1;
            return;
        }
        self.expander.on_returned(now, returned, &mut self.expanded);
        self.compare_expanded(now);
    }

    /// What the expander has made whole.
    pub(super) fn compare_expanded(&mut self, now: Instant) {
        for frame in self.expanded.drain(..) {
            // What waited may have outlived what made it count.
            if self.protection.compares() {
                self.engine.on_frame(now, Side::Secondary, frame, &mut self.out);
            } else {
                self.counts.secondary_ignored += 1;
            }
        }
    }

    /// Asks the secondary for the frames of digests that do not help.
    pub(super) fn ask_for_frames(&mut self, now: Instant) {
        let is_full = !self.expander.has_room();
        if is_full && !self.was_full && self.protection.state() == State::Protected {
            self.engine.request_checkpoint(now, Reason::Limit, &mut self.out);
        }
        self.was_full = is_full;
        let is_lost = std::mem::take(&mut self.expander.is_lost);
        // While there is no control lane they wait for it; where there is none, nobody can be asked.
        let questions =
            if self.control_up { std::mem::take(&mut self.expander.questions) } else { Vec::new() };
        if is_lost || (!self.has_control && !questions.is_empty()) {
            if self.checkpoint_running {
                // What was lost came before it began, so it makes up for that.
                self.was_loss_due = true;
            } else {
                self.on_lane_loss(now, 1, false);
            }
        }
        if self.has_control {
            // A line has its longest length.
            for frames in questions.chunks(QUESTIONS_MAX) {
                self.messages.push_back(Message::FramesWanted { frames: frames.to_vec() });
            }
        }
    }

    /// The control lane did not take a message; says whether it is told again.
    pub(in crate::instance) fn on_untold(&mut self, message: Message) -> bool {
        let Message::FramesWanted { frames } = message else { return false };
        self.expander.questions.extend(frames);
        true
    }
}
