//! One TCP stream as fast as it goes, either way.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Found, connect};
use crate::bench::guest::Guest;
use crate::bench::service::{Arrivals, BLOCK_LEN, SINK_PORT, SOURCE_PORT};
use crate::namespace::Namespace;
use crate::network::Slot;

/// How often a stream that stands still is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Guest to client.
pub(in crate::bench) fn down(client: &Namespace, time: Duration) -> Result<Found> {
    let mut stream = connect(client, Slot(0), SOURCE_PORT)?;
    stream.set_read_timeout(Some(GLANCE))?;
    let mut block = vec![0; BLOCK_LEN];
    let mut arrivals = Arrivals::begin();
    let began = Instant::now();
    while began.elapsed() < time {
        match stream.read(&mut block) {
            Ok(len) => arrivals.add(len),
            Err(error) if is_only_slow(error.kind()) => {}
            Err(error) => return Err(error).context("reading a stream"),
        }
    }
    let (seconds, gap) = arrivals.end();
    Ok(found(arrivals.octets, seconds, gap))
}

/// Client to guest; `primary` is whose sink counts.
pub(in crate::bench) fn up(client: &Namespace, primary: &Guest, time: Duration) -> Result<Found> {
    let mut stream = connect(client, Slot(0), SINK_PORT)?;
    stream.set_write_timeout(Some(GLANCE))?;
    let port = stream.local_addr()?.port();
    let block = vec![0x5a; BLOCK_LEN];
    let began = Instant::now();
    while began.elapsed() < time {
        match stream.write(&block) {
            Ok(_) => {}
            Err(error) if is_only_slow(error.kind()) => {}
            Err(error) => return Err(error).context("writing a stream"),
        }
    }
    drop(stream);
    let swallowed = primary.swallowed(port)?;
    Ok(found(swallowed.octets, swallowed.seconds, swallowed.gap_seconds))
}

fn is_only_slow(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn found(octets: u64, seconds: f64, gap_seconds: f64) -> Found {
    let gigabits = 8.0 * octets as f64 / seconds / 1e9;
    let figures = [("gbits", gigabits), ("gap_ms", gap_seconds * 1e3)];
    let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
    Found { figures, latency: None }
}
