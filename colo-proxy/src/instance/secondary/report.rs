//! What `colo-proxy status` shows of a secondary.

use std::collections::BTreeMap;

use colo_proxy_common::record::ProgramCounters;

use super::{Inputs, SecondaryTask};
use crate::error_chain::chain;
use crate::instance::counters::nonzero;
use crate::lane::LaneStatus;
use crate::status::{
    GuestStatus, InstanceHead, KeptInputReport, Reply, SecondaryDetail, SecondaryLanes,
    SecondaryStatus, Status,
};

impl SecondaryTask {
    pub(super) async fn report(&self, inputs: &Inputs) -> Reply {
        let kernel = self.translator.datapath.counters();
        let counters = kernel.as_ref().ok().copied().unwrap_or_default();
        let output = self.stats.output.status(&self.output_endpoint);
        let tap = inputs.tap.state();
        let guest = GuestStatus {
            head: InstanceHead::new(&self.claim.name, &self.guest.netdev, tap),
            standing: self.history.report(self.half.reason(), tap, self.half.takeover().keeper()),
            epoch: self.half.epoch(),
            flows: self.translator.datapath.flows().count() as u64,
            held_frames: self.half.early_input.frames() as u64,
            held_bytes: self.half.early_input.bytes() as u64,
            compared_frames: 0,
            compared_bytes: 0,
            released_frames: counters.released,
            released_bytes: 0,
            divergences: 0,
            checkpoints: BTreeMap::new(),
            drops: self.drops(inputs, &output, &counters).await,
        };
        let detail = SecondaryDetail {
            capture: self.capture_name.to_owned(),
            colo_frame: inputs.frame.report(),
            covered: self.half.takeover().is_covered(),
            announced: self.stats.announced,
            busy_poll: self.stats.busy.report(),
            flows: self.translator.report(),
            input: self.input(),
            lanes: self.lanes(output, inputs),
            kernel: counters,
            kernel_error: kernel.err().map(|error| chain(&error)),
        };
        Reply::Status(Box::new(Status::Secondary(Box::new(SecondaryStatus { guest, detail }))))
    }

    /// Frames that did not go on, by reason.
    async fn drops(
        &self,
        inputs: &Inputs,
        output: &LaneStatus,
        counters: &ProgramCounters,
    ) -> BTreeMap<String, u64> {
        let (links, stats) = (inputs.tap.links(), &self.stats);
        let output_lost = links.other(self.output_gate.name()).await;
        let input_lost = links.other(self.translator.gate.name()).await;
        nonzero([
            ("output-gate-full", output_lost.map_or(0, |link| link.tx_dropped)),
            ("output-no-peer", output.dropped_no_peer),
            ("input-refused", self.translator.input_refused),
            ("release-failed", stats.release_failed),
            ("capture-ring-full", output.capture.dropped_ring_full),
            ("capture-by-socket", output.capture.dropped_by_socket),
            ("capture-oversize", output.capture.dropped_oversize),
            ("parked-input-full", self.half.early_input.dropped_full),
            ("parked-input-late", self.half.early_input.dropped_late),
            ("stopped-input-full", self.translator.backlog.dropped),
            ("input-gate-full", input_lost.map_or(0, |link| link.tx_dropped)),
            ("lane-lost", inputs.lane.lost()),
            ("lane-late", counters.lane_late),
            ("lane-too-long", counters.lane_too_long),
            ("lane-ignored", counters.lane_ignored),
            ("lan-input", counters.dropped_lan_input),
            ("no-offset", counters.dropped_no_offset),
            ("foreign-in-gate", counters.dropped_foreign),
            ("no-settings", counters.dropped_no_settings),
            ("rewrite-failed", counters.rewrite_failed),
            ("flow-table-full", counters.flow_table_full),
            ("unguarded", inputs.tap.unguarded_frames()),
        ])
    }

    fn lanes(&self, output: LaneStatus, inputs: &Inputs) -> SecondaryLanes {
        SecondaryLanes {
            mirror: self.stats.mirror.status(&self.mirror_endpoint),
            secondary_out: output,
            digests: self.stats.digests.as_ref().map(|stats| stats.report()),
            peer: self.stats.peer,
            kernel: inputs.lane.report(&self.translator.datapath),
        }
    }

    /// Input that waits for the guest's acknowledgment.
    fn input(&self) -> KeptInputReport {
        let repeat = self.half.repeater.lock();
        KeptInputReport {
            unacknowledged_bytes: repeat.bytes() as u64,
            repeated_frames: repeat.repeated,
            not_kept_frames: repeat.not_kept,
            given_up_frames: repeat.given_up,
        }
    }
}
