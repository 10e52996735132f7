//! The framing of the lanes between the hosts: QEMU's chardev framing of a byte stream.
//!
//! A record is a 4-byte big-endian LENGTH, then, only with `vnet_hdr_support`, a 4-byte big-endian
//! `VNET_HDR_LEN`, then LENGTH bytes. The first `VNET_HDR_LEN` of them are the virtio-net header.
//! Nothing else is on the wire, so either end can be a QEMU.
//!
//! Between two daemons the upper two bits of LENGTH may be a [`RecordKind`]. Then LENGTH bytes follow
//! that are no frame, without `VNET_HDR_LEN`. Only a reader with [`RecordReader::with_kinds`] takes
//! them; another one finds an impossible LENGTH.
//!
//! The peer is not trusted: a length is checked before memory is reserved for it. The caller reads and
//! writes: [`RecordReader::room`] and [`RecordReader::on_read`], [`Outbox::slices`] and
//! [`Outbox::on_written`].

use std::collections::VecDeque;
use std::io;

use crate::frame::{FRAME_MAX, Frame, VNET_HDR_LEN};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of one read.
const READ_CHUNK: usize = 128 * 1024;
/// Shorter frames are copied out of the buffer that they were read into. Otherwise a frame that is held
/// for long would keep that whole buffer in memory, and the limits count frames only.
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

/// The end of a connection: it closed, or its records cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The next record is longer than any record can be.
    #[error(
        "the peer announced a record of {length} bytes, and at most {FRAME_MAX} are possible; check \
         that vnet_hdr_support and the version are the same at both ends"
    )]
    Oversized {
        /// LENGTH of the record, in bytes.
        length: u32,
    },
    /// A record with a kind could not be understood, and the records behind it depend on it.
    #[error(
        "the peer sent a digest that cannot be read; check that both hosts have the same version"
    )]
    Garbled,
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The operating system reports an error.
    #[error("cannot read from the connection")]
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

/// A record of a lane that carries frames and other records.
#[derive(Debug)]
pub enum AnyRecord {
    /// A frame.
    Frame(Frame),
    /// The bytes of a record with a kind.
    Other(RecordKind, Bytes),
}

/// Counters of records that were refused, and of connections that ended with one.
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
    /// The sum of all counters.
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
    /// Counters of refused records, over all connections.
    pub bad: BadRecords,
}

impl RecordReader {
    /// A reader for the start of a connection. `vnet_hdr`: records have a `VNET_HDR_LEN`.
    pub fn new(vnet_hdr: bool) -> Self {
        let (buffer, bad) = (BytesMut::new(), BadRecords::default());
        Self { vnet_hdr, takes_kinds: false, buffer, bad }
    }

    /// The same reader, for [`RecordReader::next_record_of_any_kind`]: it takes records with a
    /// [`RecordKind`] too.
    #[must_use]
    pub fn with_kinds(self) -> Self {
        Self { takes_kinds: true, ..self }
    }

