//! A filter in `colo-proxy status`, for people.

use colo_proxy::status::{
    InstanceRole, LaneStatus, RewriterFrames, RewriterStatus, StreamFilterFrames,
    StreamFilterStatus,
};

use super::output;

/// A mirror or a redirector, with a line for each group. The most important lines come first.
pub(super) fn shown_stream(filter: &StreamFilterStatus, role: InstanceRole) -> String {
    let mut lines =
        vec![output::head(&filter.head, role, filter.mode), format!("  queue {}", filter.queue)];
    lines.extend(filter.indev.as_ref().map(|lane| socket("indev", "received", lane)));
    lines.extend(filter.outdev.as_ref().map(|outdev| socket("outdev", "sent", &outdev.lane)));
    let StreamFilterFrames { mirrored, redirected, passed, injected_tx, injected_rx } =
        filter.frames;
    lines.push(frames(&[
        ("injected_rx", injected_rx),
        ("injected_tx", injected_tx),
        ("mirrored", mirrored),
        ("passed", passed),
        ("redirected", redirected),
    ]));
    lines.push(format!("  drops: {}", output::counts(&filter.drops)));
    lines.join("\n") + "\n"
}

/// A rewriter, likewise.
pub(super) fn shown_rewriter(rewriter: &RewriterStatus) -> String {
    let RewriterStatus { epoch, flows, held_frames, held_bytes, .. } = rewriter;
    let RewriterFrames { translated_to_guest, translated_from_guest, held } = rewriter.frames;
    let lines = [
        output::head(&rewriter.head, InstanceRole::FilterRewriter, rewriter.mode),
        format!("  epoch {epoch}, {flows} flows, held {held_frames} frames ({held_bytes} bytes)"),
        frames(&[
            ("held", held),
            ("translated_from_guest", translated_from_guest),
            ("translated_to_guest", translated_to_guest),
        ]),
        format!("  drops: {}", output::counts(&rewriter.drops)),
    ];
    lines.join("\n") + "\n"
}

fn socket(name: &str, verb: &str, lane: &LaneStatus) -> String {
    let LaneStatus { endpoint, frames, bytes, queued_bytes, .. } = lane;
    let state = if lane.connected { "connected" } else { "no peer" };
    format!(
        "  {name} {endpoint}: {state}, {verb} {frames} frames ({bytes} bytes), waiting \
         {queued_bytes} bytes"
    )
}

fn frames(counts: &[(&str, u64)]) -> String {
    let nonzero = counts.iter().filter(|(_, n)| *n != 0);
    let named = nonzero.map(|(name, n)| ((*name).to_owned(), *n)).collect();
    format!("  frames: {}", output::counts(&named))
}

#[cfg(test)]
mod tests {
    use colo_proxy::datapath::FlowsByClass;
    use colo_proxy::datapath::capture::CaptureStats;
    use colo_proxy::filter::FilterQueue;
    use colo_proxy::status::{
        FlowTableReport, InstanceHead, OutdevStatus, RewriterDetail, RewriterMode, SCHEMA,
        StreamFilterDetail, StreamFilterMode,
    };
    use colo_proxy_common::filter::FilterCounters;
    use colo_proxy_common::record::ProgramCounters;
    use colo_proxy_engine::record::BadRecords;

    use super::*;

    fn head(name: &str) -> InstanceHead {
        InstanceHead {
            schema: SCHEMA,
            instance: name.into(),
            netdev: "tap0".into(),
            netdev_present: true,
            pid: 7,
        }
    }

    fn mirror() -> StreamFilterStatus {
        let lane = LaneStatus {
            endpoint: "unix:/run/m,server".into(),
            connected: false,
            connections: 1,
            frames: 5,
            bytes: 300,
            queued_bytes: 0,
            dropped_no_peer: 0,
            lost_bytes: 0,
            stalls: 0,
            bad_records: BadRecords::default(),
            capture: CaptureStats::default(),
        };
        StreamFilterStatus {
            head: head("m0"),
            mode: StreamFilterMode::Broken,
            queue: FilterQueue::Tx,
            vnet_hdr_support: false,
            outdev: Some(OutdevStatus { lane, overflows: 0, breaks: 1, since_break_ms: Some(5) }),
            indev: None,
            frames: StreamFilterFrames {
                mirrored: 9,
                redirected: 0,
                passed: 0,
                injected_tx: 0,
                injected_rx: 0,
            },
            drops: [("outdev-gate-full".to_owned(), 4)].into(),
            detail: StreamFilterDetail {
                netdev_tx_dropped: None,
                kernel: FilterCounters::default(),
                kernel_error: None,
            },
        }
    }

    #[test]
    fn a_mirror_is_a_few_lines() {
        let wanted = "m0 (filter-mirror of tap0, pid 7): broken\n  queue tx\n  outdev \
                      unix:/run/m,server: no peer, sent 5 frames (300 bytes), waiting 0 bytes\n  \
                      frames: mirrored 9\n  drops: outdev-gate-full 4\n";
        assert_eq!(shown_stream(&mirror(), InstanceRole::FilterMirror), wanted);
    }

    #[test]
    fn the_modes_of_a_mirror_have_their_words() {
        for (mode, word) in [
            (StreamFilterMode::Connected, "connected"),
            (StreamFilterMode::Waiting, "waiting"),
            (StreamFilterMode::Broken, "broken"),
        ] {
            let text = shown_stream(
                &StreamFilterStatus { mode, ..mirror() },
                InstanceRole::FilterRedirector,
            );
            let first = format!("m0 (filter-redirector of tap0, pid 7): {word}\n");
            assert!(text.starts_with(&first), "{text}");
        }
    }

    #[test]
    fn a_rewriter_is_a_few_lines_in_each_mode() {
        for (mode, word) in [
            (RewriterMode::Off, "off"),
            (RewriterMode::Translating, "translating"),
            (RewriterMode::FailedOver, "failed-over"),
        ] {
            let status = RewriterStatus {
                head: head("r0"),
                mode,
                queue: FilterQueue::All,
                epoch: 1,
                flows: 2,
                held_frames: 3,
                held_bytes: 180,
                frames: RewriterFrames {
                    translated_to_guest: 4,
                    translated_from_guest: 5,
                    held: 3,
                },
                drops: [].into(),
                detail: RewriterDetail {
                    flows: FlowTableReport {
                        max: 10,
                        expired: FlowsByClass::default(),
                        evicted: FlowsByClass::default(),
                        checkpoints_wanted: 0,
                    },
                    kernel: ProgramCounters::default(),
                    kernel_error: None,
                },
            };
            let wanted = format!(
                "r0 (filter-rewriter of tap0, pid 7): {word}\n  epoch 1, 2 flows, held 3 frames \
                 (180 bytes)\n  frames: held 3, translated_from_guest 5, translated_to_guest 4\n  \
                 drops: none\n"
            );
            assert_eq!(shown_rewriter(&status), wanted);
        }
    }
}
