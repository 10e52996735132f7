//! What `colo-proxy status` shows of a secondary.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Inputs, Secondary};
use crate::config::Role;
use crate::datapath::Mode;
use crate::instance::LaneStatus;
use crate::instance::wiring::{counters_json, nonzero};
use crate::status::{Reply, Status};

impl Secondary {
    pub(super) async fn report(&self, inputs: &Inputs) -> Reply {
        let (links, stats) = (&inputs.link, &self.stats);
        let output_lost = links.other(self.output_gate.name()).await;
        let input_lost = links.other(self.hands.gate.name()).await;
        let kernel = self.hands.datapath.counters();
        let counters = kernel.as_ref().ok().copied().unwrap_or_default();
        let output = stats.output.status(&self.output_endpoint);
        let status = Status {
            instance: self.claim.name.clone(),
            role: Role::Secondary,
            netdev: self.guest.netdev.clone(),
            netdev_present: self.netdev.is_some(),
            pid: std::process::id(),
            mode: match self.decisions.mode {
                Mode::Off => "off",
                Mode::Protected => "protected",
                Mode::FailedOver => "failed-over",
            }
            .into(),
            epoch: self.decisions.epoch,
            flows: self.hands.datapath.flows().count() as u64,
            held_frames: self.decisions.hold.frames() as u64,
            held_bytes: self.decisions.hold.bytes() as u64,
            compared_frames: 0,
            compared_bytes: 0,
            released_frames: counters.released,
            released_bytes: 0,
            divergences: 0,
            checkpoints: BTreeMap::new(),
            drops: nonzero([
                ("output-gate-full", output_lost.map_or(0, |link| link.tx_dropped)),
                ("output-no-peer", output.dropped_no_peer),
                ("input-refused", self.hands.input_refused),
                ("release-failed", stats.release_failed),
                ("capture-ring-full", output.capture.dropped_ring_full),
                ("capture-by-socket", output.capture.dropped_by_socket),
                ("capture-oversize", output.capture.dropped_oversize),
                ("held-input-full", self.decisions.hold.dropped_full),
                ("held-input-late", self.decisions.hold.dropped_late),
                ("stopped-input-full", self.hands.backlog.dropped),
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
                ("unguarded", stats.unguarded),
            ]),
            detail: json!({
                "capture": self.capture_name,
                "colo_frame": inputs.frame.report(),
                "covered": self.takeover.is_covered(),
                "announced": stats.announced,
                "busy_poll": stats.busy.report(),
                "flows": self.flows(),
                "input": self.input(),
                "lanes": self.lanes(&output, inputs),
                "kernel": counters_json(&counters),
                "kernel_error": kernel.err().map(|error| error.to_string()),
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
            "kernel": inputs.lane.report(&self.hands.datapath),
        })
    }

    /// What waits for the guest to acknowledge it.
    fn input(&self) -> Value {
        let repeat = self.decisions.repeat.lock();
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
            "max": self.hands.datapath.flows_max(),
            "expired": self.hands.expired,
            "evicted": self.hands.evicted,
            "checkpoints_wanted": self.hands.checkpoints_wanted,
        })
    }
}
