//! The load: what the client does for some seconds, and the figures that come of it.
//!
//! Sockets are made in the client's namespace and belong to it wherever they are used, so the load
//! runs on the calling thread.

mod bulk;
mod datagrams;
mod exchange;

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
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

/// What a load has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) figures: Figures,
    /// Of the single exchanges, where there are any, in nanoseconds.
    pub(super) latency: Option<Histogram>,
}

/// A connection to a guest, whose end is a reset: what is on the way when a measurement is over is
/// nobody's any more.
fn connect(client: &Namespace, slot: Slot, port: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(slot.address(Family::V4), port);
    let stream = client.run(|| {
        TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connecting to {to}"))
    })?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    reset_at_end(&stream)?;
    Ok(stream)
}

fn reset_at_end(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let option = nix::sys::socket::sockopt::Linger;
    nix::sys::socket::setsockopt(stream, option, &linger)
        .with_context(|| format!("setting SO_LINGER on {}", stream.as_raw_fd()))
}
