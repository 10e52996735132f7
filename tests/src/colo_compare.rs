//! A stand for one `colo-compare`, QEMU's object or ours. The test is at the other end of each
//! socket. The stand needs no namespace and no root.
//!
//! No test waits for time to pass. A [`fence`] shows that a frame does *not* leave: it is a
//! datagram of both guests, and it leaves after everything that was sent before it.
//!
//! [`fence`]: Stand::settle

mod packet;
mod socket;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

pub use self::packet::{Datagram, TestSegment, arp, datagram, segment, vlan};
pub use self::socket::{Listener, Socket};
use crate::phrases;
use crate::process::{Process, eventually, program};

/// The deadline for everything that must happen.
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// The pause before a stand tries again whether it is complete.
const ATTEMPT: Duration = Duration::from_millis(300);
/// The messages between the compare and the COLO-frame.
pub const INIT: &[u8] = b"COLO_USERSPACE_PROXY_INIT";
pub const GREETING: &[u8] = b"COLO_COMPARE_GET_XEN_INIT";
pub const CHECKPOINT: &[u8] = b"COLO_CHECKPOINT";
pub const REQUEST: &[u8] = b"DO_CHECKPOINT";
/// The fence's port, on either side.
const FENCE_PORT: u16 = 9;

/// Whose colo-compare it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Ours,
    Qemu,
}

/// The kind of the stand's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    Unix,
    /// TCP on the loopback interface.
    Tcp,
}

/// How to make the stand.
#[derive(Clone, Debug)]
pub struct Setup {
    pub vnet_hdr: bool,
    pub sockets: SocketKind,
    /// The test listens, and colo-compare connects.
    pub is_client: bool,
    pub notify: bool,
    /// Ours only: another COLO-frame than `notify_dev`, as `--colo-frame` names it.
    pub colo_frame: Option<String>,
    pub compare_timeout_ms: u64,
    pub max_queue_size: u64,
    /// Only for our colo-compare.
    pub secondary_timeout_ms: u64,
}

impl Default for Setup {
    /// A setup whose timeout does not disturb the test.
    fn default() -> Self {
        Self {
            vnet_hdr: false,
            sockets: SocketKind::Unix,
            is_client: false,
            notify: true,
            colo_frame: None,
            compare_timeout_ms: 600_000,
            max_queue_size: 1024,
            secondary_timeout_ms: 600_000,
        }
    }
}

/// The frames and requests that left a colo-compare before a fence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The frames, without the fences.
    pub frames: Vec<Vec<u8>>,
    /// Requests for a checkpoint.
    pub requests: usize,
}

/// A colo-compare and the other ends of its sockets. Fields are dropped in this order.
#[derive(Debug)]
pub struct Stand {
    pub process: Process,
    pub primary: Socket,
    pub secondary: Socket,
    pub out: Socket,
    pub notify: Option<Socket>,
    pub ends: Ends,
    fences: u32,
    /// Requests that were read during the search for something else.
    requests: usize,
}

/// The addresses of the sockets, to connect again.
#[derive(Debug)]
pub struct Ends {
    pub primary: End,
    pub secondary: End,
    pub out: End,
    pub notify: End,
    vnet_hdr: bool,
    dir: tempfile::TempDir,
}

/// A socket's address, and the side that listens there.
#[derive(Debug)]
pub struct End {
    address: Address,
    /// The test's listener. Without one, colo-compare listens.
    listener: Option<Listener>,
}

#[derive(Clone, Debug)]
enum Address {
    Unix(PathBuf),
    Tcp(u16),
}

impl End {
    fn new(dir: &Path, name: &str, setup: &Setup) -> Result<Self> {
        if setup.is_client {
            let listener = match setup.sockets {
                SocketKind::Tcp => Listener::tcp()?,
                SocketKind::Unix => Listener::unix(&dir.join(name))?,
            };
            let address = match listener.port()? {
                Some(port) => Address::Tcp(port),
                None => Address::Unix(dir.join(name)),
            };
            return Ok(Self { address, listener: Some(listener) });
        }
        let address = if setup.sockets == SocketKind::Tcp {
            // The port was free a moment ago. The kernel gives it to nobody else soon.
            Address::Tcp(Listener::tcp()?.port()?.context("a TCP listener has a port")?)
        } else {
            Address::Unix(dir.join(name))
        };
        Ok(Self { address, listener: None })
    }

    /// The endpoint as our options name it.
    pub fn argument(&self) -> String {
        let role = if self.listener.is_some() { "" } else { ",server" };
        match &self.address {
            Address::Unix(path) => format!("unix:{}{role}", path.display()),
            Address::Tcp(port) => format!("tcp:127.0.0.1:{port}{role},nodelay"),
        }
    }

