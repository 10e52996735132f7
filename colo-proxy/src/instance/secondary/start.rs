//! What a secondary is put together from.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use colo_proxy_engine::log_limit::LogLimit;
use colo_proxy_engine::pair::service_record::{RecordKeeper, ServiceRecord};
use colo_proxy_engine::pair::takeover::{Takeover, TakeoverDeciders};
use colo_proxy_engine::pair::{Mode, Secondary as SecondaryHalf};
use colo_proxy_engine::record::FrameRecords;

use super::output::{OutputObserver, choose_capture, spawn_output};
use super::{Inputs, SecondaryLaneInputs, SecondaryStats, SecondaryTask};
use crate::config::{Guest, SideConfig};
use crate::gate::readable::Readable;
use crate::instance::announce::Addresses;
use crate::instance::half::StartedHalf;
use crate::instance::kept_input::KeptInput;
use crate::instance::mode_history::ModeHistory;
use crate::instance::trace::ProgramLog;
use crate::instance::translator::Translator;
use crate::instance::{InstanceDirs, InstanceError, system};
use crate::lane;
use crate::lane::control::LaneTraffic;

impl SecondaryTask {
    pub(super) async fn attach(
        guest: Guest,
        dirs: &InstanceDirs,
    ) -> Result<(Self, Inputs), InstanceError> {
        let SideConfig::Secondary { mirror, secondary_out, capture, .. } = guest.side.clone()
        else {
            return Err(InstanceError::Ended);
        };
        let (mirror_endpoint, output_endpoint) = (mirror.to_string(), secondary_out.to_string());
        let started = StartedHalf::new(&guest, dirs, mirror, secondary_out).await?;
        let StartedHalf { claim, mirror, output, mut programs, found, mut rest } = started;
        let events = programs.datapath.take_events().ok_or(InstanceError::Ended)?;
        let gate = &programs.output_gate;
        let source = choose_capture(capture, &guest.netdev, gate, &mut programs.datapath)?;
        rest.open_gates(&claim.name, &programs).await?;
        rest.bring_up().await?;
        let (vnet_hdr, stats) = (guest.vnet_hdr_support, SecondaryStats::new(&guest));
        let addresses = Arc::new(Mutex::new(Addresses::default()));
        let capture_name = source.name();
        let kept_input = KeptInput::new(guest.limits.repeat);
        let observer =
            OutputObserver { addresses: addresses.clone(), kept_input: kept_input.clone() };
        let mirror = lane::spawn_incoming::<FrameRecords>(mirror, vnet_hdr, stats.mirror.clone());
        let (output_requests, output) = spawn_output(&guest, output, source, &stats, observer)?;
        let log = programs.datapath.take_log();
        let lanes = SecondaryLaneInputs {
            mirror: Some(mirror),
            held: Readable::new(&*programs.input_gate).map_err(system("watch the input gate"))?,
            offsets: Readable::new(&events).map_err(system("watch the events"))?,
            trace: ProgramLog::new(log).map_err(system("watch the programs' log"))?,
            output,
            output_requests,
        };
        let traffic = LaneTraffic { sent: stats.output.clone(), received: stats.mirror.clone() };
        let inputs = rest.serve(dirs, &claim.name, traffic, lanes)?;
        let name = claim.name.clone();
        let secondary = Self {
            half: SecondaryHalf::new(
                name.clone(),
                programs.datapath.mode(),
                takeover(&guest, found, programs.datapath.taken_over()),
                kept_input.repeater(),
                guest.limits.input,
            )
            .started(Instant::now(), guest.limits.peer.timeout),
            kept_input,
            translator: Translator::new(
                name,
                programs.datapath,
                programs.input_gate,
                &guest.limits,
            ),
            output_gate: programs.output_gate,
            guest,
            claim,
            events,
            capture,
            capture_name,
            mirror_endpoint,
            output_endpoint,
            addresses,
            stats,
            unrecorded_log: LogLimit::default(),
            gone_log: LogLimit::default(),
            history: ModeHistory::new(Mode::Standby),
        };
        Ok((secondary, inputs))
    }
}

/// When the guest takes over. `is_left`: an earlier daemon's programs are still there.
fn takeover(guest: &Guest, found: Option<ServiceRecord>, is_left: bool) -> Takeover {
    let deciders = TakeoverDeciders {
        fence: guest.takeover.fence.is_some(),
        quorum: guest.takeover.quorum.is_some(),
    };
    Takeover::new(deciders, RecordKeeper::new(found), is_left)
}
