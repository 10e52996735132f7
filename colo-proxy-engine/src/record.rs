//! The framing of the lanes between the hosts: QEMU's chardev framing of a byte stream.
//!
//! Each record is a 4-byte big-endian LENGTH, then, only with `vnet_hdr_support`, a 4-byte
//! big-endian `VNET_HDR_LEN`, then LENGTH octets, of which the first `VNET_HDR_LEN` are the virtio-net
//! header. Nothing else is on the wire, so that either end can be a QEMU.
//!
//! Between two daemons the upper two bits of LENGTH may be a [`RecordKind`]: then LENGTH bytes follow
//! that are no frame, without `VNET_HDR_LEN`. A reader that did not ask for such records
//! ([`RecordReader::with_kinds`]) finds an impossible LENGTH.
//!
//! The peer is not trusted: a length is checked before anything is kept for it. The caller reads and
//! writes: [`RecordReader::room`] and [`RecordReader::on_read`], [`Outbox::slices`] and
//! [`Outbox::on_written`].

use std::collections::VecDeque;
use std::io;

use crate::frame::{FRAME_MAX, Frame, VNET_HDR_LEN};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Octets asked for in one read.
const READ_CHUNK: usize = 128 * 1024;
/// Shorter frames are copied out of the buffer that they were read into. One that is held for long
/// keeps all of that otherwise, whatever else was in it, and the limits count frames.
const SHARED_MIN: usize = READ_CHUNK / 4;
/// Frames up to this long are copied into one buffer with their neighbours; longer ones are
/// written from where they lie.
const COPY_MAX: usize = 4096;
/// Buffers in one vectored write.
const SLICES_MAX: usize = 64;
/// An Ethernet header; a shorter record is no frame.
const RUNT: usize = 14;
/// The longest virtio-net header there is (with the hash report).
const VNET_MAX: usize = 20;

/// A record that no sender of this framing can mean: the connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "a record of {length} octets was announced, the most is {FRAME_MAX}; do both ends agree on vnet_hdr_support, and have the same version?"
    )]
    Oversized { length: u32 },
    #[error("the peer sent a digest that is none; do both hosts have the same version?")]
    Garbled,
    #[error("the peer closed the connection")]
    Closed,
    #[error("reading failed")]
    Read(#[source] io::Error),
}

/// The kind of a record that is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A frame that the primary has asked for.
    Answer = 1,
    /// A digest in the place of a frame.
    Digest = 2,
    /// The key of the digests that follow.
    Key = 3,
}

/// Bytes of a record of another kind beside the frame that may be in it.
const KIND_HEAD_MAX: usize = 8;
/// Where the kind lies in LENGTH.
const KIND_SHIFT: u32 = 30;

impl RecordKind {
    fn of(length: u32) -> Option<Self> {
        match length >> KIND_SHIFT {
            1 => Some(Self::Answer),
            2 => Some(Self::Digest),
            3 => Some(Self::Key),
            _ => None,
        }
    }
}

/// A record of a lane on which not all are frames.
#[derive(Debug)]
pub enum AnyRecord {
    Frame(Frame),
    Other(RecordKind, Bytes),
}

/// Records that were read but carry no frame.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
pub struct BadRecords {
    /// Records of length 0.
    pub empty: u64,
    /// Records that are shorter than an Ethernet header.
    pub runt: u64,
    /// Records whose `VNET_HDR_LEN` is not the length of a virtio-net header.
    pub vnet_hdr_len: u64,
    /// Connections that were closed for an impossible length.
    pub oversized: u64,
    /// Connections that ended in the middle of a record.
    pub truncated: u64,
    /// Connections that were closed for a record that could not be understood.
    pub garbled: u64,
}

impl BadRecords {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { empty, runt, vnet_hdr_len, oversized, truncated, garbled } = self;
        empty + runt + vnet_hdr_len + oversized + truncated + garbled
    }
}

/// Takes records out of a byte stream.
#[derive(Debug)]
pub struct RecordReader {
    vnet_hdr: bool,
    takes_kinds: bool,
    buffer: BytesMut,
    pub bad: BadRecords,
}

impl RecordReader {
    pub fn new(vnet_hdr: bool) -> Self {
        let (buffer, bad) = (BytesMut::new(), BadRecords::default());
        Self { vnet_hdr, takes_kinds: false, buffer, bad }
    }

    /// Takes records with a [`RecordKind`], by [`RecordReader::next_record_of_any_kind`] only.
    pub fn with_kinds(self) -> Self {
        Self { takes_kinds: true, ..self }
    }