    /// The endpoint as QEMU's options name it.
    fn chardev(&self, id: &str) -> String {
        let role = if self.listener.is_some() { "reconnect=1" } else { "server=on,wait=off" };
        match &self.address {
            Address::Unix(path) => format!("socket,id={id},path={},{role}", path.display()),
            Address::Tcp(port) => {
                format!("socket,id={id},host=127.0.0.1,port={port},nodelay=on,{role}")
            }
        }
    }

    /// Connects, or is connected to.
    pub fn meet(&self, vnet_hdr: bool) -> Result<Socket> {
        match &self.listener {
            Some(listener) => listener.accept(vnet_hdr, TIMEOUT),
            None => eventually("a socket that takes connections", TIMEOUT, || {
                Ok(match &self.address {
                    Address::Unix(path) => Socket::unix(path, vnet_hdr).ok(),
                    Address::Tcp(port) => Socket::tcp(*port, vnet_hdr).ok(),
                })
            }),
        }
    }
}

impl Ends {
    pub fn new(setup: &Setup) -> Result<Self> {
        let dir = tempfile::tempdir().context("a folder for the sockets")?;
        let end = |name| End::new(dir.path(), name, setup);
        Ok(Self {
            primary: end("pri")?,
            secondary: end("sec")?,
            out: end("out")?,
            notify: end("ntf")?,
            vnet_hdr: setup.vnet_hdr,
            dir,
        })
    }

    /// The files in the folder of the sockets.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(self.dir.path()).context("listing the sockets' folder")?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// Connects again.
    pub fn meet(&self, end: &End) -> Result<Socket> {
        end.meet(self.vnet_hdr)
    }
}

/// Starts colo-compare. No socket is connected yet.
pub fn start(engine: Engine, setup: &Setup, ends: &Ends) -> Result<Process> {
    match engine {
        Engine::Ours => start_ours(setup, ends),
        Engine::Qemu => start_qemu(setup, ends),
    }
}

fn start_ours(setup: &Setup, ends: &Ends) -> Result<Process> {
    let mut command = Command::new(program("colo-proxy", "COLO_PROXY_BIN")?);
    command.arg("colo-compare");
    for (name, end) in [
        ("--primary-in", &ends.primary),
        ("--secondary-in", &ends.secondary),
        ("--outdev", &ends.out),
    ] {
        command.arg(name).arg(end.argument());
    }
    if setup.notify {
        command.arg("--notify-dev").arg(ends.notify.argument());
    }
    if let Some(colo_frame) = &setup.colo_frame {
        command.arg("--colo-frame").arg(colo_frame);
    }
    if setup.vnet_hdr {
        command.arg("--vnet-hdr-support");
    }
    for (name, value) in [
        ("--compare-timeout", setup.compare_timeout_ms),
        ("--max-queue-size", setup.max_queue_size),
        ("--secondary-timeout", setup.secondary_timeout_ms),
    ] {
        command.arg(name).arg(value.to_string());
    }
    let process = Process::spawn("colo-compare", command, &[])?;
    process.wait_for(phrases::READY, TIMEOUT)?;
    Ok(process)
}

fn start_qemu(setup: &Setup, ends: &Ends) -> Result<Process> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", "none", "-nodefaults", "-display", "none", "-S"]);
    for (id, end) in [("pri", &ends.primary), ("sec", &ends.secondary), ("out", &ends.out)] {
        command.arg("-chardev").arg(end.chardev(id));
    }
    let mut object = format!(
        "colo-compare,id=c0,primary_in=pri,secondary_in=sec,outdev=out,iothread=io,\
         compare_timeout={0},expired_scan_cycle={1},max_queue_size={2}",
        setup.compare_timeout_ms,
        setup.compare_timeout_ms.min(200),
        setup.max_queue_size
    );
    if setup.notify {
        command.arg("-chardev").arg(ends.notify.chardev("ntf"));
        object.push_str(",notify_dev=ntf");
    }
    if setup.vnet_hdr {
        object.push_str(",vnet_hdr_support=on");
    }
    command.args(["-object", "iothread,id=io", "-object", &object]);
    Process::spawn("qemu", command, &[])
}

impl Stand {
    pub fn new(engine: Engine, setup: &Setup) -> Result<Self> {
        let ends = Ends::new(setup)?;
        let process = start(engine, setup, &ends)?;
        let meet = |end: &End| ends.meet(end).with_context(|| process.stderr());
        let mut stand = Self {
            primary: meet(&ends.primary)?,
            secondary: meet(&ends.secondary)?,
            out: meet(&ends.out)?,
            notify: if setup.notify { Some(meet(&ends.notify)?) } else { None },
            ends,
            process,
            fences: 0,
            requests: 0,
        };
        stand.begin()?;
        Ok(stand)
    }