    /// The buffer for the next bytes of the stream, with room for one read. The caller appends to it.
    pub fn room(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_CHUNK);
        &mut self.buffer
    }

    /// Takes the result of a read into [`Self::room`]. `false` if there are no bytes at the moment.
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

    /// Calls `read`, and takes the bytes that it appends. `false` if there are none at the moment.
    pub fn fill_now(
        &mut self,
        read: impl FnOnce(&mut BytesMut) -> io::Result<usize>,
    ) -> Result<bool, RecordError> {
        let read = read(self.room());
        self.on_read(read)
    }

    /// The next whole frame of those that were read; `None` if more bytes must come.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, RecordError> {
        while let Some(head) = self.next_head()? {
            if let Some(frame) = self.accept(&head) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// The next whole frame or record of another kind; `None` if more bytes must come.
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

    /// The error of a caller that could not understand a record of another kind. It is counted.
    pub fn garbled(&mut self) -> RecordError {
        self.bad.garbled += 1;
        RecordError::Garbled
    }

    /// The next whole record with its `VNET_HDR_LEN`; its bytes are not checked.
    pub fn next_record(&mut self) -> Result<Option<(Bytes, u32)>, RecordError> {
        let Some(head) = self.next_head()? else { return Ok(None) };
        let record = self.cut(&head);
        Ok(Some((record, head.vnet_len)))
    }

    /// The head of the next record, if the whole record is there.
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

    /// Takes the bytes of the next record, sharing the buffer.
    fn cut(&mut self, head: &Head) -> Bytes {
        let mut record = self.buffer.split_to(head.len + head.length);
        record.advance(head.len);
        record.freeze()
    }

    /// Takes a copy of them. For a short record that costs less than sharing the buffer.
    fn copy(&mut self, head: &Head) -> Bytes {
        let end = head.len + head.length;
        let copy = Bytes::copy_from_slice(self.buffer.get(head.len..end).unwrap_or_default());
        self.buffer.advance(end);
        copy
    }

    /// A record has begun and not ended. This is true only if no whole record is left.
    pub fn is_in_record(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Forgets the bytes that are left of a connection that is gone.
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

/// A virtio-net header can have `len` bytes; 0 means that there is none.
pub fn is_vnet_len(len: usize) -> bool {
    matches!(len, 0 | 10 | VNET_HDR_LEN | VNET_MAX)
}

/// LENGTH and `VNET_HDR_LEN` of a record.
#[derive(Clone, Copy, Debug)]
struct Head {
    kind: Option<RecordKind>,
    /// Bytes of the head itself.
    len: usize,
    /// Bytes of the record behind it.
    length: usize,
    vnet_len: u32,
}

/// The head that goes before `frame` on the wire, and how many of its bytes are used.
pub fn head(frame: &Frame, vnet_hdr: bool) -> ([u8; 8], usize) {
    let vnet_len = frame.vnet().len() as u32;
    let length = frame.len() as u32 - if vnet_hdr { 0 } else { vnet_len };
    let words = u64::from(length) << 32 | u64::from(vnet_len);
    (words.to_be_bytes(), if vnet_hdr { 8 } else { 4 })
}

/// Records on their way out: a bounded queue, and how much of it is written.
#[derive(Debug)]
pub struct Outbox {
    vnet_hdr: bool,
    /// Bytes that may be queued before the caller stops reading from the source.
    limit_bytes: usize,
    waiting_bytes: usize,
    ready: VecDeque<Bytes>,
    /// Records still being collected.
    tail: BytesMut,
}

impl Outbox {
    /// An empty outbox. `vnet_hdr`: records have a virtio-net header. `limit_bytes`: see
    /// [`Self::has_room`].
    pub fn new(vnet_hdr: bool, limit_bytes: usize) -> Self {
        let (ready, tail) = (VecDeque::new(), BytesMut::new());
        Self { vnet_hdr, limit_bytes, waiting_bytes: 0, ready, tail }
    }

    /// More may be pushed. A caller that reads frames in batches asks before each batch. So the queue
    /// exceeds its limit by one batch at most, and no frame that was read is dropped.
    pub fn has_room(&self) -> bool {
        self.waiting_bytes < self.limit_bytes
    }

    /// The queue is empty.
    pub fn is_empty(&self) -> bool {
        self.waiting_bytes == 0
    }

    /// Bytes in the queue.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Appends a frame.
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

    /// Appends a record of another kind. A frame may be in it.
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

    /// The caller has written the first `written` bytes of [`Self::slices`].
    pub fn on_written(&mut self, written: usize) {
        self.consume(written);
    }

    /// Drops the queue, because its connection is gone and the next one must not start in the middle
    /// of a record. Returns the number of bytes.
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
    /// The slices, in order; none if there is nothing to write.
    pub fn get(&self) -> &[io::IoSlice<'a>] {
        self.slices.get(..self.used).unwrap_or_default()
    }
}

/// Reads the records of one lane.
pub trait RecordStream: Default + Send + 'static {
    /// A record of this lane.
    type Item: LaneRecord + Send;

    /// The reader for this lane. `vnet_hdr`: frames have a virtio-net header.
    fn reader(vnet_hdr: bool) -> RecordReader;

    /// The next record of those that were read; `None` if more bytes must come.
    fn next(&mut self, reader: &mut RecordReader) -> Result<Option<Self::Item>, RecordError>;

    /// The connection is gone: forgets everything about it.
    fn reset(&mut self);
}

/// A record of a lane, for the lane's counters.
pub trait LaneRecord {
    /// Bytes of the record on the lane, without the framing.
    fn wire_len(&self) -> usize;

    /// The record counts as a frame of the lane, for the cut of an epoch too.
    fn is_frame(&self) -> bool;
}

/// The records of a lane that carries frames only.
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
