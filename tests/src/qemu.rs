//! Real guests: QEMU with a Debian kernel, in place of the stand-ins.
//!
//! A stand-in is no virtio-net card, and two namespaces share one kernel's secrets and clock. Two
//! guests that were booted separately choose sequence numbers, timestamps and delays of their own,
//! as two machines do.

pub mod cpio;
pub mod emulator;
pub mod initramfs;
pub mod kernel;
pub mod modules;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::counters::{self, Counters};
use crate::network::{CLIENT_MAC, CLIENT_V4, CLIENT_V6, GUEST_MAC, GUEST_V4, GUEST_V6, Lab, Side};
use crate::process::{Process, program};
use emulator::Emulator;
use initramfs::{END, MIDDLE, Network, READY};
use kernel::Kernel;

/// Without hardware virtualisation a guest is up in a few seconds; a busy machine needs longer.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const MEMORY_MIB: &str = "192";

/// What both guests are booted from.
#[derive(Debug)]
pub struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
    // Holds the initramfs.
    _folder: tempfile::TempDir,
}

impl Image {
    /// Builds it; what it downloads stays in `cache`.
    pub fn build(cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
        let kernel = Kernel::fetch(cache)?;
        let network = Network {
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
    pub side: Side,
    pub process: Process,
    console: Console,
}

impl QemuGuest {
    /// Starts the guest of `side` on its host's TAP, and does not wait for it.
    pub fn boot(lab: &Lab, side: Side, image: &Image) -> Result<Self> {
        let host = lab.host(side);
        let name = format!("guest {}", side.letter());
        let mut process = Process::spawn(&name, qemu(image, &host.tap), &host.namespaces())?;
        let console = Console::of(&mut process)?;
        Ok(Self { side, process, console })
    }

    /// Waits until its service listens.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.console.lines_until(READY, BOOT_TIMEOUT).map(drop).with_context(|| self.stderr())
    }

    /// What the guest's network stack has counted.
    pub fn counters(&mut self) -> Result<Counters> {
        self.console.ask().with_context(|| self.process.name().to_owned())?;
        let mut counters = Counters::new();
        let pairs = self.console.lines_until(MIDDLE, ANSWER_TIMEOUT)?;
        counters::two_lines(&pairs, &mut counters);
        let singles = self.console.lines_until(END, ANSWER_TIMEOUT)?;
        counters::one_per_line(&singles, &mut counters);
        Ok(counters)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    fn stderr(&self) -> String {
        format!("{}: {}", self.process.name(), self.process.stderr())
    }
}

/// The command line of one guest, the same for both.
fn qemu(image: &Image, tap: &str) -> Command {
    let mut command = Emulator::installed().command();
    command
        .args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY_MIB])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .arg("-netdev")
        .arg(format!("tap,id=hn0,ifname={tap},script=no,downscript=no,vhost=off"))
        .arg("-device")
        .arg(format!("virtio-net-pci,netdev=hn0,mac={GUEST_MAC},romfile="))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// A guest's serial line.
#[derive(Debug)]
struct Console {
    keyboard: ChildStdin,
    lines: Receiver<String>,
    /// What was read already, for messages.
    seen: String,
}

impl Console {
    fn of(process: &mut Process) -> Result<Self> {
        let keyboard = process.take_stdin().context("the guest's stdin is not piped")?;
        let screen = process.take_stdout().context("the guest's stdout is not piped")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(screen).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { keyboard, lines, seen: String::new() })
    }

    /// One line to the guest's first program, which answers with its counters.
    fn ask(&mut self) -> Result<()> {
        self.seen.clear();
        self.keyboard.write_all(b"\n").context("writing to a guest's console")
    }

    /// The lines before the one that is `end`.
    fn lines_until(&mut self, end: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut before = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line == end => return Ok(before),
                Ok(line) => {
                    for text in [&mut before, &mut self.seen] {
                        text.push_str(&line);
                        text.push('\n');
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no `{end}` in {timeout:?}; its console:\n{}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("it ended before `{end}`; its console:\n{}", self.seen)
                }
            }
        }
    }
}
