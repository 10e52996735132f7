//! Real guests under COLO. QEMU has no part of a proxy: a daemon on each host drives QEMU by QMP
//! and does all network work.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::emulator::Emulator;
use super::machine::QemuMachine;
use super::{Image, QemuGuest};
use crate::daemon::{CONTROL_PORT, Daemon, DaemonStatus, MIRROR_PORT, SECONDARY_PORT};
use crate::network::{HostSide, Lab, LabOptions};
use crate::phrases;
use crate::process::eventually;

/// The address where a secondary's QEMU waits for its guest.
const MIGRATION_PORT: u16 = 9998;
const TIMEOUT: Duration = Duration::from_secs(20);

/// The programs on one host.
#[derive(Debug)]
pub struct Half {
    pub daemon: Daemon,
    pub guest: QemuGuest,
}

/// Both hosts. Fields are dropped in this order.
#[derive(Debug)]
pub struct Protected {
    halves: [Option<Half>; 2],
    pub lab: Lab,
    image: Image,
    machine: QemuMachine,
    /// Lines for every `[[guest]]`, and tables after it.
    pub more: String,
    vnet_hdr: bool,
    // This folder holds the fences.
    folder: tempfile::TempDir,
}

impl HostSide {
    /// The other host.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

impl Protected {
    /// Two hosts without any program.
    pub fn new(emulator: Emulator, image: Image, vnet_hdr: bool) -> Result<Self> {
        Ok(Self {
            halves: [None, None],
            lab: Lab::new(LabOptions { vnet_hdr, ..LabOptions::default() })?,
            image,
            machine: QemuMachine { vnet_hdr, ..QemuMachine::for_colo(emulator) },
            more: String::new(),
            vnet_hdr,
            folder: tempfile::tempdir().context("making a folder for fences")?,
        })
    }

    pub fn half(&self, side: HostSide) -> Result<&Half> {
        self.halves.get(side as usize).and_then(Option::as_ref).context("nothing runs on this host")
    }

    pub fn half_mut(&mut self, side: HostSide) -> Result<&mut Half> {
        self.halves
            .get_mut(side as usize)
            .and_then(Option::as_mut)
            .context("nothing runs on this host")
    }

    fn put(&mut self, side: HostSide, half: Half) {
        if let Some(place) = self.halves.get_mut(side as usize) {
            *place = Some(half);
        }
    }

    fn take(&mut self, side: HostSide) -> Result<Half> {
        let half = self.halves.get_mut(side as usize).and_then(Option::take);
        half.context("nothing runs on this host")
    }

    /// Starts a guest, and a daemon that is ready to protect it.
    pub fn start_primary(&mut self, side: HostSide) -> Result<()> {
        let mut guest = QemuGuest::boot_on(&self.lab, side, &self.image, &self.machine)?;
        guest.wait_ready()?;
        let daemon = self.start_daemon(side, "primary", &guest)?;
        self.put(side, Half { daemon, guest });
        Ok(())
    }

    /// Starts a guest that waits for the other's state, and its daemon.
    pub fn start_secondary(&mut self, side: HostSide) -> Result<()> {
        let incoming = Some(incoming(side));
        let machine = QemuMachine { incoming, ..self.machine.clone() };
        let guest = QemuGuest::boot_on(&self.lab, side, &self.image, &machine)?;
        let daemon = self.start_daemon(side, "secondary", &guest)?;
        // QEMU must know that it will be a secondary before the state arrives.
        daemon.wait_status("a QEMU that waits", TIMEOUT, |status| {
            colo_frame(status)["state"] == "standby"
        })?;
        self.put(side, Half { daemon, guest });
        Ok(())
    }

    /// `colo-proxy protect` on the host of the primary.
    pub fn protect(&self, side: HostSide) -> Result<()> {
        let uri = incoming(side.other());
        let half = self.half(side)?;
        half.daemon.protect(&uri).with_context(|| self.logs())?;
        half.daemon.wait_protected().map(drop)
    }

    /// The survivor's daemon ends, and the next one is a primary's. The guest continues to run.
    pub fn become_primary(&mut self, side: HostSide) -> Result<()> {
        let Half { mut daemon, guest } = self.take(side)?;
        let status = daemon.process.terminate()?;
        ensure!(status.success(), "{status}: {}", daemon.process.stderr());
        let daemon = self.start_daemon(side, "primary", &guest)?;
        self.put(side, Half { daemon, guest });
        Ok(())
    }

    /// `kill -9` of the daemon and the guest, as if the host were gone.
    pub fn kill(&mut self, side: HostSide) -> Result<()> {
        let Half { mut daemon, mut guest } = self.take(side)?;
        // The daemon must not have time to report the guest's end, and the guest not the daemon's.
        daemon.process.signal(nix::sys::signal::Signal::SIGKILL)?;
        guest.kill()?;
        daemon.process.kill()
    }

