//! Connections of one endpoint, one after the other.
//!
//! A task of its own makes them. The owner waits for a dozen events at a time. If every other event
//! cancelled an attempt to connect, no attempt would ever succeed on a busy socket.

use std::convert::Infallible;

use tokio::sync::{mpsc, oneshot};

use crate::endpoint::{Port, Stream};

/// A connection. While it lives, the endpoint makes no other one.
#[derive(Debug)]
pub(crate) struct DialledConnection {
    pub(crate) stream: Stream,
    /// The task makes the next connection when this is dropped.
    _lease: oneshot::Sender<Infallible>,
}

/// The source of an endpoint's connections.
#[derive(Debug)]
pub(crate) struct Dialler {
    connections: mpsc::Receiver<DialledConnection>,
}

impl Dialler {
    pub(crate) fn spawn(port: Port) -> Self {
        let (to_owner, connections) = mpsc::channel(1);
        tokio::spawn(dial(port, to_owner));
        Self { connections }
    }

    /// The next connection. Can be cancelled without losing one.
    pub(crate) async fn next(&mut self) -> DialledConnection {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The task ends only with the runtime.
            None => std::future::pending().await,
        }
    }

    /// A connection that is there already, if any.
    pub(crate) fn next_now(&mut self) -> Option<DialledConnection> {
        self.connections.try_recv().ok()
    }
}

async fn dial(mut port: Port, to_owner: mpsc::Sender<DialledConnection>) {
    loop {
        let stream = tokio::select! {
            stream = port.next() => stream,
            () = to_owner.closed() => return,
        };
        let (lease, ended) = oneshot::channel();
        if to_owner.send(DialledConnection { stream, _lease: lease }).await.is_err() {
            return;
        }
        // Nobody ever sends: this waits until the owner drops the lease.
        let _ = ended.await;
    }
}
