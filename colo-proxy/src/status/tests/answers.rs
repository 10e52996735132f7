//! What is written reads back, and stands where programs look for it.

use std::time::Instant;

use colo_proxy_common::record::FlowKey;
use colo_proxy_engine::compare::{Context, Divergence, Reason};
use colo_proxy_engine::pair::early_input::InputLimits;
use colo_proxy_engine::pair::repeat::{RepeatLimits, SharedRepeater};
use colo_proxy_engine::pair::service_message::{CoverNotice, ServiceMessage};
use colo_proxy_engine::pair::service_record::RecordKeeper;
use colo_proxy_engine::pair::takeover::{Takeover, TakeoverDeciders};
use colo_proxy_engine::pair::{Mode, ProgramMode, Secondary};
use serde_json::{Value, json};

use super::samples;
use crate::guest_tap::TapState;
use crate::status::*;

fn written(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).expect("it is written")
}

#[test]
fn every_kind_of_status_reads_back() {
    for status in samples::all() {
        let text = serde_json::to_string(&Reply::Status(Box::new(status.clone())));
        let text = text.expect("it is written");
        let read: Reply = serde_json::from_str(&text).expect("it is read");
        assert_eq!(read, Reply::Status(Box::new(status)), "{text}");
    }
}

#[test]
fn every_driver_reads_back() {
    let xen = XenReport { endpoint: "tcp:10.0.0.1:1".into(), connected: true, outstanding: false };
    for (report, driver) in [
        (ColoFrameReport::None, "none"),
        (ColoFrameReport::Instant, "instant"),
        (ColoFrameReport::Script, "script"),
        (ColoFrameReport::Xen(xen), "xen"),
    ] {
        let value = written(&report);
        assert_eq!(value["driver"], driver);
        let read: ColoFrameReport = serde_json::from_value(value).expect("it is read");
        assert_eq!(read, report);
    }
}

#[test]
fn every_state_of_the_quick_route_reads_back() {
    let route = "10.0.0.2".parse().expect("an address");
    let why = || "no route".to_owned();
    for (report, wanted) in [
        (QuickAckReport::Off, json!({"state": "off"})),
        (QuickAckReport::Idle { why: why() }, json!({"state": "idle", "why": "no route"})),
        (QuickAckReport::Pending, json!({"state": "pending"})),
        (QuickAckReport::On { route, table: None }, json!({"state": "on", "route": "10.0.0.2"})),
        (QuickAckReport::Failed { why: why() }, json!({"state": "failed", "why": "no route"})),
    ] {
        assert_eq!(written(&report), wanted);
        let read: QuickAckReport = serde_json::from_value(wanted).expect("it is read");
        assert_eq!(read, report);
    }
}

#[test]
fn divergences_read_back_with_their_frames() {
    let divergences = samples::divergences();
    let value = written(&Reply::Divergences(divergences.clone()));
    let listed = &value["divergences"]["divergences"][0];
    assert_eq!(listed["primary_frame"]["bytes"], "525400");
    assert_eq!(listed["primary_context"], json!({"before": 1, "bytes": "00ff"}));
    assert_eq!(listed.get("secondary_frame"), None);
    let read: Reply = serde_json::from_value(value).expect("it is read");
    assert_eq!(read, Reply::Divergences(divergences));
}

#[test]
fn fields_stand_where_programs_look_for_them() {
    let primary = written(&samples::primary());
    for (place, wanted) in [
        ("/schema", json!(1)),
        ("/role", json!("primary")),
        ("/instance", json!("web")),
        ("/netdev_present", json!(true)),
        ("/mode", json!("protected")),
        ("/checkpoints/payload", json!(1)),
        ("/detail/engine/requests/payload", json!(1)),
        ("/detail/engine/uncompared/0x88b5", json!(1)),
        ("/detail/colo_frame/driver", json!("qmp")),
        ("/detail/colo_frame/state", json!("colo")),
        ("/detail/colo_frame/pause_us/last", json!(2)),
        ("/detail/lanes/mirror/capture/bytes", json!(0)),
        ("/detail/lanes/kernel/vni", json!(7)),
        ("/detail/divergences/0/flow/peer", json!("[fd00::1]:4000")),
        ("/detail/divergences/0/waits_for", json!("ack")),
    ] {
        assert_eq!(primary.pointer(place), Some(&wanted), "{place} in {primary:#}");
    }
    assert_eq!(primary.pointer("/detail/lanes/kernel/why"), None);
    let secondary = written(&samples::secondary());
    assert_eq!(secondary["detail"]["lanes"]["kernel"]["why"], "not asked for");
    assert_eq!(secondary["detail"]["lanes"]["kernel"].get("vni"), None);
    assert_eq!(written(&samples::mirror())["outdev"]["breaks"], 2);
    assert_eq!(written(&samples::redirector())["role"], "filter-redirector");
}

