//! What `colo-proxy status` shows of a mirror or a redirector, and what its end says.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use colo_proxy_common::filter::FilterCounters;
use serde_json::{Value, json};

use super::{IndevLane, OutdevLane, StreamFilter};
use crate::error_chain::chain;
use crate::filter::outlet::OutdevState;
use crate::guest_tap::GuestTap;
use crate::instance::counters::nonzero;
use crate::status::Reply;

impl StreamFilter {
    pub(super) async fn report(&self, tap: &GuestTap) -> Reply {
        let kernel = self.path.counters();
        let counters = kernel.as_ref().ok().copied().unwrap_or_default();
        let drops = self.drops(&counters, tap).await;
        let outdev = self.outdev.as_ref().map(outdev_json);
        let indev = self.indev.as_ref().map(|input| input.stats.status(&input.endpoint));
        Reply::Status(json!({
            "instance": self.claim.name,
            "role": self.options.kind.command(),
            "netdev": self.options.netdev,
            "netdev_present": tap.is_present(),
            "pid": std::process::id(),
            "mode": self.mode(),
            "queue": self.options.queue,
            "vnet_hdr_support": self.options.vnet_hdr_support,
            "outdev": outdev,
            "indev": indev,
            "frames": frames(&counters),
            "drops": drops,
            "detail": {
                // What the guest did not read in time, injected or not.
                "netdev_tx_dropped": tap.links().get().await.map(|link| link.tx_dropped),
                "kernel": kernel_json(&counters),
                "kernel_error": kernel.err().map(|error| chain(&error)),
            },
        }))
    }

    /// The worst that can be said of it.
    fn mode(&self) -> &'static str {
        let outlet = self.outdev.as_ref().map(|out| out.outlet);
        let has_indev =
            self.indev.as_ref().is_none_or(|input| input.stats.connected.load(Relaxed) != 0);
        match outlet {
            Some(OutdevState::Broken) => "broken",
            Some(OutdevState::Waiting) => "waiting",
            _ if !has_indev => "waiting",
            _ => "connected",
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

    /// Frames that did not go where they should have, by reason; what a connection took with it
    /// when it was closed is known in bytes only.
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

/// The lane, and what a link that broke leaves to be seen after the peer has connected again:
/// whoever makes checkpoints can tell from it whether the last one came after the last loss.
fn outdev_json(out: &OutdevLane) -> Value {
    let mut shown = json!(out.stats.status(&out.endpoint));
    // A struct is an object, to which a key can be added.
    shown["overflows"] = out.stats.overflows.load(Relaxed).into();
    shown["breaks"] = out.breaks().into();
    shown["since_break_ms"] = json!(out.broken_at.map(|at| at.elapsed().as_millis() as u64));
    shown
}

fn frames(kernel: &FilterCounters) -> Value {
    json!({
        "mirrored": kernel.mirrored,
        "redirected": kernel.redirected,
        "passed": kernel.passed,
        "injected_tx": kernel.injected_tx,
        "injected_rx": kernel.injected_rx,
    })
}

/// The kernel programs' counters under the names that `bpftool` shows.
fn kernel_json(counters: &FilterCounters) -> Value {
    json!({
        "mirrored": counters.mirrored,
        "mirror_failed": counters.mirror_failed,
        "redirected": counters.redirected,
        "passed": counters.passed,
        "injected_tx": counters.injected_tx,
        "injected_rx": counters.injected_rx,
        "inject_failed": counters.inject_failed,
        "passed_over": counters.passed_over,
        "dropped_foreign": counters.dropped_foreign,
        "dropped_no_settings": counters.dropped_no_settings,
    })
}
