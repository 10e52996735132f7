//! A host with a bridge, the guest's TAP on it, and a second TAP that is the network. The test
//! holds both TAPs, so it is the guest and every peer.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use colo_lab::colo_compare::{Listener, Socket, datagram};
use colo_lab::daemon::{CommandOutput, Daemon, output, output_of};
use colo_lab::network::{HostSide, Lab, LabHost, LabOptions, LabSlot};
use colo_lab::process::eventually;
use tempfile::TempDir;

use crate::tap::{Offloads, Tap, VNET_HDR_LEN};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Fields are dropped in this order.
pub(crate) struct Stand {
    pub(crate) guest: Tap,
    pub(crate) lan: Tap,
    pub(crate) lab: Lab,
    dir: TempDir,
}

/// A direction, by QEMU's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Towards the guest.
    Tx,
    /// From the guest.
    Rx,
}

pub(crate) const WAYS: [Way; 2] = [Way::Tx, Way::Rx];

impl Way {
    /// Whether a filter with this queue sees frames of this direction.
    pub(crate) fn is_in(self, queue: &str) -> bool {
        queue == "all" || queue == if self == Self::Tx { "tx" } else { "rx" }
    }
}

/// A frame that differs from the frames of all other tests.
pub(crate) fn named(name: &str) -> Vec<u8> {
    datagram(5000).data(name.as_bytes()).build()
}

impl Stand {
    pub(crate) fn new() -> Result<Self> {
        Self::with(Offloads::On)
    }

    pub(crate) fn with(offloads: Offloads) -> Result<Self> {
        let lab = Lab::new(LabOptions { persistent_tap: false, ..LabOptions::default() })?;
        let host = lab.host(HostSide::Primary);
        // Only the test sends here.
        host.unplug()?;
        let quiet = ["ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"];
        host.namespace.sysctl(&quiet.map(|key| (key, "1")))?;
        let lan = open(host, "lan0", Offloads::On)?;
        let guest = open(host, "tap0", offloads)?;
        let dir = tempfile::tempdir().context("a folder for sockets")?;
        Ok(Self { guest, lan, lab, dir })
    }

    pub(crate) fn host(&self) -> &LabHost {
        self.lab.host(HostSide::Primary)
    }

    /// The guest ends and starts again, with another TAP.
    pub(crate) fn restart_guest(&mut self) -> Result<()> {
        let before = self.guest.ifindex;
        let host = self.lab.host(HostSide::Primary);
        // The old TAP disappears with its holder, so it is renamed to make room for the new one.
        host.namespace.ip("link set tap0 down\nlink set tap0 name old0\n")?;
        let new = open(host, "tap0", Offloads::On)?;
        drop(std::mem::replace(&mut self.guest, new));
        assert_ne!(self.guest.ifindex, before);
        Ok(())
    }

    /// The path of a socket.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An endpoint on which the filter listens.
    pub(crate) fn server(&self, name: &str) -> String {
        format!("unix:{},server", self.path(name).display())
    }

