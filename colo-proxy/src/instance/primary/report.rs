//! What `colo-proxy status` shows of a primary.

use std::collections::BTreeMap;

use colo_proxy_common::record::ProgramCounters;

use super::{Inputs, PrimaryTask};
use crate::error_chain::chain;
use crate::instance::counters::nonzero;
use crate::lane::LaneStatus;
use crate::status::{
    DivergenceReport, GuestStatus, InstanceHead, PrimaryDetail, PrimaryLanes, PrimaryStatus, Reply,
    Status,
};
use colo_proxy_engine::pair::message::VERSION;

/// Divergences shown, the last ones.
const DIVERGENCES_SHOWN: usize = 16;

impl PrimaryTask {
    pub(super) async fn report(&self, inputs: &Inputs) -> Reply {
        let engine = self.half.engine().stats();
        let (stats, counts) = (&self.stats, self.half.counts());
        let mirror = stats.mirror.status(&self.mirror_endpoint);
        let kernel = self.kernel.datapath.counters();
        let counters = kernel.as_ref().ok().copied().unwrap_or_default();
        let released = &engine.released;
        let all =
            [released.compared, released.checkpoint, released.unprotected, released.uncompared];
        let (tap, protection) = (inputs.tap.state(), self.half.protection());
        let guest = GuestStatus {
            head: InstanceHead::new(&self.claim.name, &self.guest.netdev, tap),
            standing: self.history.report(protection.reason(), tap, protection.keeper()),
            epoch: self.half.epoch(),
            flows: engine.flows,
            held_frames: engine.held.frames,
            held_bytes: engine.held.bytes,
            compared_frames: engine.compared.frames,
            compared_bytes: engine.compared.bytes,
            released_frames: all.iter().fold(counts.released_unprotected, |n, t| n + t.frames),
            released_bytes: all.iter().map(|traffic| traffic.bytes).sum(),
            divergences: engine.divergences,
            checkpoints: self.checkpoints_asked_for(),
            drops: self.drops(inputs, &mirror, &counters).await,
        };
        let detail = PrimaryDetail {
            engine: engine.clone(),
            colo_frame: inputs.frame.report(),
            released_unprotected: counts.released_unprotected,
            resyncs: counts.resyncs,
            busy_poll: stats.busy.report(),
            checkpoints_ignored: counts.checkpoints_ignored,
            lanes: self.lanes(mirror, inputs),
            kernel: counters,
            kernel_error: kernel.err().map(|error| chain(&error)),
            divergences: self.last_divergences(),
        };
        Reply::Status(Box::new(Status::Primary(Box::new(PrimaryStatus { guest, detail }))))
    }

    fn lanes(&self, mirror: LaneStatus, inputs: &Inputs) -> PrimaryLanes {
        PrimaryLanes {
            mirror,
            secondary_in: self.stats.secondary.status(&self.secondary_endpoint),
            digests: self.half.expander().report(),
            control_up: self.guest.control.is_some() && self.half.is_control_up(),
            control_version: VERSION,
            peer: self.stats.peer,
            kernel: inputs.lane.report(&self.kernel.datapath),
        }
    }

    /// Frames that were lost or dropped, by the reason.
    async fn drops(
        &self,
        inputs: &Inputs,
        mirror: &LaneStatus,
        counters: &ProgramCounters,
    ) -> BTreeMap<String, u64> {
        let links = inputs.tap.links();
        let dropped = &self.half.engine().stats().secondary_dropped;
        let counts = self.half.counts();
        let output_lost = links.other(self.kernel.output_gate.name()).await;
        let input_lost = links.other(self.kernel.input_gate.name()).await;
        let mut returned_lost = 0;
        for gate in inputs.lane.gates() {
            returned_lost += links.other(gate).await.map_or(0, |link| link.tx_dropped);
        }
        nonzero([
            ("output-gate-full", output_lost.map_or(0, |link| link.tx_dropped)),
            ("input-gate-full", input_lost.map_or(0, |link| link.tx_dropped)),
            ("return-gate-full", returned_lost),
            ("lane-lost", inputs.lane.lost()),
            ("lane-stale", counters.lane_stale),
            ("lane-late", counters.lane_late),
            ("lane-too-long", counters.lane_too_long),
            ("lane-ignored", counters.lane_ignored),
            ("mirror-failed", counters.mirror_failed),
            ("mirror-no-peer", mirror.dropped_no_peer),
            ("foreign-in-gate", counters.dropped_foreign),
            ("no-settings", counters.dropped_no_settings),
            ("release-failed", self.kernel.release_failed),
            ("taken-over", counts.dropped_taken_over),
            ("peer-lost", counts.dropped_peer_lost),
            ("unguarded", inputs.tap.unguarded_frames()),
            ("secondary-stale", dropped.stale),
            ("secondary-unsorted-overflow", self.half.unsorted_overflowed()),
            ("secondary-digest-lost", self.half.expander().lost()),
            ("secondary-old-connection", dropped.old_connection),
            ("secondary-out-of-window", dropped.out_of_window),
            ("secondary-limit", dropped.limit),
            ("secondary-no-flow", dropped.no_flow),
            ("secondary-unprotected", dropped.unprotected + counts.secondary_ignored),
            ("secondary-uncompared", dropped.uncompared.total()),
        ])
    }

    /// By the reason that came first.
    fn checkpoints_asked_for(&self) -> BTreeMap<String, u64> {
        let requests = self.half.engine().stats().requests.iter().filter(|(_, count)| *count > 0);
        requests.map(|(reason, count)| (reason.name().to_owned(), count)).collect()
    }

    fn last_divergences(&self) -> Vec<DivergenceReport> {
        let all: Vec<_> = self.half.engine().divergences().collect();
        let skipped = all.len().saturating_sub(DIVERGENCES_SHOWN);
        all.into_iter().skip(skipped).map(DivergenceReport::from).collect()
    }
}
