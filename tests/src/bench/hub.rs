//! QEMU without a machine. A hub joins the host's TAP and the guest's, with or without filters.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;
use crate::network::{LabHost, LabSlot};
use crate::process::{Process, program};
use crate::qemu::machine::NETDEV;
use crate::qmp::Qmp;
use crate::stand_in::tap::{self, TapOffloads};

/// A running hub.
#[derive(Debug)]
pub(super) struct Hub {
    process: Process,
    _qmp: Qmp,
    // This folder holds the monitor's socket.
    _folder: tempfile::TempDir,
}

impl Hub {
    /// Makes the guest's link, `eth0`, and returns when frames pass.
    pub(super) fn start(
        host: &LabHost,
        guest: &Namespace,
        slot: LabSlot,
        more: &[String],
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for a monitor")?;
        let socket = folder.path().join("qmp");
        // A process is in one network namespace, so it receives the guest's end as a file.
        let eth0 = guest.run(|| tap::open("eth0", false, TapOffloads::Off))?;
        let tap = slot.tap();
        let host_end = format!("tap,id={NETDEV},ifname={tap},script=no,downscript=no,vnet_hdr=off");
        let mut command = Command::new(qemu());
        command
            .args(["-machine", "none", "-nodefaults", "-display", "none"])
            .args(["-netdev", &host_end, "-netdev", "tap,id=guest,fd=0"])
            .args(["-netdev", &format!("hubport,id=port0,hubid=0,netdev={NETDEV}")])
            .args(["-netdev", "hubport,id=port1,hubid=0,netdev=guest"])
            .args(more)
            .args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
            .stdin(Stdio::from(eth0))
            .stdout(Stdio::null());
        let name = format!("hub {}", host.side.letter());
        // Not in the host's mount namespace, because the test connects to its sockets from outside.
        let process = Process::spawn(&name, command, &[host.namespace.handle()])?;
        let qmp = Qmp::connect(&socket).with_context(|| format!("{name}: {}", process.stderr()))?;
        Ok(Self { process, _qmp: qmp, _folder: folder })
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}

/// The installed QEMU, of any release.
fn qemu() -> PathBuf {
    let name = "qemu-system-x86_64";
    program(name, "COLO_LAB_QEMU").unwrap_or_else(|_| name.into())
}
