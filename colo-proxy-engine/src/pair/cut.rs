//! The cut: the place in the secondary's output at which an epoch ends.
//!
//! A checkpoint makes the secondary guest the primary's copy. Older frames vouch for nothing after it,
//! but may still be under way, and the lane carries frames only. So the secondary reports the cut on the
//! control lane, as a number of frames. Until then the frames stay unsorted. The control lane is a
//! connection of its own, so the cut may arrive before the frames that it counts.

use std::collections::VecDeque;

use crate::digest::ReturnedRecord;

/// Limits on frames of the secondary that are unsorted until their cut is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsortedLimits {
    /// Frames.
    pub frames_max: usize,
    /// Bytes in memory.
    pub bytes_max: usize,
}

impl Default for UnsortedLimits {
    fn default() -> Self {
        Self { frames_max: 16 * 1024, bytes_max: 64 << 20 }
    }
}

/// Sorts the secondary's frames into epochs. The owner brings frames, cuts and changes of the connection.
#[derive(Debug, Default)]
pub struct EpochCut {
    limits: UnsortedLimits,
    /// Frames that came by this connection.
    received: u64,
    awaited: Option<Awaited>,
    unsorted: VecDeque<ReturnedRecord>,
    unsorted_bytes: usize,
    /// Frames that the last cut counts and that have not come yet.
    overtaken: u64,
    /// Frames that were dropped because too many were unsorted.
    pub overflowed: u64,
}

/// A frame that came, with its epoch.
#[derive(Clone, Debug, PartialEq)]
pub enum SortedFrame {
    /// It is of the present epoch.
    Fresh(ReturnedRecord),
    /// The cut will tell its epoch. It is unsorted, or was dropped because too many are.
    Unknown,
    /// It is of an epoch that is over.
    Stale,
}

#[derive(Clone, Copy, Debug)]
struct Awaited {
    epoch: u64,
    /// Frames of this connection that are known to be older than the cut.
    before: u64,
}

impl EpochCut {
    /// A sorter for a lane that is not connected yet.
    pub fn new(limits: UnsortedLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The epoch whose cut is awaited.
    pub fn awaited(&self) -> Option<u64> {
        self.awaited.map(|awaited| awaited.epoch)
    }

    /// Awaits the cut that begins `epoch`. Frames that were unsorted for an earlier cut are stale.
    /// Returns how many frames these are.
    pub fn wait_for(&mut self, epoch: u64) -> u64 {
        let stale = self.clear();
        self.awaited = Some(Awaited { epoch, before: self.received });
        stale
    }

    /// The checkpoint of the awaited cut was not made. Returns the unsorted frames.
    pub fn cancel(&mut self) -> VecDeque<ReturnedRecord> {
        self.awaited = None;
        self.unsorted_bytes = 0;
        std::mem::take(&mut self.unsorted)
    }

    /// A frame came. It is returned if it can be compared now.
    pub fn on_frame(&mut self, frame: ReturnedRecord) -> SortedFrame {
        self.received += 1;
        if self.overtaken > 0 {
            self.overtaken -= 1;
            if let Some(awaited) = &mut self.awaited {
                awaited.before += 1;
            }
            return SortedFrame::Stale;
        }
        if self.awaited.is_none() {
            return SortedFrame::Fresh(frame);
        }
        let (frames, bytes) = (self.unsorted.len(), self.unsorted_bytes + frame.len());
        if frames < self.limits.frames_max && bytes <= self.limits.bytes_max {
            self.unsorted_bytes += frame.len();
            self.unsorted.push_back(frame);
        } else {
            self.overflowed += 1;
        }
        SortedFrame::Unknown
    }

    /// The cut came: the first `sent` frames of this connection are older. Returns how many of the
    /// unsorted frames are stale, and the others.
    pub fn on_cut(&mut self, epoch: u64, sent: u64) -> (u64, VecDeque<ReturnedRecord>) {
        // A smaller number belongs to another connection, which we do not know yet.
        let is_it = |awaited: &mut Awaited| awaited.epoch == epoch && sent >= awaited.before;
        let Some(awaited) = self.awaited.take_if(is_it) else {
            return (0, VecDeque::new());
        };
        let waiting = self.unsorted.len() as u64;
        self.overtaken = sent.saturating_sub(self.received);
        let stale = sent.saturating_sub(awaited.before).min(waiting);
        self.unsorted_bytes = 0;
        let mut fresh = std::mem::take(&mut self.unsorted);
        fresh.drain(..stale as usize);
        (stale, fresh)
    }

    /// The lane was connected anew, or is gone. The cut is still awaited, but cannot sort the frames of
    /// the old connection. Returns how many frames were dropped for that.
    pub fn on_connection(&mut self) -> u64 {
        (self.received, self.overtaken) = (0, 0);
        if let Some(awaited) = &mut self.awaited {
            awaited.before = 0;
        }
        self.clear()
    }

    fn clear(&mut self) -> u64 {
        let dropped = self.unsorted.len() as u64;
        self.unsorted.clear();
        self.unsorted_bytes = 0;
        dropped
    }
}

#[cfg(test)]
mod tests;
