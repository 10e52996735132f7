//! The end of a lane: `unix:PATH` or `tcp:HOST:PORT`, then optionally `,server` and `,nodelay`.
//!
//! Either host may listen. A [`Port`] hands out one connection after the other. A listener accepts
//! the next peer after the last one has gone, as a QEMU chardev does. A client tries again until
//! the peer answers.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::error_chain::chain;
use crate::tunnel::Underlay;

/// Pause before the next attempt to connect, and between two connections.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The kernel probes a peer that has been silent for this long. It gives the peer up after
/// [`PROBES_MAX`] probes without an answer.
const PROBE_INTERVAL_S: u32 = 1;
const PROBES_MAX: u32 = 3;
/// Time for the peer to acknowledge data. Probes would not notice a peer that leaves data
/// unacknowledged, because the kernel does not probe then.
const USER_TIMEOUT_MS: u32 = PROBE_INTERVAL_S * (PROBES_MAX + 1) * 1000;

/// One end of a lane, as written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// Listens for the peer. Without it, connects and tries again.
    pub server: bool,
    /// The kernel sends small writes at once instead of collecting them (`TCP_NODELAY`).
    pub nodelay: bool,
}

/// A socket address of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("endpoint `{text}`: {reason}; expected unix:PATH or tcp:HOST:PORT[,server][,nodelay]")]
    Syntax { text: String, reason: String },
    #[error("cannot listen on {endpoint}")]
    Listen { endpoint: String, source: io::Error },
    #[error(
        "cannot listen on {endpoint}: it is already listened on; end the process that listens, or \
         choose another path"
    )]
    InUse { endpoint: String },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail =
            |reason: &str| EndpointError::Syntax { text: text.into(), reason: reason.into() };
        let mut parts = text.split(',');
        let address =
            parse_address(parts.next().unwrap_or_default()).map_err(|reason| fail(&reason))?;
        let mut endpoint = Self { address, server: false, nodelay: false };
        for option in parts {
            match option {
                "server" | "server=on" => endpoint.server = true,
                "nodelay" | "nodelay=on" => endpoint.nodelay = true,
                other => return Err(fail(&format!("unknown option `{other}`"))),
            }
        }
        Ok(endpoint)
    }
}

fn parse_address(text: &str) -> Result<EndpointAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err("the path is empty".into());
        }
        return Ok(EndpointAddress::Unix(path.into()));
    }
    let Some(rest) = text.strip_prefix("tcp:") else {
        return Err("it starts with neither unix: nor tcp:".into());
    };
    let (host, port) = rest.rsplit_once(':').ok_or("the port is missing")?;
    let port = port.parse().map_err(|_| format!("`{port}` is not a port number"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err("the host is empty".into());
    }
    Ok(EndpointAddress::Tcp { host: host.into(), port })
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        if self.server {
            f.write_str(",server")?;
        }
        if self.nodelay {
            f.write_str(",nodelay")?;
        }
        Ok(())
    }
}

