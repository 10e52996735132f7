//! The service in a guest. It answers [`protocol`](crate::protocol) on TCP, echoes UDP, and opens
//! connections when it receives a call.
//!
//! It knows nothing of namespaces, so it also runs as the only program of a real guest.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, setsockopt, socket,
    sockopt,
};

use crate::protocol::{
    CALL_PORT, ECHO_PORT, RequestKind, SERVICE_PORT, ServiceCall, ServiceRequest, Transcript,
    blocks, read_pattern, write_pattern,
};

/// The threads of connections are many and need little stack.
const STACK_LEN: usize = 256 * 1024;
/// A guest that is cut off must not keep a thread for ever.
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);

/// Serves until the process ends.
pub fn run(ready: impl FnOnce()) -> io::Result<()> {
    let listener = TcpListener::bind(any(SERVICE_PORT))?;
    let echo = UdpSocket::bind(any(ECHO_PORT))?;
    let calls = UdpSocket::bind(any(CALL_PORT))?;
    spawn("echo", move || echo_datagrams(&echo))?;
    spawn("calls", move || take_calls(&calls))?;
    ready();
    loop {
        let (stream, _) = listener.accept()?;
        // A guest without free threads closes the connection, and the client sees that.
        drop(spawn("serve", move || drop(serve(stream))));
    }
}

/// One socket for both families, or IPv4 alone if the kernel has no IPv6.
fn any(port: u16) -> SocketAddr {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => v6,
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(STACK_LEN).spawn(body).map(drop)
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = vec![0; 65536];
    loop {
        // An ICMP error of an earlier answer appears here. The next datagram is not affected.
        if let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(datagram.get(..len).unwrap_or_default(), from);
        }
    }
}

/// A repeated call fails, because its port is taken. So a client can repeat a call that was lost.
fn take_calls(socket: &UdpSocket) {
    let mut datagram = [0; 256];
    loop {
        let Ok((len, _)) = socket.recv_from(&mut datagram) else { continue };
        let text = std::str::from_utf8(datagram.get(..len).unwrap_or_default()).unwrap_or_default();
        if let Some(call) = ServiceCall::decode(text) {
            drop(spawn("call", move || {
                if let Ok(stream) = open(call) {
                    drop(serve(stream));
                }
            }));
        }
    }
}

/// Connects from a given port. `std` cannot do that.
fn open(call: ServiceCall) -> io::Result<TcpStream> {
    let family = if call.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let fd = socket.as_raw_fd();
    match call.to {
        SocketAddr::V4(to) => {
            bind(fd, &SockaddrIn::new(0, 0, 0, 0, call.from_port))?;
            connect(fd, &SockaddrIn::from(to))?;
        }
        SocketAddr::V6(to) => {
            let from = std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, call.from_port, 0, 0);
            bind(fd, &SockaddrIn6::from(from))?;
            connect(fd, &SockaddrIn6::from(to))?;
        }
    }
    Ok(TcpStream::from(socket))
}

/// Answers the requests of one connection until the peer closes it or sends nonsense.
pub fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    let mut from = BufReader::with_capacity(1 << 16, stream.try_clone()?);
    let mut to = stream;
    let mut transcript = Transcript::default();
    while let Some(request) = ServiceRequest::read(&mut from)? {
        transcript.request(request);
        answer(request, &mut transcript, &mut from, &mut to)?;
    }
    Ok(())
}

fn answer(
    request: ServiceRequest,
    transcript: &mut Transcript,
    from: &mut impl Read,
    to: &mut impl Write,
) -> io::Result<()> {
    let count = request.count;
    match request.kind {
        RequestKind::Ask => {
            read_body(from, count, |block| transcript.block(block))?;
            let mut out = transcript.answer(count).to_vec();
            write_pattern(&mut out, transcript.hash, count, |_| {})?;
            to.write_all(&out)
        }
        RequestKind::Echo => {
            let mut body = Vec::with_capacity(count as usize);
            read_body(from, count, |block| {
                transcript.block(block);
                body.extend_from_slice(block);
            })?;
            to.write_all(&body)
        }
        RequestKind::Down => write_pattern(to, transcript.hash, count, |_| {}),
        RequestKind::Up => {
            let seed = transcript.hash;
            let wrong = read_pattern(from, seed, count, |block| transcript.block(block))?;
            to.write_all(&transcript.answer(wrong.count))
        }
        RequestKind::Clock => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            write_pattern(to, now.as_nanos() as u64, count, |_| {})
        }
    }
}

fn read_body(from: &mut impl Read, count: u64, mut seen: impl FnMut(&[u8])) -> io::Result<()> {
    let mut block = vec![0; crate::protocol::BLOCK_LEN.min(count as usize)];
    for len in blocks(count) {
        let block = block.get_mut(..len).unwrap_or_default();
        from.read_exact(block)?;
        seen(block);
    }
    Ok(())
}
