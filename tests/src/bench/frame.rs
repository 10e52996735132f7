//! A COLO-frame for QEMU's colo-compare: it counts the requests and answers them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::colo_compare::{CHECKPOINT, REQUEST};
use crate::process::eventually;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The time from a request to the end of its checkpoint. A real checkpoint of QEMU's takes about
/// half of this at best. Until then, colo-compare repeats its request with every frame.
const CHECKPOINT_TIME: Duration = Duration::from_millis(10);

/// A connection to `notify_dev`.
#[derive(Debug)]
pub(super) struct CountingFrame {
    to: UnixStream,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    checkpoints: AtomicU64,
}

impl CountingFrame {
    /// Connects to the socket. QEMU may not have made it yet, so this tries again.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let to = eventually("QEMU's notify_dev", CONNECT_TIMEOUT, || {
            Ok(UnixStream::connect(socket).ok())
        })?;
        let counts = Arc::new(Counts::default());
        let (from, counted) =
            (to.try_clone().context("duplicating a socket")?, Arc::clone(&counts));
        // It ends when its QEMU ends, because QEMU then closes the connection.
        std::thread::spawn(move || drop(counted.serve(from)));
        Ok(Self { to, counts })
    }

    /// The number of requests for a checkpoint.
    pub(super) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// The number of checkpoints.
    pub(super) fn checkpoints(&self) -> u64 {
        self.counts.checkpoints.load(Ordering::Relaxed)
    }

    /// Makes a checkpoint without a request, so that the rest of one measurement does not disturb
    /// the next.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let mut to = &self.to;
        to.write_all(&record(CHECKPOINT)).context("telling colo-compare of a checkpoint")
    }
}

impl Counts {
    fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut octets = Vec::new();
        let mut chunk = vec![0; 1 << 16];
        let mut due: Option<Instant> = None;
        loop {
            let patience = due.map(|due| due.saturating_duration_since(Instant::now()));
            stream.set_read_timeout(patience.map(|time| time.max(Duration::from_micros(100))))?;
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(len) => octets.extend_from_slice(chunk.get(..len).unwrap_or_default()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            let requests = take_requests(&mut octets);
            self.requests.fetch_add(requests, Ordering::Relaxed);
            if requests > 0 && due.is_none() {
                due = Some(Instant::now() + CHECKPOINT_TIME);
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                due = None;
                stream.write_all(&record(CHECKPOINT))?;
                self.checkpoints.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A text after its length.
fn record(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

/// Counts the complete requests in `bytes`, and takes all complete records out.
fn take_requests(octets: &mut Vec<u8>) -> u64 {
    let (mut at, mut requests) = (0, 0);
    while let Some(length) = octets.get(at..).and_then(|rest| rest.first_chunk()) {
        let end = at + 4 + u32::from_be_bytes(*length) as usize;
        let Some(text) = octets.get(at + 4..end) else { break };
        requests += u64::from(text == REQUEST);
        at = end;
    }
    octets.drain(..at);
    requests
}

#[cfg(test)]
mod tests {
    use super::{record, take_requests};
    use crate::colo_compare::{GREETING, REQUEST};

    #[test]
    fn requests_are_counted_wherever_a_read_ends() {
        let whole = [record(REQUEST), record(GREETING), record(REQUEST)].concat();
        for cut in 0..whole.len() {
            let (first, second) = whole.split_at(cut);
            let mut octets = first.to_vec();
            let mut requests = take_requests(&mut octets);
            octets.extend(second);
            requests += take_requests(&mut octets);
            assert_eq!((requests, octets.len()), (2, 0), "cut at {cut}");
        }
    }
}
