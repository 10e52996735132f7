//! What `status --json` and `divergences --json` print: names that scripts rely on.

use serde_json::json;

use super::packet::{Link, Tcp, tcp};
use super::rig::Rig;
use crate::compare::{FlowName, Reason};

#[test]
fn reasons_have_stable_names() {
    let names: Vec<String> = Reason::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "payload",
            "timeout",
            "secondary-only",
            "syn-mss",
            "syn-window-scale",
            "syn-sack-permitted",
            "syn-timestamps",
            "fin-position",
            "rst-position",
            "tuple-reuse",
            "zero-window",
            "datagram",
            "limit",
            "flow-table-full",
            "resync",
            "secondary-flows",
            "lane-loss",
            "guest-reset",
        ]
    );
}

#[test]
fn a_divergence_names_flow_place_and_bytes() {
    let mut rig = Rig::new();
    let link = Link { ip_version: 6, vlan: [5, 0], peer: 9 };
    let base = Tcp { link, ..tcp(1001) }.ack(501);
    rig.accept(&base, 1000, 500);
    rig.now += std::time::Duration::from_millis(42);
    rig.holds(&base.clone().data(b"hello world"));
    rig.now += std::time::Duration::from_millis(8);
    rig.secondary(&base.clone().data(b"hello wOrld"));
    let found = rig.engine.divergences().next().expect("recorded");
    assert_eq!(FlowName(&found.flow).to_string(), "tcp [fd00::1]:80 -> [fd00::9]:5000 vlan 5");
    assert_eq!((found.number, found.reason, found.epoch), (1, Reason::Payload, 0));
    assert_eq!((found.at_ms, found.primary_at_ms, found.secondary_at_ms), (50, Some(42), Some(50)));
    assert_eq!((found.waits_for, found.stream_offset), (None, 7));
    assert_eq!((found.primary_byte, found.secondary_byte), (Some(b'o'), Some(b'O')));
    assert_eq!((found.primary_len, found.secondary_len), (11, 11));
    let contexts = [&found.primary_context, &found.secondary_context].map(|context| json!(context));
    assert_eq!(
        contexts,
        [
            json!({ "before": 7, "bytes": "68656c6c6f20776f726c64" }),
            json!({ "before": 7, "bytes": "68656c6c6f20774f726c64" }),
        ]
    );
}

#[test]
fn statistics_are_by_reason_and_kind() {
    let mut rig = Rig::new();
    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    let arp = crate::frame::Frame::new(arp.into(), 0).expect("no header");
    rig.frame(crate::compare::Side::Primary, &arp);
    rig.holds(&tcp(1).data(b"a"));
    rig.secondary(&tcp(1).data(b"b"));
    let stats = serde_json::to_value(rig.engine.stats()).expect("plain data");
    assert_eq!(stats["uncompared"], json!({ "arp": 1 }));
    assert_eq!(stats["requests"]["payload"], 1);
    assert_eq!(stats["requests"]["limit"], 0);
    assert_eq!(stats["held"], json!({ "frames": 1, "bytes": 72 }));
    assert_eq!(stats["released"]["uncompared"], json!({ "frames": 1, "bytes": 60 }));
    assert_eq!(stats["flows"], 1);
}
