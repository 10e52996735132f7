//! Guest input that the secondary guest lost, written to it again.
//!
//! The two guests do not lose the same frames: one has a smaller receive window at the moment, or its
//! TAP's queue is full. The peer repeats input that the primary's guest lost. Nobody would repeat input
//! that only the secondary's guest lost: the peer gets the primary's acknowledgments only, and those are
//! held until the secondary's reach them. The peer's own retransmission starts at the last released
//! acknowledgment. The secondary's hole may begin elsewhere, so it may never be filled. Therefore input is
//! kept here until the secondary guest has acknowledged it. Input that is not acknowledged in time is
//! written again, oldest first.
//!
//! The owner and the lane that carries the guest's output share it as a [`SharedRepeater`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::Frame;
use colo_proxy_common::decode::{Tcp, flag};
use colo_proxy_common::record::FlowKey;
use colo_proxy_common::segment::{Direction, tcp_segment};
use colo_proxy_common::seq::Seq;

/// So many acknowledgments of the same place mean a hole (RFC 5681, section 3.2).
const DUPLICATES: u32 = 3;

/// Limits on guest input that is kept until the guest has acknowledged it, and when it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepeatLimits {
    /// Frames of all connections.
    pub frames_max: usize,
    /// Bytes of all connections.
    pub bytes_max: usize,
    /// Frames of one connection.
    pub flow_frames_max: usize,
    /// Bytes of one connection.
    pub flow_bytes_max: usize,
    /// How long input stays unacknowledged before it is written again.
    pub patience: Duration,
    /// The pause doubles up to this, for a guest with a closed window.
    pub patience_max: Duration,
    /// A guest that acknowledges nothing for so long does not have the connection.
    pub give_up: Duration,
    /// Frames that are written again in one go.
    pub burst: usize,
}

impl Default for RepeatLimits {
    fn default() -> Self {
        Self {
            // Small frames cost more than their bytes.
            frames_max: 65536,
            // A receive window is smaller.
            bytes_max: 64 << 20,
            flow_frames_max: 16384,
            flow_bytes_max: 16 << 20,
            // Longer than a guest delays an acknowledgment as a rule (40 ms on Linux).
            patience: Duration::from_millis(60),
            patience_max: Duration::from_millis(500),
            give_up: Duration::from_secs(10),
            burst: 16,
        }
    }
}

/// Input that the guest has not acknowledged yet.
#[derive(Debug, Default)]
pub struct Repeater {
    limits: RepeatLimits,
    flows: HashMap<FlowKey, Unacknowledged, foldhash::fast::RandomState>,
    frames: usize,
    bytes: usize,
    /// No connection is due before this.
    wake: Option<Instant>,
    /// Frames written again.
    pub repeated: u64,
    /// Frames that were not kept because a limit was reached.
    pub not_kept: u64,
    /// Frames that were given up.
    pub given_up: u64,
}

/// One connection; it exists while something is unacknowledged.
#[derive(Debug)]
struct Unacknowledged {
    /// In order of their sequence numbers.
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The guest's last acknowledgment, and how often it came again.
    acknowledged: Option<Seq>,
    duplicates: u32,
    window: u16,
    /// The guest has a hole until it has acknowledged this.
    recovering_to: Option<Seq>,
    /// Time of the guest's last segment, or when the first frame was kept.
    heard: Instant,
    pause: Duration,
    due: Instant,
}

#[derive(Debug)]
struct Kept {
    start: Seq,
    end: Seq,
    at: Instant,
    frame: Frame,
}

