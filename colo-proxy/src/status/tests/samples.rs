//! An answer of each kind, in which most counters are not 0.

use std::collections::BTreeMap;

use colo_proxy_common::filter::FilterCounters;
use colo_proxy_common::record::ProgramCounters;
use colo_proxy_engine::compare::{Context, Reason, Stats, WaitsFor};
use colo_proxy_engine::digest::{DigesterReport, ExpanderReport};
use colo_proxy_engine::pair::Mode;
use colo_proxy_engine::pair::service_record::Server;
use colo_proxy_engine::record::BadRecords;

use crate::datapath::FlowsByClass;
use crate::datapath::capture::CaptureStats;
use crate::filter::FilterQueue;
use crate::guest_tap::TapState;
use crate::status::*;

pub(super) fn all() -> Vec<Status> {
    vec![primary(), secondary(), mirror(), redirector(), rewriter()]
}

fn head(instance: &str) -> InstanceHead {
    InstanceHead::new(instance, "tap0", TapState::Guarded)
}

fn counts(names: &[&str]) -> BTreeMap<String, u64> {
    names.iter().zip(1..).map(|(name, n)| ((*name).to_owned(), n)).collect()
}

fn guest(mode: Mode) -> GuestStatus {
    GuestStatus {
        head: head("web"),
        standing: ModeReport {
            mode,
            since: "2026-12-01T14:00:00.123456789Z".into(),
            reason: "a reason".into(),
            record: Some(RecordReport { generation: 1, server: Server::Either, on_disk: true }),
        },
        epoch: 1,
        flows: 2,
        held_frames: 3,
        held_bytes: 4,
        compared_frames: 5,
        compared_bytes: 6,
        released_frames: 7,
        released_bytes: 8,
        divergences: 9,
        checkpoints: counts(&["payload", "timeout"]),
        drops: counts(&["lane-lost"]),
    }
}

fn lane(endpoint: &str) -> LaneStatus {
    LaneStatus {
        endpoint: endpoint.into(),
        connected: true,
        connections: 1,
        frames: 2,
        bytes: 3,
        queued_bytes: 4,
        dropped_no_peer: 5,
        lost_bytes: 6,
        stalls: 7,
        bad_records: BadRecords::default(),
        capture: CaptureStats::default(),
    }
}

pub(super) fn primary() -> Status {
    let engine = Stats {
        flows: 4,
        requests: counts(&["payload"]).into(),
        uncompared: counts(&["0x88b5", "802.3", "arp", "igmp", "lldp", "other"]).into(),
        ..Stats::default()
    };
    let digests = ExpanderReport {
        digests: 1,
        expanded_frames: 2,
        different: 3,
        asked_frames: 4,
        gone_frames: 5,
        malformed: 6,
        waiting_frames: 7,
        kept_bytes: 8,
    };
    let detail = PrimaryDetail {
        engine,
        colo_frame: ColoFrameReport::Qmp(Box::new(qmp())),
        released_unprotected: 1,
        resyncs: 2,
        busy_poll: BusyPollReport { windows: 3, hits: 4 },
        checkpoints_ignored: 5,
        lanes: PrimaryLanes {
            mirror: lane("tcp:10.0.0.1:9003,server"),
            secondary_in: lane("tcp:10.0.0.1:9004,server"),
            digests: Some(digests),
            control_up: true,
            control_version: 2,
            peer: PeerCounters { sent: 1, received: 2 },
            kernel: open_lane(),
        },
        kernel: ProgramCounters { captured: 1, ..ProgramCounters::default() },
        kernel_error: None,
        divergences: vec![divergence()],
    };
    let guest = guest(Mode::Protected);
    Status::Primary(Box::new(PrimaryStatus { guest, detail }))
}

fn qmp() -> QmpReport {
    QmpReport {
        endpoint: "unix:/run/qmp".into(),
        machine: QemuReport {
            qemu: Some("11.1.0".into()),
            state: QemuState::Colo,
            trouble: None,
            checkpoints: QemuCheckpoints { requested: 1, done: 2, failed: 3, uncovered: 4 },
            pause_us: PausesReport {
                of: 1,
                last: Some(2),
                min: Some(3),
                median: Some(4),
                max: None,
            },
            spacing_ms: 5,
        },
        quick_ack: QuickAckReport::On {
            route: "10.0.0.2".parse().expect("an address"),
            table: Some(100),
        },
    }
}

fn open_lane() -> KernelLaneReport {
    KernelLaneReport {
        open: true,
        used: true,
        why: None,
        tunnel: Some(TunnelReport {
            tunnel: "cpl0".into(),
            local: "10.0.0.1".parse().expect("an address"),
            remote: "fd00::2".parse().expect("an address"),
            mtu: 1500,
            vni: 7,
            port: 4789,
            sent_frames: 1,
            received_frames: 2,
        }),
        lost_frames: 3,
        dropped_frames: 4,
    }
}

