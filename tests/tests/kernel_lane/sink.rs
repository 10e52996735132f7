//! Datagrams that both guests read and neither answers: input without output.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use colo_lab::network::{Family, HostSide};
use colo_lab::pair::LabPair;
use nix::sys::socket::{setsockopt, sockopt};

const PORT: u16 = 7007;
const LEN: usize = 200;
/// A buffer for all datagrams of a test.
const ROOM: usize = 64 << 20;
/// A guest that has more datagrams gives the next one sooner.
const LAST: Duration = Duration::from_secs(2);

/// A socket of the client, and one of each guest.
pub(crate) struct Sink {
    client: UdpSocket,
    guests: [UdpSocket; 2],
    sent: u32,
}

impl Sink {
    pub(crate) fn open(pair: &LabPair) -> Result<Self> {
        let guest = Family::V4.guest();
        let listen = || {
            let socket = UdpSocket::bind(SocketAddr::new(guest, PORT))?;
            socket.set_read_timeout(Some(LAST))?;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
            Ok(socket)
        };
        let client = pair.lab.client.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(Family::V4.client(), 0))?;
            socket.connect(SocketAddr::new(guest, PORT))?;
            Ok(socket)
        })?;
        let guests = [
            pair.primary_guest.namespace.run(listen)?,
            pair.secondary_guest.namespace.run(listen)?,
        ];
        Ok(Self { client, guests, sent: 0 })
    }

    /// Sends datagrams with the next numbers.
    pub(crate) fn send(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            let mut datagram = [0; LEN];
            datagram[..4].copy_from_slice(&self.sent.to_be_bytes());
            self.client.send(&datagram).context("sending a datagram")?;
            self.sent += 1;
        }
        Ok(())
    }

    /// How many were sent.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    /// The numbers that the guest of `side` receives, in order, until the last one arrives or no
    /// more arrive.
    pub(crate) fn numbers(&self, side: HostSide) -> Vec<u32> {
        let [primary, secondary] = &self.guests;
        let socket = if side == HostSide::Primary { primary } else { secondary };
        let mut numbers = Vec::new();
        let mut datagram = [0; LEN];
        while numbers.last().is_none_or(|last| last + 1 < self.sent) {
            if socket.recv(&mut datagram).is_err() {
                break;
            }
            let [a, b, c, d, ..] = datagram;
            numbers.push(u32::from_be_bytes([a, b, c, d]));
        }
        numbers
    }
}
