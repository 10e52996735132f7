//! colo-compare alone, between unix sockets. QEMU's object and ours receive the same pairs of
//! frames as fast as they read them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::load::LoadResult;
use super::results::BenchChain;
use crate::colo_compare::{Engine, Setup, Stand, segment};

/// The highest number of pairs that are inside at a time. It is less than colo-compare's queues
/// have room for.
const WINDOW: u64 = 512;
/// The number of records in one write. A busy filter's socket has as many.
const BATCH: u64 = 64;
/// The place of the sequence number in a record: after its length, Ethernet, IP and the ports.
const SEQUENCE_AT: usize = 4 + 14 + 20 + 4;
/// Headers of Ethernet, IP and TCP.
const HEADERS_LEN: usize = 54;
/// After this silence, the compare counts as stuck.
const STUCK_MS: u16 = 10_000;

/// A running colo-compare and the other ends of its sockets.
#[derive(Debug)]
pub(super) struct CompareBench {
    pub(super) chain: BenchChain,
    stand: Stand,
    ports: u16,
}

impl CompareBench {
    pub(super) fn build(chain: BenchChain) -> Result<Self> {
        let engine = if chain == BenchChain::Qemu { Engine::Qemu } else { Engine::Ours };
        let stand = Stand::new(engine, &Setup { notify: false, ..Setup::default() })
            .with_context(|| format!("starting the colo-compare of {}", chain.name()))?;
        Ok(Self { chain, stand, ports: 10_000 })
    }

    /// Pairs of one new connection, with frames of `len` bytes.
    pub(super) fn pairs(&mut self, len: usize, time: Duration) -> Result<LoadResult> {
        self.ports += 1;
        let stream = |socket: &crate::colo_compare::Socket| {
            let stream = socket.unix_stream()?;
            stream.set_nonblocking(true)?;
            anyhow::Ok(stream)
        };
        let (stand, port) = (&self.stand, self.ports);
        let frame = segment(1).port(port).ack(1).data(&vec![0x5a; len - HEADERS_LEN]).build();
        let mut feed = Feed {
            ends: [stream(&stand.primary)?, stream(&stand.secondary)?],
            out: stream(&stand.out)?,
            batch: Batch::new(&frame),
            unsent: [0; 2],
            given: 0,
            octets_out: 0,
            chunk: vec![0; 1 << 18],
        };
        let pairs = feed.run(time).with_context(|| self.stand.process.stderr())?;
        let figures = [("mframes", pairs / 1e6)];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(LoadResult { figures, latency: None })
    }
}

/// The records of one batch. The next batch continues their sequence numbers.
#[derive(Debug)]
struct Batch {
    records: Vec<u8>,
    record_len: usize,
    data_len: u32,
    next: u32,
}

impl Batch {
    fn new(frame: &[u8]) -> Self {
        let record = [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        Self {
            records: record.repeat(BATCH as usize),
            record_len: record.len(),
            data_len: (frame.len() - HEADERS_LEN) as u32,
            next: 1,
        }
    }

    fn advance(&mut self) {
        for record in self.records.chunks_exact_mut(self.record_len) {
            let sequence = record.get_mut(SEQUENCE_AT..).and_then(<[u8]>::first_chunk_mut);
            if let Some(sequence) = sequence {
                *sequence = self.next.to_be_bytes();
            }
            self.next = self.next.wrapping_add(self.data_len);
        }
    }
}

/// One measurement. One thread does everything, and never waits for a single socket.
#[derive(Debug)]
struct Feed {
    ends: [UnixStream; 2],
    out: UnixStream,
    batch: Batch,
    /// The bytes of the batch that each end has not received yet.
    unsent: [usize; 2],
    /// Pairs in all batches so far.
    given: u64,
    octets_out: u64,
    chunk: Vec<u8>,
}

impl Feed {
    /// Pairs per second.
    fn run(&mut self, time: Duration) -> Result<f64> {
        let began = Instant::now();
        while began.elapsed() < time {
            let room = self.given - self.released() + BATCH <= WINDOW;
            if self.unsent == [0; 2] && room {
                self.batch.advance();
                self.unsent = [self.batch.records.len(); 2];
                self.given += BATCH;
            }
            self.step()?;
        }
        let rate = self.released() as f64 / began.elapsed().as_secs_f64();
        while self.released() < self.given {
            self.step()?;
        }
        Ok(rate)
    }

    fn released(&self) -> u64 {
        self.octets_out / self.batch.record_len as u64
    }

    /// Moves as many bytes as possible. If none can move, waits until some can.
    fn step(&mut self) -> Result<()> {
        let mut moved = false;
        for (end, unsent) in self.ends.iter_mut().zip(&mut self.unsent) {
            let from = self.batch.records.len() - *unsent;
            let rest = self.batch.records.get(from..).unwrap_or_default();
            if let Some(len) = if_ready(if rest.is_empty() { Ok(0) } else { end.write(rest) })? {
                *unsent -= len;
                moved |= len > 0;
            }
        }
        if let Some(len) = if_ready(self.out.read(&mut self.chunk))? {
            ensure!(len > 0, "colo-compare closed its outdev");
            self.octets_out += len as u64;
            moved = true;
        }
        if moved { Ok(()) } else { self.wait() }
    }

    fn wait(&self) -> Result<()> {
        let mut fds = vec![PollFd::new(self.out.as_fd(), PollFlags::POLLIN)];
        for (end, unsent) in self.ends.iter().zip(self.unsent) {
            if unsent > 0 {
                fds.push(PollFd::new(end.as_fd(), PollFlags::POLLOUT));
            }
        }
        let ready = poll(&mut fds, PollTimeout::from(STUCK_MS)).context("polling sockets")?;
        ensure!(ready > 0, "stuck after {} of {} pairs", self.released(), self.given);
        Ok(())
    }
}

fn if_ready(done: std::io::Result<usize>) -> Result<Option<usize>> {
    match done {
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error).context("between colo-compare's sockets"),
    }
}

#[cfg(test)]
mod tests {
    use super::{BATCH, Batch, HEADERS_LEN, SEQUENCE_AT};
    use crate::colo_compare::segment;

    #[test]
    fn a_batch_is_a_piece_of_one_stream() {
        let frame = segment(7).data(&[1; 10]).build();
        assert_eq!(frame.len(), HEADERS_LEN + 10);
        let mut batch = Batch::new(&frame);
        batch.advance();
        batch.advance();
        let records: Vec<&[u8]> = batch.records.chunks(batch.record_len).collect();
        assert_eq!(records.len() as u64, BATCH);
        for (record, number) in records.iter().zip(BATCH as u32..) {
            let sequence = record[SEQUENCE_AT..].first_chunk().unwrap();
            assert_eq!(u32::from_be_bytes(*sequence), 1 + 10 * number);
        }
    }
}
