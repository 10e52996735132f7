//! Request and response over TCP: 64 bytes in each direction.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{LoadResult, connect, finish};
use crate::bench::histogram::Histogram;
use crate::bench::service::{EXCHANGE_LEN, TCP_ECHO_PORT};
use crate::namespace::Namespace;
use crate::network::LabSlot;

/// Exchanges before the clock starts. The handshake and the first checkpoint do not count.
const WARM_UP: u32 = 200;

/// One connection, and one exchange after another.
pub(in crate::bench) fn exchanges(client: &Namespace, time: Duration) -> Result<LoadResult> {
    let mut stream = warm(client, LabSlot(0))?;
    let (latency, seconds) = exchange(&mut stream, time)?;
    finish(stream)?;
    let rate = latency.count() as f64 / seconds;
    let micro = |percent| latency.percentile(percent) as f64 / 1e3;
    let figures = [
        ("rate", rate),
        ("p50_us", micro(50.0)),
        ("p99_us", micro(99.0)),
        ("p999_us", micro(99.9)),
    ];
    let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
    Ok(LoadResult { figures, latency: Some(latency) })
}

/// One connection to each of `slots`, all at once. Returns the rate of each.
pub(in crate::bench) fn exchanges_with_all(
    client: &Namespace,
    slots: &[LabSlot],
    time: Duration,
) -> Result<Vec<f64>> {
    let streams: Result<Vec<TcpStream>> = slots.iter().map(|slot| warm(client, *slot)).collect();
    std::thread::scope(|scope| {
        let threads = streams?.into_iter().map(|mut stream| {
            scope.spawn(move || {
                let (latency, seconds) = exchange(&mut stream, time)?;
                finish(stream)?;
                anyhow::Ok(latency.count() as f64 / seconds)
            })
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(rate) => rate,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

fn warm(client: &Namespace, slot: LabSlot) -> Result<TcpStream> {
    let mut stream = connect(client, slot, TCP_ECHO_PORT)?;
    let mut octets = [0x5a; EXCHANGE_LEN];
    for _ in 0..WARM_UP {
        once(&mut stream, &mut octets)?;
    }
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, time: Duration) -> Result<(Histogram, f64)> {
    let mut latency = Histogram::default();
    let mut octets = [0x5a; EXCHANGE_LEN];
    let began = Instant::now();
    let mut last = began;
    while last.duration_since(began) < time {
        once(stream, &mut octets)?;
        let now = Instant::now();
        latency.add(now.duration_since(last).as_nanos() as u64);
        last = now;
    }
    Ok((latency, last.duration_since(began).as_secs_f64()))
}

fn once(stream: &mut TcpStream, octets: &mut [u8]) -> Result<()> {
    stream.write_all(octets).context("sending a request")?;
    stream.read_exact(octets).context("waiting for a response")
}
