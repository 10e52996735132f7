//! UDP and ICMP echo.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::libc;

use super::Latency;
use crate::namespace::Namespace;
use crate::network::Family;
use crate::protocol::{ECHO_PORT, Pattern};

/// The time after which a datagram counts as lost.
const LOST: Duration = Duration::from_secs(1);

/// The result of a series of datagrams.
#[derive(Clone, Debug, Default)]
pub struct EchoSeries {
    pub latency: Latency,
    /// Datagrams that were sent again because no answer came. A datagram may be lost.
    pub lost: u64,
}

/// Sends `count` datagrams of `len` bytes, one after another, and checks the answers.
pub fn echo(client: &Namespace, family: Family, count: u32, len: usize) -> Result<EchoSeries> {
    let socket = client.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(family.client(), 0))?;
        socket.connect(SocketAddr::new(family.guest(), ECHO_PORT))?;
        Ok(socket)
    })?;
    exchange(&socket, count, |number| {
        let mut datagram = vec![0; len.max(4)];
        Pattern::new(number.into()).fill(&mut datagram);
        datagram.get_mut(..4)?.copy_from_slice(&number.to_be_bytes());
        Some(datagram)
    })
}

/// The same with ICMP or `ICMPv6` echo requests.
pub fn ping(client: &Namespace, family: Family, count: u32, len: usize) -> Result<EchoSeries> {
    let (domain, protocol, kind) = match family {
        Family::V4 => (libc::AF_INET, libc::IPPROTO_ICMP, 8),
        Family::V6 => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128),
    };
    let socket = client.run(|| {
        let type_ = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: socket(2) takes integers.
        let fd = nix::errno::Errno::result(unsafe { libc::socket(domain, type_, protocol) })
            .context("opening a ping socket")?;
        // SAFETY: `fd` is a socket that nobody else owns. That it is not UDP does not matter to
        // connect, send and recv.
        let socket = unsafe { UdpSocket::from_raw_fd(fd.into_raw_fd()) };
        socket.connect(SocketAddr::new(family.guest(), 0))?;
        Ok(socket)
    })?;
    // The kernel fills in the identifier and the checksum, and returns only the answers to this
    // socket.
    exchange(&socket, count, |number| {
        let mut message = vec![0; len.max(8)];
        Pattern::new(number.into()).fill(message.get_mut(8..)?);
        message.get_mut(..8)?.copy_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        message.get_mut(6..8)?.copy_from_slice(&(number as u16).to_be_bytes());
        Some(message)
    })
}

/// Sends the datagram of `make` and waits for the same bytes. The first six bytes of an ICMP header
/// may differ.
fn exchange(
    socket: &UdpSocket,
    count: u32,
    make: impl Fn(u32) -> Option<Vec<u8>>,
) -> Result<EchoSeries> {
    let mut echoed = EchoSeries::default();
    for number in 0..count {
        let datagram = make(number).context("a datagram too short for its number")?;
        let mut tries = 0;
        loop {
            let start = Instant::now();
            socket.send(&datagram).context("sending a datagram")?;
            if receive(socket, &datagram, start + LOST)? {
                echoed.latency.add(start.elapsed());
                break;
            }
            echoed.lost += 1;
            tries += 1;
            ensure!(tries < 20, "no answer to a datagram of {} bytes", datagram.len());
        }
    }
    Ok(echoed)
}

/// Waits until `sent` comes back. Late answers to earlier datagrams are ignored.
fn receive(socket: &UdpSocket, sent: &[u8], deadline: Instant) -> Result<bool> {
    let mut got = vec![0; 65536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut got) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error).context("receiving a datagram"),
        };
        let got = got.get(..len).unwrap_or_default();
        if got == sent || (got.len() == sent.len() && got.get(6..) == sent.get(6..)) {
            return Ok(true);
        }
        ensure!(got.len() == sent.len(), "an answer of {len} bytes to {}", sent.len());
    }
}
