//! Guest input that came before the offset of its connection is known: kept for a while, bounded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frame::Frame;

/// Frames that are kept at the most; anybody on the network can send such.
const FRAMES_MAX: usize = 1024;
/// Octets, likewise.
const BYTES_MAX: usize = 4 << 20;
/// A guest that has not answered a SYN for so long will not; the peer repeats what it wants.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Hold {
    frames: VecDeque<(Instant, Frame)>,
    bytes: usize,
    pub(super) dropped_full: u64,
    pub(super) dropped_late: u64,
}

impl Hold {
    pub(super) fn push(&mut self, now: Instant, frame: Frame) {
        if self.frames.len() >= FRAMES_MAX || self.bytes + frame.len() > BYTES_MAX {
            self.dropped_full += 1;
            return;
        }
        self.bytes += frame.len();
        self.frames.push_back((now + PATIENCE, frame));
    }

    /// Everything, in the order in which it came.
    pub(super) fn take(&mut self) -> Vec<Frame> {
        self.bytes = 0;
        std::mem::take(&mut self.frames).into_iter().map(|(_, frame)| frame).collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.frames.front().map(|(until, _)| *until)
    }

    pub(super) fn on_timeout(&mut self, now: Instant) {
        while let Some((until, frame)) = self.frames.front()
            && *until <= now
        {
            self.bytes -= frame.len();
            self.dropped_late += 1;
            self.frames.pop_front();
        }
    }

    pub(super) fn frames(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Frame {
        Frame::new(vec![0; len].into(), 0).expect("no header")
    }

    #[test]
    fn it_is_bounded_in_frames_bytes_and_time() {
        let now = Instant::now();
        let mut hold = Hold::default();
        (0..=FRAMES_MAX).for_each(|_| hold.push(now, frame(60)));
        assert_eq!((hold.frames(), hold.dropped_full), (FRAMES_MAX, 1));
        assert_eq!(hold.take().len(), FRAMES_MAX);
        assert_eq!((hold.bytes(), hold.poll_timeout()), (0, None));

        (0..100).for_each(|_| hold.push(now, frame(65_000)));
        assert!(hold.bytes() <= BYTES_MAX);
        hold.on_timeout(now + PATIENCE / 2);
        assert_eq!(hold.dropped_late, 0);
        hold.on_timeout(now + PATIENCE);
        assert_eq!((hold.frames(), hold.bytes()), (0, 0));
        assert_eq!(hold.dropped_late, BYTES_MAX as u64 / 65_000);
    }
}
