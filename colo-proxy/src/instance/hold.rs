//! Guest input that came before the offset of its connection is known: kept for a while, bounded.

use std::collections::VecDeque;
use std::time::Instant;

use colo_proxy_common::record::FlowKey;

use crate::config::InputLimits;
use crate::frame::Frame;

#[derive(Debug, Default)]
pub(crate) struct Hold {
    limits: InputLimits,
    frames: VecDeque<Held>,
    bytes: usize,
    pub(crate) dropped_full: u64,
    pub(crate) dropped_late: u64,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    key: Option<FlowKey>,
    frame: Frame,
}

impl Hold {
    pub(crate) fn new(limits: InputLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Keeps `frame`, which belongs to the connection `key`.
    pub(crate) fn push(&mut self, now: Instant, key: Option<FlowKey>, frame: Frame) {
        let limits = self.limits;
        if self.frames.len() >= limits.frames_max || self.bytes + frame.len() > limits.bytes_max {
            self.dropped_full += 1;
            return;
        }
        self.bytes += frame.len();
        self.frames.push_back(Held { until: now + limits.patience, key, frame });
    }

    /// Everything that waits for `key`, in the order in which it came; the others keep their time.
    pub(crate) fn take(&mut self, key: &FlowKey) -> Vec<Frame> {
        let (due, kept): (VecDeque<Held>, VecDeque<Held>) = std::mem::take(&mut self.frames)
            .into_iter()
            .partition(|held| held.key.as_ref() == Some(key));
        self.frames = kept;
        self.bytes -= due.iter().map(|held| held.frame.len()).sum::<usize>();
        due.into_iter().map(|held| held.frame).collect()
    }

    /// Everything.
    pub(crate) fn take_all(&mut self) -> Vec<Frame> {
        self.bytes = 0;
        std::mem::take(&mut self.frames).into_iter().map(|held| held.frame).collect()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.frames.front().map(|held| held.until)
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) {
        while let Some(held) = self.frames.front()
            && held.until <= now
        {
            self.bytes -= held.frame.len();
            self.dropped_late += 1;
            self.frames.pop_front();
        }
    }

    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
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
        let mut hold = Hold::new(limits);
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
        let mut hold = Hold::default();
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
