//! The service in a guest that is measured. It echoes without a look at the bytes, reads a stream,
//! and writes one.
//!
//! Both guests of a pair write the same bytes at the same places. A fact that only one of them
//! knows, for example the length of a pause, goes to stdout and not to the client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// TCP: sends back what it receives, 64 bytes at a time.
pub const TCP_ECHO_PORT: u16 = 7100;
/// UDP: sends back what it receives.
pub const UDP_ECHO_PORT: u16 = 7101;
/// TCP: reads until the end. The first eight bytes are the nanoseconds of the measurement. Later
/// bytes do not count.
pub const SINK_PORT: u16 = 7102;
/// TCP: writes [`PORTION_LEN`] bytes for every byte that it receives.
pub const SOURCE_PORT: u16 = 7103;
/// The bytes of one exchange in each direction.
pub const EXCHANGE_LEN: usize = 64;

/// The bytes in one write of the source. They are enough that the cost of the calls does not count.
pub(super) const BLOCK_LEN: usize = 256 * 1024;
/// The bytes that one request to the source yields. They are many, so that almost nothing goes
/// against the stream: QEMU's compare would see a difference in the acknowledgments that two guests
/// send in the middle of it.
pub const PORTION_LEN: usize = 32 * BLOCK_LEN;

/// The report of a stream that has ended at the sink: one JSON line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swallowed {
    /// The peer's port.
    pub port: u16,
    /// The bytes in the time of the measurement, which is `seconds`.
    pub octets: u64,
    pub seconds: f64,
    /// The longest time without a byte.
    pub gap_seconds: f64,
}

/// Serves until the process ends.
pub fn run(ready: impl FnOnce()) -> io::Result<()> {
    let any = Ipv4Addr::UNSPECIFIED;
    let echo = UdpSocket::bind((any, UDP_ECHO_PORT))?;
    spawn(move || echo_datagrams(&echo))?;
    for (port, serve) in
        [(TCP_ECHO_PORT, exchange as fn(TcpStream)), (SINK_PORT, swallow), (SOURCE_PORT, pour)]
    {
        let listener = TcpListener::bind((any, port))?;
        spawn(move || {
            for stream in listener.incoming().flatten() {
                // A guest without free threads closes the connection, and the client sees that.
                drop(spawn(move || serve(stream)));
            }
        })?;
    }
    ready();
    loop {
        std::thread::park();
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().stack_size(64 * 1024).spawn(body).map(drop)
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    loop {
        // An ICMP error of an earlier answer appears here. The next datagram is not affected.
        if let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(datagram.get(..len).unwrap_or_default(), from);
        }
    }
}

fn exchange(mut stream: TcpStream) {
    let mut octets = [0; EXCHANGE_LEN];
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while stream.read_exact(&mut octets).is_ok() && stream.write_all(&octets).is_ok() {}
}

fn swallow(mut stream: TcpStream) {
    let port = stream.peer_addr().map_or(0, |peer| peer.port());
    let mut limit = [0; 8];
    if stream.read_exact(&mut limit).is_err() {
        return;
    }
    let mut arrivals = Arrivals::begin(Duration::from_nanos(u64::from_be_bytes(limit)));
    let mut block = vec![0; BLOCK_LEN];
    loop {
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(len) => arrivals.add(len),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if let Ok(line) = serde_json::to_string(&arrivals.end(port)) {
        // The reader has gone. That is no error.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

fn pour(mut stream: TcpStream) {
    let block = vec![0x5a; BLOCK_LEN];
    let mut asked = [0; 256];
    while let Ok(portions @ 1..) = stream.read(&mut asked) {
        for _ in 0..portions * PORTION_LEN / BLOCK_LEN {
            if stream.write_all(&block).is_err() {
                return;
            }
        }
    }
}

/// The bytes of a stream as they arrive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrivals {
    began: Instant,
    limit: Duration,
    last: Instant,
    longest: Duration,
    all: u64,
    in_time: u64,
}

impl Arrivals {
    /// Counts the bytes that arrive in the next `limit`.
    pub(super) fn begin(limit: Duration) -> Self {
        let now = Instant::now();
        Self { began: now, limit, last: now, longest: Duration::ZERO, all: 0, in_time: 0 }
    }

    pub(super) fn add(&mut self, len: usize) {
        self.pause();
        self.all += len as u64;
        if self.last.duration_since(self.began) <= self.limit {
            self.in_time = self.all;
        }
    }

    /// All bytes so far, also those that arrived too late to count.
    pub(super) fn all(&self) -> u64 {
        self.all
    }

    /// The stream has ended. The time before its end is also a pause.
    pub(super) fn end(mut self, port: u16) -> Swallowed {
        self.pause();
        let seconds = self.last.duration_since(self.began).min(self.limit).as_secs_f64();
        Swallowed { port, octets: self.in_time, seconds, gap_seconds: self.longest.as_secs_f64() }
    }

    fn pause(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(now.duration_since(self.last));
        self.last = now;
    }
}