    /// The buffer that the next bytes of the stream are to be appended to, with room for a read.
    pub fn room(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_CHUNK);
        &mut self.buffer
    }

    /// A read into [`Self::room`] has ended like this: `false` if there are no bytes at the moment.
    pub fn on_read(&mut self, read: io::Result<usize>) -> Result<bool, RecordError> {
        match read {
            Ok(0) => {
                self.bad.truncated += u64::from(!self.buffer.is_empty());
                Err(RecordError::Closed)
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(RecordError::Read(error)),
        }
    }

    /// Takes the bytes that `read` reads now; `false` if there are none at the moment.
    pub fn fill_now(
        &mut self,
        read: impl FnOnce(&mut BytesMut) -> io::Result<usize>,
    ) -> Result<bool, RecordError> {
        let read = read(self.room());
        self.on_read(read)
    }

    /// The next whole frame in what was read; `None` when more must come.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, RecordError> {
        while let Some(head) = self.next_head()? {
            if let Some(frame) = self.accept(&head) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// The next whole frame, or record of another kind; `None` when more must come.
    pub fn next_record_of_any_kind(&mut self) -> Result<Option<AnyRecord>, RecordError> {
        while let Some(head) = self.next_head()? {
            let record = match head.kind {
                Some(kind) => Some(AnyRecord::Other(kind, self.copy(&head))),
                None => self.accept(&head).map(AnyRecord::Frame),
            };
            if record.is_some() {
                return Ok(record);
            }
        }
        Ok(None)
    }

    /// The caller could not understand a record of another kind.
    pub fn garbled(&mut self) -> RecordError {
        self.bad.garbled += 1;
        RecordError::Garbled
    }

    /// The next whole record, whatever is in it, with its `VNET_HDR_LEN`.
    pub fn next_record(&mut self) -> Result<Option<(Bytes, u32)>, RecordError> {
        let Some(head) = self.next_head()? else { return Ok(None) };
        let record = self.cut(&head);
        Ok(Some((record, head.vnet_len)))
    }

    /// What the next record says of itself, if it is there whole.
    fn next_head(&mut self) -> Result<Option<Head>, RecordError> {
        let Some(&[l0, l1, l2, l3]) = self.buffer.first_chunk() else { return Ok(None) };
        let word = u32::from_be_bytes([l0, l1, l2, l3]);
        let kind = RecordKind::of(word).filter(|_| self.takes_kinds);
        let length = if kind.is_some() { word & !(3 << KIND_SHIFT) } else { word };
        let longest = if kind.is_some() { FRAME_MAX + KIND_HEAD_MAX } else { FRAME_MAX };
        if length as usize > longest {
            self.bad.oversized += 1;
            return Err(RecordError::Oversized { length });
        }
        let len = if self.vnet_hdr && kind.is_none() { 8 } else { 4 };
        if self.buffer.len() < len + length as usize {
            return Ok(None);
        }
        let vnet_len = match self.buffer.get(4..8) {
            Some(&[v0, v1, v2, v3]) if len == 8 => u32::from_be_bytes([v0, v1, v2, v3]),
            _ => 0,
        };
        Ok(Some(Head { kind, len, length: length as usize, vnet_len }))
    }

    /// Takes the octets of the next record, sharing the buffer.
    fn cut(&mut self, head: &Head) -> Bytes {
        let mut record = self.buffer.split_to(head.len + head.length);
        record.advance(head.len);
        record.freeze()
    }

    /// Likewise a copy of them: a short one costs less than to share the buffer would.
    fn copy(&mut self, head: &Head) -> Bytes {
        let end = head.len + head.length;
        let copy = Bytes::copy_from_slice(self.buffer.get(head.len..end).unwrap_or_default());
        self.buffer.advance(end);
        copy
    }

    /// A record has begun and not ended. Call it when no whole one is left.
    pub fn is_in_record(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Forgets what is left of a connection that is gone.
    pub fn reset(&mut self) {
        self.buffer.clear();
    }

    fn accept(&mut self, head: &Head) -> Option<Frame> {
        let Head { length, .. } = *head;
        let vnet_len = head.vnet_len as usize;
        if length == 0 {
            self.bad.empty += 1;
        } else if !is_vnet_len(vnet_len) {
            self.bad.vnet_hdr_len += 1;
        } else if length < vnet_len + RUNT {
            self.bad.runt += 1;
        } else {
            let octets = if length < SHARED_MIN { self.copy(head) } else { self.cut(head) };
            return Frame::new(octets, vnet_len);
        }
        self.buffer.advance(head.len + length);
        None
    }
}

/// A virtio-net header can be so long, or is not there.
pub fn is_vnet_len(len: usize) -> bool {
    matches!(len, 0 | 10 | VNET_HDR_LEN | VNET_MAX)
}

/// What goes before the octets of a record.
#[derive(Clone, Copy, Debug)]
struct Head {
    kind: Option<RecordKind>,
    /// Its own length.
    len: usize,
    /// That of the record.
    length: usize,
    vnet_len: u32,
}

/// What goes before the octets of `frame`, and its length.
pub fn head(frame: &Frame, vnet_hdr: bool) -> ([u8; 8], usize) {
    let vnet_len = frame.vnet().len() as u32;
    let length = frame.len() as u32 - if vnet_hdr { 0 } else { vnet_len };
    let words = u64::from(length) << 32 | u64::from(vnet_len);
    (words.to_be_bytes(), if vnet_hdr { 8 } else { 4 })
}

/// RecordStream on their way out: a bounded queue and the place in it.
#[derive(Debug)]
pub struct Outbox {
    vnet_hdr: bool,
    /// Octets that may wait before the source is left alone.
    limit_bytes: usize,
    waiting_bytes: usize,
    ready: VecDeque<Bytes>,
    /// RecordStream still being collected.
    tail: BytesMut,
}

impl Outbox {
    pub fn new(vnet_hdr: bool, limit_bytes: usize) -> Self {
        let (ready, tail) = (VecDeque::new(), BytesMut::new());
        Self { vnet_hdr, limit_bytes, waiting_bytes: 0, ready, tail }
    }

    /// More may be pushed. Whoever reads frames in batches asks before each, so that what waits
    /// exceeds the limit by one batch at the most, and nothing that was read is dropped.
    pub fn has_room(&self) -> bool {
        self.waiting_bytes < self.limit_bytes
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting_bytes == 0
    }

    /// Octets that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Appends a record.
    pub fn push(&mut self, frame: &Frame) {
        let body = if self.vnet_hdr {
            frame.bytes().clone()
        } else {
            frame.bytes().slice(frame.vnet().len()..)
        };
        let before = self.tail.len();
        let (head, head_len) = head(frame, self.vnet_hdr);
        self.tail.extend(head.iter().take(head_len));
        self.waiting_bytes += self.tail.len() - before + body.len();
        if body.len() <= COPY_MAX {
            self.tail.put_slice(&body);
        } else {
            self.ready.push_back(self.tail.split().freeze());
            self.ready.push_back(body);
        }
    }

    /// Appends a record that is no frame, though one may be in it.
    pub fn push_kind(&mut self, kind: RecordKind, octets: &[u8]) {
        let length = octets.len() as u32 | (kind as u32) << KIND_SHIFT;
        self.tail.put_u32(length);
        self.tail.put_slice(octets);
        self.waiting_bytes += size_of_val(&length) + octets.len();
    }

    /// The bytes that are to be written next, as slices for one vectored write.
    pub fn slices(&mut self) -> OutboxSlices<'_> {
        if !self.tail.is_empty() {
            self.ready.push_back(self.tail.split().freeze());
        }
        let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        for (slice, bytes) in slices.iter_mut().zip(&self.ready) {
            *slice = io::IoSlice::new(bytes);
            used += 1;
        }
        OutboxSlices { slices, used }
    }

    /// So many bytes of [`Self::slices`] were written; they are never written again.
    pub fn on_written(&mut self, written: usize) {
        self.consume(written);
    }

    /// Drops what waits: the connection it was meant for is gone, and a record must not start in
    /// the middle. Returns the octets dropped.
    pub fn clear(&mut self) -> usize {
        self.ready.clear();
        self.tail.clear();
        std::mem::take(&mut self.waiting_bytes)
    }

    fn consume(&mut self, mut written: usize) {
        self.waiting_bytes = self.waiting_bytes.saturating_sub(written);
        while let Some(front) = self.ready.front_mut() {
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.ready.pop_front();
        }
    }
}

/// The bytes of an [`Outbox`] that one vectored write may take.
#[derive(Debug)]
pub struct OutboxSlices<'a> {
    slices: [io::IoSlice<'a>; SLICES_MAX],
    used: usize,
}

impl<'a> OutboxSlices<'a> {
    /// The slices, in order; empty if nothing is to be written.
    pub fn get(&self) -> &[io::IoSlice<'a>] {
        self.slices.get(..self.used).unwrap_or_default()
    }
}

/// What the records of a lane are to its owner.
pub trait RecordStream: Default + Send + 'static {
    /// One of them.
    type Item: LaneRecord + Send;

    /// A reader for a lane of them.
    fn reader(vnet_hdr: bool) -> RecordReader;

    /// The next one in what was read; `None` if more must come.
    fn next(&mut self, reader: &mut RecordReader) -> Result<Option<Self::Item>, RecordError>;

    /// The connection is gone.
    fn reset(&mut self);
}

/// A record as the lane counts it.
pub trait LaneRecord {
    /// Bytes that the lane has carried for it, without the framing.
    fn wire_len(&self) -> usize;

    /// It counts as a frame of the lane.
    fn is_frame(&self) -> bool;
}

/// The records of a lane of frames and nothing else.
#[derive(Debug, Default)]
pub struct FrameRecords;

impl RecordStream for FrameRecords {
    type Item = Frame;

    fn reader(vnet_hdr: bool) -> RecordReader {
        RecordReader::new(vnet_hdr)
    }

    fn next(&mut self, reader: &mut RecordReader) -> Result<Option<Frame>, RecordError> {
        reader.next_frame()
    }

    fn reset(&mut self) {}
}

impl LaneRecord for Frame {
    fn wire_len(&self) -> usize {
        self.len()
    }

    fn is_frame(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
