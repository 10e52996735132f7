//! What `colo-proxy status` shows of a rewriter, and what its end says.

use std::collections::BTreeMap;

use colo_proxy_common::record::ProgramCounters;

use super::Rewriter;
use crate::error_chain::chain;
use crate::guest_tap::GuestTap;
use crate::instance::counters::nonzero;
use crate::status::{
    InstanceHead, Reply, RewriterDetail, RewriterFrames, RewriterMode, RewriterStatus, Status,
};
use colo_proxy_engine::pair::ProgramMode;

impl Rewriter {
    pub(super) async fn report(&self, tap: &GuestTap) -> Reply {
        let gate_full = self.gate_full(tap).await;
        let datapath = &self.translator.datapath;
        let kernel = datapath.counters();
        let counters = kernel.as_ref().ok().copied().unwrap_or_default();
        let early_input = &self.half.early_input;
        let head = InstanceHead::new(&self.claim.name, &self.options.netdev, tap.state());
        let status = RewriterStatus {
            head,
            mode: match self.half.program_mode() {
                ProgramMode::Off => RewriterMode::Off,
                ProgramMode::Protected => RewriterMode::Translating,
                ProgramMode::FailedOver => RewriterMode::FailedOver,
            },
            queue: self.options.queue,
            epoch: datapath.epoch().into(),
            flows: datapath.flows().count() as u64,
            held_frames: early_input.frames() as u64,
            held_bytes: early_input.bytes() as u64,
            frames: RewriterFrames {
                translated_to_guest: counters.translated_to_guest,
                translated_from_guest: counters.translated_from_guest,
                held: counters.input_to_daemon,
            },
            drops: self.drops(&counters, tap, gate_full),
            detail: RewriterDetail {
                flows: self.translator.report(),
                kernel: counters,
                kernel_error: kernel.err().map(|error| chain(&error)),
            },
        };
        Reply::Status(Box::new(Status::FilterRewriter(Box::new(status))))
    }

    /// Everything that was counted, for the log.
    pub(super) async fn counts(&self, tap: &GuestTap) -> BTreeMap<String, u64> {
        let counters = self.translator.datapath.counters().unwrap_or_default();
        let mut all = nonzero([
            ("translated-to-guest", counters.translated_to_guest),
            ("translated-from-guest", counters.translated_from_guest),
            ("held", counters.input_to_daemon),
            ("checkpoints", u64::from(self.translator.datapath.epoch())),
            ("malformed", counters.malformed),
        ]);
        let drops = self.drops(&counters, tap, self.gate_full(tap).await);
        all.extend(drops.into_iter().map(|(reason, n)| (format!("dropped.{reason}"), n)));
        all
    }

    /// Frames for which the gate had no room.
    async fn gate_full(&self, tap: &GuestTap) -> u64 {
        tap.links().other(self.translator.gate.name()).await.map_or(0, |gate| gate.tx_dropped)
    }

    fn drops(
        &self,
        counters: &ProgramCounters,
        tap: &GuestTap,
        gate_full: u64,
    ) -> BTreeMap<String, u64> {
        nonzero([
            ("gate-full", gate_full),
            ("input-refused", self.translator.input_refused),
            ("parked-input-full", self.half.early_input.dropped_full),
            ("parked-input-late", self.half.early_input.dropped_late),
            ("no-offset", counters.dropped_no_offset),
            ("foreign-in-gate", counters.dropped_foreign),
            ("no-settings", counters.dropped_no_settings),
            ("rewrite-failed", counters.rewrite_failed),
            ("flow-table-full", counters.flow_table_full),
            ("unguarded", tap.unguarded_frames()),
        ])
    }
}
