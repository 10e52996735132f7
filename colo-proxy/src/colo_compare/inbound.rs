//! A socket on which frames come: `primary_in` or `secondary_in`.

use std::collections::VecDeque;
use std::io;

use bytes::BytesMut;

use crate::dialler::{DialledConnection, Dialler};
use crate::endpoint::{Port, Stream};
use crate::error_chain::chain;
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::record::{BadRecords, RecordError, RecordReader};

/// Frames taken in one go.
const BATCH: usize = 256;
/// Bytes read in one go from those that the kernel has now.
const CHUNK: usize = 64 * 1024;

/// An event of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InboundEvent {
    Up,
    Frames,
    Down,
}

/// The socket, and the bytes that were read from it.
#[derive(Debug)]
pub(super) struct Inbound {
    /// Frames that were read, and for which the engine has had no room yet.
    pub(super) frames: VecDeque<Frame>,
    name: &'static str,
    endpoint: String,
    dialler: Dialler,
    connection: Option<DialledConnection>,
    reader: RecordReader,
    /// The record that has begun is to be dropped.
    skips_record: bool,
    pub(super) connections: u64,
    /// Whole frames of a connection that was given up while they could not be read.
    pub(super) skipped: u64,
}

impl Inbound {
    /// `name` is QEMU's for it.
    pub(super) fn new(name: &'static str, port: Port, vnet_hdr: bool) -> Self {
        Self {
            frames: VecDeque::new(),
            name,
            endpoint: port.endpoint().to_string(),
            dialler: Dialler::spawn(port),
            connection: None,
            reader: RecordReader::new(vnet_hdr),
            skips_record: false,
            connections: 0,
            skipped: 0,
        }
    }

    pub(super) fn bad_records(&self) -> BadRecords {
        self.reader.bad
    }

    /// Waits for the next event; frames that came before it are in [`Self::frames`], whichever it is.
    /// Can be cancelled without losing anything.
    pub(super) async fn next(&mut self) -> InboundEvent {
        loop {
            let Some(connection) = &self.connection else {
                let connection = self.dialler.next().await;
                self.begin(connection);
                return InboundEvent::Up;
            };
            match take(&mut self.reader, &mut self.skips_record, BATCH, &mut self.frames) {
                Err(error) => return self.end(&error),
                Ok(()) if !self.frames.is_empty() => return InboundEvent::Frames,
                Ok(()) => {}
            }
            let stream = &connection.stream;
            let filled = match stream.readable().await {
                Ok(()) => self.reader.fill_now(|buffer| stream.try_read_buf(buffer)),
                Err(error) => Err(RecordError::Read(error)),
            };
            if let Err(error) = filled {
                return self.end(&error);
            }
        }
    }

    /// Takes a connection that was made meanwhile; says whether there was one.
    pub(super) fn begin_now(&mut self) -> bool {
        if self.connection.is_some() {
            return false;
        }
        let Some(connection) = self.dialler.next_now() else { return false };
        self.begin(connection);
        true
    }

    /// Takes everything that the peer has sent by now and no more: one that goes on sending must
    /// not keep us here. Says whether the connection has ended.
    pub(super) fn drain(&mut self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let stream = &connection.stream;
        let mut left = stream.unread().unwrap_or_default();
        loop {
            let (reader, frames) = (&mut self.reader, &mut self.frames);
            let taken = take(reader, &mut self.skips_record, usize::MAX, frames);
            // What a peer that has closed left behind has an end.
            let want = if left == 0 && stream.is_hung_up() { CHUNK } else { left.min(CHUNK) };
            let filled = taken.and_then(|()| match want {
                0 => Ok(false),
                _ => self.reader.fill_now(|buffer| read_now(stream, buffer, want, &mut left)),
            });
            match filled {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    self.end(&error);
                    return true;
                }
            }
        }
    }

    /// A record that has begun belongs to the older epoch: it is dropped when it is whole.
    pub(super) fn skip_record(&mut self) {
        self.skips_record = self.reader.is_in_record();
    }

    /// The peer went while its output was not read. The rest of that is dropped.
    pub(super) fn give_up_if_hung_up(&mut self) -> bool {
        if !self.connection.as_ref().is_some_and(|connection| connection.stream.is_hung_up()) {
            return false;
        }
        self.drain();
        self.skipped += self.frames.drain(..).count() as u64;
        if self.connection.is_some() {
            self.end(&RecordError::Closed);
        }
        true
    }

    fn begin(&mut self, connection: DialledConnection) {
        log::info!("{}: {}: connected", self.name, self.endpoint);
        self.connections += 1;
        self.connection = Some(connection);
    }

    fn end(&mut self, why: &RecordError) -> InboundEvent {
        log::warn!("{}: {}: {}", self.name, self.endpoint, chain(why));
        self.connection = None;
        self.reader.reset();
        self.skips_record = false;
        InboundEvent::Down
    }
}

/// Appends up to `want` bytes, and subtracts them from `left`.
fn read_now(
    stream: &Stream,
    buffer: &mut BytesMut,
    want: usize,
    left: &mut usize,
) -> io::Result<usize> {
    let before = buffer.len();
    buffer.resize(before + want, 0);
    let read = stream.read_now(buffer.get_mut(before..).unwrap_or_default());
    let bytes = *read.as_ref().unwrap_or(&0);
    buffer.truncate(before + bytes);
    *left = left.saturating_sub(bytes);
    read
}

/// Adds whole frames, up to `most` in all.
fn take(
    reader: &mut RecordReader,
    skips_record: &mut bool,
    most: usize,
    into: &mut VecDeque<Frame>,
) -> Result<(), RecordError> {
    while into.len() < most {
        if *skips_record {
            if reader.next_record()?.is_none() {
                return Ok(());
            }
            *skips_record = false;
        }
        match reader.next_frame()? {
            Some(frame) => into.push_back(frame),
            None => return Ok(()),
        }
    }
    Ok(())
}