impl<'de> serde::Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An endpoint in use: bound if it listens, ready to connect if it does not.
#[derive(Debug)]
pub struct Port {
    endpoint: Endpoint,
    listener: Option<Listener>,
    /// The next connection is not handed out earlier. Otherwise a peer that connects and leaves at
    /// once would take all of our time.
    not_before: Option<tokio::time::Instant>,
    /// The kind of the last failure that is in the log.
    logged: Option<io::ErrorKind>,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Port {
    /// Binds a listening endpoint. A connecting one does nothing yet.
    pub async fn open(endpoint: Endpoint) -> Result<Self, EndpointError> {
        let listener = if endpoint.server { Some(listen(&endpoint).await?) } else { None };
        Ok(Self { endpoint, listener, not_before: None, logged: None })
    }

    /// The next connection. Tries again after every failure. Can be cancelled without losing a peer.
    pub async fn next(&mut self) -> Stream {
        if let Some(at) = self.not_before {
            tokio::time::sleep_until(at).await;
        }
        loop {
            let attempt = match &self.listener {
                Some(listener) => listener.accept().await,
                None => connect(&self.endpoint.address).await,
            };
            match attempt.and_then(|stream| stream.tuned(self.endpoint.nodelay)) {
                Ok(stream) => {
                    self.logged = None;
                    self.not_before = Some(tokio::time::Instant::now() + RETRY_PAUSE);
                    return stream;
                }
                Err(error) => {
                    // The operator has to see a mistyped address, and each reason only once.
                    if self.logged.replace(error.kind()) != Some(error.kind()) {
                        let (endpoint, why) = (&self.endpoint, chain(&error));
                        log::info!("{endpoint}: no connection yet: {why}; trying again");
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// The endpoint as the operator wrote it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

async fn listen(endpoint: &Endpoint) -> Result<Listener, EndpointError> {
    let fail = |source| EndpointError::Listen { endpoint: endpoint.to_string(), source };
    match &endpoint.address {
        EndpointAddress::Tcp { host, port } => {
            TcpListener::bind((host.as_str(), *port)).await.map(Listener::Tcp).map_err(fail)
        }
        EndpointAddress::Unix(path) => {
            // A dead daemon leaves its socket behind as a file. A live daemon answers.
            if path.exists() {
                if UnixStream::connect(path).await.is_ok() {
                    return Err(EndpointError::InUse { endpoint: endpoint.to_string() });
                }
                let socket = std::fs::metadata(path)
                    .is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()));
                if socket {
                    std::fs::remove_file(path).map_err(fail)?;
                }
            }
            let listener = UnixListener::bind(path).map_err(fail)?;
            Ok(Listener::Unix(listener, path.clone()))
        }
    }
}

async fn connect(address: &EndpointAddress) -> io::Result<Stream> {
    match address {
        EndpointAddress::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        EndpointAddress::Tcp { host, port } => {
            TcpStream::connect((host.as_str(), *port)).await.map(Stream::Tcp)
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // A file that is gone already is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Lets the kernel probe an idle connection. Otherwise nobody would notice a host that dies
    /// without a word.
    fn tuned(self, nodelay: bool) -> io::Result<Self> {
        if let Self::Tcp(tcp) = &self {
            tcp.set_nodelay(nodelay)?;
            setsockopt(tcp, sockopt::KeepAlive, &true)?;
            setsockopt(tcp, sockopt::TcpKeepIdle, &PROBE_INTERVAL_S)?;
            setsockopt(tcp, sockopt::TcpKeepInterval, &PROBE_INTERVAL_S)?;
            setsockopt(tcp, sockopt::TcpKeepCount, &PROBES_MAX)?;
            setsockopt(tcp, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)?;
        }
        Ok(self)
    }
}

/// For a task that waits for several events at a time: nothing here needs the stream for itself.
impl Stream {
    /// Waits until there is something to read, or the peer has closed.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.readable().await,
            Self::Tcp(stream) => stream.readable().await,
        }
    }

    /// Waits until there is room to write, or the peer has closed.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.writable().await,
            Self::Tcp(stream) => stream.writable().await,
        }
    }

    /// Reads the bytes that are there. Fails with `WouldBlock` if there are none: then
    /// [`Self::readable`] waits for more.
    pub fn try_read_buf(&self, into: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_read_buf(into),
            Self::Tcp(stream) => stream.try_read_buf(into),
        }
    }

    /// Writes as much as there is room for. Fails with `WouldBlock` if there is none: then
    /// [`Self::writable`] waits for some.
    pub fn try_write_vectored(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_write_vectored(slices),
            Self::Tcp(stream) => stream.try_write_vectored(slices),
        }
    }

    /// The path of this connection as the kernel knows it. `None` if the connection is a unix socket,
    /// or if the kernel does not answer.
    pub fn underlay(&self) -> Option<Underlay> {
        let Self::Tcp(stream) = self else { return None };
        let local = stream.local_addr().ok()?.ip().to_canonical();
        let remote = stream.peer_addr().ok()?.ip().to_canonical();
        let mtu = path_mtu(self, remote.is_ipv4()).ok()?;
        Some(Underlay { local, remote, mtu })
    }

    /// Reads what the kernel has by now. tokio may not know about it yet.
    pub fn read_now(&self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.as_fd().as_raw_fd(), into, MsgFlags::MSG_DONTWAIT)?)
    }

    /// Bytes that the peer has sent and nobody has read.
    pub fn unread(&self) -> io::Result<usize> {
        let mut bytes = 0;
        // SAFETY: the descriptor is open for as long as `self` is borrowed, and FIONREAD writes one
        // int, which `bytes` is.
        unsafe { fionread(self.as_fd().as_raw_fd(), &raw mut bytes) }?;
        Ok(usize::try_from(bytes).unwrap_or_default())
    }

    /// The peer has closed. Bytes that it sent before may still be unread.
    pub fn is_hung_up(&self) -> bool {
        // poll(2) is asked for nothing else, so every answer means the end of the connection.
        let closing = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let mut fds = [PollFd::new(self.as_fd(), closing)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ended| ended > 0)
    }
}

/// The path MTU of a connected socket. `nix` has only that of IPv4.
fn path_mtu(stream: &Stream, is_ipv4: bool) -> io::Result<u32> {
    let (level, name) = if is_ipv4 {
        (nix::libc::IPPROTO_IP, nix::libc::IP_MTU)
    } else {
        (nix::libc::IPPROTO_IPV6, nix::libc::IPV6_MTU)
    };
    let mut mtu: nix::libc::c_int = 0;
    let mut len = size_of_val(&mtu) as nix::libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `len` bytes to `mtu`, and the length to `len`; both
    // outlive the call.
    let done = unsafe {
        let (value, len) = ((&raw mut mtu).cast(), &raw mut len);
        nix::libc::getsockopt(stream.as_fd().as_raw_fd(), level, name, value, len)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(mtu).unwrap_or_default())
}

nix::ioctl_read_bad!(fionread, nix::libc::FIONREAD, nix::libc::c_int);

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn every_form_is_read_and_written_back() {
        for text in [
            "unix:/run/a.sock",
            "unix:/run/a.sock,server",
            "tcp:127.0.0.1:9003,server,nodelay",
            "tcp:[fd00::1]:9004",
            "tcp:hosta:9004,nodelay",
        ] {
            let endpoint: Endpoint = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(endpoint.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_endpoint_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "neither"),
            ("udp:a:1", "neither"),
            ("unix:", "path is empty"),
            ("tcp:a", "port is missing"),
            ("tcp:a:b", "not a port"),
            ("tcp:a:70000", "not a port"),
            ("tcp::1", "host is empty"),
            ("tcp:a:1,sever", "unknown option `sever`"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
