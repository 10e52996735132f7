//! One TCP stream at full speed, in either direction.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{END_TIMEOUT, LoadResult, OCTETS, connect, finish};
use crate::bench::guest::MeasuredGuest;
use crate::bench::service::{Arrivals, BLOCK_LEN, PORTION_LEN, SINK_PORT, SOURCE_PORT, Swallowed};
use crate::namespace::Namespace;
use crate::network::LabSlot;

/// How often to look at a stream that stands still.
const GLANCE: Duration = Duration::from_millis(20);
/// The portions that a guest has in advance. They are more bytes than a receive window has.
const PORTIONS_AHEAD: u64 = 2;

/// Guest to client. The client requests one portion after another, early enough that the guest
/// never waits. So both guests end their stream at the same byte.
pub(in crate::bench) fn down(client: &Namespace, time: Duration) -> Result<LoadResult> {
    let mut stream = connect(client, LabSlot(0), SOURCE_PORT)?;
    stream.set_read_timeout(Some(GLANCE))?;
    let mut block = vec![0; BLOCK_LEN];
    let mut arrivals = Arrivals::begin(time);
    let mut asked = 0;
    let began = Instant::now();
    while began.elapsed() < time {
        let wanted = arrivals.all() / PORTION_LEN as u64 + PORTIONS_AHEAD;
        let more = vec![b'+'; (wanted - asked) as usize];
        stream.write_all(&more).context("asking for more")?;
        asked = wanted;
        arrivals.read(&mut stream, &mut block)?;
    }
    let received = arrivals.end(0);
    let deadline = Instant::now() + END_TIMEOUT;
    while arrivals.all() < asked * PORTION_LEN as u64 && Instant::now() < deadline {
        arrivals.read(&mut stream, &mut block)?;
    }
    finish(stream)?;
    let mut found = found(received);
    found.figures.insert(OCTETS.to_owned(), arrivals.all() as f64);
    Ok(found)
}

/// Client to guest. The sink of `primary` counts.
pub(in crate::bench) fn up(
    client: &Namespace,
    primary: &MeasuredGuest,
    time: Duration,
) -> Result<LoadResult> {
    let mut stream = connect(client, LabSlot(0), SINK_PORT)?;
    stream.set_write_timeout(Some(GLANCE))?;
    let port = stream.local_addr()?.port();
    stream.write_all(&(time.as_nanos() as u64).to_be_bytes()).context("beginning a stream")?;
    let block = vec![0x5a; BLOCK_LEN];
    let began = Instant::now();
    while began.elapsed() < time {
        match stream.write(&block) {
            Ok(_) => {}
            Err(error) if is_only_slow(error.kind()) => {}
            Err(error) => return Err(error).context("writing a stream"),
        }
    }
    finish(stream)?;
    Ok(found(primary.swallowed(port)?))
}

impl Arrivals {
    fn read(&mut self, stream: &mut TcpStream, block: &mut [u8]) -> Result<()> {
        match stream.read(block) {
            Ok(0) => bail!("a stream ended by itself"),
            Ok(len) => self.add(len),
            Err(error) if is_only_slow(error.kind()) => {}
            Err(error) => return Err(error).context("reading a stream"),
        }
        Ok(())
    }
}

fn is_only_slow(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn found(stream: Swallowed) -> LoadResult {
    let gigabits = 8.0 * stream.octets as f64 / stream.seconds / 1e9;
    let figures = [("gbits", gigabits), ("gap_ms", stream.gap_seconds * 1e3)];
    let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
    LoadResult { figures, latency: None }
}
