//! What a primary is put together from.

use std::sync::Arc;
use std::time::Instant;

use colo_proxy_engine::compare::Engine;
use colo_proxy_engine::digest::ReturnedRecords;
use colo_proxy_engine::pair::protection::{LeftGuest, LossPolicy, Protection};
use colo_proxy_engine::pair::service_record::RecordKeeper;
use colo_proxy_engine::pair::{OnDeath, Primary as PrimaryHalf, PrimaryLimits};
use tokio::sync::mpsc;

use super::{Inputs, PrimaryKernel, PrimaryLaneInputs, PrimaryStats, PrimaryTask};
use crate::config::{Guest, SideConfig};
use crate::datapath::capture::GateCapture;
use crate::endpoint::Port;
use crate::gate::Gate;
use crate::gate::readable::Readable;
use crate::instance::half::StartedHalf;
use crate::instance::mode_history::ModeHistory;
use crate::instance::programs::AttachedPrograms;
use crate::instance::{InstanceDirs, InstanceError, system};
use crate::lane::control::LaneTraffic;
use crate::lane::{self, LaneEvent, Outgoing, OutgoingRequest};
use crate::random::random_u64;

impl PrimaryTask {
    pub(super) async fn attach(
        guest: Guest,
        dirs: &InstanceDirs,
    ) -> Result<(Self, Inputs), InstanceError> {
        let SideConfig::Primary { mirror, secondary_in, on_secondary_lost } = guest.side.clone()
        else {
            return Err(InstanceError::Ended);
        };
        let (mirror_endpoint, secondary_endpoint) = (mirror.to_string(), secondary_in.to_string());
        let started = StartedHalf::new(&guest, dirs, mirror, secondary_in).await?;
        let StartedHalf { claim, mirror, output, programs, found, mut rest } = started;
        rest.open_gates(&claim.name, &programs).await?;
        let (vnet_hdr, stats) = (guest.vnet_hdr_support, PrimaryStats::new(&guest));
        let (mirror_requests, mirror) = spawn_mirror(&guest, mirror, &programs.input_gate, &stats)?;
        let returned = stats.secondary.clone();
        let lanes = PrimaryLaneInputs {
            output: Readable::new(&*programs.output_gate)
                .map_err(system("watch the output gate"))?,
            mirror,
            secondary: lane::spawn_incoming::<ReturnedRecords>(output, vnet_hdr, returned),
            _mirror_requests: mirror_requests,
        };
        let traffic = LaneTraffic { sent: stats.mirror.clone(), received: stats.secondary.clone() };
        let inputs = rest.serve(dirs, &claim.name, traffic, lanes)?;
        let policy = LossPolicy {
            on_lost: on_secondary_lost,
            fences: !guest.takeover.is_manual(),
            covers: guest.on_death == OnDeath::Hold,
        };
        let keeper = RecordKeeper::new(found);
        let protection = Protection::new(policy, keeper, left_guest(&programs));
        let primary = Self {
            history: ModeHistory::new(protection.mode()),
            half: half(&guest, &claim.name, protection)?,
            kernel: PrimaryKernel {
                name: claim.name.clone(),
                datapath: programs.datapath,
                output_gate: programs.output_gate,
                input_gate: programs.input_gate,
                release_failed: 0,
            },
            claim,
            mirror_endpoint,
            secondary_endpoint,
            stats,
            guest,
        };
        Ok((primary, inputs))
    }
}

/// The guest that an earlier daemon has left behind.
fn left_guest(programs: &AttachedPrograms) -> LeftGuest {
    if programs.datapath.taken_over() {
        LeftGuest::Lives { was_off: programs.was_off }
    } else {
        LeftGuest::None
    }
}

/// What decides.
fn half(guest: &Guest, name: &str, protection: Protection) -> Result<PrimaryHalf, InstanceError> {
    let seed = random_u64().map_err(system("read random bytes"))?;
    let engine = Engine::new(guest.limits.compare.clone(), seed);
    let session = seed.rotate_left(32) ^ u64::from(std::process::id());
    let has_control = guest.control.is_some();
    Ok(PrimaryHalf::new(Instant::now(), name.to_owned(), engine, protection, session, has_control)
        .limited(limits(guest)))
}

/// The limits of the primary's half.
fn limits(guest: &Guest) -> PrimaryLimits {
    PrimaryLimits {
        unsorted: guest.limits.unsorted,
        digest: guest.limits.digest,
        output_queue_frames: guest.limits.peer.gate_queue_frames,
        secondary_timeout: guest.limits.peer.timeout,
        disclaim_timeout: guest.limits.peer.timeout,
        ..PrimaryLimits::default()
    }
}

/// Everything that goes to the guest goes to the secondary as well.
fn spawn_mirror(
    guest: &Guest,
    port: Port,
    input_gate: &Arc<Gate>,
    stats: &PrimaryStats,
) -> Result<(mpsc::Sender<OutgoingRequest>, mpsc::Receiver<LaneEvent>), InstanceError> {
    let busy = stats.busy.clone();
    lane::spawn_outgoing(Outgoing {
        port,
        source: Box::new(GateCapture::new(input_gate.clone())),
        vnet_hdr: guest.vnet_hdr_support,
        limits: guest.limits.peer,
        stats: stats.mirror.clone(),
        observe: Box::new(move |_| busy.on_frame()),
        digester: None,
    })
    .map_err(system("watch the input gate"))
}
