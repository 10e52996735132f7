//! Guest input that came before the offset of its connection is known: kept for a while, bounded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use crate::frame::Frame;

/// Guest input that waits for the offset of its connection; anybody on the network can send such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimits {
    pub frames_max: usize,
    pub bytes_max: usize,
    /// A guest that has not answered a SYN for so long will not; the peer repeats what it wants.
    pub patience: Duration,
    /// Octets that wait for a guest that a checkpoint has stopped, of what comes by the kernel lane.
    pub stopped_bytes_max: usize,
}

impl Default for InputLimits {
    fn default() -> Self {
        Self {
            frames_max: 1024,
            bytes_max: 4 << 20,
            patience: Duration::from_secs(3),
            // Half a second of a gigabit.
            stopped_bytes_max: 64 << 20,
        }
    }
}

#[derive(Debug, Default)]
pub struct EarlyInput {
    limits: InputLimits,
    frames: VecDeque<Parked>,
    bytes: usize,
    pub dropped_full: u64,
    pub dropped_late: u64,
}

#[derive(Debug)]
struct Parked {
    until: Instant,
    key: Option<FlowKey>,
    frame: Frame,
}

impl EarlyInput {
    pub fn new(limits: InputLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Keeps `frame`, which belongs to the connection `key`.
    pub fn push(&mut self, now: Instant, key: Option<FlowKey>, frame: Frame) {
        let limits = self.limits;
        if self.frames.len() >= limits.frames_max || self.bytes + frame.len() > limits.bytes_max {
            self.dropped_full += 1;
            return;
        }
        self.bytes += frame.len();
        self.frames.push_back(Parked { until: now + limits.patience, key, frame });
    }

    /// Everything that waits for `key`, in the order in which it came; the others keep their time.
    pub fn take(&mut self, key: &FlowKey) -> Vec<Frame> {
        let (due, kept): (VecDeque<Parked>, VecDeque<Parked>) = std::mem::take(&mut self.frames)
            .into_iter()
            .partition(|parked| parked.key.as_ref() == Some(key));
        self.frames = kept;
        self.bytes -= due.iter().map(|parked| parked.frame.len()).sum::<usize>();
        due.into_iter().map(|parked| parked.frame).collect()
    }

    /// Everything.
    pub fn take_all(&mut self) -> Vec<Frame> {
        self.bytes = 0;
        std::mem::take(&mut self.frames).into_iter().map(|parked| parked.frame).collect()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.frames.front().map(|parked| parked.until)
    }

    pub fn on_timeout(&mut self, now: Instant) {
        while let Some(parked) = self.frames.front()
            && parked.until <= now
        {
            self.bytes -= parked.frame.len();
            self.dropped_late += 1;
            self.frames.pop_front();
        }
    }

    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "a test makes the clock that its subject is given"
    )]

    use std::time::Duration;

    use super::*;
    use crate::pair::segment::{FrameDirection, segment};

    fn key_of(frame: &[u8]) -> Option<FlowKey> {
        segment(frame, FrameDirection::ToGuest).map(|(key, _)| key)
    }

    fn frame(len: usize) -> Frame {
        Frame::new(vec![0; len].into(), 0).expect("no header")
    }

    #[test]
    fn it_is_bounded_in_frames_bytes_and_time() {
        let now = Instant::now();
        let patience = Duration::from_secs(5);
        let limits = InputLimits {
            frames_max: 200,
            bytes_max: 2_000_000,
            patience,
            ..InputLimits::default()
        };
        let mut hold = EarlyInput::new(limits);
        (0..=200).for_each(|_| hold.push(now, None, frame(60)));
        assert_eq!((hold.frames(), hold.dropped_full), (200, 1));
        assert_eq!(hold.take_all().len(), 200);
        assert_eq!((hold.bytes(), hold.poll_timeout()), (0, None));

        (0..100).for_each(|_| hold.push(now, None, frame(65_000)));
        assert!(hold.bytes() <= 2_000_000);
        hold.on_timeout(now + patience / 2);
        assert_eq!(hold.dropped_late, 0);
        hold.on_timeout(now + patience);
        assert_eq!((hold.frames(), hold.bytes()), (0, 0));
        assert_eq!(hold.dropped_late, 2_000_000 / 65_000);
    }

    #[test]
    fn only_the_connection_whose_offset_is_known_is_taken() {
        let now = Instant::now();
        let mut hold = EarlyInput::default();
        for port in [1, 2, 1] {
            let mut octets = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .tcp(port, 80, 7, 100)
                .write(&mut octets, b"x")
                .expect("a Vec takes everything");
            let key = key_of(&octets);
            hold.push(now, key, Frame::new(octets.into(), 0).expect("no header"));
        }
        let mut key = key_of(hold.frames[0].frame.ethernet()).expect("TCP");
        assert_eq!((key.guest_port, key.peer_port), (80, 1));
        assert_eq!(hold.take(&key).len(), 2);
        key.peer_port = 3;
        assert_eq!((hold.take(&key).len(), hold.frames()), (0, 1));
        assert_eq!(hold.take_all().len(), 1);
        assert_eq!(hold.bytes(), 0);
    }
}
