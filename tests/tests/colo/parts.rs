//! A pair whose parts are QEMU's or ours.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use colo_lab::daemon::{Daemon, PairOptions};
use colo_lab::network::{HostSide, Lab, LabOptions, LabSlot};
use colo_lab::phrases;
use colo_lab::qemu::colo::{self, NEVER_MS};
use colo_lab::qemu::filters::Filters;
use colo_lab::qemu::machine::QemuMachine;
use colo_lab::qemu::{FRAME_SOCKET, QemuGuest};
use colo_lab::qmp::Qmp;

use super::found;

const TIMEOUT: Duration = Duration::from_secs(30);
const TAP: LabSlot = LabSlot(0);
/// The address where the secondary's guest waits for the state.
const STATE_PORT: u16 = 9998;

/// The owner of the primary's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Primary {
    Ours,
    Qemu,
    /// QEMU's mirror and redirectors around our `colo-compare`.
    QemuAroundOurCompare,
}

/// The owner of the secondary's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secondary {
    Ours,
    Qemu,
}

/// The owners of a pair's halves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub(crate) primary: Primary,
    pub(crate) secondary: Secondary,
    /// Virtio-net headers on the TAPs and on the way between the parts.
    pub(crate) vnet_hdr: bool,
}

/// A running pair. Fields are dropped in this order.
pub(crate) struct Pair {
    pub(crate) parts: Parts,
    compare: Option<Daemon>,
    daemons: [Option<Daemon>; 2],
    pub(crate) primary: QemuGuest,
    pub(crate) secondary: QemuGuest,
    pub(crate) lab: Lab,
}

impl Pair {
    /// Starts everything. The pair is in COLO when this returns.
    pub(crate) fn start(parts: Parts) -> Result<Self> {
        let (emulator, image) = found()?;
        let lab = Lab::new(LabOptions { vnet_hdr: parts.vnet_hdr, ..LabOptions::default() })?;
        let machine = QemuMachine { vnet_hdr: parts.vnet_hdr, ..QemuMachine::for_colo(emulator) };
        let secondary_daemon = match parts.secondary {
            // The daemon starts before its guest, which must not send to the LAN.
            Secondary::Ours => Some(Daemon::start(&lab, HostSide::Secondary, &parts.options())?),
            Secondary::Qemu => {
                lab.host(HostSide::Secondary).unplug_tap(TAP)?;
                // QEMU's rewriter does not translate timestamps, and a guest accepts no connection
                // with wrong ones.
                lab.client.sysctl(&[("ipv4/tcp_timestamps", "0")])?;
                None
            }
        };
        let arguments = parts.primary_arguments();
        let of_primary = QemuMachine { arguments, ..machine.clone() };
        let mut primary = QemuGuest::boot_on(&lab, HostSide::Primary, &image, &of_primary)?;
        primary.wait_ready()?;
        let of_secondary = QemuMachine {
            incoming: Some(format!("tcp:{}:{STATE_PORT}", HostSide::Secondary.replication())),
            arguments: parts.secondary_arguments(),
            ..machine
        };
        let secondary = QemuGuest::boot_on(&lab, HostSide::Secondary, &image, &of_secondary)?;
        let daemons = [None, secondary_daemon];
        let mut pair = Self { parts, compare: None, daemons, primary, secondary, lab };
        pair.protect().with_context(|| pair.logs())?;
        Ok(pair)
    }

    /// Starts our part on the primary's host, and then COLO.
    fn protect(&mut self) -> Result<()> {
        let host = self.lab.host(HostSide::Primary);
        match self.parts.primary {
            Primary::Ours => {
                let daemon = Daemon::start(&self.lab, HostSide::Primary, &self.parts.options())?;
                let daemon = self.daemons[0].insert(daemon);
                colo::prepare(&self.secondary)?;
                let uri = self.secondary.incoming().context("no secondary that waits")?;
                return daemon.protect(uri).map(drop);
            }
            Primary::QemuAroundOurCompare => {
                let mut arguments = self.parts.filters().our_compare();
                arguments.push(format!("--colo-frame=qmp:unix:{FRAME_SOCKET}"));
                let compare = Daemon::spawn(host, &arguments)?;
                compare.wait_ready()?;
                self.compare = Some(compare);
            }
            Primary::Qemu => {}
        }
        colo::enter(&self.primary, &self.secondary, NEVER_MS)
    }

    /// Our primary, if the primary's half is ours.
    pub(crate) fn primary_daemon(&self) -> Result<&Daemon> {
        self.daemons[0].as_ref().context("the primary is QEMU's")
    }

    /// The primary's host dies, and the secondary's guest takes over.
    pub(crate) fn fail_over(&mut self) -> Result<()> {
        for daemon in [&mut self.daemons[0], &mut self.compare].into_iter().flatten() {
            daemon.process.kill()?;
        }
        self.primary.kill()?;
        if let Some(daemon) = &self.daemons[1] {
            daemon.failover_forced()?;
            daemon.wait_status("failed over", TIMEOUT, |status| {
                status.mode().is_ok_and(|mode| mode == phrases::mode::SERVING)
            })?;
            return Ok(());
        }
        colo::go_on_alone(&self.secondary)?;
        self.lab.host(HostSide::Secondary).plug_tap(TAP)?;
        colo::announce(&self.secondary)
    }

    /// The logs and states to look at after a failure.
    pub(crate) fn logs(&self) -> String {
        let mut text = format!("{:?}\n", self.parts);
        for daemon in self.daemons.iter().chain([&self.compare]).flatten() {
            let log = daemon.process.stderr();
            let status = daemon.status().map(|status| status.0.to_string());
            let _ = writeln!(text, "{}:\n{log}\n{status:?}", daemon.process.name());
        }
        for guest in [&self.primary, &self.secondary] {
            let (name, log) = (guest.process.name(), guest.process.stderr());
            let events = guest.qmp().map(Qmp::story).unwrap_or_default();
            let _ = writeln!(text, "{name}:\n{log}\n{events}");
        }
        text
    }
}

impl Parts {
    fn filters(self) -> Filters {
        Filters { vnet_hdr: self.vnet_hdr }
    }

    fn options(self) -> PairOptions {
        let both = self.primary == Primary::Ours && self.secondary == Secondary::Ours;
        let colo_frame = format!("qmp:unix:{FRAME_SOCKET}");
        PairOptions { vnet_hdr: self.vnet_hdr, control: both, colo_frame, ..PairOptions::default() }
    }

    fn primary_arguments(self) -> Vec<String> {
        match self.primary {
            Primary::Ours => Vec::new(),
            Primary::Qemu => [self.filters().primary(), self.filters().compare()].concat(),
            Primary::QemuAroundOurCompare => self.filters().primary(),
        }
    }

    fn secondary_arguments(self) -> Vec<String> {
        match self.secondary {
            Secondary::Ours => Vec::new(),
            Secondary::Qemu => self.filters().secondary(),
        }
    }
}
