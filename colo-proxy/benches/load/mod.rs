//! The output of two equal guests: the load of the benchmarks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use colo_proxy_engine::compare::{Engine, Limits, Output, Side};
use colo_proxy_engine::frame::{Frame, VNET_HDR_LEN};

/// Frames of the primary that come before the secondary's: those of one wake-up.
pub(crate) const LEAD: usize = 32;
/// Pairs that the engine gets between two readings of the clock.
pub(crate) const PAIRS: usize = 1024;

const SYN_ACK: u8 = 0x12;
const PSH_ACK: u8 = 0x18;
const ACK: u8 = 0x10;

/// The content of one frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    Tcp { payload: usize },
    Udp { payload: usize },
}

/// The order in which the flows have their turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    RoundRobin,
    Random,
}

/// Frames of the primary, and the same of the secondary.
pub(crate) type Chunk = (VecDeque<Frame>, VecDeque<Frame>);

/// Connections of one server with many clients, and the progress of each.
#[derive(Debug)]
pub(crate) struct Load {
    flows: Vec<(u32, u32)>,
    order: Order,
    says: &'static [Says],
    turn: usize,
    random: u64,
    now: Instant,
}

impl Load {
    pub(crate) fn new(flows: u32, order: Order, says: &'static [Says]) -> Self {
        let flows = (0..flows).map(|n| (n.wrapping_mul(0x9e37_79b9), n)).collect();
        Self { flows, order, says, turn: 0, random: 0x2545_f491_4f6c_dd1d, now: Instant::now() }
    }

    /// An engine in which all connections are open.
    pub(crate) fn open(&mut self) -> Engine {
        let limits = Limits { flows_max: 1 << 22, ..Limits::default() };
        let mut engine = Engine::new(limits, 0x5eed);
        let mut out = Output::default();
        for at in 0..self.flows.len() {
            let Some((mut primary, mut secondary)) = self.opening(at) else { break };
            for (side, frames) in [(Side::Primary, &mut primary), (Side::Secondary, &mut secondary)]
            {
                engine.on_frames(self.now, side, frames, &mut out);
            }
            out.release.clear();
        }
        assert_eq!(engine.stats().held.frames, 0, "the guests agree");
        engine
    }

    /// The frames that open connection `at`, if the load has connections.
    pub(crate) fn opening(&mut self, at: usize) -> Option<Chunk> {
        if !self.says.iter().any(|says| matches!(says, Says::Tcp { .. })) {
            return None;
        }
        let (seq, ack) = *self.flows.get(at)?;
        let frame = |side, isn| VecDeque::from([self.tcp(at, side, (isn, ack), SYN_ACK, 0)]);
        let chunk = (frame(Side::Primary, seq), frame(Side::Secondary, !seq));
        self.flows[at].0 = seq.wrapping_add(1);
        Some(chunk)
    }

    /// The next frames of both guests, [`PAIRS`] of each.
    pub(crate) fn chunks(&mut self) -> Vec<Chunk> {
        (0..PAIRS / LEAD).map(|_| self.chunk()).collect()
    }

    fn chunk(&mut self) -> Chunk {
        let mut chunk = (VecDeque::with_capacity(LEAD), VecDeque::with_capacity(LEAD));
        for _ in 0..LEAD {
            let at = self.next_flow();
            let says = self.says[self.turn % self.says.len()];
            for (side, into) in [(Side::Primary, &mut chunk.0), (Side::Secondary, &mut chunk.1)] {
                into.push_back(self.frame(at, side, says));
            }
            let (seq, ack) = &mut self.flows[at];
            let payload = match says {
                Says::Tcp { payload } | Says::Udp { payload } => payload as u32,
            };
            *seq = seq.wrapping_add(payload);
            // The client has asked for it with 64 bytes.
            *ack = ack.wrapping_add(64);
        }
        chunk
    }

