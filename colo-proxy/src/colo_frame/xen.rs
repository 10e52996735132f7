//! The channel to a COLO-frame outside of the process that compares: QEMU's `notify_dev`, as Xen
//! uses it.
//!
//! No message says when a checkpoint begins. `COLO_CHECKPOINT` comes while the guests are stopped and
//! the secondary has received the state. So the moment at which it is read is the cut: the checkpoint
//! begins then, and is done.
//!
//! Records of ASCII text without an end mark, framed as frames are. Where the sockets carry
//! virtio-net headers, the messages to us have the second word as well, without a meaning. Messages
//! from us have none, like QEMU's.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

use super::{ColoFrame, ColoFrameCommand, ColoFrameEvent, NextEvent};
use crate::dialler::{DialledConnection, Dialler};
use crate::endpoint::{Port, Stream};
use crate::error_chain::chain;
use crate::status::{ColoFrameReport, XenReport};
use colo_proxy_engine::log_limit::LogLimit;
use colo_proxy_engine::record::{BadRecords, RecordReader};

/// The COLO-frame greets.
const INIT: &[u8] = b"COLO_USERSPACE_PROXY_INIT";
/// The answer to that.
const GREETING: &[u8] = b"COLO_COMPARE_GET_XEN_INIT";
/// A checkpoint was made: the secondary has received the primary's state.
const CHECKPOINT_DONE: &[u8] = b"COLO_CHECKPOINT";
/// Please make one.
const DO_CHECKPOINT: &[u8] = b"DO_CHECKPOINT";
/// Bytes that may wait for a peer that does not read. Beyond that its greetings are not answered.
const WAITING_BYTES_MAX: usize = 4096;

/// Bytes of an unknown message that the log shows.
const SHOWN_MAX: usize = 64;

/// The driver.
#[derive(Debug)]
pub(super) struct XenDriver {
    notify: NotifyChannel,
    /// A requested checkpoint has not come yet.
    is_request_outstanding: bool,
    due: VecDeque<ColoFrameEvent>,
    unknown_messages: u64,
    unknown_log: LogLimit,
}

impl XenDriver {
    /// `vnet_hdr`: messages to us have a second word.
    pub(super) fn new(instance: String, port: Port, vnet_hdr: bool) -> Self {
        Self {
            notify: NotifyChannel::new(instance, port, vnet_hdr),
            is_request_outstanding: false,
            due: VecDeque::new(),
            unknown_messages: 0,
            unknown_log: LogLimit::default(),
        }
    }

    fn on_notify(&mut self, event: &NotifyEvent) {
        match event {
            NotifyEvent::Up if self.is_request_outstanding => {
                self.notify.request_checkpoint();
            }
            NotifyEvent::Up | NotifyEvent::Down => {}
            NotifyEvent::Greeted => self.notify.greet(),
            NotifyEvent::CheckpointDone => {
                self.is_request_outstanding = false;
                self.due.push_back(ColoFrameEvent::CheckpointBegan);
                self.due.push_back(ColoFrameEvent::DONE);
            }
            NotifyEvent::Unknown(text) => {
                self.unknown_messages += 1;
                if let Some(more) = self.unknown_log.admit(Instant::now()) {
                    let shown = text.get(..SHOWN_MAX).unwrap_or(text).escape_ascii();
                    let name = &self.notify.instance;
                    log::warn!("{name}: notify-dev: unknown message \"{shown}\" is ignored{more}");
                }
            }
        }
    }
}

impl ColoFrame for XenDriver {
    fn command(&mut self, command: &ColoFrameCommand) {
        // Nothing else can be said on this channel.
        if let ColoFrameCommand::RequestCheckpoint { .. } = command {
            self.is_request_outstanding = true;
            if !self.notify.request_checkpoint() {
                log::info!(
                    "{}: notify-dev: a checkpoint is needed, and there is no peer to ask yet. The request \
                     is sent when one connects",
                    self.notify.instance
                );
            }
        }
    }

    fn next_event(&mut self) -> NextEvent<'_> {
        Box::pin(async {
            loop {
                if let Some(event) = self.due.pop_front() {
                    return event;
                }
                let event = self.notify.next().await;
                self.on_notify(&event);
            }
        })
    }

    fn report(&self) -> ColoFrameReport {
        ColoFrameReport::Xen(XenReport {
            endpoint: self.notify.endpoint.clone(),
            connected: self.notify.connection.is_some(),
            outstanding: self.is_request_outstanding,
        })
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        // Records of other kinds are not read here.
        let BadRecords { empty, runt, vnet_hdr_len, oversized, truncated, garbled: _ } =
            self.notify.bad_records();
        vec![
            ("unknown_messages", self.unknown_messages),
            ("bad.notify_dev.empty", empty),
            ("bad.notify_dev.runt", runt),
            ("bad.notify_dev.vnet_hdr_len", vnet_hdr_len),
            ("bad.notify_dev.oversized", oversized),
            ("bad.notify_dev.truncated", truncated),
            ("connections.notify_dev", self.notify.connections),
            ("unanswered", self.notify.unanswered),
        ]
    }
}

/// An event of the channel.
#[derive(Debug, PartialEq, Eq)]
enum NotifyEvent {
    Up,
    Down,
    Greeted,
    CheckpointDone,
    Unknown(Bytes),
}

/// The channel, and the messages that wait to be sent on it.
#[derive(Debug)]
struct NotifyChannel {
    /// The guest, for the log.
    instance: String,
    endpoint: String,
    dialler: Dialler,
    connection: Option<DialledConnection>,
    reader: RecordReader,
    waiting: BytesMut,
    connections: u64,
    /// Greetings that got no answer, because the peer does not read.
    unanswered: u64,
}

impl NotifyChannel {
    fn new(instance: String, port: Port, vnet_hdr: bool) -> Self {
        Self {
            instance,
            endpoint: port.endpoint().to_string(),
            dialler: Dialler::spawn(port),
            connection: None,
            reader: RecordReader::new(vnet_hdr),
            waiting: BytesMut::new(),
            connections: 0,
            unanswered: 0,
        }
    }

    fn bad_records(&self) -> BadRecords {
        self.reader.bad
    }

    /// Waits for the next event, and writes waiting messages meanwhile. Can be cancelled.
    async fn next(&mut self) -> NotifyEvent {
        loop {
            let Some(connection) = &self.connection else {
                self.connection = Some(self.dialler.next().await);
                self.connections += 1;
                log::info!("{}: notify-dev {} is connected", self.instance, self.endpoint);
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
    fn greet(&mut self) {
        if self.waiting.len() < WAITING_BYTES_MAX {
            self.send(GREETING);
        } else {
            self.unanswered += 1;
        }
    }

    /// Requests a checkpoint; `false` without a peer.
    fn request_checkpoint(&mut self) -> bool {
        // So much are greetings and requests only, and one request is enough.
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
        log::warn!(
            "{}: notify-dev {}: the connection ended: {why}. It is made again",
            self.instance,
            self.endpoint
        );
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
    format!("the connection failed: {}", chain(error))
}
