//! Connections of one endpoint, one after the other.
//!
//! Connecting is a task of its own: the owner waits for a dozen things at a time, and an attempt
//! that is given up whenever one of the others comes first would never succeed on a busy socket.

use std::convert::Infallible;

use tokio::sync::{mpsc, oneshot};

use crate::endpoint::{Port, Stream};

/// A connection; while it lives, the endpoint makes no other.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// Only dropped, which lets the endpoint go on.
    _lease: oneshot::Sender<Infallible>,
}

/// Where connections come from.
#[derive(Debug)]
pub(crate) struct Dialler {
    connections: mpsc::Receiver<Connection>,
}

impl Dialler {
    pub(crate) fn spawn(port: Port) -> Self {
        let (to_owner, connections) = mpsc::channel(1);
        tokio::spawn(dial(port, to_owner));
        Self { connections }
    }

    /// The next connection. Can be cancelled without losing one.
    pub(crate) async fn next(&mut self) -> Connection {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The task ends with the runtime only.
            None => std::future::pending().await,
        }
    }

    /// A connection that is there already.
    pub(crate) fn next_now(&mut self) -> Option<Connection> {
        self.connections.try_recv().ok()
    }
}

async fn dial(mut port: Port, to_owner: mpsc::Sender<Connection>) {
    loop {
        let stream = tokio::select! {
            stream = port.next() => stream,
            () = to_owner.closed() => return,
        };
        let (lease, ended) = oneshot::channel();
        if to_owner.send(Connection { stream, _lease: lease }).await.is_err() {
            return;
        }
        // Nothing is ever sent: this waits for the lease to be dropped.
        let _ = ended.await;
    }
}