fn closed_lane() -> KernelLaneReport {
    let why = Some("not asked for".into());
    KernelLaneReport {
        open: false,
        used: false,
        why,
        tunnel: None,
        lost_frames: 1,
        dropped_frames: 2,
    }
}

pub(super) fn divergence() -> DivergenceReport {
    let found = FoundDivergence {
        number: 1,
        flow: FlowReport {
            protocol: "tcp".into(),
            guest: "10.0.0.10:80".parse().expect("an address"),
            peer: "[fd00::1]:4000".parse().expect("an address"),
            vlan: [7, 0],
        },
        name: "tcp 10.0.0.10:80 -> [fd00::1]:4000 vlan 7".into(),
        reason: Reason::SynMss,
        at_ms: 3,
        waits_for: Some(WaitsFor::Ack),
        stream_offset: -4,
        primary_byte: Some(5),
        secondary_byte: None,
        primary_context: Context { before: 1, bytes: vec![0, 255] },
        secondary_context: Context::default(),
        primary_len: 6,
        secondary_len: 7,
    };
    DivergenceReport { found, epoch: 2, primary_at_ms: Some(8), secondary_at_ms: None }
}

/// With the frame of the primary only.
pub(super) fn divergences() -> Divergences {
    let frame = FrameReport { time_ns: 10, original_len: 60, bytes: vec![0x52, 0x54, 0] };
    let listed = ListedDivergence {
        divergence: divergence(),
        summary: "payload: byte 7 differs".into(),
        time_ns: u64::MAX,
        primary_frame: Some(frame),
        secondary_frame: None,
    };
    Divergences {
        divergences_total: 1,
        divergences: vec![listed],
        ..Divergences::none("web", InstanceRole::Primary, "tap0")
    }
}

fn flow_table() -> FlowTableReport {
    FlowTableReport {
        max: 1,
        expired: FlowsByClass::default(),
        evicted: FlowsByClass::default(),
        checkpoints_wanted: 2,
    }
}

pub(super) fn secondary() -> Status {
    let digests = DigesterReport {
        digests: 1,
        saved_bytes: 2,
        answered_frames: 3,
        gone_frames: 4,
        kept_bytes: 5,
    };
    let detail = SecondaryDetail {
        capture: "gate".into(),
        colo_frame: ColoFrameReport::None,
        covered: true,
        announced: 1,
        busy_poll: BusyPollReport { windows: 2, hits: 3 },
        flows: flow_table(),
        input: KeptInputReport {
            unacknowledged_bytes: 1,
            repeated_frames: 2,
            not_kept_frames: 3,
            given_up_frames: 4,
        },
        lanes: SecondaryLanes {
            mirror: lane("tcp:10.0.0.1:9003"),
            secondary_out: lane("tcp:10.0.0.1:9004"),
            digests: Some(digests),
            peer: PeerCounters::default(),
            kernel: closed_lane(),
        },
        kernel: ProgramCounters { released: 1, ..ProgramCounters::default() },
        kernel_error: Some("cannot read the counters".into()),
    };
    let guest = guest(Mode::CoveredNotEqual);
    Status::Secondary(Box::new(SecondaryStatus { guest, detail }))
}

fn stream_filter(mode: StreamFilterMode) -> StreamFilterStatus {
    let outdev = OutdevStatus {
        lane: lane("unix:/run/m,server"),
        overflows: 1,
        breaks: 2,
        since_break_ms: Some(3),
    };
    StreamFilterStatus {
        head: head("filter"),
        mode,
        queue: FilterQueue::Tx,
        vnet_hdr_support: true,
        outdev: Some(outdev),
        indev: None,
        frames: StreamFilterFrames {
            mirrored: 1,
            redirected: 2,
            passed: 3,
            injected_tx: 4,
            injected_rx: 5,
        },
        drops: counts(&["outdev-gate-full"]),
        detail: StreamFilterDetail {
            netdev_tx_dropped: None,
            kernel: FilterCounters::default(),
            kernel_error: None,
        },
    }
}

pub(super) fn mirror() -> Status {
    Status::FilterMirror(Box::new(stream_filter(StreamFilterMode::Broken)))
}

pub(super) fn redirector() -> Status {
    let filter = stream_filter(StreamFilterMode::Connected);
    let indev = Some(lane("tcp:10.0.0.1:9005"));
    Status::FilterRedirector(Box::new(StreamFilterStatus { outdev: None, indev, ..filter }))
}

pub(super) fn rewriter() -> Status {
    Status::FilterRewriter(Box::new(RewriterStatus {
        head: head("rewriter"),
        mode: RewriterMode::Translating,
        queue: FilterQueue::All,
        epoch: 1,
        flows: 2,
        held_frames: 3,
        held_bytes: 4,
        frames: RewriterFrames { translated_to_guest: 5, translated_from_guest: 6, held: 7 },
        drops: counts(&["gate-full"]),
        detail: RewriterDetail {
            flows: flow_table(),
            kernel: ProgramCounters::default(),
            kernel_error: None,
        },
    }))
}
