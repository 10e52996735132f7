//! One connection to a QEMU after the other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::codec::{Framed, LinesCodec};
use tokio_util::task::AbortOnDropHandle;

use super::message::{self, QemuVersion, QmpMessage, QmpRefusal};
use crate::endpoint::{Endpoint, EndpointError, Port, Stream};
use crate::error_chain::chain;
use colo_proxy_engine::log_limit::LogLimit;

/// The longest line: four times QEMU's description of its own commands, the longest that it writes
/// (248387 bytes in QEMU 11.1).
const LINE_MAX: usize = 1 << 20;
/// Commands that may wait for QEMU.
const WAITING_MAX: usize = 64;
/// Messages that may wait for the owner.
const INCOMING_MAX: usize = 16;
/// Commands that may wait for their answers. Beyond that the oldest one's answer is ignored.
const ASKED_MAX: usize = 256;
/// From the connection to the end of the negotiation, and for a command to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum QmpIncoming {
    /// Connected, and ready for commands.
    Up(QemuVersion),
    /// The connection is gone, and with it the replies to all commands that were sent on it.
    Down(String),
    Event {
        name: String,
        data: Value,
        /// QEMU's wall clock when it happened, since 1970.
        at: Duration,
    },
    Reply {
        id: u64,
        result: Result<Value, QmpRefusal>,
    },
}

/// A command, and the number of its answer.
type Line = (u64, String);

/// The owner's end.
#[derive(Debug)]
pub(crate) struct QmpClient {
    endpoint: String,
    commands: mpsc::Sender<Line>,
    incoming: mpsc::Receiver<QmpIncoming>,
    last_id: u64,
    /// Ends with this: QEMU's socket serves one client at a time.
    _task: AbortOnDropHandle<()>,
}

impl QmpClient {
    /// Connects, now and whenever the connection is gone, until this is dropped.
    pub(crate) async fn open(endpoint: Endpoint) -> Result<Self, EndpointError> {
        let name = endpoint.to_string();
        let port = Port::open(endpoint).await?;
        let (commands, from_owner) = mpsc::channel(WAITING_MAX);
        let (to_owner, incoming) = mpsc::channel(INCOMING_MAX);
        let task = AbortOnDropHandle::new(tokio::spawn(keep(port, from_owner, to_owner)));
        Ok(Self { endpoint: name, commands, incoming, last_id: 0, _task: task })
    }

    /// Where QEMU is.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends a command, and returns the number of its reply; `None` if too many wait, because QEMU does
    /// not read.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Option<u64> {
        self.last_id += 1;
        let line = json!({"execute": command, "arguments": arguments, "id": self.last_id});
        self.commands.try_send((self.last_id, line.to_string())).ok().map(|()| self.last_id)
    }

    /// The next message. Can be dropped without losing anything.
    pub(crate) async fn next(&mut self) -> QmpIncoming {
        match self.incoming.recv().await {
            Some(incoming) => incoming,
            // The task ends with its owner only.
            None => std::future::pending().await,
        }
    }
}

async fn keep(
    mut port: Port,
    mut commands: mpsc::Receiver<Line>,
    to_owner: mpsc::Sender<QmpIncoming>,
) {
    let mut log_limit = LogLimit::default();
    loop {
        let stream = port.next().await;
        // Commands for the last connection mean nothing to this one.
        while commands.try_recv().is_ok() {}
        let mut connection = QmpConnection::new(stream);
        let Some(why) = connection.serve(&mut commands, &to_owner).await else { return };
        if let Some(suppressed) = log_limit.admit(Instant::now()) {
            let passed_over = connection.passed_over;
            log::warn!(
                "QMP {}: the connection ended: {why} ({passed_over} messages were ignored). Connecting \
                 again{suppressed}",
                port.endpoint()
            );
        }
    }
}

struct QmpConnection {
    lines: Framed<Stream, LinesCodec>,
    /// The numbers of the answers that are due. QEMU answers in any order.
    asked: BTreeSet<u64>,
    /// Lines that we do not know, or did not ask for.
    passed_over: u64,
    log_limit: LogLimit,
}

impl QmpConnection {
    fn new(stream: Stream) -> Self {
        Self {
            lines: Framed::new(stream, LinesCodec::new_with_max_length(LINE_MAX)),
            asked: BTreeSet::new(),
            passed_over: 0,
            log_limit: LogLimit::default(),
        }
    }