impl Repeater {
    /// Nothing is kept.
    pub fn new(limits: RepeatLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Keeps input that is on its way to the guest. `is_connected` says whether the guest has a
    /// connection: anybody on the network can send segments of others.
    pub fn on_input(
        &mut self,
        now: Instant,
        frame: &Frame,
        is_connected: impl FnOnce(&FlowKey) -> bool,
    ) {
        let Some((key, tcp)) = tcp_segment(frame.ethernet(), Direction::ToGuest) else { return };
        if tcp.flags & flag::RST != 0 {
            self.forget(&key);
            return;
        }
        let start = Seq(tcp.seq);
        let end = start.plus(tcp.payload_len + u32::from(tcp.flags & flag::FIN != 0));
        if tcp.flags & flag::SYN != 0 {
            // A new connection. The peer itself repeats a SYN that is not answered.
            self.forget(&key);
            return;
        }
        if start == end {
            return;
        }
        let of_flow = self.flows.get(&key).map(|flow| (flow.bytes, flow.kept.len()));
        if of_flow.is_none() && !is_connected(&key) {
            return;
        }
        let (flow_bytes, flow_frames) = of_flow.unwrap_or_default();
        let limits = self.limits;
        if self.frames >= limits.frames_max
            || flow_frames >= limits.flow_frames_max
            || self.bytes + frame.len() > limits.bytes_max
            || flow_bytes + frame.len() > limits.flow_bytes_max
        {
            self.not_kept += 1;
            return;
        }
        let flow =
            self.flows.entry(key).or_insert_with(|| Unacknowledged::new(now, limits.patience));
        self.wake = Some(self.wake.map_or(flow.due, |wake| wake.min(flow.due)));
        let replaced = flow.keep(Kept { start, end, at: now, frame: frame.compact() });
        self.frames += 1;
        self.bytes += frame.len();
        self.drop_from_totals(&replaced);
    }

    /// Takes output of the guest, in the network's numbers. `true` if [`Self::poll_timeout`] is earlier
    /// now than it was before.
    pub fn on_output(&mut self, now: Instant, frame: &Frame) -> bool {
        if self.flows.is_empty() {
            return false;
        }
        let Some((key, tcp)) = tcp_segment(frame.ethernet(), Direction::FromGuest) else {
            return false;
        };
        if tcp.flags & flag::RST != 0 {
            self.forget(&key);
            return false;
        }
        let Some(flow) = self.flows.get_mut(&key).filter(|_| tcp.flags & flag::ACK != 0) else {
            return false;
        };
        let gone = flow.acknowledge(now, &tcp, self.limits.patience);
        let (due, is_done) = (flow.due, flow.kept.is_empty());
        self.drop_from_totals(&gone);
        if is_done {
            self.flows.remove(&key);
            return false;
        }
        let is_earlier = self.wake.is_none_or(|wake| due < wake);
        if is_earlier {
            self.wake = Some(due);
        }
        is_earlier
    }

    /// When [`Self::on_timeout`] may have something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// Appends the frames that are to be written again now.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Vec<Frame>) {
        let mut over = Vec::new();
        for (key, flow) in &mut self.flows {
            if flow.due > now {
                continue;
            }
            if now - flow.heard > self.limits.give_up {
                over.push(*key);
                continue;
            }
            flow.repeat(now, &self.limits, out);
        }
        self.repeated += out.len() as u64;
        for key in over {
            self.given_up += self.flows.get(&key).map_or(0, |flow| flow.kept.len() as u64);
            self.forget(&key);
        }
        self.wake = self.flows.values().map(|flow| flow.due).min();
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.flows.clear();
        (self.frames, self.bytes, self.wake) = (0, 0, None);
    }

    /// Takes all frames with the time at which they came, those of each connection in order.
    pub fn take_all(&mut self) -> Vec<(Instant, Frame)> {
        let flows = std::mem::take(&mut self.flows);
        self.clear();
        let kept = flows.into_values().flat_map(|flow| flow.kept);
        kept.map(|kept| (kept.at, kept.frame)).collect()
    }

    /// Bytes of the frames that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget(&mut self, key: &FlowKey) {
        if let Some(flow) = self.flows.remove(key) {
            self.drop_from_totals(&flow.kept);
        }
    }

    fn drop_from_totals<'a>(&mut self, gone: impl IntoIterator<Item = &'a Kept>) {
        for kept in gone {
            self.frames -= 1;
            self.bytes -= kept.frame.len();
        }
    }
}

