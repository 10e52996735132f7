//! One connection to the service. Every byte of every answer is checked.

use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::network::Family;
use crate::protocol::{
    Pattern, RequestKind, SERVICE_PORT, ServiceRequest, Transcript, blocks, read_pattern,
    write_pattern,
};

/// A slower answer is an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection, opened by either side, on which the guest serves.
#[derive(Debug)]
pub struct Conversation {
    from: BufReader<TcpStream>,
    to: TcpStream,
    transcript: Transcript,
    received: u64,
    name: String,
}

/// An answer in which two guests differ.
#[derive(Debug)]
pub struct ClockedAnswer {
    pub took: Duration,
    /// The bytes that the guest had sent on the connection before.
    pub at: u64,
    pub octets: Vec<u8>,
}

impl Conversation {
    /// Connects to the service in the guest.
    pub fn open(client: &Namespace, family: Family) -> Result<Self> {
        Self::open_to(client, family.guest())
    }

    /// Connects to the service of the guest with this address.
    pub fn open_to(client: &Namespace, guest: IpAddr) -> Result<Self> {
        let address = SocketAddr::new(guest, SERVICE_PORT);
        let stream = client.run(|| {
            TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)
                .with_context(|| format!("connecting to {address}"))
        })?;
        Self::over(stream)
    }

    /// Takes a connection that is already open.
    pub fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let name = format!("{} -> {}", stream.local_addr()?, stream.peer_addr()?);
        let from = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        Ok(Self { from, to: stream, transcript: Transcript::default(), received: 0, name })
    }

    /// The client's.
    pub fn port(&self) -> Result<u16> {
        Ok(self.to.local_addr()?.port())
    }

    /// Both addresses, the client's first.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that the guest has sent on it so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Sets the time that an answer may take.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        self.to.set_read_timeout(Some(timeout))?;
        self.to.set_write_timeout(Some(timeout))?;
        Ok(())
    }

    /// Sends `count` bytes, receives a counter, a hash and `count` bytes of pattern, and returns
    /// how long it took.
    pub fn ask(&mut self, count: u64) -> Result<Duration> {
        let request = ServiceRequest { kind: RequestKind::Ask, count };
        let body = self.request_with_body(request);
        let start = Instant::now();
        self.send(&body)?;
        self.expect_answer(count)?;
        self.expect_pattern(count)?;
        Ok(start.elapsed())
    }

    /// Sends `count` bytes and receives them back.
    pub fn echo(&mut self, count: u64) -> Result<Duration> {
        let request = ServiceRequest { kind: RequestKind::Echo, count };
        let body = self.request_with_body(request);
        let start = Instant::now();
        self.send(&body)?;
        let mut back = vec![0; count as usize];
        self.receive(&mut back)?;
        let sent = body.get(body.len() - back.len()..).unwrap_or_default();
        let at = back.iter().zip(sent).position(|(a, b)| a != b);
        ensure!(at.is_none(), "{}: echo is wrong at byte {at:?} of {count}", self.name);
        Ok(start.elapsed())
    }

    /// Receives `count` bytes.
    pub fn down(&mut self, count: u64) -> Result<Duration> {
        let request = ServiceRequest { kind: RequestKind::Down, count };
        self.transcript.request(request);
        let start = Instant::now();
        self.send(&request.encode())?;
        self.expect_pattern(count)?;
        Ok(start.elapsed())
    }

    /// Sends `count` bytes that the guest checks.
    pub fn up(&mut self, count: u64) -> Result<Duration> {
        let request = ServiceRequest { kind: RequestKind::Up, count };
        self.transcript.request(request);
        let start = Instant::now();
        self.send(&request.encode())?;
        let transcript = &mut self.transcript;
        write_pattern(&mut self.to, transcript.hash, count, |block| transcript.block(block))
            .with_context(|| format!("{}: sending {count} bytes", self.name))?;
        self.expect_answer(0)?;
        Ok(start.elapsed())
    }

    /// Receives `count` bytes in which two guests differ.
    pub fn clock(&mut self, count: u64) -> Result<ClockedAnswer> {
        let request = ServiceRequest { kind: RequestKind::Clock, count };
        self.transcript.request(request);
        let (at, start) = (self.received, Instant::now());
        self.send(&request.encode())?;
        let mut octets = vec![0; count as usize];
        self.receive(&mut octets)?;
        Ok(ClockedAnswer { at, octets, took: start.elapsed() })
    }

    /// Closes its half and waits until the guest closes the other half.
    pub fn close(mut self) -> Result<()> {
        self.to.shutdown(std::net::Shutdown::Write).context("closing")?;
        let left = self.from.read(&mut [0]).with_context(|| format!("{}: closing", self.name))?;
        ensure!(left == 0, "{}: the guest sent more than was requested", self.name);
        Ok(())
    }

    /// Ends the connection with a reset. Neither end sends anything on it afterwards.
    pub fn reset(self) -> Result<()> {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&self.to, nix::sys::socket::sockopt::Linger, &linger)
            .with_context(|| format!("{}: asking for a reset at its end", self.name))
    }

    /// A header and a body, and the transcript of both ends after them.
    fn request_with_body(&mut self, request: ServiceRequest) -> Vec<u8> {
        self.transcript.request(request);
        let mut bytes = request.encode().to_vec();
        let mut pattern = Pattern::new(self.transcript.hash ^ 1);
        for len in blocks(request.count) {
            let start = bytes.len();
            bytes.resize(start + len, 0);
            if let Some(block) = bytes.get_mut(start..) {
                pattern.fill(block);
                self.transcript.block(block);
            }
        }
        bytes
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.to
            .write_all(bytes)
            .with_context(|| format!("{}: sending {} bytes", self.name, bytes.len()))
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len();
        self.from
            .read_exact(bytes)
            .with_context(|| format!("{}: waiting for {len} bytes", self.name))?;
        self.received += len as u64;
        Ok(())
    }

    fn expect_answer(&mut self, third: u64) -> Result<()> {
        let mut got = [0; 24];
        self.receive(&mut got)?;
        let expected = self.transcript.answer(third);
        ensure!(got == expected, "{}: answered {got:02x?}, not {expected:02x?}", self.name);
        Ok(())
    }

    fn expect_pattern(&mut self, count: u64) -> Result<()> {
        let mismatch = read_pattern(&mut self.from, self.transcript.hash, count, |_| {})
            .with_context(|| format!("{}: waiting for {count} bytes", self.name))?;
        self.received += count;
        let (wrong, at) = (mismatch.count, mismatch.first_at);
        ensure!(wrong == 0, "{}: {wrong} of {count} bytes wrong, first {at}", self.name);
        Ok(())
    }
}
