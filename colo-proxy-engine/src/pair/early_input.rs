//! Early input: guest input that came before the offset of its connection was known. It is parked for a
//! while, within limits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use crate::frame::Frame;

/// Limits on guest input that stays with us for a while. Anybody on the network can send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimits {
    /// Parked frames.
    pub frames_max: usize,
    /// Bytes of parked frames.
    pub bytes_max: usize,
    /// How long a frame is parked. A guest that has not answered a SYN in this time will not, and the
    /// peer repeats its segments.
    pub patience: Duration,
    /// Bytes of the kernel lane's frames that are queued for a guest that a checkpoint has stopped.
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

/// The parked frames of all connections.
#[derive(Debug, Default)]
pub struct EarlyInput {
    limits: InputLimits,
    frames: VecDeque<Parked>,
    bytes: usize,
    /// Frames that were dropped because a limit was reached.
    pub dropped_full: u64,
    /// Frames that were dropped because their offset did not become known in time.
    pub dropped_late: u64,
}

#[derive(Debug)]
struct Parked {
    until: Instant,
    key: Option<FlowKey>,
    frame: Frame,
}

impl EarlyInput {
    /// Nothing is parked.
    pub fn new(limits: InputLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Parks `frame`. `key`: its connection, if it belongs to one.
    pub fn push(&mut self, now: Instant, key: Option<FlowKey>, frame: Frame) {
        let limits = self.limits;
        if self.frames.len() >= limits.frames_max || self.bytes + frame.len() > limits.bytes_max {
            self.dropped_full += 1;
            return;
        }
        self.bytes += frame.len();
        self.frames.push_back(Parked { until: now + limits.patience, key, frame });
    }

    /// Takes the frames of the connection `key`, in the order in which they came. The others stay.
    pub fn take(&mut self, key: &FlowKey) -> Vec<Frame> {
        let (due, kept): (VecDeque<Parked>, VecDeque<Parked>) = std::mem::take(&mut self.frames)
            .into_iter()
            .partition(|parked| parked.key.as_ref() == Some(key));
        self.frames = kept;
        self.bytes -= due.iter().map(|parked| parked.frame.len()).sum::<usize>();
        due.into_iter().map(|parked| parked.frame).collect()
    }

    /// Takes all frames, in the order in which they came.
    pub fn take_all(&mut self) -> Vec<Frame> {
        self.bytes = 0;
        std::mem::take(&mut self.frames).into_iter().map(|parked| parked.frame).collect()
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.frames.front().map(|parked| parked.until)
    }

    /// Drops frames that were parked for too long.
    pub fn on_timeout(&mut self, now: Instant) {
        while let Some(parked) = self.frames.front()
            && parked.until <= now
        {
            self.bytes -= parked.frame.len();
            self.dropped_late += 1;
            self.frames.pop_front();
        }
    }

    /// Parked frames.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of parked frames.
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
    use colo_proxy_common::segment::{Direction, tcp_segment};

    fn key_of(frame: &[u8]) -> Option<FlowKey> {
        tcp_segment(frame, Direction::ToGuest).map(|(key, _)| key)
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
        let mut parked = EarlyInput::new(limits);
        (0..=200).for_each(|_| parked.push(now, None, frame(60)));
        assert_eq!((parked.frames(), parked.dropped_full), (200, 1));
        assert_eq!(parked.take_all().len(), 200);
        assert_eq!((parked.bytes(), parked.poll_timeout()), (0, None));

        (0..100).for_each(|_| parked.push(now, None, frame(65_000)));
        assert!(parked.bytes() <= 2_000_000);
        parked.on_timeout(now + patience / 2);
        assert_eq!(parked.dropped_late, 0);
        parked.on_timeout(now + patience);
        assert_eq!((parked.frames(), parked.bytes()), (0, 0));
        assert_eq!(parked.dropped_late, 2_000_000 / 65_000);
    }

    #[test]
    fn only_the_connection_whose_offset_is_known_is_taken() {
        let now = Instant::now();
        let mut parked = EarlyInput::default();
        for port in [1, 2, 1] {
            let mut octets = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .tcp(port, 80, 7, 100)
                .write(&mut octets, b"x")
                .expect("a Vec takes everything");
            let key = key_of(&octets);
            parked.push(now, key, Frame::new(octets.into(), 0).expect("no header"));
        }
        let mut key = key_of(parked.frames[0].frame.ethernet()).expect("TCP");
        assert_eq!((key.guest_port, key.peer_port), (80, 1));
        assert_eq!(parked.take(&key).len(), 2);
        key.peer_port = 3;
        assert_eq!((parked.take(&key).len(), parked.frames()), (0, 1));
        assert_eq!(parked.take_all().len(), 1);
        assert_eq!(parked.bytes(), 0);
    }
}
