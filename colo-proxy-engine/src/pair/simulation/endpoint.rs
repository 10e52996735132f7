//! A small TCP endpoint, simple enough to be believed.
//!
//! It has the handshake, cumulative acknowledgments, retransmission with back-off, a bounded queue for
//! segments out of order, a receive window, FIN and RST. It has timestamps with PAWS, and sends and
//! checks SACK blocks. It has Fast Open (RFC 7413) without cookies: an endpoint takes the data of a
//! SYN, or does not.
//!
//! A place in a stream is counted from the SYN, which has 0. The first byte has 1. The state is
//! `Clone`, because a checkpoint copies it. The differences between two guests (chosen numbers,
//! segmentation and timing) are not part of it, and come from outside ([`Nature`]).

use std::collections::BTreeMap;

use super::random::SeededRandom;
use super::wire::{MSS, PlainSegment, PortPair};

/// The largest number of bytes under way.
const FLIGHT: u64 = 12 * MSS as u64;
const RESEND_US: u64 = 300_000;
const RESEND_MAX_US: u64 = 3_000_000;
/// The largest number of bytes that go with a SYN.
const EARLY: u64 = 400;
/// How long a connection that is over still answers.
pub(super) const LINGER_US: u64 = 30_000_000;
/// This number of acknowledgments of the same place means a hole.
const DUPLICATES: u32 = 3;
/// Numbers that lie further apart than this are not compared.
const REACH: i64 = 1 << 30;

/// The differences between machines with the same software and state.
#[derive(Clone, Debug)]
pub(super) struct Nature {
    pub(super) random: SeededRandom,
    /// The largest number of bytes in a segment.
    pub(super) segment_max: usize,
    /// Delay of an acknowledgment. 0 is none.
    pub(super) delayed_ack_us: u64,
    /// Bytes that it takes beyond those that it has in order.
    pub(super) buffer: usize,
    /// With `Some`, the first numbers follow from the connection, so both guests choose the same ones.
    /// No timestamps are sent then, because they differ as the guests' clocks do.
    pub(super) numbers: Option<u64>,
}

impl Nature {
    /// The first sequence number and the first timestamp of the next connection on `tuple`, which
    /// answers `peer`.
    fn first_numbers(&mut self, tuple: PortPair, peer: Option<u32>) -> [u32; 2] {
        let Some(seed) = self.numbers else { return [(); 2].map(|()| self.random.next() as u32) };
        let ports = u64::from(tuple.own_port) << 48 | u64::from(tuple.peer_port) << 32;
        let mut random = SeededRandom::new(seed ^ ports ^ u64::from(peer.unwrap_or_default()));
        [(); 2].map(|()| random.next() as u32)
    }
}

/// The end of a connection that an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpeningSide {
    /// It sends the SYN.
    Active,
    /// It answers a SYN.
    Passive,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub(super) struct TcpEnd {
    pub(super) tuple: PortPair,
    pub(super) iss: u32,
    /// The peer's first number; `None` before its SYN.
    pub(super) irs: Option<u32>,
    /// Everything that was or will be sent, from place 1 on.
    pub(super) stream: Vec<u8>,
    una: u64,
    next: u64,
    /// One past the last place that was sent.
    pub(super) max: u64,
    /// One past the last place for which the peer has a window.
    edge: u64,
    pub(super) closing: bool,
    /// It sends data before its SYN or SYN/ACK is acknowledged.
    is_fast: bool,
    opening: OpeningSide,
    /// Everything that came in order.
    pub(super) received: Vec<u8>,
    /// Bytes of `received` that the application has read.
    pub(super) read: usize,
    /// The next place expected of the peer.
    pub(super) rcvd: u64,
    ahead: BTreeMap<u64, Vec<u8>>,
    peer_fin: Option<u64>,
    buffer: usize,
    /// `None` without timestamps.
    ts_offset: Option<u32>,
    ts_recent: u32,
    /// Values that the first and the last SYN or SYN/ACK carried.
    opening_ts: Option<(u32, u32)>,
    resend_us: u64,
    resend_at: Option<u64>,
    ack_at: Option<u64>,
    linger_until: Option<u64>,
    duplicates: u32,
    /// The peer has reset it.
    pub(super) was_reset: bool,
    /// Segments that acknowledge places that were never sent.
    pub(super) alien: u32,
}