    fn next_flow(&mut self) -> usize {
        self.turn += 1;
        match self.order {
            Order::RoundRobin => self.turn % self.flows.len(),
            Order::Random => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                (self.random >> 16) as usize % self.flows.len()
            }
        }
    }

    fn frame(&self, at: usize, side: Side, says: Says) -> Frame {
        let (seq, ack) = self.flows[at];
        match says {
            Says::Tcp { payload } => {
                let flags = if payload == 0 { ACK } else { PSH_ACK };
                self.tcp(at, side, (seq, ack.wrapping_add(64)), flags, payload)
            }
            Says::Udp { payload } => {
                let mut udp = Vec::with_capacity(payload + 8);
                udp.extend(port(at).to_be_bytes());
                udp.extend(53u16.to_be_bytes());
                udp.extend((payload as u16 + 8).to_be_bytes());
                udp.extend([0, 0]);
                udp.extend((0..payload).map(|n| n as u8));
                udp[8..12].copy_from_slice(&seq.to_be_bytes());
                ip(at, side, 17, &udp)
            }
        }
    }

    /// A segment with timestamps.
    fn tcp(&self, at: usize, side: Side, place: (u32, u32), flags: u8, payload: usize) -> Frame {
        let mut tcp = Vec::with_capacity(payload + 40);
        tcp.extend(80u16.to_be_bytes());
        tcp.extend(port(at).to_be_bytes());
        tcp.extend(place.0.to_be_bytes());
        tcp.extend(place.1.to_be_bytes());
        let is_syn = flags == SYN_ACK;
        tcp.extend([if is_syn { 0xa0 } else { 0x80 }, flags, 1, 0xf5, 0, 0, 0, 0]);
        let stamp = self.turn as u32 + if side == Side::Primary { 0 } else { 77 };
        if is_syn {
            tcp.extend([2, 4, 5, 0xb4, 4, 2, 8, 10]);
        } else {
            tcp.extend([1, 1, 8, 10]);
        }
        tcp.extend(stamp.to_be_bytes());
        tcp.extend((at as u32).to_be_bytes());
        if is_syn {
            tcp.extend([1, 3, 3, 7]);
        }
        tcp.extend((0..payload).map(|n| n as u8));
        ip(at, side, 6, &tcp)
    }
}

/// Each address has 16384 clients.
fn port(at: usize) -> u16 {
    32768 + (at % 16384) as u16
}

/// A frame as a gate hands it over, with its virtio-net header.
fn ip(at: usize, side: Side, protocol: u8, payload: &[u8]) -> Frame {
    let mut bytes = Vec::with_capacity(payload.len() + VNET_HDR_LEN + 34);
    bytes.resize(VNET_HDR_LEN, 0);
    bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0]);
    bytes.extend((payload.len() as u16 + 20).to_be_bytes());
    let id = if side == Side::Primary { 1 } else { 9 };
    bytes.extend([0, id, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1]);
    bytes.extend(0x0a01_0000_u32.wrapping_add(at as u32 / 16384).to_be_bytes());
    bytes.extend(payload);
    Frame::new(Bytes::from(bytes), VNET_HDR_LEN).expect("longer than its header")
}

/// The engine at work.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) out: Output,
    now: Instant,
    /// Frames that were compared before the benchmark.
    opened: u64,
    pairs: u64,
}

impl Bench {
    pub(crate) fn new(load: &mut Load) -> Self {
        let engine = load.open();
        let opened = engine.stats().released.compared.frames;
        Self { engine, out: Output::default(), now: load.now, opened, pairs: 0 }
    }

    /// The measured part: the frames of `chunks` go in, and the released ones are dropped.
    pub(crate) fn compare(&mut self, chunks: &mut [Chunk], first: Side) {
        for (primary, secondary) in chunks {
            self.now += Duration::from_micros(1);
            let sides = [(Side::Primary, primary), (Side::Secondary, secondary)];
            let [one, other] = sides;
            let sides = if first == Side::Primary { [one, other] } else { [other, one] };
            for (side, frames) in sides {
                self.pairs += (frames.len() * usize::from(side == Side::Primary)) as u64;
                self.engine.on_frames(self.now, side, frames, &mut self.out);
            }
            self.out.release.clear();
        }
    }

    /// Checks that the right thing was measured: every frame was compared and has left.
    pub(crate) fn check(&self) {
        let stats = self.engine.stats();
        assert_eq!(stats.released.compared.frames - self.opened, self.pairs);
        assert_eq!((stats.held.frames, stats.secondary_waiting.frames), (0, 0));
        assert_eq!(stats.reasons.total(), 0, "{:?}", stats.reasons);
        assert!(self.out.requests.is_empty() && self.out.acknowledgments.is_empty());
    }
}