    /// Waits until all sockets are in use. QEMU accepts connections late, and loses frames for a
    /// socket that has no connection yet. So this tries one datagram after another, each in a flow
    /// of its own.
    fn begin(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        for attempt in 0u16.. {
            let fence = datagram(FENCE_PORT + 1 + attempt).data(b"begin").build();
            self.secondary.send(&fence)?;
            self.primary.send(&fence)?;
            while let Ok(frame) = self.out.receive(ATTEMPT) {
                if frame == fence {
                    return self.greet();
                }
            }
            ensure!(Instant::now() < deadline, "nothing leaves; {}", self.process.stderr());
        }
        Ok(())
    }

    pub fn primary(&mut self, frame: &[u8]) -> Result<()> {
        self.primary.send(frame)
    }

    pub fn secondary(&mut self, frame: &[u8]) -> Result<()> {
        self.secondary.send(frame)
    }

    /// Waits until colo-compare has handled everything that was sent on any socket, and returns
    /// what left.
    pub fn settle(&mut self) -> Result<Outcome> {
        self.fences += 1;
        let fence = datagram(FENCE_PORT).data(&self.fences.to_be_bytes()).build();
        self.secondary.send(&fence)?;
        self.primary.send(&fence)?;
        let mut frames = Vec::new();
        loop {
            let frame = self.next_out()?;
            if frame == fence {
                break;
            }
            frames.push(frame);
        }
        self.greet()?;
        Ok(Outcome { frames, requests: std::mem::take(&mut self.requests) })
    }

    /// The next frame that leaves.
    pub fn next_out(&mut self) -> Result<Vec<u8>> {
        self.out.receive(TIMEOUT).with_context(|| format!("outdev; {}", self.process.stderr()))
    }

    /// When the answer to the greeting arrives, every earlier message on notify-dev has been
    /// handled.
    pub fn greet(&mut self) -> Result<()> {
        let Some(notify) = &mut self.notify else { return Ok(()) };
        notify.send_message(INIT)?;
        loop {
            match &notify.receive_message(TIMEOUT).context("notify-dev")?[..] {
                GREETING => return Ok(()),
                REQUEST => self.requests += 1,
                other => bail!("an unknown message: {}", other.escape_ascii()),
            }
        }
    }

    /// Waits for a request for a checkpoint.
    pub fn wait_request(&mut self) -> Result<()> {
        let notify = self.notify.as_mut().context("a stand with notify-dev")?;
        if self.requests > 0 {
            self.requests -= 1;
            return Ok(());
        }
        let message = notify.receive_message(TIMEOUT).with_context(|| self.process.stderr())?;
        ensure!(message == REQUEST, "a request, not {}", message.escape_ascii());
        Ok(())
    }

    /// There is no request for a checkpoint during this time. Only the clock can show it. A twin
    /// must show that the time is long enough.
    pub fn expect_no_request(&mut self, time: Duration) -> Result<()> {
        let notify = self.notify.as_mut().context("a stand with notify-dev")?;
        let came = self.requests > 0 || notify.receive_message(time).is_ok();
        ensure!(!came, "a request\n{}", self.process.stderr());
        Ok(())
    }

    /// Reports a checkpoint, and waits until colo-compare has handled the report.
    pub fn checkpoint(&mut self) -> Result<()> {
        let notify = self.notify.as_mut().context("a stand with notify-dev")?;
        notify.send_message(CHECKPOINT)?;
        self.greet()
    }

    /// Exactly `expected` left, and there was no request for a checkpoint.
    #[track_caller]
    pub fn expect(&mut self, expected: &[&[u8]]) -> Result<()> {
        self.expect_with(expected, 0)
    }

    /// Exactly `expected` left, and there were this many requests.
    #[track_caller]
    pub fn expect_with(&mut self, expected: &[&[u8]], requests: usize) -> Result<()> {
        let outcome = self.settle()?;
        let mut wanted: VecDeque<&[u8]> = expected.iter().copied().collect();
        for (i, frame) in outcome.frames.iter().enumerate() {
            ensure!(
                wanted.pop_front() == Some(frame),
                "frame {i} is not the one: {frame:02x?}, in {outcome:02x?}\n{}",
                self.process.stderr()
            );
        }
        ensure!(
            wanted.is_empty(),
            "{} of {} frames did not leave\n{}",
            wanted.len(),
            expected.len(),
            self.process.stderr()
        );
        ensure!(
            outcome.requests == requests,
            "{} requests, not {requests}\n{}",
            outcome.requests,
            self.process.stderr()
        );
        Ok(())
    }
}
