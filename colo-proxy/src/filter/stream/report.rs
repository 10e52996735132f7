//! What `colo-proxy status` shows of a mirror or a redirector, and what its end says.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use colo_proxy_common::filter::FilterCounters;

use super::{IndevLane, OutdevLane, StreamFilter};
use crate::error_chain::chain;
use crate::filter::FilterKind;
use crate::filter::outlet::OutdevState;
use crate::guest_tap::GuestTap;
use crate::instance::counters::nonzero;
use crate::status::{
    InstanceHead, OutdevStatus, Reply, Status, StreamFilterDetail, StreamFilterFrames,
    StreamFilterMode, StreamFilterStatus,
};

impl StreamFilter {
    pub(super) async fn report(&self, tap: &GuestTap) -> Reply {
        let kernel = self.path.counters();
        let counters = kernel.as_ref().ok().copied().unwrap_or_default();
        let drops = self.drops(&counters, tap).await;
        let netdev = tap.links().get().await;
        let tap = tap.state();
        let status = StreamFilterStatus {
            head: InstanceHead::new(&self.claim.name, &self.options.netdev, tap),
            mode: self.mode(),
            queue: self.options.queue,
            vnet_hdr_support: self.options.vnet_hdr_support,
            outdev: self.outdev.as_ref().map(outdev),
            indev: self.indev.as_ref().map(|input| input.stats.status(&input.endpoint)),
            frames: frames(&counters),
            drops,
            detail: StreamFilterDetail {
                netdev_tx_dropped: netdev.map(|link| link.tx_dropped),
                kernel: counters,
                kernel_error: kernel.err().map(|error| chain(&error)),
            },
        };
        Reply::Status(Box::new(match self.options.kind {
            // A rewriter has a task of its own.
            FilterKind::Mirror { .. } => Status::FilterMirror(Box::new(status)),
            FilterKind::Redirector { .. } | FilterKind::Rewriter { .. } => {
                Status::FilterRedirector(Box::new(status))
            }
        }))
    }

    /// The worst of its two sockets.
    fn mode(&self) -> StreamFilterMode {
        let outlet = self.outdev.as_ref().map(|out| out.outlet);
        let has_indev =
            self.indev.as_ref().is_none_or(|input| input.stats.connected.load(Relaxed) != 0);
        match outlet {
            Some(OutdevState::Broken) => StreamFilterMode::Broken,
            Some(OutdevState::Waiting) => StreamFilterMode::Waiting,
            _ if !has_indev => StreamFilterMode::Waiting,
            _ => StreamFilterMode::Connected,
        }
    }

    /// Everything that was counted, for the log.
    pub(super) async fn counts(&self, tap: &GuestTap) -> BTreeMap<String, u64> {
        let counters = self.path.counters().unwrap_or_default();
        let mut all = nonzero([
            ("mirrored", counters.mirrored),
            ("redirected", counters.redirected),
            ("passed", counters.passed),
            ("injected-tx", counters.injected_tx),
            ("injected-rx", counters.injected_rx),
            ("passed-over", counters.passed_over),
        ]);
        if let Some(OutdevLane { stats, .. }) = &self.outdev {
            all.extend(nonzero([
                ("sent", stats.frames.load(Relaxed)),
                ("outdev-connections", stats.connections.load(Relaxed)),
                ("outdev-stalls", stats.stalls.load(Relaxed)),
                ("outdev-overflows", stats.overflows.load(Relaxed)),
                ("unsent-bytes", stats.queued_bytes.load(Relaxed)),
            ]));
        }
        if let Some(IndevLane { stats, .. }) = &self.indev {
            all.extend(nonzero([
                ("received", stats.frames.load(Relaxed)),
                ("indev-connections", stats.connections.load(Relaxed)),
            ]));
        }
        let drops = self.drops(&counters, tap).await;
        all.extend(drops.into_iter().map(|(reason, n)| (format!("dropped.{reason}"), n)));
        all
    }

    /// Frames that did not go on, by reason. The loss of a connection that was closed is known in bytes
    /// only.
    async fn drops(&self, kernel: &FilterCounters, tap: &GuestTap) -> BTreeMap<String, u64> {
        let mut drops = nonzero([
            ("mirror-failed", kernel.mirror_failed),
            ("inject-failed", kernel.inject_failed),
            ("foreign-in-gate", kernel.dropped_foreign),
            ("no-settings", kernel.dropped_no_settings),
            ("unguarded", tap.unguarded_frames()),
        ]);
        if let Some(out) = &self.outdev {
            let gate = tap.links().other(out.gate.name()).await;
            drops.extend(nonzero([
                ("outdev-no-peer", out.stats.dropped_no_peer.load(Relaxed)),
                ("outdev-lost-bytes", out.stats.lost_bytes.load(Relaxed)),
                ("outdev-gate-full", gate.map_or(0, |link| link.tx_dropped)),
            ]));
        }
        if let Some(input) = &self.indev {
            let bad = input.stats.status(&input.endpoint).bad_records;
            drops.extend(nonzero([
                ("indev-refused", input.refused),
                ("indev-malformed", input.malformed),
                ("indev-bad-records", bad.total()),
            ]));
        }
        drops
    }
}

/// The lane, and the traces of a lost frame that stay after the peer has connected again.
fn outdev(out: &OutdevLane) -> OutdevStatus {
    OutdevStatus {
        lane: out.stats.status(&out.endpoint),
        overflows: out.stats.overflows.load(Relaxed),
        breaks: out.breaks(),
        since_break_ms: out.broken_at.map(|at| at.elapsed().as_millis() as u64),
    }
}

fn frames(kernel: &FilterCounters) -> StreamFilterFrames {
    StreamFilterFrames {
        mirrored: kernel.mirrored,
        redirected: kernel.redirected,
        passed: kernel.passed,
        injected_tx: kernel.injected_tx,
        injected_rx: kernel.injected_rx,
    }
}