impl TcpEnd {
    fn new(tuple: PortPair, peer: Option<u32>, nature: &mut Nature) -> Self {
        let [iss, ts_offset] = nature.first_numbers(tuple, peer);
        Self {
            tuple,
            iss,
            irs: None,
            stream: Vec::new(),
            una: 0,
            next: 0,
            max: 0,
            edge: 1,
            closing: false,
            is_fast: false,
            opening: OpeningSide::Active,
            received: Vec::new(),
            read: 0,
            rcvd: 0,
            ahead: BTreeMap::new(),
            peer_fin: None,
            buffer: nature.buffer,
            ts_offset: nature.numbers.is_none().then_some(ts_offset),
            ts_recent: 0,
            opening_ts: None,
            resend_us: RESEND_US,
            resend_at: None,
            ack_at: None,
            linger_until: None,
            duplicates: 0,
            was_reset: false,
            alien: 0,
        }
    }

    /// Opens a connection; the SYN goes with the next [`Self::send`].
    pub(super) fn connect(tuple: PortPair, is_fast: bool, nature: &mut Nature) -> Self {
        Self { is_fast, ..Self::new(tuple, None, nature) }
    }

    /// Answers `syn`. Takes the data that come with it if `is_fast`.
    pub(super) fn accept(syn: &PlainSegment, is_fast: bool, nature: &mut Nature) -> Self {
        let mut endpoint = Self::new(syn.tuple.reversed(), Some(syn.seq), nature);
        endpoint.opening = OpeningSide::Passive;
        endpoint.meet(syn);
        if is_fast && !syn.payload.is_empty() {
            endpoint.is_fast = true;
            endpoint.received.clone_from(&syn.payload);
            endpoint.rcvd += syn.payload.len() as u64;
        }
        endpoint
    }

    fn meet(&mut self, syn: &PlainSegment) {
        self.irs = Some(syn.seq);
        self.rcvd = 1;
        self.ts_recent = syn.timestamps.map_or(0, |(value, _)| value);
        self.edge = self.una + u64::from(syn.window);
    }

    // The application's view.

    pub(super) fn is_established(&self) -> bool {
        self.una > 0 && self.irs.is_some()
    }

    /// Data of the application can be sent, or will go with the SYN.
    pub(super) fn may_talk(&self) -> bool {
        self.is_established() || self.is_fast
    }

    /// Data came with the peer's SYN.
    pub(super) fn took_early(&self) -> bool {
        self.is_fast && self.opening == OpeningSide::Passive
    }

    /// Everything that the peer sends is here, also its FIN.
    pub(super) fn is_at_end(&self) -> bool {
        self.peer_fin.is_some_and(|fin| self.rcvd > fin)
    }

    /// Everything was sent and acknowledged, in both directions.
    pub(super) fn is_over(&self) -> bool {
        self.was_reset || (self.is_at_end() && self.closing && self.una == self.end())
    }

