//! The socket to which released frames go.
//!
//! Released frames are never dropped. They wait for a peer that does not read, or that is gone. If too
//! many wait, the owner stops reading the primary's output.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::BytesMut;

use crate::dialler::{DialledConnection, Dialler};
use crate::endpoint::{Port, Stream};
use crate::error_chain::chain;
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::record::head;

/// Bytes that may wait. Beyond that the primary's output is not read.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Records written at a time.
const BATCH: usize = 64;
/// Frames up to this long are written in one piece with their neighbours: the kernel takes longer to
/// look for a short one than a copy takes.
const COPY_MAX: usize = 512;
/// Bytes of such a piece.
const PIECE: usize = 64 * 1024;

/// The socket, and the frames that wait for it.
#[derive(Debug)]
pub(super) struct Outdev {
    endpoint: String,
    dialler: Dialler,
    connection: Option<DialledConnection>,
    records: Records,
    /// Bytes from the peer, which has nothing to say here.
    ignored: BytesMut,
    pub(super) connections: u64,
}

impl Outdev {
    pub(super) fn new(port: Port, vnet_hdr: bool) -> Self {
        Self {
            endpoint: port.endpoint().to_string(),
            dialler: Dialler::spawn(port),
            connection: None,
            records: Records { vnet_hdr, ..Records::default() },
            ignored: BytesMut::new(),
            connections: 0,
        }
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.records.waiting_bytes += frame.len();
        self.records.frames.push_back(frame);
    }

    pub(super) fn has_room(&self) -> bool {
        self.records.waiting_bytes < WAITING_BYTES_MAX
    }

    /// Frames that the kernel has not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.records.frames.len()
    }

    /// Frames that the kernel has taken.
    pub(super) fn sent(&self) -> u64 {
        self.records.sent
    }

    /// Writes as much as the kernel takes now. The rest, and an error, are for [`Self::advance`].
    pub(super) fn write_now(&mut self) {
        let Some(connection) = &self.connection else { return };
        while !self.records.frames.is_empty() {
            let before = self.records.sent;
            if self.records.write(&connection.stream).is_err() || self.records.sent == before {
                return;
            }
        }
    }

    /// One step: connects, writes waiting frames, or notices that the peer has gone. Can be cancelled.
    pub(super) async fn advance(&mut self) {
        let Some(connection) = &self.connection else {
            self.connection = Some(self.dialler.next().await);
            self.connections += 1;
            log::info!("outdev: {}: connected", self.endpoint);
            return;
        };
        let stream = &connection.stream;
        let done = tokio::select! {
            ready = stream.writable(), if !self.records.frames.is_empty() => {
                ready.and_then(|()| self.records.write(stream))
            }
            ready = stream.readable() => ready.and_then(|()| ignore(stream, &mut self.ignored)),
        };
        if let Err(error) = done {
            log::warn!("outdev: {}: {}; what is released waits", self.endpoint, chain(&error));
            self.connection = None;
            self.records.rewind();
        }
    }
}

/// Reads, only to find the end of the connection.
fn ignore(stream: &Stream, into: &mut BytesMut) -> io::Result<()> {
    into.clear();
    into.reserve(BATCH);
    match stream.try_read_buf(into) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the peer closed the connection")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Frames on their way out.
#[derive(Debug, Default)]
struct Records {
    vnet_hdr: bool,
    frames: VecDeque<Frame>,
    waiting_bytes: usize,
    /// Bytes of the first record that this connection has taken.
    first_written: usize,
    sent: u64,
    /// Short records in one piece; of use only while they are written.
    piece: Vec<u8>,
}

impl Records {
    fn write(&mut self, stream: &Stream) -> io::Result<()> {
        let is_short = self.frames.front().is_some_and(|frame| frame.len() <= COPY_MAX);
        let written = if is_short { self.write_piece(stream) } else { self.write_in_place(stream) };
        match written {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.consume(written);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn write_piece(&mut self, stream: &Stream) -> io::Result<usize> {
        self.piece.clear();
        for frame in self.frames.iter().take_while(|frame| frame.len() <= COPY_MAX) {
            let (head, len) = head(frame, self.vnet_hdr);
            self.piece.extend_from_slice(head.get(..len).unwrap_or_default());
            self.piece.extend_from_slice(frame.bytes());
            if self.piece.len() >= PIECE {
                break;
            }
        }
        let rest = self.piece.get(self.first_written..).unwrap_or_default();
        stream.try_write_vectored(&[IoSlice::new(rest)])
    }

    fn write_in_place(&self, stream: &Stream) -> io::Result<usize> {
        let mut heads = [([0; 8], 0); BATCH];
        for (place, frame) in heads.iter_mut().zip(&self.frames) {
            *place = head(frame, self.vnet_hdr);
        }
        let mut slices = [IoSlice::new(&[]); 2 * BATCH];
        let pairs = slices.chunks_exact_mut(2);
        for ((pair, (head, len)), frame) in pairs.zip(&heads).zip(&self.frames) {
            if let [first, second] = pair {
                *first = IoSlice::new(head.get(..*len).unwrap_or_default());
                *second = IoSlice::new(frame.bytes());
            }
        }
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, self.first_written);
        stream.try_write_vectored(rest)
    }

    fn consume(&mut self, written: usize) {
        self.first_written += written;
        let head_len = if self.vnet_hdr { 8 } else { 4 };
        while let Some(frame) = self.frames.front() {
            let len = head_len + frame.len();
            if self.first_written < len {
                return;
            }
            self.first_written -= len;
            self.waiting_bytes = self.waiting_bytes.saturating_sub(frame.len());
            self.sent += 1;
            self.frames.pop_front();
        }
    }

    /// The next connection gets whole records: a peer drops the truncated one.
    fn rewind(&mut self) {
        self.first_written = 0;
    }
}
