//! Moves frames between the host's TAP and the guest's.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::command::{Command, DirectionCounts, StandInCounts, StandInReport};
use super::inject::Flip;
use super::shift::Shift;
use super::tap::{VNET_HDR_LEN, VnetHdr};
use super::{packet, sum};

/// The longest frame that a TAP gives, with its header.
const FRAME_MAX: usize = 69632;
/// The frames that one direction may move before the other direction's turn.
const BURST: usize = 64;
/// The number of bad frames that get a description.
const BAD_MAX: usize = 8;
/// A longer command line does not come from the lab.
const COMMAND_MAX: usize = 4096;

/// A running stand-in.
#[derive(Debug)]
pub struct Pump {
    pub host: File,
    pub guest: File,
    pub vnet_hdr: bool,
    pub shift: Option<Shift>,
    /// Checks every checksum. This reads every frame once more.
    pub verify: bool,
    paused: bool,
    flip: Option<Flip>,
    counts: StandInCounts,
    frame: Vec<u8>,
    commands: Vec<u8>,
}

/// The direction of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PumpWay {
    ToGuest,
    FromGuest,
}

impl Pump {
    pub fn new(host: File, guest: File, vnet_hdr: bool) -> Self {
        Self {
            host,
            guest,
            vnet_hdr,
            shift: None,
            verify: true,
            paused: false,
            flip: None,
            counts: StandInCounts::default(),
            frame: vec![0; FRAME_MAX],
            commands: Vec::new(),
        }
    }

    /// Runs until `commands` ends.
    pub fn run(&mut self, mut commands: impl Read + AsFd, mut reports: impl Write) -> Result<()> {
        loop {
            let [told, host, guest] = self.wait(&commands)?;
            if told && !self.take_commands(&mut commands, &mut reports)? {
                return Ok(());
            }
            if host {
                self.burst(PumpWay::ToGuest, &mut reports)?;
            }
            if guest {
                self.burst(PumpWay::FromGuest, &mut reports)?;
            }
        }
    }

    fn wait(&self, commands: &impl AsFd) -> Result<[bool; 3]> {
        let frames = if self.paused { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds = [
            PollFd::new(commands.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.host.as_fd(), frames),
            PollFd::new(self.guest.as_fd(), frames),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("polling the TAPs"),
        }
        // A TAP whose link is down, or deleted, reports an error for ever. A read tells which.
        let wanted = PollFlags::POLLIN | PollFlags::POLLHUP;
        let ready = |fd: &PollFd| fd.revents().is_some_and(|events| events.intersects(wanted));
        let [told, host, guest] = &fds;
        Ok([ready(told), ready(host) && !self.paused, ready(guest) && !self.paused])
    }

    fn burst(&mut self, direction: PumpWay, reports: &mut impl Write) -> Result<()> {
        for _ in 0..BURST {
            let from = match direction {
                PumpWay::ToGuest => &mut self.host,
                PumpWay::FromGuest => &mut self.guest,
            };
            let len = match from.read(&mut self.frame) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading a TAP"),
            };
            self.forward(direction, len, reports)?;
        }
        Ok(())
    }

    fn forward(&mut self, direction: PumpWay, len: usize, reports: &mut impl Write) -> Result<()> {
        let bytes = self.frame.get_mut(..len).unwrap_or_default();
        let header_len = if self.vnet_hdr { VNET_HDR_LEN.min(len) } else { 0 };
        let (header, frame) = bytes.split_at_mut(header_len);
        let vnet = VnetHdr::parse(header);
        let way = match direction {
            PumpWay::ToGuest => &mut self.counts.to_guest,
            PumpWay::FromGuest => &mut self.counts.from_guest,
        };
        count(way, frame.len(), vnet);
        if let Some(packet) = packet::parse(frame) {
            if self.verify
                && let Some(fault) = sum::fault(frame, &packet, vnet)
            {
                way.bad_sums += 1;
                if self.counts.bad.len() < BAD_MAX {
                    let head = frame.get(..80.min(frame.len())).unwrap_or_default();
                    let what = format!("{direction:?}: {fault}: {packet:?} {vnet:?} {head:02x?}");
                    self.counts.bad.push(what);
                }
            }
            match (direction, self.shift) {
                (PumpWay::ToGuest, Some(shift)) => drop(shift.to_guest(frame, &packet, vnet)),
                (PumpWay::FromGuest, Some(shift)) => drop(shift.from_guest(frame, &packet, vnet)),
                (_, None) => {}
            }
            let flip = self.flip.filter(|_| direction == PumpWay::FromGuest);
            if let Some(flipped) = flip.and_then(|flip| flip.apply(frame, &packet, vnet)) {
                self.flip = None;
                report(reports, &StandInReport::Flipped(flipped))?;
            }
        }
        let to = match direction {
            PumpWay::ToGuest => &mut self.guest,
            PumpWay::FromGuest => &mut self.host,
        };
        // A TAP that is down refuses a frame, as a link without carrier refuses a guest's frame.
        if to.write(self.frame.get(..len).unwrap_or_default()).is_err() {
            way_of(&mut self.counts, direction).refused += 1;
        }
        Ok(())
    }

    /// Executes the commands that have arrived; `false` at the end of the input.
    fn take_commands(&mut self, from: &mut impl Read, reports: &mut impl Write) -> Result<bool> {
        let mut chunk = [0; 1024];
        let len = from.read(&mut chunk).context("reading commands")?;
        self.commands.extend_from_slice(chunk.get(..len).unwrap_or_default());
        while let Some(end) = self.commands.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.commands.drain(..=end).collect();
            let command = serde_json::from_slice(&line).context("reading a command")?;
            let answer = self.obey(&command);
            report(reports, &answer)?;
        }
        anyhow::ensure!(self.commands.len() <= COMMAND_MAX, "a command without end");
        Ok(len > 0)
    }

    fn obey(&mut self, command: &Command) -> StandInReport {
        match *command {
            Command::Flip { protocol, guest_port, at, keep_sum } => {
                self.flip = Some(Flip { protocol, guest_port, at, keep_sum });
            }
            Command::Pause => self.paused = true,
            Command::Resume => self.paused = false,
            Command::Counts => return StandInReport::Counts(self.counts.clone()),
        }
        StandInReport::Done
    }
}

fn way_of(counts: &mut StandInCounts, direction: PumpWay) -> &mut DirectionCounts {
    match direction {
        PumpWay::ToGuest => &mut counts.to_guest,
        PumpWay::FromGuest => &mut counts.from_guest,
    }
}

fn count(way: &mut DirectionCounts, len: usize, vnet: VnetHdr) {
    way.frames += 1;
    way.octets += len as u64;
    way.gso += u64::from(vnet.is_gso());
    way.partial += u64::from(vnet.needs_csum());
}

/// Writes one line.
pub fn report(to: &mut impl Write, report: &StandInReport) -> Result<()> {
    let mut line = serde_json::to_vec(report).context("encoding a report")?;
    line.push(b'\n');
    to.write_all(&line).and_then(|()| to.flush()).context("reporting")
}