    /// Waits until the guest of `side` has taken over.
    pub fn wait_failed_over(&self, side: HostSide, timeout: Duration) -> Result<DaemonStatus> {
        let half = self.half(side)?;
        half.daemon.wait_status("a takeover", timeout, |status| {
            status.mode().is_ok_and(|mode| mode == phrases::mode::SERVING)
        })
    }

    /// Writes the fence for the daemon of `side`. It makes sure that the programs that run on the
    /// other host now are dead. `more` is added to its script.
    pub fn write_fence(&self, side: HostSide, more: &str) -> Result<PathBuf> {
        let path = self.fence(side);
        let mut script = format!("#!/bin/sh\n{more}\n");
        if let Ok(other) = self.half(side.other()) {
            for pid in [other.daemon.process.pid(), other.guest.process.pid()] {
                let _ = writeln!(script, "kill -9 {pid} 2>/dev/null");
                let _ = writeln!(script, "while test -d /proc/{pid}/fd/0; do sleep 0.01; done");
            }
        }
        script.push_str("exit 0\n");
        // The new fence replaces the old one in one step, because a daemon may be about to run it.
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, script).context("writing a fence")?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fresh, mode).context("making a fence executable")?;
        std::fs::rename(&fresh, &path).context("putting a fence into place")?;
        Ok(path)
    }

    fn fence(&self, side: HostSide) -> PathBuf {
        self.folder.path().join(format!("fence-{}", side.letter()))
    }

    fn start_daemon(&self, side: HostSide, role: &str, guest: &QemuGuest) -> Result<Daemon> {
        let socket = guest.frame_socket()?;
        let listener = if role == "primary" { side } else { side.other() };
        let back = if role == "primary" { "secondary_in" } else { "secondary_out" };
        let server = if role == "primary" { ",server" } else { "" };
        let mut config = format!(
            "[[guest]]\nrole = \"{role}\"\nnetdev = \"tap0\"\n\
             colo_frame = \"qmp:unix:{}\"\nvnet_hdr_support = {}\n",
            socket.display(),
            self.vnet_hdr,
        );
        for (key, port) in
            [("mirror", MIRROR_PORT), (back, SECONDARY_PORT), ("control", CONTROL_PORT)]
        {
            let host = listener.replication();
            let _ = writeln!(config, "{key} = \"tcp:{host}:{port}{server},nodelay\"");
        }
        config += &self.more.replace("FENCE", &self.fence(side).display().to_string());
        Daemon::run_config(self.lab.host(side), &config)
    }

    /// The logs and states to look at after a failure.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for half in self.halves.iter().flatten() {
            let Half { daemon, guest } = half;
            let status = daemon.status().map(|status| shown(&status.0));
            let (name, log) = (daemon.process.name(), daemon.process.stderr());
            let qemu = format!("{}\n{}", guest.process.stderr(), guest.console());
            let _ = writeln!(text, "{name}:\n{log}\n{}\nQEMU: {qemu}", status.unwrap_or_default());
        }
        text
    }

    /// Waits until the primary holds no output any more.
    pub fn wait_nothing_held(&self, side: HostSide) -> Result<DaemonStatus> {
        let daemon = &self.half(side)?.daemon;
        daemon.wait_status("nothing held", TIMEOUT, |status| {
            status.number("held_frames").is_ok_and(|held| held == 0)
        })
    }

    /// Waits until the primary of `side` has made `count` checkpoints in all.
    pub fn wait_checkpoints(
        &self,
        side: HostSide,
        count: u64,
        timeout: Duration,
    ) -> Result<DaemonStatus> {
        let daemon = &self.half(side)?.daemon;
        eventually(&format!("{count} checkpoints"), timeout, || {
            let status = daemon.status()?;
            let done = colo_frame(&status)["checkpoints"]["done"].as_u64().unwrap_or_default();
            Ok((done >= count).then_some(status))
        })
        .with_context(|| self.logs())
    }
}

/// The address where the QEMU on this host waits for its guest.
pub fn incoming(side: HostSide) -> String {
    format!("tcp:{}:{MIGRATION_PORT}", side.replication())
}

/// The parts of a status that help to find an error.
fn shown(status: &Value) -> String {
    let mut text = String::new();
    for part in [
        "mode",
        "epoch",
        "held_frames",
        "divergences",
        "checkpoints",
        "drops",
        "detail/kernel",
        "detail/colo_frame",
        "detail/divergences",
        "detail/lanes",
        "detail/input",
    ] {
        if let Some(value) = status.pointer(&format!("/{part}")) {
            let _ = writeln!(text, "  {part}: {value}");
        }
    }
    text
}

/// The status of the daemon's COLO-frame driver.
pub fn colo_frame(status: &DaemonStatus) -> &Value {
    &status.0["detail"]["colo_frame"]
}
