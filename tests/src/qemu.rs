//! Real guests in place of the stand-ins: QEMU with a Debian kernel.
//!
//! A stand-in is no virtio-net card, and two namespaces share the secrets and the clock of one
//! kernel. Two guests that were booted separately choose their own sequence numbers, timestamps and
//! delays, as two machines do.

pub mod colo;
mod console;
pub mod cpio;
pub mod emulator;
pub mod filters;
pub mod initramfs;
pub mod kernel;
pub mod machine;
pub mod modules;
pub mod protected;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::counters::{self, Counters};
use crate::network::{CLIENT_MAC, CLIENT_V4, CLIENT_V6, GUEST_V4, GUEST_V6, HostSide, Lab};
use crate::process::{Process, program};
use crate::qmp::Qmp;
use console::Console;
use initramfs::{END, GuestNetwork, MIDDLE, READY};
use kernel::GuestKernel;
use machine::QemuMachine;

/// A guest without hardware virtualisation boots in a few seconds. A busy machine needs longer.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The folder where downloads stay between runs. It is below cargo's folder, of which a test knows
/// only the part for temporary files.
pub fn cache(target_tmpdir: &str) -> Result<PathBuf> {
    let target = Path::new(target_tmpdir).parent().context("no target folder")?;
    Ok(target.join("lab-cache"))
}

/// The kernel and the root file system that both guests boot from.
#[derive(Debug)]
pub struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
    // This folder holds the initramfs.
    _folder: tempfile::TempDir,
}

impl Image {
    /// Builds the image. Its downloads stay in `cache`.
    pub fn build(cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
        let kernel = GuestKernel::fetch(cache)?;
        let network = GuestNetwork {
            ipv4: format!("{GUEST_V4}/24"),
            ipv6: format!("{GUEST_V6}/64"),
            neighbours: vec![CLIENT_V4.to_string(), CLIENT_V6.to_string()],
            neighbour_mac: CLIENT_MAC.to_owned(),
        };
        let service = program("lab-service", "COLO_LAB_SERVICE")?;
        let folder = tempfile::tempdir().context("making a folder for a guest's image")?;
        let initramfs = folder.path().join("initramfs");
        std::fs::write(&initramfs, initramfs::build(&kernel, &service, &network)?)
            .with_context(|| format!("writing {}", initramfs.display()))?;
        Ok(Self { kernel: kernel.image, initramfs, _folder: folder })
    }
}

/// A running guest.
#[derive(Debug)]
pub struct QemuGuest {
    pub side: HostSide,
    pub process: Process,
    console: Console,
    monitor: Option<Monitor>,
    incoming: Option<String>,
}

/// The socket of the monitor for the driver of the checkpoints, on the guest's host. A monitor
/// serves one client at a time, so the test has another one.
pub const FRAME_SOCKET: &str = "/run/frame.qmp";

/// The monitor for the test.
#[derive(Debug)]
struct Monitor {
    qmp: Qmp,
    // This folder holds the socket.
    _folder: tempfile::TempDir,
}

impl QemuGuest {
    /// Starts the guest of `side` on its host's TAP, and does not wait for it.
    pub fn boot(lab: &Lab, side: HostSide, image: &Image) -> Result<Self> {
        Self::boot_on(lab, side, image, &QemuMachine::alone())
    }

    /// The same on a machine of another kind.
    pub fn boot_on(
        lab: &Lab,
        side: HostSide,
        image: &Image,
        machine: &QemuMachine,
    ) -> Result<Self> {
        let host = lab.host(side);
        let name = format!("guest {}", side.letter());
        let folder = machine.monitored.then(tempfile::tempdir).transpose();
        let folder = folder.context("making a folder for a monitor")?;
        let socket = folder.as_ref().map(|folder| folder.path().join("qmp"));
        let command = machine.command(image, &host.tap, socket.as_deref());
        let mut process = Process::spawn(&name, command, &host.namespaces())?;
        let console = Console::of(&mut process)?;
        let monitor = folder.zip(socket).map(|(folder, socket)| {
            let qmp =
                Qmp::connect(&socket).with_context(|| format!("{name}: {}", process.stderr()))?;
            anyhow::Ok(Monitor { qmp, _folder: folder })
        });
        let (monitor, incoming) = (monitor.transpose()?, machine.incoming.clone());
        Ok(Self { side, process, console, monitor, incoming })
    }

    /// Where it waits, or has waited, for the state of another guest.
    pub fn incoming(&self) -> Option<&str> {
        self.incoming.as_deref()
    }

    /// Its monitor for the test.
    pub fn qmp(&self) -> Result<&Qmp> {
        let monitor = self.monitor.as_ref().context("a guest without a monitor")?;
        Ok(&monitor.qmp)
    }

    /// The monitor's path for the driver of the checkpoints.
    pub fn frame_socket(&self) -> Result<PathBuf> {
        let monitored = self.monitor.is_some().then(|| FRAME_SOCKET.into());
        monitored.context("a guest without a monitor")
    }

    /// Waits until its service listens.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.console.lines_until(READY, BOOT_TIMEOUT).map(drop).with_context(|| self.stderr())
    }

    /// The counters of the guest's network stack.
    pub fn counters(&mut self) -> Result<Counters> {
        self.console.ask().with_context(|| self.process.name().to_owned())?;
        let mut counters = Counters::new();
        let pairs = self.console.lines_until(MIDDLE, ANSWER_TIMEOUT)?;
        counters::two_lines(&pairs, &mut counters);
        let singles = self.console.lines_until(END, ANSWER_TIMEOUT)?;
        counters::one_per_line(&singles, &mut counters);
        Ok(counters)
    }

    /// The console output that nobody has read yet.
    pub fn console(&self) -> String {
        self.console.rest()
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    fn stderr(&self) -> String {
        format!("{}: {}", self.process.name(), self.process.stderr())
    }
}
