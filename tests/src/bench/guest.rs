//! A guest that is measured: a network stack, the program that moves its frames, and the service in
//! it.

use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::hub::Hub;
use super::service::Swallowed;
use crate::guest::{GuestOptions, StandIn, configure};
use crate::namespace::Namespace;
use crate::network::{HostSide, Lab, LabSlot};
use crate::process::{Process, program};
use crate::stand_in::tap::TapOffloads;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The program that moves frames between the host's TAP and the guest's.
#[derive(Debug)]
pub(super) enum Mover {
    /// QEMU with more arguments. It has no offloads.
    Hub(Vec<String>),
    /// The lab's own pump, which has offloads.
    StandIn,
}

#[derive(Debug)]
enum Moving {
    Hub(Hub),
    StandIn(StandIn),
}

/// A running guest. Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct MeasuredGuest {
    moving: Moving,
    service: Process,
    reports: Receiver<Swallowed>,
    // It comes last, so that its sockets die before it.
    _namespace: Namespace,
}

impl MeasuredGuest {
    /// Starts it and waits until its service listens.
    pub(super) fn start(lab: &Lab, side: HostSide, slot: LabSlot, mover: Mover) -> Result<Self> {
        let (namespace, host) = (lab.guest_namespace(side)?, lab.host(side));
        let offloads = match mover {
            Mover::Hub(_) => TapOffloads::Off,
            Mover::StandIn => TapOffloads::On,
        };
        // Neither guest's numbers are moved, so both cost the same. They still differ, because the
        // kernel chose them at different times.
        let options = GuestOptions { slot, offloads, shift: false, verify: false };
        let moving = match mover {
            Mover::Hub(more) => Moving::Hub(Hub::start(host, &namespace, slot, &more)?),
            Mover::StandIn => {
                let vnet_hdr = lab.options.vnet_hdr;
                Moving::StandIn(StandIn::start(host, &namespace, vnet_hdr, options, None)?)
            }
        };
        configure(&namespace, options)?;
        let (service, reports) = serve(side, &namespace)?;
        Ok(Self { moving, service, reports, _namespace: namespace })
    }

    /// The sink's report of the stream from `port`, after the stream was reset.
    pub(super) fn swallowed(&self, port: u16) -> Result<Swallowed> {
        let deadline = Instant::now() + REPORT_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let report = self.reports.recv_timeout(left).with_context(|| {
                format!(
                    "{} says nothing of a stream: {}",
                    self.service.name(),
                    self.service.stderr()
                )
            })?;
            if report.port == port {
                return Ok(report);
            }
        }
    }

    /// `kill -9` of the program that moves its frames. For the network, the guest is dead then.
    pub(super) fn kill(&mut self) -> Result<()> {
        match &mut self.moving {
            Moving::Hub(hub) => hub.kill(),
            Moving::StandIn(stand_in) => stand_in.process.kill(),
        }
    }
}

fn serve(side: HostSide, namespace: &Namespace) -> Result<(Process, Receiver<Swallowed>)> {
    let mut command = Command::new(program("bench", "COLO_LAB_BENCH")?);
    command.arg("serve").stdin(Stdio::null()).stdout(Stdio::piped());
    let name = format!("bench service {}", side.letter());
    let mut service = Process::spawn(&name, command, &[namespace.handle()])?;
    let reports = service.reports()?;
    service.wait_for("ready", START_TIMEOUT)?;
    Ok((service, reports))
}