    /// Returns why the connection ended; `None` if its owner did.
    async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Line>,
        to_owner: &mpsc::Sender<QmpIncoming>,
    ) -> Option<String> {
        let version = match tokio::time::timeout(PATIENCE, self.negotiate()).await {
            Ok(Ok(version)) => version,
            Ok(Err(why)) => return Some(why),
            // A QMP socket serves one client at a time.
            Err(_) => return Some("QEMU does not greet; a QMP socket serves one client at a time, so end the other one".into()),
        };
        to_owner.send(QmpIncoming::Up(version)).await.ok()?;
        let why = self.converse(commands, to_owner).await;
        to_owner.send(QmpIncoming::Down(why.clone())).await.ok()?;
        Some(why)
    }

    /// Reads the greeting and leaves the mode in which QEMU takes one command only.
    async fn negotiate(&mut self) -> Result<QemuVersion, String> {
        let version = loop {
            if let Some(QmpMessage::Greeting(version)) = message::read(&self.next_line().await?) {
                break version;
            }
        };
        let command = json!({"execute": "qmp_capabilities", "id": 0}).to_string();
        self.lines
            .send(command)
            .await
            .map_err(|error| format!("cannot write: {}", chain(&error)))?;
        loop {
            let line = self.next_line().await?;
            let Some(QmpMessage::Reply { id: id @ (Some(0) | None), result }) =
                message::read(&line)
            else {
                continue;
            };
            match result.read() {
                Ok(_) if id.is_some() => return Ok(version),
                Ok(_) => {}
                Err(refusal) => return Err(format!("QEMU refuses qmp_capabilities: {refusal}")),
            }
        }
    }

    /// Returns why the connection ended.
    async fn converse(
        &mut self,
        commands: &mut mpsc::Receiver<Line>,
        to_owner: &mpsc::Sender<QmpIncoming>,
    ) -> String {
        let ending = || "the instance is ending".to_owned();
        loop {
            let line = tokio::select! {
                command = commands.recv() => {
                    let Some(command) = command else { return ending() };
                    match self.send(command).await {
                        Ok(()) => continue,
                        Err(why) => return why,
                    }
                }
                line = self.next_line() => match line {
                    Ok(line) => line,
                    Err(why) => return why,
                },
            };
            let Some(incoming) = self.incoming(&line) else {
                self.pass_over(&line);
                continue;
            };
            if to_owner.send(incoming).await.is_err() {
                return ending();
            }
        }
    }

    async fn send(&mut self, (id, command): Line) -> Result<(), String> {
        // Before it is sent, since the answer may come at once.
        self.asked.insert(id);
        if self.asked.len() > ASKED_MAX {
            self.asked.pop_first();
        }
        match tokio::time::timeout(PATIENCE, self.lines.send(command)).await {
            Ok(sent) => sent.map_err(|error| format!("cannot write: {}", chain(&error))),
            Err(_) => Err("QEMU does not read".into()),
        }
    }

    /// The message for the owner, if it is one: an event that it knows, or the answer to a command.
    fn incoming(&mut self, line: &str) -> Option<QmpIncoming> {
        match message::read(line)? {
            QmpMessage::Event(event) => {
                event.known().map(|(name, data, at)| QmpIncoming::Event { name, data, at })
            }
            QmpMessage::Reply { id: Some(id), result } if self.asked.remove(&id) => {
                Some(QmpIncoming::Reply { id, result: result.read() })
            }
            QmpMessage::Reply { .. } | QmpMessage::Greeting(_) => None,
        }
    }

    fn pass_over(&mut self, line: &str) {
        self.passed_over += 1;
        if let Some(suppressed) = self.log_limit.admit(Instant::now()) {
            log::debug!("QMP: a line of {} bytes was ignored{suppressed}", line.len());
        }
    }

    async fn next_line(&mut self) -> Result<String, String> {
        // Many more lines may have been read already, and others want the thread.
        tokio::task::consume_budget().await;
        match self.lines.next().await {
            Some(line) => line.map_err(|error| format!("cannot read: {}", chain(&error))),
            None => Err("QEMU closed the connection".into()),
        }
    }
}

#[cfg(test)]
mod tests;
