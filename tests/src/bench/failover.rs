//! How long a survivor is silent: from the request after the primary's death to its first frame at
//! the client.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::load::{self, LoadResult};
use super::results::BenchChain;
use super::stack::{BenchWire, Stack};
use crate::namespace::Namespace;
use crate::network::GUEST_MAC;

const TIMEOUT: Duration = Duration::from_secs(10);
/// The interval at which the listener looks whether it should stop.
const GLANCE_S: i64 = 1;
/// The traffic before the death, so that the survivor has connections.
const BEFORE: Duration = Duration::from_millis(100);

/// Builds a pair, kills the primary's host and asks the secondary to take over.
pub(super) fn once() -> Result<LoadResult> {
    let mut stack = Stack::build(BenchChain::Ours, BenchWire::Frames)?;
    load::exchanges(&stack.lab.client, BEFORE)?;
    let secondary = stack.kill_primary()?;
    let heard = listen(&stack.lab.client)?;
    let mut asker = Asker::connect(secondary)?;
    let asked = Instant::now();
    asker.ask()?;
    let first = heard.recv_timeout(TIMEOUT).context("waiting for a frame of the survivor")?;
    asker.answered()?;
    let answered = asked.elapsed();
    let rate = load::exchanges(&stack.lab.client, BEFORE)?;
    ensure!(rate.figures.get("rate").is_some_and(|rate| *rate > 0.0), "the survivor says nothing");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let figures = [("first_frame_ms", ms(first.duration_since(asked))), ("done_ms", ms(answered))];
    let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
    Ok(LoadResult { figures, latency: None })
}

/// `colo-proxy failover` without the time that a process takes to start. A cluster manager that
/// keeps a connection needs no more.
struct Asker(UnixStream);

impl Asker {
    fn connect(pid: u32) -> Result<Self> {
        // The daemon has a `/run` of its own.
        let process = PathBuf::from("/proc").join(pid.to_string());
        let folder = process.join("root").join("run/colo-proxy");
        let entries = std::fs::read_dir(&folder).context("looking for the daemon's socket")?;
        let is_socket = |path: &PathBuf| path.extension().is_some_and(|end| end == "sock");
        let path = entries.flatten().map(|entry| entry.path()).find(is_socket);
        let path = path.with_context(|| format!("no socket in {}", folder.display()))?;
        let stream = UnixStream::connect(&path).context("connecting to the daemon's socket")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self(stream))
    }

    fn ask(&mut self) -> Result<()> {
        self.0
            .write_all(b"{\"command\":\"failover\",\"force\":true}\n")
            .context("asking for a failover")
    }

    fn answered(self) -> Result<()> {
        let mut line = String::new();
        BufReader::new(self.0).read_line(&mut line).context("waiting for an answer")?;
        ensure!(line.contains("done"), "a failover was answered {line}");
        Ok(())
    }
}

/// The time at which the guest's first frame reaches the client.
fn listen(client: &Namespace) -> Result<Receiver<Instant>> {
    let wire = client.run(|| {
        let (family, protocol) = (AddressFamily::Packet, SockProtocol::EthAll);
        let wire = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&wire, sockopt::ReceiveTimeout, &TimeVal::new(GLANCE_S, 0))?;
        Ok(wire)
    })?;
    let (sender, heard) = channel();
    std::thread::spawn(move || {
        let guest: Vec<u8> =
            GUEST_MAC.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
        let mut frame = [0; 2048];
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            let Ok(len) = recv(wire.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
            if len >= 14 && frame.get(6..12) == Some(&guest[..]) {
                let _ = sender.send(Instant::now());
                return;
            }
        }
    });
    Ok(heard)
}
