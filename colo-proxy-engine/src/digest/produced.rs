//! Output of the primary guest, which is kept for as long as a digest of it may come.

use std::collections::{HashMap, VecDeque};

use colo_proxy_common::decode::{Tcp, flag};
use colo_proxy_common::record::FlowKey;
use colo_proxy_common::seq::Seq;

use crate::frame::Frame;

/// Entries in the order of arrival, with those of frames that have been dropped.
const ENTRIES_MAX: usize = 1 << 17;
/// A sequence number that is farther from the last one belongs to another connection. Windows end at
/// 2^30 (RFC 7323, section 2.3).
const REACH: u32 = 1 << 30;

/// Bytes of a connection that are kept after the secondary has said them, because it may repeat them.
const REPEATED_MAX: u32 = 512 << 10;

/// Why a part of a stream is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissingPart {
    /// The primary has said nothing of it yet.
    All,
    /// The primary has said a part of it, and the rest may come.
    Rest,
    /// The primary said it long ago, or has passed it over. It does not come.
    Forever,
}

/// A part of a stream, and the frame that it came in.
#[derive(Debug)]
struct Piece {
    number: u64,
    seq: Seq,
    len: u32,
    /// Where it starts in the Ethernet frame.
    at: u32,
    frame: Frame,
}

/// Pieces of all connections; the oldest go first.
#[derive(Debug)]
pub(super) struct ProducedOutput {
    /// Each in ascending order, without overlap.
    flows: HashMap<FlowKey, VecDeque<Piece>, foldhash::fast::RandomState>,
    arrivals: VecDeque<(FlowKey, u64)>,
    numbers: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Piece {
    fn end(&self) -> Seq {
        self.seq.plus(self.len)
    }
}

impl ProducedOutput {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            flows: HashMap::default(),
            arrivals: VecDeque::new(),
            numbers: 0,
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the new bytes of a segment. Bytes that fill a gap are left out: they are rare, and the
    /// secondary can send them.
    pub(super) fn add(&mut self, name: &FlowKey, tcp: &Tcp, frame: &Frame) {
        let opens = tcp.flags & flag::SYN != 0;
        let seq = Seq(tcp.seq).plus(u32::from(opens));
        let last = self.flows.get(name).and_then(VecDeque::back).map(Piece::end);
        let is_other = last.is_some_and(|last| seq.since(last).unsigned_abs() > REACH);
        if opens || is_other {
            self.drop_while(name, |_| true);
        }
        let skip = last.filter(|_| !opens && !is_other).map_or(0, |last| last.since(seq).max(0));
        let Some(len) = tcp.payload_len.checked_sub(skip as u32).filter(|len| *len > 0) else {
            return;
        };
        self.numbers += 1;
        let number = self.numbers;
        let (seq, at) = (seq.plus(skip as u32), tcp.payload_at + skip as u32);
        self.bytes += frame.len();
        let piece = Piece { number, seq, len, at, frame: frame.clone() };
        self.flows.entry(*name).or_default().push_back(piece);
        self.arrivals.push_back((*name, number));
        while self.bytes > self.bytes_max || self.arrivals.len() > ENTRIES_MAX {
            let Some((name, number)) = self.arrivals.pop_front() else { break };
            self.drop_while(&name, |piece| piece.number <= number);
        }
    }

    /// The secondary has said all bytes before `end`, too.
    pub(super) fn on_said(&mut self, name: &FlowKey, end: Seq) {
        let end = end.minus(REPEATED_MAX);
        self.drop_while(name, |piece| piece.end().since(end) <= 0);
    }

    fn drop_while(&mut self, name: &FlowKey, is_over: impl Fn(&Piece) -> bool) {
        let Some(pieces) = self.flows.get_mut(name) else { return };
        while let Some(piece) = pieces.pop_front_if(|piece| is_over(piece)) {
            self.bytes -= piece.frame.len();
        }
        // Otherwise each of many connections would keep as much memory as it once needed.
        if pieces.capacity() > 64 + 4 * pieces.len() {
            pieces.shrink_to(2 * pieces.len());
        }
        if pieces.is_empty() {
            self.flows.remove(name);
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// `head`, and behind it the `len` bytes at `seq`.
    pub(super) fn octets(
        &self,
        name: &FlowKey,
        seq: Seq,
        len: usize,
        head: &[u8],
    ) -> Result<Vec<u8>, MissingPart> {
        let pieces = self.flows.get(name).ok_or(MissingPart::All)?;
        let (mut at, end) = (seq, seq.plus(len as u32));
        let last = pieces.back().map(Piece::end).filter(|last| last.since(seq) > 0);
        if last.ok_or(MissingPart::All)?.since(end) < 0 {
            return Err(MissingPart::Rest);
        }
        let mut octets = Vec::with_capacity(head.len() + len);
        octets.extend_from_slice(head);
        for piece in pieces.range(pieces.partition_point(|piece| piece.end().since(seq) <= 0)..) {
            if at == end || piece.seq.since(at) > 0 {
                break;
            }
            let upto = piece.end().min(end);
            let start = piece.at as usize + at.since(piece.seq) as usize;
            let part = piece.frame.ethernet().get(start..start + upto.since(at) as usize);
            octets.extend_from_slice(part.unwrap_or_default());
            at = upto;
        }
        if octets.len() == head.len() + len { Ok(octets) } else { Err(MissingPart::Forever) }
    }
}
