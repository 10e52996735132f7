//! The records that digests need on the secondary lane.
//!
//! They are records of [`crate::record`] with a kind in LENGTH, between frames:
//!
//! ```text
//! Key      the key of all digests of this connection, before the first of them
//! Digest   index (4), length of the payload (4), its digest (16), length of the virtio-net
//!          header (1), the headers ([`HeadContexts`])
//! Answer   index (4), and if the frame is still there: length of its virtio-net header (1), frame
//! ```
//!
//! Numbers are big-endian. The index counts the frames of the connection from 0, whole ones and digests;
//! keys and answers do not count, and not for the cut of an epoch either.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::heads::HeadContexts;
use super::key::{DIGEST_LEN, DigestKey, KEY_LEN, PayloadDigest};
use crate::frame::{FRAME_MAX, Frame};
use crate::record::{AnyRecord, RecordError, RecordKind, RecordReader, is_vnet_len};
use crate::record::{LaneRecord, RecordStream};

/// A record of the lane that carries the secondary's output.
#[derive(Clone, Debug, PartialEq)]
pub enum ReturnedRecord {
    /// A whole frame.
    Whole(Frame),
    /// A digest in the place of a frame.
    Digest {
        /// The segment without its payload.
        digested: DigestedSegment,
        /// Bytes of the record on the lane.
        wire_len: usize,
    },
    /// The answer to a question of the primary.
    Answer {
        /// The frame's place in the connection, counted from 0.
        index: u32,
        /// The frame; `None` if the secondary does not have it any more.
        frame: Option<Frame>,
    },
    /// The key of all digests that follow.
    Key(DigestKey),
}

/// A segment without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestedSegment {
    pub(super) index: u32,
    /// Everything before the payload.
    pub(super) head: Bytes,
    pub(super) vnet_len: usize,
    pub(super) payload_len: usize,
    pub(super) digest: PayloadDigest,
}

impl From<Frame> for ReturnedRecord {
    fn from(frame: Frame) -> Self {
        Self::Whole(frame)
    }
}

impl ReturnedRecord {
    /// Bytes of the record in memory.
    #[expect(clippy::len_without_is_empty, reason = "no record is empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Digest { digested, .. } => size_of::<DigestedSegment>() + digested.head.len(),
            other => other.wire_len(),
        }
    }
}

impl LaneRecord for ReturnedRecord {
    fn wire_len(&self) -> usize {
        match self {
            Self::Whole(frame) => frame.len(),
            Self::Digest { wire_len, .. } => *wire_len,
            Self::Answer { frame, .. } => frame.as_ref().map_or(0, Frame::len),
            Self::Key(_) => KEY_LEN,
        }
    }

    fn is_frame(&self) -> bool {
        matches!(self, Self::Whole(_) | Self::Digest { .. })
    }
}

/// Writes a digest; `hash` is one of the connection.
pub(super) fn put_digest(
    digested: &DigestedSegment,
    hash: u32,
    heads: &mut HeadContexts,
    into: &mut BytesMut,
) {
    into.put_u32(digested.index);
    into.put_u32(digested.payload_len as u32);
    into.put_slice(&digested.digest);
    into.put_u8(digested.vnet_len as u8);
    heads.write(hash, &digested.head, into);
}

/// Writes the answer to a question for the frame `index`.
pub(super) fn put_answer(index: u32, frame: Option<&Frame>, into: &mut BytesMut) {
    into.put_u32(index);
    if let Some(frame) = frame {
        into.put_u8(frame.vnet().len() as u8);
        into.put_slice(frame.bytes());
    }
}

/// Reads the [`ReturnedRecord`]s of one connection.
#[derive(Debug)]
pub struct ReturnedRecords {
    heads: HeadContexts,
}

impl Default for ReturnedRecords {
    fn default() -> Self {
        Self { heads: HeadContexts::new() }
    }
}

impl RecordStream for ReturnedRecords {
    type Item = ReturnedRecord;

    fn reader(vnet_hdr: bool) -> RecordReader {
        RecordReader::new(vnet_hdr).with_kinds()
    }

    fn next(&mut self, reader: &mut RecordReader) -> Result<Option<ReturnedRecord>, RecordError> {
        Ok(match reader.next_record_of_any_kind()? {
            None => None,
            Some(AnyRecord::Frame(frame)) => Some(frame.into()),
            Some(AnyRecord::Other(kind, octets)) => {
                Some(self.read(kind, octets).ok_or_else(|| reader.garbled())?)
            }
        })
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

impl ReturnedRecords {
    /// Reads the bytes of a record. `None` if they are no record of this kind. Then later records of the
    /// connection cannot be understood either.
    pub fn read(&mut self, kind: RecordKind, mut octets: Bytes) -> Option<ReturnedRecord> {
        match kind {
            RecordKind::Key => {
                Some(ReturnedRecord::Key(DigestKey::new(octets.as_ref().try_into().ok()?)))
            }
            RecordKind::Digest => {
                let wire_len = octets.len();
                self.digest(octets).map(|digested| ReturnedRecord::Digest { digested, wire_len })
            }
            RecordKind::Answer => {
                let index = octets.try_get_u32().ok()?;
                if octets.is_empty() {
                    return Some(ReturnedRecord::Answer { index, frame: None });
                }
                let vnet_len = usize::from(octets.try_get_u8().ok()?);
                let is_possible = is_vnet_len(vnet_len) && octets.len() <= FRAME_MAX;
                let frame = Frame::new(octets, vnet_len).filter(|_| is_possible)?;
                Some(ReturnedRecord::Answer { index, frame: Some(frame) })
            }
        }
    }

    fn digest(&mut self, mut octets: Bytes) -> Option<DigestedSegment> {
        let index = octets.try_get_u32().ok()?;
        let payload_len = octets.try_get_u32().ok()? as usize;
        let mut digest = [0; DIGEST_LEN];
        octets.try_copy_to_slice(&mut digest).ok()?;
        let vnet_len = usize::from(octets.try_get_u8().ok()?);
        let head = Bytes::from(self.heads.read(&mut octets)?);
        let is_possible = is_vnet_len(vnet_len)
            && vnet_len <= head.len()
            && head.len() + payload_len <= FRAME_MAX;
        (octets.is_empty() && is_possible).then_some(DigestedSegment {
            index,
            head,
            vnet_len,
            payload_len,
            digest,
        })
    }
}
