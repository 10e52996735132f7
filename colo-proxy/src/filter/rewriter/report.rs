//! What `colo-proxy status` shows of a rewriter, and what its end says.

use std::collections::BTreeMap;

use colo_proxy_common::record::Counters;
use serde_json::json;

use super::Rewriter;
use crate::error_chain::chain;
use crate::guest_tap::GuestTap;
use crate::instance::counters::{counters_json, nonzero};
use crate::status::Reply;
use colo_proxy_engine::pair::ProgramMode;

impl Rewriter {
    pub(super) async fn report(&self, tap: &GuestTap) -> Reply {
        let gate_full = self.gate_full(tap).await;
        let datapath = &self.translator.datapath;
        let kernel = datapath.counters();
        let counters = kernel.as_ref().ok().copied().unwrap_or_default();
        let early_input = &self.half.early_input;
        Reply::Status(json!({
            "instance": self.claim.name,
            "role": self.options.kind.command(),
            "netdev": self.options.netdev,
            "netdev_present": tap.is_present(),
            "pid": std::process::id(),
            "mode": match self.half.program_mode() {
                ProgramMode::Off => "off",
                ProgramMode::Protected => "translating",
                ProgramMode::FailedOver => "failed-over",
            },
            "queue": self.options.queue,
            "epoch": datapath.epoch(),
            "flows": datapath.flows().count(),
            "held_frames": early_input.frames(),
            "held_bytes": early_input.bytes(),
            "frames": {
                "translated_to_guest": counters.translated_to_guest,
                "translated_from_guest": counters.translated_from_guest,
                "held": counters.input_held,
            },
            "drops": self.drops(&counters, tap, gate_full),
            "detail": {
                "flows": {
                    "max": datapath.flows_max(),
                    "expired": self.translator.expired,
                    "evicted": self.translator.evicted,
                    "checkpoints_wanted": self.translator.checkpoints_wanted,
                },
                "kernel": counters_json(&counters),
                "kernel_error": kernel.err().map(|error| chain(&error)),
            },
        }))
    }

    /// Everything that was counted, for the log.
    pub(super) async fn counts(&self, tap: &GuestTap) -> BTreeMap<String, u64> {
        let counters = self.translator.datapath.counters().unwrap_or_default();
        let mut all = nonzero([
            ("translated-to-guest", counters.translated_to_guest),
            ("translated-from-guest", counters.translated_from_guest),
            ("held", counters.input_held),
            ("checkpoints", u64::from(self.translator.datapath.epoch())),
            ("malformed", counters.malformed),
        ]);
        let drops = self.drops(&counters, tap, self.gate_full(tap).await);
        all.extend(drops.into_iter().map(|(reason, n)| (format!("dropped.{reason}"), n)));
        all
    }

    /// Frames that had to wait and found no room in the gate.
    async fn gate_full(&self, tap: &GuestTap) -> u64 {
        tap.links().other(self.translator.gate.name()).await.map_or(0, |gate| gate.tx_dropped)
    }

    fn drops(&self, counters: &Counters, tap: &GuestTap, gate_full: u64) -> BTreeMap<String, u64> {
        nonzero([
            ("gate-full", gate_full),
            ("input-refused", self.translator.input_refused),
            ("held-input-full", self.half.early_input.dropped_full),
            ("held-input-late", self.half.early_input.dropped_late),
            ("no-offset", counters.dropped_no_offset),
            ("foreign-in-gate", counters.dropped_foreign),
            ("no-settings", counters.dropped_no_settings),
            ("rewrite-failed", counters.rewrite_failed),
            ("flow-table-full", counters.flow_table_full),
            ("unguarded", tap.unguarded_frames()),
        ])
    }
}