    /// One past the last place that the peer has acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.una
    }

    /// It does not answer any more at `now`.
    pub(super) fn is_gone(&self, now: u64) -> bool {
        self.was_reset || self.linger_until.is_some_and(|until| until <= now)
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.received[self.read..]
    }

    /// One past the last place that is known by now.
    fn end(&self) -> u64 {
        1 + self.stream.len() as u64 + u64::from(self.closing)
    }

    /// The FIN was sent.
    pub(super) fn has_finished(&self) -> bool {
        self.closing && self.max == self.end()
    }

    // Time.

    pub(super) fn next_timer(&self) -> Option<u64> {
        if self.was_reset {
            return None;
        }
        [self.resend_at, self.ack_at, self.linger_until].into_iter().flatten().min()
    }

    pub(super) fn on_timer(&mut self, now: u64, nature: &mut Nature, out: &mut Vec<PlainSegment>) {
        if self.ack_at.is_some_and(|at| at <= now) {
            self.acknowledge(now, out);
        }
        if self.resend_at.is_some_and(|at| at <= now) {
            self.resend_us = (self.resend_us * 2).min(RESEND_MAX_US);
            self.resend_at = None;
            self.send_again(now, nature, out);
        }
    }

    /// Sends the first segment again that is not acknowledged. If the window is closed, it is a probe.
    fn send_again(&mut self, now: u64, nature: &mut Nature, out: &mut Vec<PlainSegment>) {
        let end = self.end();
        if self.una >= end {
            return;
        }
        self.next = self.una;
        let limit =
            (self.una + nature.segment_max as u64).min(self.edge.max(self.una + 1)).min(end);
        let limit = if self.una == 0 { 1 } else { limit };
        self.emit(now, limit, out);
    }

    // Sending.

    /// Sends everything that the window has room for.
    pub(super) fn send(&mut self, now: u64, nature: &mut Nature, out: &mut Vec<PlainSegment>) {
        if self.was_reset {
            return;
        }
        if self.next == 0 {
            let early = if self.is_fast && self.opening == OpeningSide::Active { EARLY } else { 0 };
            self.emit(now, 1 + early.min(self.stream.len() as u64), out);
        }
        let limit = self.end().min(self.edge).min(self.una + FLIGHT);
        let may_send = self.una > 0 || self.took_early();
        while may_send && self.next < limit {
            let len = nature.random.within(1..nature.segment_max as u64 + 1);
            // Most segments are full.
            let len = if nature.random.chance(700) { nature.segment_max as u64 } else { len };
            self.emit(now, limit.min(self.next + len), out);
        }
        if self.next < self.end() && self.resend_at.is_none() {
            self.resend_at = Some(now + self.resend_us);
        }
    }

    /// Sends the places from `next` up to `to`.
    fn emit(&mut self, now: u64, to: u64, out: &mut Vec<PlainSegment>) {
        let from = self.next;
        let data_end = 1 + self.stream.len() as u64;
        let octets = from.max(1).min(data_end) as usize - 1..to.max(1).min(data_end) as usize - 1;
        let mut segment = self.bare(now, from);
        segment.syn = from == 0;
        segment.fin = to > data_end;
        segment.payload = self.stream[octets].to_vec();
        if segment.syn {
            let value = segment.timestamps.map_or(0, |(value, _)| value);
            self.opening_ts = Some((self.opening_ts.map_or(value, |(first, _)| first), value));
        }
        out.push(segment);
        self.next = to;
        self.max = self.max.max(to);
        self.ack_at = None;
        self.resend_at = Some(now + self.resend_us);
    }

    fn acknowledge(&mut self, now: u64, out: &mut Vec<PlainSegment>) {
        self.ack_at = None;
        if self.una == 0 {
            // The SYN/ACK carries the acknowledgment, so it is sent again.
            let next = std::mem::take(&mut self.next);
            self.emit(now, 1, out);
            self.next = next.max(1);
            return;
        }
        let mut segment = self.bare(now, self.max);
        let irs = self.irs.unwrap_or_default();
        let number = |place: u64| irs.wrapping_add(place as u32);
        let blocks = self.ahead.iter().take(2);
        segment.sack =
            blocks.map(|(at, octets)| (number(*at), number(at + octets.len() as u64))).collect();
        out.push(segment);
    }

    fn bare(&self, now: u64, at: u64) -> PlainSegment {
        let value = self.ts_offset.map(|offset| ((now / 1000) as u32).wrapping_add(offset));
        PlainSegment {
            tuple: self.tuple,
            seq: self.iss.wrapping_add(at as u32),
            ack: self.irs.map(|irs| irs.wrapping_add(self.rcvd as u32)),
            syn: false,
            fin: false,
            rst: false,
            window: self.buffer.min(65_535) as u16,
            timestamps: value.map(|value| (value, self.ts_recent)),
            sack: Vec::new(),
            payload: Vec::new(),
        }
    }

    // Receiving.

    pub(super) fn on_segment(
        &mut self,
        now: u64,
        segment: &PlainSegment,
        nature: &mut Nature,
        out: &mut Vec<PlainSegment>,
    ) {
        if self.was_reset {
            return;
        }
        let Some(irs) = self.irs else { return self.on_answer(now, segment, out) };
        let at = place(segment.seq, irs, self.rcvd);
        if segment.syn {
            // It may be the peer's SYN again, or a stranger's. The peer tells them apart by our answer.
            return self.acknowledge(now, out);
        }
        let old = segment.timestamps.is_some_and(|(value, _)| before(value, self.ts_recent));
        if !self.is_acceptable(at, segment) || (old && !segment.rst) {
            if !segment.rst {
                self.acknowledge(now, out);
            }
            return;
        }
        if segment.rst {
            if at == self.rcvd as i64 {
                self.was_reset = true;
            } else {
                self.acknowledge(now, out);
            }
            return;
        }
        if !self.on_acknowledgment(now, segment, nature, out) {
            return;
        }
        if let Some((value, _)) = segment.timestamps.filter(|_| at <= self.rcvd as i64) {
            self.ts_recent = value;
        }
        self.on_data(now, at as u64, segment, nature, out);
        if self.is_over() && self.linger_until.is_none() {
            self.linger_until = Some(now + LINGER_US);
        }
    }

    /// A part of the segment lies in the window (RFC 9293, section 3.10.7.4).
    fn is_acceptable(&self, at: i64, segment: &PlainSegment) -> bool {
        let rcvd = self.rcvd as i64;
        let end = at + segment.payload.len() as i64 + i64::from(segment.fin);
        let window = self.buffer as i64;
        if end > at { end > rcvd && at < rcvd + window } else { at >= rcvd && at <= rcvd + window }
    }

    /// The peer's answer to our SYN.
    fn on_answer(&mut self, now: u64, segment: &PlainSegment, out: &mut Vec<PlainSegment>) {
        let acked = segment.ack.map(|ack| place(ack, self.iss, 0));
        let is_ours = acked.is_some_and(|acked| (1..=self.max as i64).contains(&acked));
        if !is_ours || !self.echoes_opening(segment) {
            self.alien += 1;
            // It belongs to an older connection, which the reset ends (RFC 9293, section 3.10.7.3).
            if let Some(ack) = segment.ack.filter(|_| !segment.rst && !segment.syn) {
                let reset = PlainSegment { seq: ack, rst: true, ack: None, ..self.bare(now, 0) };
                out.push(PlainSegment { timestamps: None, ..reset });
            }
            return;
        }
        if segment.rst {
            self.was_reset = true;
            return;
        }
        if segment.syn {
            self.una = acked.unwrap_or_default() as u64;
            // Data of the SYN that the peer did not take go again.
            self.next = self.una;
            self.meet(segment);
            (self.resend_at, self.resend_us) = (None, RESEND_US);
            self.acknowledge(now, out);
        }
    }

    /// The echo lies between the timestamps of the first and the last SYN, as Linux demands.
    fn echoes_opening(&self, segment: &PlainSegment) -> bool {
        let Some(((_, echo), (first, last))) = segment.timestamps.zip(self.opening_ts) else {
            return true;
        };
        segment.rst || (!before(echo, first) && !before(last, echo))
    }

    /// `false` if the rest of the segment is to be ignored.
    fn on_acknowledgment(
        &mut self,
        now: u64,
        segment: &PlainSegment,
        nature: &mut Nature,
        out: &mut Vec<PlainSegment>,
    ) -> bool {
        let Some(ack) = segment.ack else { return false };
        let ack = place(ack, self.iss, self.una);
        let edges = segment.sack.iter().flat_map(|(start, end)| [*start, *end]);
        let is_alien = |place: i64| place > self.max as i64 || place < 0;
        if is_alien(ack)
            || edges.map(|edge| place(edge, self.iss, self.una)).any(is_alien)
            || (self.una == 0 && !self.is_fast && !self.echoes_opening(segment))
        {
            self.alien += 1;
            if self.una > 0 {
                self.acknowledge(now, out);
            }
            return false;
        }
        let ack = ack as u64;
        if ack > self.una {
            self.una = ack;
            self.next = self.next.max(ack);
            self.duplicates = 0;
            self.resend_us = RESEND_US;
            self.resend_at = (self.una < self.next).then_some(now + RESEND_US);
        } else if ack == self.una && self.una < self.max && segment.payload.is_empty() {
            self.duplicates += 1;
            if self.duplicates == DUPLICATES {
                self.send_again(now, nature, out);
                self.next = self.max;
            }
        }
        if ack >= self.una {
            self.edge = self.edge.max(ack + u64::from(segment.window));
        }
        true
    }

    fn on_data(
        &mut self,
        now: u64,
        at: u64,
        segment: &PlainSegment,
        nature: &mut Nature,
        out: &mut Vec<PlainSegment>,
    ) {
        if segment.fin {
            self.peer_fin = Some(at.wrapping_add(segment.payload.len() as u64));
        }
        if segment.payload.is_empty() && !segment.fin {
            return;
        }
        let before = self.rcvd;
        self.keep(at as i64, &segment.payload);
        self.deliver();
        let in_order = self.rcvd > before && self.ahead.is_empty();
        let wait = nature.delayed_ack_us;
        if !in_order || segment.fin || wait == 0 || self.ack_at.is_some() {
            self.acknowledge(now, out);
        } else {
            self.ack_at = Some(now + wait);
        }
    }

    /// Queues the bytes that are new and within the window.
    fn keep(&mut self, at: i64, payload: &[u8]) {
        let window_end = self.rcvd + self.buffer as u64;
        let skip = (self.rcvd as i64 - at).max(0);
        let end = (at + payload.len() as i64).min(window_end as i64);
        if at + skip < end {
            let octets = &payload[skip as usize..(end - at) as usize];
            let known = self.ahead.entry((at + skip) as u64).or_default();
            if known.len() < octets.len() {
                *known = octets.to_vec();
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((at, octets)) = self.ahead.pop_first() {
            if at > self.rcvd {
                self.ahead.insert(at, octets);
                break;
            }
            let skip = (self.rcvd - at) as usize;
            if let Some(new) = octets.get(skip..) {
                self.received.extend(new);
                self.rcvd += new.len() as u64;
            }
        }
        if self.peer_fin == Some(self.rcvd) {
            self.rcvd += 1;
        }
    }
}

/// The place of `number`, near `near`, in a stream whose SYN has the number `first`.
pub(super) fn place(number: u32, first: u32, near: u64) -> i64 {
    let distance = number.wrapping_sub(first.wrapping_add(near as u32)) as i32;
    let distance = i64::from(distance);
    if distance.abs() > REACH { i64::MAX / 2 } else { near as i64 + distance }
}

fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
