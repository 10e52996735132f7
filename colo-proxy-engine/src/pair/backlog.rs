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
mod tests;
