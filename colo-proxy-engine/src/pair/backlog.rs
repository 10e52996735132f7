//! Input from the kernel lane for a guest that a checkpoint has stopped. It is queued within limits, and
//! written to the guest when that resumes.
//!
//! The thread has other things to do, so the queue is written in chunks. Input that comes meanwhile is
//! queued behind it, for the next round. So is input that comes back because its offset is not known. If
//! input comes more slowly than it is written, each round is shorter than the one before. When hardly
//! anything is left, or after some rounds, the programs give input to the guest themselves again.

use std::collections::VecDeque;

use super::BATCH;
use crate::frame::Frame;
use crate::pair::early_input::InputLimits;

/// Rounds before input may overtake the queue. It comes faster than the queue can be written.
const ROUNDS_MAX: u32 = 8;

/// The queue.
#[derive(Debug)]
pub struct Backlog {
    frames_max: usize,
    bytes_max: usize,
    /// Frames of the present round.
    now: VecDeque<Frame>,
    next: VecDeque<Frame>,
    bytes: usize,
    /// The last frame found no room, and nothing was taken since.
    is_full: bool,
    state: BacklogState,
    /// Frames that found no room.
    pub dropped: u64,
    /// The part of them that is not reported yet.
    untold: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BacklogState {
    /// The guest is stopped, or the queue is empty.
    Keeps,
    Replays {
        rounds: u32,
    },
    /// Input goes to the guest without us.
    Ends,
}

/// The end of a round, and what the caller does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogRound {
    /// Write the next round.
    Another,
    /// Let the programs give input to the guest again, then write the frames that came until then.
    Last,
    /// Nothing is left.
    Over,
}

impl Backlog {
    /// An empty queue of at most `frames_max` frames and `limits.stopped_bytes_max` bytes.
    pub fn new(frames_max: u32, limits: InputLimits) -> Self {
        Self {
            frames_max: frames_max as usize,
            bytes_max: limits.stopped_bytes_max,
            now: VecDeque::new(),
            next: VecDeque::new(),
            bytes: 0,
            is_full: false,
            state: BacklogState::Keeps,
            dropped: 0,
            untold: 0,
        }
    }

    /// Queues a frame for the next round. A frame that finds no room is dropped and counted.
    pub fn push(&mut self, frame: Frame) {
        if !self.fits(&frame) {
            self.dropped += 1;
            self.untold += 1;
            self.is_full = true;
            return;
        }
        self.bytes += frame.len();
        self.next.push_back(frame);
    }

    /// Another frame may find room. If not, the caller leaves it in the queue in front of this one.
    pub fn has_room(&self) -> bool {
        !self.is_full
    }

    /// The guest is stopped, so the queue stays as it is.
    pub fn stop(&mut self) {
        self.state = BacklogState::Keeps;
    }

    /// The guest resumes, and the first round begins.
    pub fn resume(&mut self) {
        self.now.append(&mut self.next);
        self.state = BacklogState::Replays { rounds: 0 };
    }

    /// The queue is being written to the guest.
    pub fn is_replaying(&self) -> bool {
        self.state != BacklogState::Keeps
    }

    fn fits(&self, frame: &Frame) -> bool {
        let frames = self.now.len() + self.next.len();
        frames < self.frames_max && self.bytes + frame.len() <= self.bytes_max
    }

    /// `frame`, which comes now, has to be queued to stay in order, and there is room for it.
    pub fn comes_before(&self, frame: &Frame) -> bool {
        matches!(self.state, BacklogState::Replays { .. }) && self.fits(frame)
    }

    /// The queue is empty.
    pub fn is_empty(&self) -> bool {
        self.now.is_empty() && self.next.is_empty()
    }

    /// Takes the next frames for the guest, at most [`BATCH`].
    pub fn chunk(&mut self) -> Vec<Frame> {
        let chunk: Vec<Frame> = self.now.drain(..self.now.len().min(BATCH)).collect();
        self.bytes -= chunk.iter().map(Frame::len).sum::<usize>();
        self.is_full = false;
        chunk
    }

    /// The next step if the present round is over; `None` if it is not.
    pub fn end_round(&mut self) -> Option<BacklogRound> {
        if !self.now.is_empty() {
            return None;
        }
        std::mem::swap(&mut self.now, &mut self.next);
        let rounds = match self.state {
            BacklogState::Replays { rounds } => rounds + 1,
            BacklogState::Keeps | BacklogState::Ends if self.now.is_empty() => {
                self.state = BacklogState::Keeps;
                return Some(BacklogRound::Over);
            }
            BacklogState::Keeps | BacklogState::Ends => return Some(BacklogRound::Another),
        };
        let is_last = self.now.len() <= BATCH || rounds >= ROUNDS_MAX;
        self.state = if is_last { BacklogState::Ends } else { BacklogState::Replays { rounds } };
        Some(if is_last { BacklogRound::Last } else { BacklogRound::Another })
    }

