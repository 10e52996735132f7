//! One connection to a QEMU after the other.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::codec::{Framed, LinesCodec};

use super::message::{self, Message, Refusal, Version};
use crate::endpoint::{Endpoint, EndpointError, Port, Stream};

/// The longest line: many times QEMU's description of its own commands, the longest that it writes.
const LINE_MAX: usize = 8 << 20;
/// Lines that may wait, in either direction.
const WAITING_MAX: usize = 64;
/// From the connection to the end of the negotiation, and for a command to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// What comes from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    /// Connected, and ready for commands.
    Up(Version),
    /// The connection is gone, and with it the replies to what was asked on it.
    Down(String),
    Event {
        name: String,
        data: Value,
        /// QEMU's wall clock when it happened, since 1970.
        at: Duration,
    },
    Reply {
        id: u64,
        result: Result<Value, Refusal>,
    },
}

/// The owner's end.
#[derive(Debug)]
pub(crate) struct Client {
    endpoint: String,
    commands: mpsc::Sender<String>,
    incoming: mpsc::Receiver<Incoming>,
    last_id: u64,
}

impl Client {
    /// Connects, now and whenever the connection is gone.
    pub(crate) async fn open(endpoint: Endpoint) -> Result<Self, EndpointError> {
        let name = endpoint.to_string();
        let port = Port::open(endpoint).await?;
        let (commands, from_owner) = mpsc::channel(WAITING_MAX);
        let (to_owner, incoming) = mpsc::channel(WAITING_MAX);
        tokio::spawn(keep(port, from_owner, to_owner));
        Ok(Self { endpoint: name, commands, incoming, last_id: 0 })
    }

    /// Where QEMU is.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends a command, and returns the number of its reply; `None` where too many wait, as for a
    /// QEMU that does not read.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Option<u64> {
        self.last_id += 1;
        let line = json!({"execute": command, "arguments": arguments, "id": self.last_id});
        self.commands.try_send(line.to_string()).ok().map(|()| self.last_id)
    }

    /// What comes next. Can be dropped without losing anything.
    pub(crate) async fn next(&mut self) -> Incoming {
        match self.incoming.recv().await {
            Some(incoming) => incoming,
            // The task ends with its owner only.
            None => std::future::pending().await,
        }
    }
}

async fn keep(
    mut port: Port,
    mut commands: mpsc::Receiver<String>,
    to_owner: mpsc::Sender<Incoming>,
) {
    loop {
        let stream = tokio::select! {
            stream = port.next() => stream,
            () = to_owner.closed() => return,
        };
        // What was meant for the last connection means nothing to this one.
        while commands.try_recv().is_ok() {}
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(LINE_MAX));
        let why = match tokio::time::timeout(PATIENCE, negotiate(&mut lines)).await {
            Ok(Ok(version)) => {
                if to_owner.send(Incoming::Up(version)).await.is_err() {
                    return;
                }
                let why = converse(&mut lines, &mut commands, &to_owner).await;
                if to_owner.send(Incoming::Down(why.clone())).await.is_err() {
                    return;
                }
                why
            }
            Ok(Err(why)) => why,
            // A QMP socket serves one client at a time.
            Err(_) => "it says nothing; is somebody else connected to it?".into(),
        };
        log::warn!("QMP {}: {why}", port.endpoint());
    }
}

type Lines = Framed<Stream, LinesCodec>;

/// Reads the greeting and leaves the mode in which QEMU takes one command only.
async fn negotiate(lines: &mut Lines) -> Result<Version, String> {
    let version = loop {
        if let Message::Greeting(version) = next_message(lines).await? {
            break version;
        }
    };
    let command = json!({"execute": "qmp_capabilities", "id": 0}).to_string();
    lines.send(command).await.map_err(|error| format!("writing failed: {error}"))?;
    loop {
        match next_message(lines).await? {
            Message::Reply { id: Some(0), result: Ok(_) } => return Ok(version),
            Message::Reply { result: Err(refusal), .. } => {
                return Err(format!("it refuses qmp_capabilities: {refusal}"));
            }
            _ => {}
        }
    }
}

/// Returns why the connection ended.
async fn converse(
    lines: &mut Lines,
    commands: &mut mpsc::Receiver<String>,
    to_owner: &mpsc::Sender<Incoming>,
) -> String {
    loop {
        let message = tokio::select! {
            command = commands.recv() => {
                let Some(command) = command else { return "the instance is ending".into() };
                match tokio::time::timeout(PATIENCE, lines.send(command)).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => return format!("writing failed: {error}"),
                    Err(_) => return "it does not read".into(),
                }
            }
            message = next_message(lines) => match message {
                Ok(message) => message,
                Err(why) => return why,
            },
            () = to_owner.closed() => return "the instance is ending".into(),
        };
        let incoming = match message {
            Message::Event { name, data, at } => Incoming::Event { name, data, at },
            Message::Reply { id: Some(id), result } => Incoming::Reply { id, result },
            Message::Reply { id: None, .. } | Message::Greeting(_) => continue,
        };
        if to_owner.send(incoming).await.is_err() {
            return "the instance is ending".into();
        }
    }
}

/// The next message that we know.
async fn next_message(lines: &mut Lines) -> Result<Message, String> {
    loop {
        match lines.next().await {
            Some(Ok(line)) => match message::read(&line) {
                Some(message) => return Ok(message),
                None => log::debug!("QMP: a line of {} octets was passed over", line.len()),
            },
            Some(Err(error)) => return Err(format!("reading failed: {error}")),
            None => return Err("QEMU closed the connection".into()),
        }
    }
}

#[cfg(test)]
mod tests;
