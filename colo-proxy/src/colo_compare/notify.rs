//! The channel to a COLO-frame outside of the process that compares: QEMU's `notify_dev`.
//!
//! Records of ASCII text without an end mark, framed as frames are. Where the sockets carry
//! virtio-net headers the messages to us have the second word as well, which says nothing there;
//! those from us do not, as QEMU's do not.

use std::io::{self, IoSlice};

use bytes::{BufMut, Bytes, BytesMut};

use super::dialler::{Connection, Dialler};
use crate::endpoint::{Port, Stream};
use crate::error_chain::chain;
use crate::lane::{BadRecords, RecordReader};

/// The COLO-frame greets.
const INIT: &[u8] = b"COLO_USERSPACE_PROXY_INIT";
/// The answer to that.
const GREETING: &[u8] = b"COLO_COMPARE_GET_XEN_INIT";
/// A checkpoint was made: the secondary has received the primary's state.
const CHECKPOINT_DONE: &[u8] = b"COLO_CHECKPOINT";
/// Please make one.
const DO_CHECKPOINT: &[u8] = b"DO_CHECKPOINT";
/// Octets that may wait for a peer that does not read; what it asks then goes unanswered.
const WAITING_BYTES_MAX: usize = 4096;

/// What happened on the channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotifyEvent {
    Up,
    Down,
    Greeted,
    CheckpointDone,
    Unknown(Bytes),
}

/// The channel, and what waits to be sent on it.
#[derive(Debug)]
pub(super) struct Notify {
    endpoint: String,
    dialler: Dialler,
    connection: Option<Connection>,
    reader: RecordReader,
    waiting: BytesMut,
    pub(super) connections: u64,
    /// Greetings that got no answer, because the peer does not read.
    pub(super) unanswered: u64,
}

impl Notify {
    pub(super) fn new(port: Port, vnet_hdr: bool) -> Self {
        Self {
            endpoint: port.endpoint().to_string(),
            dialler: Dialler::spawn(port),
            connection: None,
            reader: RecordReader::new(vnet_hdr),
            waiting: BytesMut::new(),
            connections: 0,
            unanswered: 0,
        }
    }

    pub(super) fn bad_records(&self) -> BadRecords {
        self.reader.bad
    }

    /// Waits for the next event, and writes what waits meanwhile. Can be cancelled.
    pub(super) async fn next(&mut self) -> NotifyEvent {
        loop {
            let Some(connection) = &self.connection else {
                self.connection = Some(self.dialler.next().await);
                self.connections += 1;
                log::info!("notify-dev: {}: connected", self.endpoint);
                return NotifyEvent::Up;
            };
            match self.reader.next_record() {
                Ok(Some((text, _))) if text.is_empty() => {
                    self.reader.bad.empty += 1;
                    continue;
                }
                Ok(Some((text, _))) => return read(text),
                Ok(None) => {}
                Err(error) => return self.end(&chain(&error)),
            }
            let stream = &connection.stream;
            let done = tokio::select! {
                ready = stream.writable(), if !self.waiting.is_empty() => {
                    ready.and_then(|()| write(stream, &mut self.waiting)).map_err(|error| failed(&error))
                }
                ready = stream.readable() => ready.map_err(|error| failed(&error)).and_then(|()| {
                    let filled = self.reader.fill_now(|buffer| stream.try_read_buf(buffer));
                    filled.map(drop).map_err(|error| chain(&error))
                }),
            };
            if let Err(why) = done {
                return self.end(&why);
            }
        }
    }

    /// Answers a greeting.
    pub(super) fn greet(&mut self) {
        if self.waiting.len() < WAITING_BYTES_MAX {
            self.send(GREETING);
        } else {
            self.unanswered += 1;
        }
    }

    /// Asks for a checkpoint; `false` without a peer.
    pub(super) fn request_checkpoint(&mut self) -> bool {
        // Beyond greetings nothing else waits, so a request is among them that will do.
        if self.waiting.len() < 2 * WAITING_BYTES_MAX {
            self.send(DO_CHECKPOINT);
        }
        self.connection.is_some()
    }

    fn send(&mut self, text: &[u8]) {
        if self.connection.is_some() {
            self.waiting.put_u32(text.len() as u32);
            self.waiting.put_slice(text);
        }
    }

    fn end(&mut self, why: &str) -> NotifyEvent {
        log::warn!("notify-dev: {}: {why}", self.endpoint);
        self.connection = None;
        self.reader.reset();
        self.waiting.clear();
        NotifyEvent::Down
    }
}

fn read(text: Bytes) -> NotifyEvent {
    match &text[..] {
        INIT => NotifyEvent::Greeted,
        CHECKPOINT_DONE => NotifyEvent::CheckpointDone,
        _ => NotifyEvent::Unknown(text),
    }
}

fn write(stream: &Stream, waiting: &mut BytesMut) -> io::Result<()> {
    match stream.try_write_vectored(&[IoSlice::new(waiting)]) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(written) => {
            drop(waiting.split_to(written));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn failed(error: &io::Error) -> String {
    format!("the connection failed: {error}")
}
