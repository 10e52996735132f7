//! What `colo-proxy status` shows of a secondary.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Inputs, SecondaryTask};
use crate::error_chain::chain;
use crate::instance::counters::{counters_json, nonzero};
use crate::lane::LaneStatus;
use crate::status::{Reply, Status};
use colo_proxy_engine::pair::Role;

impl SecondaryTask {
    pub(super) async fn report(&self, inputs: &Inputs) -> Reply {
        let (links, stats) = (inputs.tap.links(), &self.stats);
        let output_lost = links.other(self.output_gate.name()).await;
        let input_lost = links.other(self.translator.gate.name()).await;
        let kernel = self.translator.datapath.counters();
        let counters = kernel.as_ref().ok().copied().unwrap_or_default();
        let output = stats.output.status(&self.output_endpoint);
        let status = Status {
            instance: self.claim.name.clone(),
            role: Role::Secondary,
            netdev: self.guest.netdev.clone(),
            netdev_present: inputs.tap.is_present(),
            pid: std::process::id(),
            mode: inputs.tap.mode(self.half.mode()).name().into(),
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
            drops: nonzero([
                ("output-gate-full", output_lost.map_or(0, |link| link.tx_dropped)),
                ("output-no-peer", output.dropped_no_peer),
                ("input-refused", self.translator.input_refused),
                ("release-failed", stats.release_failed),
                ("capture-ring-full", output.capture.dropped_ring_full),
                ("capture-by-socket", output.capture.dropped_by_socket),
                ("capture-oversize", output.capture.dropped_oversize),
                ("held-input-full", self.half.early_input.dropped_full),
                ("held-input-late", self.half.early_input.dropped_late),
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
            ]),
            detail: json!({
                "capture": self.capture_name,
                "colo_frame": inputs.frame.report(),
                "covered": self.half.takeover.is_covered(),
                "announced": stats.announced,
                "busy_poll": stats.busy.report(),
                "flows": self.flows(),
                "input": self.input(),
                "lanes": self.lanes(&output, inputs),
                "kernel": counters_json(&counters),
                "kernel_error": kernel.err().map(|error| chain(&error)),
            }),
        };
        Reply::Status(serde_json::to_value(status).unwrap_or_default())
    }

    fn lanes(&self, output: &LaneStatus, inputs: &Inputs) -> Value {
        json!({
            "mirror": self.stats.mirror.status(&self.mirror_endpoint),
            "secondary_out": output,
            "digests": self.stats.digests.as_ref().map(|stats| stats.report()),
            "peer": self.stats.peer,
            "kernel": inputs.lane.report(&self.translator.datapath),
        })
    }

    /// What waits for the guest to acknowledge it.
    fn input(&self) -> Value {
        let repeat = self.half.repeater.lock();
        json!({
            "unacknowledged_bytes": repeat.bytes(),
            "repeated_frames": repeat.repeated,
            "not_kept_frames": repeat.not_kept,
            "given_up_frames": repeat.given_up,
        })
    }

    /// The table of connections in use, and what had to leave it.
    fn flows(&self) -> Value {
        json!({
            "max": self.translator.datapath.flows_max(),
            "expired": self.translator.expired,
            "evicted": self.translator.evicted,
            "checkpoints_wanted": self.translator.checkpoints_wanted,
        })
    }
}