impl Unacknowledged {
    fn new(now: Instant, patience: Duration) -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            acknowledged: None,
            duplicates: 0,
            window: 0,
            recovering_to: None,
            heard: now,
            pause: patience,
            due: now + patience,
        }
    }

    /// Adds a frame in its place. Returns the frame that it makes superfluous.
    fn keep(&mut self, new: Kept) -> Option<Kept> {
        self.bytes += new.frame.len();
        let behind = self.kept.iter().rev().take_while(|kept| kept.start.after(new.start)).count();
        let at = self.kept.len() - behind;
        // The peer's own repetition has the newer timestamp.
        if let Some(same) = at.checked_sub(1).and_then(|i| self.kept.get_mut(i))
            && same.start == new.start
            && !same.end.after(new.end)
        {
            let old = std::mem::replace(same, new);
            self.bytes -= old.frame.len();
            return Some(old);
        }
        self.kept.insert(at, new);
        None
    }

    /// Takes the acknowledgment in `tcp`. Returns the frames that need not be kept any more.
    fn acknowledge(&mut self, now: Instant, tcp: &Tcp, patience: Duration) -> Vec<Kept> {
        let ack = Seq(tcp.ack);
        self.heard = now;
        let is_new = self.acknowledged.is_none_or(|known| ack.after(known));
        if !is_new {
            self.on_same(now, ack, tcp);
            return Vec::new();
        }
        self.acknowledged = Some(ack);
        (self.duplicates, self.window) = (0, tcp.window);
        (self.pause, self.due) = (patience, now + patience);
        let mut gone = Vec::new();
        while self.kept.front().is_some_and(|kept| !kept.end.after(ack))
            && let Some(kept) = self.kept.pop_front()
        {
            self.bytes -= kept.frame.len();
            gone.push(kept);
        }
        // A partial acknowledgment: the next hole (RFC 6582, section 3.2).
        match self.recovering_to {
            Some(end) if end.after(ack) => self.due = now,
            _ => self.recovering_to = None,
        }
        gone
    }

    /// An acknowledgment of the same place: a hole, or a window that has opened.
    fn on_same(&mut self, now: Instant, ack: Seq, tcp: &Tcp) {
        if self.acknowledged != Some(ack) || tcp.payload_len > 0 {
            return;
        }
        let opened = self.window == 0 && tcp.window > 0;
        self.window = tcp.window;
        self.duplicates += 1;
        if opened || self.duplicates == DUPLICATES {
            self.due = now;
        }
    }

    /// The oldest frames again. The pause is long enough for an answer, so that a guest that is
    /// merely slow does not get everything twice.
    fn repeat(&mut self, now: Instant, limits: &RepeatLimits, out: &mut Vec<Frame>) {
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(limits.patience_max);
        // A hole that begins before our frames is the network's, and the peer fills it.
        let Some(first) = self.kept.front().map(|kept| kept.start) else { return };
        if self.acknowledged.is_some_and(|ack| first.after(ack)) {
            return;
        }
        let burst = self.kept.iter().take(limits.burst);
        out.extend(burst.map(|kept| kept.frame.clone()));
        if self.recovering_to.is_none() {
            self.recovering_to = self.kept.back().map(|kept| kept.end);
        }
    }
}

/// A [`Repeater`] that two tasks share. One brings input and time, the other the guest's output.
#[derive(Clone, Debug, Default)]
pub struct SharedRepeater(Arc<Mutex<Repeater>>);

impl SharedRepeater {
    /// An empty one within `limits`.
    pub fn new(limits: RepeatLimits) -> Self {
        Self(Arc::new(Mutex::new(Repeater::new(limits))))
    }

    /// The repeater, for as long as the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, Repeater> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
