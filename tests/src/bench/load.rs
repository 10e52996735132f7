//! The load: what the client does for some seconds, and the figures that come of it.
//!
//! Sockets are made in the client's namespace and belong to it wherever they are used, so the load
//! runs on the calling thread.

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
use crate::network::{Family, Slot};

pub(super) use bulk::{down, up};
pub(super) use datagrams::datagrams;
pub(super) use exchange::{exchanges, exchanges_with_all};

/// A stream that gives nothing for so long is dead; longer than QEMU's compare timeout.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream may take to deliver what is left of it after its measurement.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The figure that counts what a stream from the guest has carried, also after its measurement.
pub(super) const OCTETS: &str = "octets";

/// What a load has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) figures: Figures,
    /// Of the single exchanges, where there are any, in nanoseconds.
    pub(super) latency: Option<Histogram>,
}

/// A connection to a guest. Until [`finish`] has ended it well, its end is a reset: what a chain has
/// not delivered in time is nobody's any more.
fn connect(client: &Namespace, slot: Slot, port: u16) -> Result<TcpStream> {
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

/// Ends a connection the way in which both guests see the same end, if the guest can in time.
fn finish(mut stream: TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write).context("ending a stream")?;
    stream.set_read_timeout(Some(END_TIMEOUT))?;
    let mut rest = [0; 64];
    // An error is a chain that is too slow, or has lost it.
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