    /// An endpoint to which the filter connects.
    pub(crate) fn client(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    /// Connects to a socket on which a filter listens.
    pub(crate) fn connect(&self, name: &str, vnet_hdr: bool) -> Result<Socket> {
        let path = self.path(name);
        eventually("a socket that takes connections", TIMEOUT, || {
            Ok(Socket::unix(&path, vnet_hdr).ok())
        })
    }

    pub(crate) fn listen(&self, name: &str) -> Result<Listener> {
        Listener::unix(&self.path(name))
    }

    /// Starts `filter-KIND` on the guest's TAP and waits until it is ready.
    pub(crate) fn filter(&self, kind: &str, arguments: &[&str]) -> Result<Daemon> {
        let all = command(kind, arguments);
        let daemon = Daemon::spawn(self.host(), &all)?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts `filter-KIND` with this queue and connects to its socket `name`, which `flag` gives it.
    pub(crate) fn filter_with(
        &self,
        kind: &str,
        queue: &str,
        (flag, name): (&str, &str),
        vnet_hdr: bool,
    ) -> Result<(Daemon, Socket)> {
        let endpoint = self.server(name);
        let mut arguments = vec!["--queue", queue, flag, &endpoint];
        arguments.extend(vnet_hdr.then_some("--vnet-hdr-support"));
        let filter = self.filter(kind, &arguments)?;
        Ok((filter, self.connect(name, vnet_hdr)?))
    }

    /// The output of a `filter-KIND` that ends by itself.
    pub(crate) fn refused(&self, kind: &str, arguments: &[&str]) -> Result<CommandOutput> {
        output_of(self.host(), &command(kind, arguments))
    }

    /// Runs a program on the host.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new(program);
        command.args(arguments);
        Ok(output(self.host(), command)?.stdout)
    }

    /// Sends a frame towards the guest, or from it.
    pub(crate) fn send(&self, way: Way, frame: &[u8]) {
        match way {
            Way::Tx => self.lan.write_plain(frame),
            Way::Rx => self.guest.write_plain(frame),
        }
    }

    /// The place where a frame of this direction arrives.
    pub(crate) fn end(&self, way: Way) -> &Tap {
        match way {
            Way::Tx => &self.guest,
            Way::Rx => &self.lan,
        }
    }

    /// Waits until the frame has arrived.
    pub(crate) fn arrives(&self, way: Way, frame: &[u8]) {
        self.end(way).read_until(|read| read == frame);
    }

    /// The frame passes all filters.
    pub(crate) fn passes(&self, way: Way, name: &str) {
        let frame = named(name);
        self.send(way, &frame);
        self.arrives(way, &frame);
    }

    /// The frames that have arrived by now. A frame that the kernel lets pass has arrived when the
    /// call that sent it returns.
    pub(crate) fn arrived(&self, way: Way) -> Vec<Vec<u8>> {
        let read = || self.end(way).try_read();
        std::iter::from_fn(read).map(|mut frame| frame.split_off(VNET_HDR_LEN)).collect()
    }
}

fn command(kind: &str, arguments: &[&str]) -> Vec<String> {
    let kind = format!("filter-{kind}");
    let all = [&kind, "--netdev", "tap0"].into_iter().chain(arguments.iter().copied());
    all.map(Into::into).collect()
}

/// A TAP on the host's bridge.
fn open(host: &LabHost, name: &'static str, offloads: Offloads) -> Result<Tap> {
    let tap = host.namespace.run(|| Ok(Tap::new(name, offloads)))?;
    if name == LabSlot(0).tap() {
        host.plug_tap(LabSlot(0))?;
    } else {
        host.namespace.ip(&format!("link set {name} master br0 up\n"))?;
    }
    Ok(tap)
}

/// The next record with this frame. Earlier records are skipped.
pub(crate) fn receive(socket: &mut Socket, frame: &[u8]) -> Result<()> {
    while socket.receive(TIMEOUT)? != frame {}
    Ok(())
}

/// The records up to and without `fence`.
pub(crate) fn receive_to(socket: &mut Socket, fence: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    loop {
        let frame = socket.receive(TIMEOUT)?;
        if frame == fence {
            return Ok(frames);
        }
        frames.push(frame);
    }
}

/// Waits until the filter is in this mode.
pub(crate) fn wait_mode(filter: &Daemon, mode: &str) -> Result<colo_lab::daemon::DaemonStatus> {
    filter.wait_status(mode, TIMEOUT, |status| status.mode().is_ok_and(|found| found == mode))
}

/// Ends the filter in good order.
pub(crate) fn end(mut filter: Daemon) -> Result<String> {
    let status = filter.process.terminate()?;
    anyhow::ensure!(status.success(), "{status}: {}", filter.process.stderr());
    Ok(filter.process.stderr_to_end())
}
