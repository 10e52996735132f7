//! The other end of QEMU's framing: blocking, with a deadline on everything.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::eventually;

/// The length of the header before a frame, if the sockets carry one.
const VNET_HDR_LEN: usize = 12;
/// The longest possible record.
const RECORD_MAX: usize = 69632;

/// A connection.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    vnet_hdr: bool,
    /// Bytes that were read and not used yet.
    buffer: Vec<u8>,
    /// The rest of a record that was sent in part.
    rest: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    pub fn unix(path: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(listener))
    }

    /// On a port of the kernel's choice.
    pub fn tcp() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    pub fn port(&self) -> Result<Option<u16>> {
        match self {
            Self::Unix(_) => Ok(None),
            Self::Tcp(listener) => Ok(Some(listener.local_addr()?.port())),
        }
    }

    pub fn accept(&self, vnet_hdr: bool, timeout: Duration) -> Result<Socket> {
        let accept = || match self {
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
        };
        eventually("a connection", timeout, || match accept() {
            Ok(stream) => Socket::new(stream, vnet_hdr).map(Some),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("accepting"),
        })
    }
}

impl Socket {
    pub fn unix(path: &Path, vnet_hdr: bool) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("connecting to {}", path.display()))?;
        Self::new(Stream::Unix(stream), vnet_hdr)
    }

    pub fn tcp(port: u16, vnet_hdr: bool) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .with_context(|| format!("connecting to port {port}"))?;
        Self::new(Stream::Tcp(stream), vnet_hdr)
    }

    fn new(stream: Stream, vnet_hdr: bool) -> Result<Self> {
        match &stream {
            Stream::Unix(stream) => stream.set_nonblocking(false)?,
            Stream::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
            }
        }
        Ok(Self { stream, vnet_hdr, buffer: Vec::new(), rest: Vec::new() })
    }

    /// Another handle of a unix socket, for a test that does the framing itself. It does not
    /// contain bytes that this handle has read.
    pub fn unix_stream(&self) -> Result<UnixStream> {
        match &self.stream {
            Stream::Unix(stream) => stream.try_clone().context("duplicating a socket"),
            Stream::Tcp(_) => bail!("not a unix socket"),
        }
    }

    /// Sends a frame as a record. If there is a header, it is zero.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let header: &[u8] = if self.vnet_hdr { &[0; VNET_HDR_LEN] } else { &[] };
        self.send_record(header.len(), &[header, frame].concat())
    }

    /// Sends a message to notify-dev: text, and the second word if frames have it.
    pub fn send_message(&mut self, text: &[u8]) -> Result<()> {
        self.send_record(0, text)
    }

    /// A record with any `VNET_HDR_LEN`.
    pub fn send_record(&mut self, vnet_len: usize, octets: &[u8]) -> Result<()> {
        let mut record = (octets.len() as u32).to_be_bytes().to_vec();
        if self.vnet_hdr {
            record.extend((vnet_len as u32).to_be_bytes());
        }
        record.extend(octets);
        self.send_octets(&record)
    }

    /// Sends these bytes without framing.
    pub fn send_octets(&mut self, octets: &[u8]) -> Result<()> {
        self.timeouts(super::TIMEOUT)?;
        match &mut self.stream {
            Stream::Unix(stream) => stream.write_all(octets),
            Stream::Tcp(stream) => stream.write_all(octets),
        }
        .context("writing to colo-compare")
    }

    /// Sends a frame if that succeeds within `patience`. Otherwise [`Self::send_rest`] sends the
    /// rest.
    pub fn send_if_it_goes(&mut self, frame: &[u8], patience: Duration) -> Result<bool> {
        ensure!(!self.vnet_hdr && self.rest.is_empty(), "one record at a time, without headers");
        let record = [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        self.timeouts(patience)?;
        let mut rest = &record[..];
        while !rest.is_empty() {
            let written = match &mut self.stream {
                Stream::Unix(stream) => stream.write(rest),
                Stream::Tcp(stream) => stream.write(rest),
            };
            match written {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if is_timeout(error.kind()) => {
                    self.rest = rest.to_vec();
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing to colo-compare"),
            }
        }
        Ok(true)
    }

    pub fn send_rest(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.rest);
        self.send_octets(&rest)
    }

    /// Closes the connection, as the end of a process does.
    pub fn close(&mut self) -> Result<()> {
        match &self.stream {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        }
        .context("closing a connection")
    }

    /// The next frame, without its header.
    pub fn receive(&mut self, timeout: Duration) -> Result<Vec<u8>> {
        let (vnet_len, mut record) = self.receive_record(self.vnet_hdr, timeout)?;
        let wanted = if self.vnet_hdr { VNET_HDR_LEN } else { 0 };
        ensure!(vnet_len == wanted, "a header of {vnet_len} bytes");
        ensure!(record.len() >= vnet_len, "a record of {} bytes", record.len());
        Ok(record.split_off(vnet_len))
    }

    /// The next frame with its virtio-net header, whose content is not checked.
    pub fn receive_whole(&mut self, timeout: Duration) -> Result<(Vec<u8>, Vec<u8>)> {
        let (vnet_len, mut header) = self.receive_record(self.vnet_hdr, timeout)?;
        ensure!(header.len() >= vnet_len, "a record of {} bytes", header.len());
        let frame = header.split_off(vnet_len);
        Ok((header, frame))
    }

    /// The next message of notify-dev, which never has the second word.
    pub fn receive_message(&mut self, timeout: Duration) -> Result<Vec<u8>> {
        Ok(self.receive_record(false, timeout)?.1)
    }

    fn receive_record(&mut self, vnet_hdr: bool, timeout: Duration) -> Result<(usize, Vec<u8>)> {
        let deadline = Instant::now() + timeout;
        let head = if vnet_hdr { 8 } else { 4 };
        loop {
            if let Some(length) = word(&self.buffer, 0) {
                ensure!(length <= RECORD_MAX, "a record of {length} bytes was announced");
                if self.buffer.len() >= head + length {
                    let vnet_len = if vnet_hdr { word(&self.buffer, 4).unwrap_or(0) } else { 0 };
                    let rest = self.buffer.split_off(head + length);
                    let mut record = std::mem::replace(&mut self.buffer, rest);
                    return Ok((vnet_len, record.split_off(head)));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no record came within {timeout:?}");
            ensure!(self.fill(left)?, "the connection was closed");
        }
    }

    /// Waits for the other end to close.
    pub fn wait_closed(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the connection was not closed within {timeout:?}");
            if !self.fill(left)? {
                return Ok(());
            }
        }
    }

    /// Reads some bytes; `false` at the end. A signal may end it early, without bytes.
    fn fill(&mut self, patience: Duration) -> Result<bool> {
        self.timeouts(patience)?;
        let mut chunk = vec![0; RECORD_MAX];
        let read = match &mut self.stream {
            Stream::Unix(stream) => stream.read(&mut chunk),
            Stream::Tcp(stream) => stream.read(&mut chunk),
        };
        match read {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Ok(0) => Ok(false),
            Ok(read) => {
                self.buffer.extend(chunk.get(..read).unwrap_or_default());
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) if is_timeout(error.kind()) => bail!("nothing came within {patience:?}"),
            Err(error) => Err(error).context("reading from colo-compare"),
        }
    }

    fn timeouts(&self, timeout: Duration) -> Result<()> {
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        match &self.stream {
            Stream::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
            }
        }
        Ok(())
    }
}

fn word(octets: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_be_bytes(*octets.get(at..)?.first_chunk()?) as usize)
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
