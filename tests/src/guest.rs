//! A guest of the lab: a stand-in for its virtual machine, and the service in it.

use std::process::{Command as Spawn, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::io::Write;
use std::process::ChildStdin;

use crate::counters::{self, Counters};
use crate::link;
use crate::namespace::Namespace;
use crate::network::{
    CLIENT_MAC, CLIENT_V4, CLIENT_V6, Family, HostSide, Lab, LabHost, LabSlot, quiet_ipv6,
};
use crate::process::{Process, program};
use crate::stand_in::command::{Command, Flipped, StandInCounts, StandInReport};
use crate::stand_in::shift::Shift;
use crate::stand_in::tap::TapOffloads;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How the guest's virtual machine is set up.
#[derive(Clone, Copy, Debug)]
pub struct GuestOptions {
    /// The TAP that the guest is on. It decides the guest's addresses.
    pub slot: LabSlot,
    pub offloads: TapOffloads,
    /// Whether the stand-in moves the guest's sequence numbers and timestamps away from this
    /// kernel's choice.
    pub shift: bool,
    /// Whether its stand-in checks every checksum.
    pub verify: bool,
}

impl GuestOptions {
    /// Only the secondary's numbers are moved, so that the two guests differ as two machines do.
    pub fn of(side: HostSide, offloads: TapOffloads) -> Self {
        Self { slot: LabSlot(0), offloads, shift: side == HostSide::Secondary, verify: true }
    }
}

/// A running guest.
#[derive(Debug)]
pub struct StandInGuest {
    pub side: HostSide,
    pub stand_in: StandIn,
    pub service: Process,
    options: GuestOptions,
    shift: Option<Shift>,
    // It comes last, so that its sockets die before it.
    pub namespace: Namespace,
}

impl StandInGuest {
    /// Starts the virtual machine and the service, and waits until the service listens.
    pub fn start(lab: &Lab, side: HostSide, options: GuestOptions) -> Result<Self> {
        let namespace = lab.guest_namespace(side)?;
        let host = lab.host(side);
        let shift =
            if options.shift { Some(Shift::random().context("reading random")?) } else { None };
        let stand_in = StandIn::start(host, &namespace, lab.options.vnet_hdr, options, shift)?;
        if !lab.options.persistent_tap {
            host.plug_tap(options.slot)?;
        }
        configure(&namespace, options)?;
        let command = Spawn::new(program("lab-service", "COLO_LAB_SERVICE")?);
        let name = format!("service {}", side.letter());
        let service = Process::spawn(&name, command, &[namespace.handle()])?;
        service.wait_for("ready", START_TIMEOUT)?;
        Ok(Self { side, stand_in, service, options, shift, namespace })
    }

    /// Continues this guest on the other host, as a checkpoint does. The original ends, unlike at a
    /// checkpoint. The TAP must exist.
    pub fn move_to(&mut self, lab: &Lab, side: HostSide) -> Result<()> {
        self.stand_in.process.signal(Signal::SIGKILL)?;
        self.stand_in.process.kill()?;
        let (host, options) = (lab.host(side), self.options);
        self.stand_in =
            StandIn::start(host, &self.namespace, lab.options.vnet_hdr, options, self.shift)?;
        self.side = side;
        configure(&self.namespace, options)
    }

    /// `kill -9` of the virtual machine. All that runs in the guest ends with it.
    pub fn kill(&mut self) -> Result<()> {
        for process in [&mut self.stand_in.process, &mut self.service] {
            process.signal(Signal::SIGKILL)?;
        }
        self.stand_in.process.kill()?;
        self.service.kill()
    }

    /// The counters of the guest's network stack.
    pub fn counters(&self) -> Result<Counters> {
        counters::read(&self.namespace)
    }
}

/// The link, its addresses, and the client's address. A guest that is restored from a checkpoint
/// knows its neighbours, and the secondary's own questions never reach the LAN.
pub(crate) fn configure(namespace: &Namespace, options: GuestOptions) -> Result<()> {
    let slot = options.slot;
    let (mac, v4, v6) = (slot.mac(), slot.address(Family::V4), slot.address(Family::V6));
    quiet_ipv6(namespace)?;
    namespace.sysctl(&[("ipv4/tcp_no_metrics_save", "1")])?;
    namespace.ip(&format!(
        "link set eth0 address {mac}\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         neigh replace {CLIENT_V4} lladdr {CLIENT_MAC} dev eth0 nud permanent\n\
         neigh replace {CLIENT_V6} lladdr {CLIENT_MAC} dev eth0 nud permanent\n"
    ))?;
    // On some kernels, the stack sends partial checksums even on a TAP without offloads.
    if options.offloads == TapOffloads::Off {
        link::without_offloads(namespace, "eth0")
    } else {
        Ok(())
    }
}

/// A running stand-in.
#[derive(Debug)]
pub struct StandIn {
    pub process: Process,
    commands: ChildStdin,
    reports: Receiver<StandInReport>,
    flipped: Vec<Flipped>,
}

impl StandIn {
    pub(crate) fn start(
        host: &LabHost,
        guest: &Namespace,
        vnet_hdr: bool,
        options: GuestOptions,
        shift: Option<Shift>,
    ) -> Result<Self> {
        let mut command = Spawn::new(program("stand-in", "COLO_LAB_STAND_IN")?);
        command
            .args(["--host-netns", &format!("/run/netns/{}", host.namespace.name())])
            .args(["--guest-netns", &format!("/run/netns/{}", guest.name())])
            .args(["--tap", &options.slot.tap()])
            .args([
                "--offloads",
                match options.offloads {
                    TapOffloads::Off => "off",
                    TapOffloads::On => "on",
                    TapOffloads::Uso => "uso",
                },
            ])
            .args((!vnet_hdr).then_some("--plain"))
            .args(shift.map(|shift| format!("--shift={shift}")))
            .args((!options.verify).then_some("--no-verify"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let name = format!("stand-in {}", host.side.letter());
        let mut process = Process::spawn(&name, command, &[])?;
        let commands = process.take_stdin().context("the stand-in's stdin is not piped")?;
        let reports = process.reports()?;
        let mut stand_in = Self { process, commands, reports, flipped: Vec::new() };
        match stand_in.answer()? {
            StandInReport::Ready => Ok(stand_in),
            other => bail!("a stand-in began with {other:?}"),
        }
    }

    /// Changes one byte of the next data that the guest sends from `guest_port`.
    pub fn flip(&mut self, protocol: u8, guest_port: u16, at: u32) -> Result<()> {
        self.command(&Command::Flip { protocol, guest_port, at, keep_sum: true }).map(drop)
    }

    /// The same, but the checksum is wrong afterwards. A partial checksum stays right.
    pub fn spoil(&mut self, protocol: u8, guest_port: u16, at: u32) -> Result<()> {
        self.command(&Command::Flip { protocol, guest_port, at, keep_sum: false }).map(drop)
    }

    /// The change that [`flip`](Self::flip) requested, after it has happened.
    pub fn flipped(&mut self, timeout: Duration) -> Result<Flipped> {
        if let Some(flipped) = self.flipped.pop() {
            return Ok(flipped);
        }
        match self.reports.recv_timeout(timeout) {
            Ok(StandInReport::Flipped(flipped)) => Ok(flipped),
            Ok(other) => bail!("a stand-in reports {other:?} without a request"),
            Err(_) => bail!("the guest sent nothing to change in {timeout:?}"),
        }
    }

    pub fn pause(&mut self) -> Result<()> {
        self.command(&Command::Pause).map(drop)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.command(&Command::Resume).map(drop)
    }

    pub fn counts(&mut self) -> Result<StandInCounts> {
        match self.command(&Command::Counts)? {
            StandInReport::Counts(counts) => Ok(counts),
            other => bail!("a stand-in answered {other:?} to a request for counts"),
        }
    }

    fn command(&mut self, command: &Command) -> Result<StandInReport> {
        let mut line = serde_json::to_vec(command).context("encoding a command")?;
        line.push(b'\n');
        self.commands.write_all(&line).with_context(|| {
            format!(
                "telling {} {command:?}; its stderr:\n{}",
                self.process.name(),
                self.process.stderr()
            )
        })?;
        self.answer()
    }

    fn answer(&mut self) -> Result<StandInReport> {
        loop {
            match self.reports.recv_timeout(ANSWER_TIMEOUT) {
                Ok(StandInReport::Flipped(flipped)) => self.flipped.push(flipped),
                Ok(report) => return Ok(report),
                Err(RecvTimeoutError::Timeout) => bail!("a stand-in does not answer"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} has ended:\n{}", self.process.name(), self.process.stderr())
                }
            }
        }
    }
}