    /// Frames that were dropped since the last call.
    pub fn take_untold(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES_MAX: u32 = 10_000;

    fn backlog(stopped_bytes_max: usize) -> Backlog {
        Backlog::new(FRAMES_MAX, InputLimits { stopped_bytes_max, ..InputLimits::default() })
    }

    fn frame(number: u32, len: usize) -> Frame {
        let mut octets = vec![0; len];
        octets[..4].copy_from_slice(&number.to_be_bytes());
        Frame::new(octets.into(), 0).expect("no header")
    }

    fn number(frame: &Frame) -> u32 {
        u32::from_be_bytes(*frame.ethernet().first_chunk().expect("its number"))
    }

    #[test]
    fn it_is_bounded_in_frames_and_in_bytes_and_counts_the_rest() {
        let mut long = backlog(1_000_000);
        (0..20).for_each(|n| long.push(frame(n, 60_000)));
        assert_eq!((long.next.len(), long.dropped), (16, 4));
        assert_eq!((long.take_untold(), long.take_untold()), (4, 0), "told once");
        long.resume();
        assert!(!long.has_room());
        assert!(!long.comes_before(&frame(0, 60_000)), "rather early than never");
        assert!(long.comes_before(&frame(0, 60)));
        assert_eq!(long.chunk().len(), 16);
        assert!(long.has_room());
        long.push(frame(0, 60_000));
        assert_eq!((long.dropped, long.bytes), (4, 60_000), "there is room again");

        let mut short = backlog(100_000_000);
        (0..=FRAMES_MAX).for_each(|n| short.push(frame(n, 60)));
        assert_eq!((short.next.len(), short.dropped), (FRAMES_MAX as usize, 1));
    }

    /// Half as many come as are written; `stop_at` says after which chunk the guest is stopped again.
    fn replay(backlog: &mut Backlog, stop_at: usize) -> (Vec<u32>, u32) {
        let (mut written, mut came) = (Vec::new(), 1000);
        backlog.resume();
        for chunks in 0.. {
            let chunk = backlog.chunk();
            assert!(chunk.len() <= BATCH, "the thread has other things to do");
            written.extend(chunk.iter().map(number));
            if chunks == stop_at {
                backlog.stop();
                assert!(!backlog.is_replaying());
                backlog.resume();
            }
            match backlog.end_round() {
                Some(BacklogRound::Over) => break,
                Some(BacklogRound::Another | BacklogRound::Last) | None => {}
            }
            if backlog.state != BacklogState::Ends {
                for _ in 0..chunk.len() / 2 {
                    backlog.push(frame(came, 60));
                    came += 1;
                }
            }
        }
        (written, came)
    }

    #[test]
    fn what_comes_meanwhile_is_written_behind_what_waits() {
        for stop_at in [0, 5, 20, usize::MAX] {
            let mut backlog = backlog(1_000_000);
            (0..1000).for_each(|n| backlog.push(frame(n, 60)));
            let (written, came) = replay(&mut backlog, stop_at);
            assert!(came > 1500, "{came}");
            assert!(written.iter().copied().eq(0..came), "{written:?}");
            assert!(backlog.is_empty() && !backlog.is_replaying());
            assert!(!backlog.comes_before(&frame(0, 60)));
            assert_eq!((backlog.bytes, backlog.dropped), (0, 0));
        }
    }

    /// As much comes as is written, for ever: in the end it may overtake what waits.
    #[test]
    fn a_flood_does_not_keep_it_replaying() {
        let mut backlog = backlog(1_000_000);
        (0..1000).for_each(|n| backlog.push(frame(n, 60)));
        backlog.resume();
        let mut rounds = 0;
        while rounds <= ROUNDS_MAX {
            for _ in backlog.chunk() {
                backlog.push(frame(0, 60));
            }
            match backlog.end_round() {
                Some(BacklogRound::Last) => break,
                Some(_) => rounds += 1,
                None => {}
            }
        }
        assert_eq!(rounds, ROUNDS_MAX - 1);
        let mut left = 0;
        while backlog.is_replaying() {
            left += backlog.chunk().len();
            backlog.end_round();
        }
        assert_eq!(left, 1000);
    }
}
