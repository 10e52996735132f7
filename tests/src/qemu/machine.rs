//! The machine that a guest runs on: QEMU's command line.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Image;
use super::emulator::Emulator;
use crate::network::GUEST_MAC;

/// The network backend, which the filters name.
pub const NETDEV: &str = "hn0";

/// The machine of one guest. Both machines of a pair under COLO must be equal except for `incoming`
/// and `arguments`, because the state of one is loaded into the other.
#[derive(Clone, Debug)]
pub struct QemuMachine {
    pub emulator: Emulator,
    pub cpu: &'static str,
    pub memory_mib: u32,
    /// Whether its frames have a virtio-net header on the TAP, and so whether it has offloads.
    pub vnet_hdr: bool,
    /// The address where it listens for the state of another guest, instead of booting.
    pub incoming: Option<String>,
    /// Whether it has monitors: one for the test, and one at [`FRAME_SOCKET`](super::FRAME_SOCKET).
    pub monitored: bool,
    /// Further arguments: sockets, filters.
    pub arguments: Vec<String>,
}

impl QemuMachine {
    /// A machine that boots and is not copied.
    pub fn alone() -> Self {
        Self {
            emulator: Emulator::installed(),
            cpu: "max",
            memory_mib: 192,
            vnet_hdr: true,
            incoming: None,
            monitored: false,
            arguments: Vec::new(),
        }
    }

    /// A machine whose state can be copied. Its processor must save all of its state.
    pub fn for_colo(emulator: Emulator) -> Self {
        Self { emulator, cpu: "qemu64", monitored: true, ..Self::alone() }
    }

    /// The command line, with the test's monitor at `monitor`.
    pub(super) fn command(&self, image: &Image, tap: &str, monitor: Option<&Path>) -> Command {
        let memory = self.memory_mib.to_string();
        let vnet_hdr = if self.vnet_hdr { "on" } else { "off" };
        let netdev = format!(
            "tap,id={NETDEV},ifname={tap},script=no,downscript=no,vhost=off,vnet_hdr={vnet_hdr}"
        );
        let card = format!("virtio-net-pci,id=e0,netdev={NETDEV},mac={GUEST_MAC},romfile=");
        let mut command = self.emulator.command();
        command
            .args(["-M", "pc", "-accel", "tcg", "-cpu", self.cpu, "-smp", "1", "-m", &memory])
            .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initramfs)
            .args(["-netdev", &netdev, "-device", &card])
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for socket in monitor.into_iter().flat_map(|ours| [ours, Path::new(super::FRAME_SOCKET)]) {
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        }
        if let Some(uri) = &self.incoming {
            command.args(["-incoming", uri]);
        }
        command
    }
}
