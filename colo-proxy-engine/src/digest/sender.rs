//! The secondary's end: sends digests, and keeps the frames that the primary may ask for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use colo_proxy_common::decode::flag;

use super::PAYLOAD_MIN;
use super::heads::{HEAD_MAX, HeadContexts};
use super::key::{DigestKey, KEY_LEN};
use super::report::DigesterReport;
use super::wire::{DigestedSegment, put_answer, put_digest};
use crate::compare::segment;
use crate::frame::Frame;
use crate::record::RecordKind;

/// Counted by the lane's task, read by `status`.
#[derive(Debug, Default)]
pub struct DigesterStats {
    /// Frames in whose place a digest went.
    digests: AtomicU64,
    /// Bytes that were saved on the lane.
    saved_bytes: AtomicU64,
    /// Frames that the primary asked for and got.
    answered: AtomicU64,
    /// Frames that it asked for and that were not kept any more.
    gone: AtomicU64,
    kept_bytes: AtomicU64,
}

impl DigesterStats {
    /// The counters, for `status`.
    pub fn report(&self) -> DigesterReport {
        DigesterReport {
            digests: self.digests.load(Relaxed),
            saved_bytes: self.saved_bytes.load(Relaxed),
            answered_frames: self.answered.load(Relaxed),
            gone_frames: self.gone.load(Relaxed),
            kept_bytes: self.kept_bytes.load(Relaxed),
        }
    }
}

/// Makes digests, for one connection after the other.
#[derive(Debug)]
pub struct Digester {
    /// The lane carries virtio-net headers.
    vnet_hdr: bool,
    key: DigestKey,
    heads: HeadContexts,
    /// Frames of this connection whose digest went, oldest first.
    kept: VecDeque<(u32, Frame)>,
    kept_bytes: usize,
    bytes_max: usize,
    /// Frames that the primary asked for and that are not sent yet.
    wanted: BTreeSet<u32>,
    stats: Arc<DigesterStats>,
}

/// Frames that a primary may ask for at a time: more than it can need with any limits that make sense.
const WANTED_MAX: usize = 1 << 17;

impl Digester {
    /// A sender that keeps at most `bytes_max` bytes of frames. `vnet_hdr`: the lane carries virtio-net
    /// headers.
    pub fn new(vnet_hdr: bool, bytes_max: usize, stats: Arc<DigesterStats>) -> Self {
        Self {
            vnet_hdr,
            key: DigestKey::new([0; KEY_LEN]),
            heads: HeadContexts::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            bytes_max,
            wanted: BTreeSet::new(),
            stats,
        }
    }

    /// A connection was made; `key` must be random. Returns its first record.
    pub fn begin(&mut self, key: [u8; KEY_LEN]) -> (RecordKind, Bytes) {
        self.key = DigestKey::new(key);
        self.heads = HeadContexts::new();
        self.kept.clear();
        self.wanted.clear();
        self.kept_bytes = 0;
        self.stats.kept_bytes.store(0, Relaxed);
        (RecordKind::Key, Bytes::copy_from_slice(self.key.octets()))
    }

    /// The digest that goes in the place of `frame`, the `index`th frame of this connection from 0.
    /// `None` if the frame itself goes.
    pub fn digest(&mut self, index: u64, frame: &Frame) -> Option<(RecordKind, Bytes)> {
        let (name, tcp) = segment(frame.ethernet())?;
        // A SYN or a reset is no part of a stream that both guests have.
        if tcp.payload_len < PAYLOAD_MIN || tcp.flags & (flag::SYN | flag::RST) != 0 {
            return None;
        }
        let frame = if self.vnet_hdr { frame.clone() } else { frame.plain() };
        let octets = frame.bytes();
        let vnet_len = frame.vnet().len();
        let payload_at = vnet_len + tcp.payload_at as usize;
        let end = payload_at + tcp.payload_len as usize;
        // The primary cannot make a frame with bytes behind the packet.
        if payload_at > HEAD_MAX || end != octets.len() {
            return None;
        }
        let digested = DigestedSegment {
            index: index as u32,
            head: octets.slice(..payload_at),
            vnet_len,
            payload_len: tcp.payload_len as usize,
            digest: self.key.digest(octets.get(payload_at..end)?),
        };
        let mut record = BytesMut::with_capacity(64 + HEAD_MAX);
        let ports = u32::from(name.guest_port) ^ u32::from(name.peer_port);
        put_digest(&digested, ports, &mut self.heads, &mut record);
        self.stats.digests.fetch_add(1, Relaxed);
        let saved = octets.len().saturating_sub(record.len());
        self.stats.saved_bytes.fetch_add(saved as u64, Relaxed);
        self.keep(digested.index, &frame);
        Some((RecordKind::Digest, record.freeze()))
    }

    fn keep(&mut self, index: u32, frame: &Frame) {
        let frame = frame.compact();
        self.kept_bytes += frame.len();
        self.kept.push_back((index, frame));
        while self.kept_bytes > self.bytes_max {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.len();
        }
        self.stats.kept_bytes.store(self.kept_bytes as u64, Relaxed);
    }

    /// The primary asks for `frames` of this connection, by their place from 0. `false` if it asks for
    /// more frames than it can need.
    pub fn want(&mut self, frames: &[u32]) -> bool {
        self.wanted.extend(frames);
        self.wanted.len() <= WANTED_MAX
    }

    /// The record for the next frame that the primary asked for.
    pub fn next_answer(&mut self) -> Option<(RecordKind, Bytes)> {
        let index = self.wanted.pop_first()?;
        let oldest = self.kept.front().map_or(index, |(oldest, _)| *oldest);
        let key = index.wrapping_sub(oldest);
        let at = self.kept.binary_search_by_key(&key, |(index, _)| index.wrapping_sub(oldest));
        let frame = at.ok().and_then(|at| self.kept.get(at)).map(|(_, frame)| frame);
        let counter = if frame.is_some() { &self.stats.answered } else { &self.stats.gone };
        counter.fetch_add(1, Relaxed);
        let mut record = BytesMut::new();
        put_answer(index, frame, &mut record);
        Some((RecordKind::Answer, record.freeze()))
    }
}