#[test]
fn a_difference_of_the_engine_keeps_all_its_fields() {
    let flow = FlowKey { protocol: 17, guest_port: 53, vlan: [7, 8], ..FlowKey::default() };
    let found = Divergence {
        number: 3,
        flow,
        reason: Reason::Datagram,
        epoch: 4,
        at: Instant::now(),
        at_ms: 5,
        waits_for: None,
        stream_offset: 6,
        primary_byte: Some(7),
        secondary_byte: None,
        primary_context: Context { before: 0, bytes: vec![7] },
        secondary_context: Context::default(),
        primary_len: 8,
        secondary_len: 9,
        primary_at_ms: Some(10),
        secondary_at_ms: None,
        primary_frame: None,
        secondary_frame: None,
    };
    let wanted = json!({
        "number": 3,
        "flow": {
            "protocol": "udp", "guest": "0.0.0.0:53", "peer": "0.0.0.0:0", "vlan": [7, 8],
        },
        "name": "udp 0.0.0.0:53 -> 0.0.0.0:0 vlan 7.8",
        "reason": "datagram",
        "epoch": 4,
        "at_ms": 5,
        "waits_for": null,
        "stream_offset": 6,
        "primary_byte": 7,
        "secondary_byte": null,
        "primary_context": { "before": 0, "bytes": "07" },
        "secondary_context": { "before": 0, "bytes": "" },
        "primary_len": 8,
        "secondary_len": 9,
        "primary_at_ms": 10,
        "secondary_at_ms": null,
    });
    assert_eq!(written(&DivergenceReport::from(&found)), wanted);
}

fn new_secondary(mode: ProgramMode) -> Secondary {
    let takeover = Takeover::new(TakeoverDeciders::default(), RecordKeeper::in_memory(), false);
    let repeater = SharedRepeater::new(RepeatLimits::default());
    Secondary::new("web".into(), mode, takeover, repeater, InputLimits::default())
}

fn shown(half: &Secondary, tap: TapState) -> Value {
    let Status::Secondary(mut status) = samples::secondary() else { unreachable!("it is one") };
    status.guest.standing.mode = shown_mode(half.mode(), tap);
    written(&Status::Secondary(status))["mode"].clone()
}

#[test]
fn a_secondary_that_has_never_met_a_primary_is_on_standby() {
    let mut half = new_secondary(ProgramMode::Protected);
    assert_eq!(shown(&half, TapState::Guarded), "standby");
    half.decide(Instant::now(), Takeover::on_peer_up);
    assert_eq!(shown(&half, TapState::Guarded), "joining");
    let notice = CoverNotice { protected: true, number: 1 };
    let notice = ServiceMessage::Notice { notice, generation: 0 };
    half.decide(Instant::now(), |takeover| takeover.on_message(notice));
    assert_eq!(shown(&half, TapState::Guarded), "protected");
}

#[test]
fn a_tap_without_our_programs_is_unguarded_by_whatever_was_decided() {
    let half = new_secondary(ProgramMode::Protected);
    for decided in [half.mode(), Mode::Protected, Mode::Serving, Mode::Held] {
        assert_eq!(shown_mode(decided, TapState::Unguarded), Mode::Unguarded);
        assert_eq!(shown_mode(decided, TapState::Guarded), decided);
        assert_eq!(shown_mode(decided, TapState::Gone), decided);
    }
    assert_eq!(shown(&half, TapState::Unguarded), "unguarded");
}

#[test]
fn a_tap_that_is_there_is_present_with_and_without_our_programs() {
    for (tap, is_present) in
        [(TapState::Gone, false), (TapState::Unguarded, true), (TapState::Guarded, true)]
    {
        assert_eq!(InstanceHead::new("web", "tap0", tap).netdev_present, is_present);
    }
}
