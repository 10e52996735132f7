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
mod tests {
    use super::*;
    use crate::frame::Frame;

    fn frame(n: u8) -> ReturnedRecord {
        Frame::new(vec![n; 60].into(), 0).expect("no header").into()
    }

    fn feed(cut: &mut EpochCut, numbers: std::ops::Range<u8>) -> usize {
        numbers.filter(|n| cut.on_frame(frame(*n)) == SortedFrame::Fresh(frame(*n))).count()
    }

    #[test]
    fn frames_before_the_cut_are_stale_wherever_they_are() {
        let mut cut = EpochCut::default();
        assert_eq!(feed(&mut cut, 0..3), 3);
        cut.wait_for(1);
        assert_eq!(feed(&mut cut, 3..8), 0);
        // Five had been sent before: three came before the wait, two during it.
        let (stale, fresh) = cut.on_cut(1, 5);
        assert_eq!((stale, fresh.into()), (2, vec![frame(5), frame(6), frame(7)]));
        assert_eq!(feed(&mut cut, 8..9), 1, "the next one is compared at once");
    }

    #[test]
    fn a_cut_that_overtakes_its_frames_finds_them_stale_when_they_come() {
        let mut cut = EpochCut::default();
        assert_eq!(feed(&mut cut, 0..3), 3);
        cut.wait_for(1);
        assert_eq!(feed(&mut cut, 3..4), 0);
        // Six had been sent before: two of them are still on their way.
        assert_eq!(cut.on_cut(1, 6), (1, VecDeque::new()));
        assert_eq!(cut.on_frame(frame(4)), SortedFrame::Stale);
        // Nor do they come to harm the sorting of the next one.
        cut.wait_for(2);
        assert_eq!(cut.on_frame(frame(5)), SortedFrame::Stale);
        assert_eq!(feed(&mut cut, 6..8), 0);
        assert_eq!(cut.on_cut(2, 7).1, [frame(7)]);
        assert_eq!(feed(&mut cut, 8..9), 1);
    }

    #[test]
    fn what_a_lost_connection_took_with_it_is_not_waited_for() {
        let mut cut = EpochCut::default();
        cut.wait_for(1);
        cut.on_cut(1, 6);
        cut.on_connection();
        assert_eq!(feed(&mut cut, 0..2), 2);
    }

    #[test]
    fn a_cut_of_a_connection_that_is_not_known_yet_sorts_nothing() {
        let mut cut = EpochCut::default();
        assert_eq!(feed(&mut cut, 0..100), 100);
        cut.wait_for(1);
        feed(&mut cut, 100..105);
        assert_eq!(cut.on_cut(1, 3), (0, VecDeque::new()));
        assert_eq!((cut.awaited(), cut.on_connection()), (Some(1), 5));
        feed(&mut cut, 105..110);
        assert_eq!(cut.on_cut(1, 3).1.len(), 2);
    }

    #[test]
    fn a_cut_of_another_epoch_sorts_nothing() {
        let mut cut = EpochCut::default();
        cut.wait_for(2);
        feed(&mut cut, 0..1);
        assert_eq!(cut.on_cut(1, 0), (0, VecDeque::new()));
        assert_eq!(cut.awaited(), Some(2));
        assert_eq!(cut.on_cut(2, 0).1.len(), 1);
    }

    #[test]
    fn a_new_connection_vouches_for_nothing_until_its_own_cut() {
        let mut cut = EpochCut::default();
        feed(&mut cut, 0..5);
        cut.wait_for(1);
        feed(&mut cut, 5..7);
        assert_eq!(cut.on_connection(), 2);
        assert_eq!(feed(&mut cut, 7..9), 0, "still awaited");
        let (stale, fresh) = cut.on_cut(1, 1);
        assert_eq!((stale, fresh.len()), (1, 1));
    }

    #[test]
    fn what_waited_for_a_checkpoint_that_came_to_nothing_is_given_back() {
        let mut cut = EpochCut::default();
        cut.wait_for(1);
        assert_eq!(feed(&mut cut, 0..3), 0);
        assert_eq!(cut.cancel(), [frame(0), frame(1), frame(2)]);
        assert_eq!(cut.awaited(), None);
        assert_eq!(feed(&mut cut, 3..5), 2);
    }

    #[test]
    fn unsorted_frames_are_bounded_and_the_first_ones_are_sorted_all_the_same() {
        let mut cut = EpochCut::new(UnsortedLimits { frames_max: 100, bytes_max: 1 << 20 });
        cut.wait_for(1);
        for _ in 0..110 {
            assert_eq!(cut.on_frame(frame(0)), SortedFrame::Unknown);
        }
        assert_eq!(cut.overflowed, 10);
        let (stale, fresh) = cut.on_cut(1, 7);
        assert_eq!((stale, fresh.len()), (7, 93));
    }

    #[test]
    fn unsorted_frames_are_bounded_in_bytes() {
        let mut cut = EpochCut::new(UnsortedLimits { frames_max: 100, bytes_max: 150 });
        cut.wait_for(1);
        feed(&mut cut, 0..4);
        assert_eq!((cut.overflowed, cut.on_cut(1, 0).1.len()), (2, 2));
    }
}
