//! The load: the client's work for some seconds, and its figures.
//!
//! Sockets are made in the client's namespace and belong to it on every thread, so the load runs on
//! the calling thread.

mod bulk;
mod datagrams;
mod exchange;

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::libc;

use super::histogram::Histogram;
use super::results::Figures;
use crate::namespace::Namespace;
use crate::network::{Family, LabSlot};

pub(super) use bulk::{down, up};
pub(super) use datagrams::datagrams;
pub(super) use exchange::{exchanges, exchanges_with_all};

/// A stream that gives nothing for this time is dead. It is longer than QEMU's compare timeout.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time in which a stream may deliver its rest after its measurement.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The figure that counts the bytes of a stream from the guest, also after its measurement.
pub(super) const OCTETS: &str = "octets";

/// The result of a load.
#[derive(Debug, Default)]
pub(super) struct LoadResult {
    pub(super) figures: Figures,
    /// The latencies of the single exchanges, if there are any, in nanoseconds.
    pub(super) latency: Option<Histogram>,
}

/// A connection to a guest. Until [`finish`] has ended it in good order, its end is a reset: bytes
/// that a chain delivers too late belong to nobody.
fn connect(client: &Namespace, slot: LabSlot, port: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(slot.address(Family::V4), port);
    let stream = client.run(|| {
        TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connecting to {to}"))
    })?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    reset_at_end(&stream, true)?;
    Ok(stream)
}

/// Ends a connection so that both guests see the same end, if the guest can do that in time.
fn finish(mut stream: TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write).context("ending a stream")?;
    stream.set_read_timeout(Some(END_TIMEOUT))?;
    let mut rest = [0; 64];
    // An error means that a chain is too slow, or has lost the connection.
    if matches!(stream.read(&mut rest), Ok(0)) {
        reset_at_end(&stream, false)?;
    }
    Ok(())
}

fn reset_at_end(stream: &TcpStream, reset: bool) -> Result<()> {
    let linger = libc::linger { l_onoff: reset.into(), l_linger: 0 };
    let option = nix::sys::socket::sockopt::Linger;
    nix::sys::socket::setsockopt(stream, option, &linger).context("setting SO_LINGER")
}
