//! Connections that the guest opens because it received a call.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Conversation;
use crate::namespace::Namespace;
use crate::network::Family;
use crate::protocol::{CALL_PORT, ServiceCall};

/// The time after which a call is repeated, because the datagram may have been lost.
const AGAIN: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(20);

/// The address that the guest connects to.
#[derive(Debug)]
pub struct Calls {
    listener: TcpListener,
    socket: UdpSocket,
    to: SocketAddr,
    guest: SocketAddr,
}

impl Calls {
    pub fn new(client: &Namespace, family: Family) -> Result<Self> {
        let any = SocketAddr::new(family.client(), 0);
        let (listener, socket) = client.run(|| {
            let listener = TcpListener::bind(any).context("listening for the guest's calls")?;
            let socket = UdpSocket::bind(any).context("binding a socket for calls")?;
            Ok((listener, socket))
        })?;
        listener.set_nonblocking(true)?;
        let to = listener.local_addr()?;
        Ok(Self { listener, socket, to, guest: SocketAddr::new(family.guest(), CALL_PORT) })
    }

    /// Makes the guest open a connection, from a port that no earlier call has used. Both guests
    /// must use the same port.
    pub fn call(&self) -> Result<Conversation> {
        static PORTS: AtomicU16 = AtomicU16::new(20000);
        let from_port = PORTS.fetch_add(1, Ordering::Relaxed);
        let call = ServiceCall { from_port, to: self.to }.encode();
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            self.socket.send_to(call.as_bytes(), self.guest).context("sending a call")?;
            if let Some(conversation) = self.accept(from_port, Instant::now() + AGAIN)? {
                return Ok(conversation);
            }
        }
        bail!("the guest has not called {} from port {from_port} in {TIMEOUT:?}", self.to)
    }

    fn accept(&self, from_port: u16, deadline: Instant) -> Result<Option<Conversation>> {
        while Instant::now() < deadline {
            match self.listener.accept() {
                Ok((stream, from)) if from.port() == from_port => {
                    stream.set_nonblocking(false)?;
                    return Conversation::over(stream).map(Some);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error).context("accepting the guest's call"),
            }
        }
        Ok(None)
    }
}
