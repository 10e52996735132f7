//! The tables of connections as the daemon sees them: the entries that it forgets, takes over,
//! exports and imports.

use aya::maps::{Array, Map, MapData};
use colo_lab::lab_test;
use colo_lab::phrases;
use colo_proxy::datapath::{
    AgeLimits, Datapath, DatapathError, DatapathPlan, FlowsByClass, TranslationLimits,
};
use colo_proxy::offsets::{self, FlowState, Offset};
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::record::{FlowKey, FlowRecord, LAYOUT_VERSION, Settings};
use colo_proxy_engine::pair::{ProgramMode, Role};

use crate::tap::{Offloads, Tap, VNET_HDR_LEN, in_netns, ip};
use crate::{Host, T_SEQ, T_TS, frame, has, instance, links_on, translated};
use frame::{Checksum, Shape};

const SECOND_NS: u64 = 1_000_000_000;
/// Long enough after the clock's beginning for every age.
const NOW_NS: u64 = 1_000_000 * SECOND_NS;

fn numbered(port: u16) -> (FlowKey, FlowRecord) {
    let (key, flow) = translated(0);
    let known = flow.known | known::CONFIRMED;
    (FlowKey { peer_port: port, ..key }, FlowRecord { known, last_seen_ns: NOW_NS, ..flow })
}

/// On the real maps, a table above its threshold loses entries that have ended and entries that no
/// connection needs. Then it requests a checkpoint before it loses entries in use.
#[lab_test(root)]
fn a_nearly_full_table_loses_what_is_over_before_what_is_in_use() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let age = AgeLimits { full_percent: 50, ..AgeLimits::default() };
        let limits = TranslationLimits { flows_max: 64, age, ..TranslationLimits::default() };
        let plan = DatapathPlan { limits, ..host.plan(&name, Role::Secondary) };
        let mut datapath = Datapath::attach(&plan).expect("attach");
        for port in 0..64 {
            let (key, flow) = numbered(port);
            let flow = match port {
                0..10 => FlowRecord { state: state::CLOSED, ..flow },
                10..20 => FlowRecord { seq_offset: 0, ts_offset: 0, ..flow },
                20..25 => FlowRecord { state: state::RESET, ..flow },
                25..30 => FlowRecord { last_seen_ns: NOW_NS - 7441 * SECOND_NS, ..flow },
                _ => flow,
            };
            datapath.insert_flow(&key, &flow).expect("insert");
        }
        let aged = datapath.age_flows(NOW_NS).expect("age");
        let evicted =
            FlowsByClass { closed: 10, identity: 10, reset: 5, idle: 5, ..FlowsByClass::default() };
        assert_eq!((aged.evicted, aged.kept, aged.wants_checkpoint), (evicted, 34, true));
        assert!(datapath.flows().all(|(key, _)| key.peer_port >= 30), "none in use");

        // After a checkpoint, two of those entries are no longer needed.
        datapath.bump_epoch().expect("epoch");
        let aged = datapath.age_flows(NOW_NS).expect("age");
        let evicted = FlowsByClass { identity: 2, ..FlowsByClass::default() };
        assert_eq!((aged.evicted, aged.kept, aged.wants_checkpoint), (evicted, 32, false));
        datapath.detach().expect("detach");
    });
}

#[lab_test(root)]
fn a_full_table_is_read_whole() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let limits = TranslationLimits { flows_max: 20_000, ..TranslationLimits::default() };
        let plan = DatapathPlan { limits, ..host.plan(&name, Role::Secondary) };
        let mut datapath = Datapath::attach(&plan).expect("attach");
        assert_eq!(datapath.flows().count(), 0);
        for port in 0..20_000 {
            let (key, flow) = numbered(port);
            datapath.insert_flow(&key, &flow).expect("insert");
        }
        let mut ports: Vec<u16> = datapath.flows().map(|(key, _)| key.peer_port).collect();
        ports.sort_unstable();
        assert_eq!(ports, (0..20_000).collect::<Vec<_>>());
        datapath.detach().expect("detach");
    });
}

/// Makes the maps look like the maps of another version.
fn change_layout(datapath: &Datapath) {
    let map = MapData::from_pin(datapath.dir().map("settings")).expect("the pinned settings");
    let map = Map::from_map_data(map).expect("a map");
    let mut map: Array<_, Settings> = map.try_into().expect("an array");
    let settings = Settings { layout_version: LAYOUT_VERSION - 1, ..*datapath.settings() };
    map.set(0, settings, 0).expect("write settings");
}

/// A checkpoint could not repair its connections, so the guest stays as it is.
#[lab_test(root)]
fn a_leftover_of_another_layout_that_holds_a_guest_after_a_failover_is_left_alone() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let mut first = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        first.set_mode(ProgramMode::FailedOver).expect("fail over");
        change_layout(&first);
        let dir = first.dir().path().to_owned();
        drop(first);
        let before = links_on("guest0");
        let error = Datapath::attach(&host.plan(&name, Role::Secondary)).expect_err("refused");
        assert!(matches!(error, DatapathError::OtherLayout { .. }), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains(phrases::capture::HINT_REMOVE)));
        assert_eq!(links_on("guest0"), before, "untouched");
        // The test does what the hint says.
        std::fs::remove_dir_all(&dir).expect("remove the directory");
        Datapath::attach(&host.plan(&name, Role::Secondary))
            .expect("attach")
            .detach()
            .expect("detach");
    });
}

#[lab_test(root)]
fn the_twin_that_is_protected_is_replaced() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let first = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        change_layout(&first);
        drop(first);
        let second = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("replace");
        assert!(!second.taken_over());
        second.detach().expect("detach");
    });
}

fn told(port: u16, seq: u32) -> Offset {
    let (key, _) = numbered(port);
    Offset { key, state: FlowState::Established, seq, ts: 7 }
}

/// A segment for the guest as the network sends it, and as a guest must see it whose numbers are
/// `T_SEQ` and `ts` behind the network's.
fn to_the_guest(ts: u32) -> (Vec<u8>, Vec<u8>) {
    let sent = Shape {
        options: vec![frame::TcpOption::Timestamps(1, 2)],
        payload: b"to the guest".to_vec(),
        ..Shape::default()
    };
    let mut wanted = sent.clone();
    wanted.ack = wanted.ack.wrapping_sub(T_SEQ);
    wanted.options = vec![frame::TcpOption::Timestamps(1, 2u32.wrapping_sub(ts))];
    (sent.build(Checksum::Full), wanted.build(Checksum::Full))
}

#[lab_test(root)]
fn what_one_secondary_exports_the_next_one_translates_by_in_every_epoch() {
    in_netns(|| {
        let host = Host::new();
        let (old, new) = (instance(), instance());
        let mut survivor = Datapath::attach(&host.plan(&old, Role::Secondary)).expect("attach");
        let (key, flow) = translated(0);
        survivor.insert_flow(&key, &flow).expect("insert");
        survivor.set_mode(ProgramMode::FailedOver).expect("fail over");
        let exported = survivor.export_offsets().expect("export");
        survivor.detach().expect("detach");
        let text = offsets::format(&old, &exported);

        let mut next = Datapath::attach(&host.plan(&new, Role::Secondary)).expect("attach");
        let offsets = offsets::parse(&text, 64).expect("our own");
        let done = next.import_offsets(&offsets, 1).expect("import");
        assert_eq!((done.added, done.updated), (1, 0));
        let (sent, wanted) = to_the_guest(T_TS);
        for _ in 0..3 {
            host.input.write(&[&[0; VNET_HDR_LEN], &sent[..]].concat());
            let got = host.netdev.read_until(has(b"to the guest"));
            assert_eq!(&got[VNET_HDR_LEN..], wanted);
            assert_eq!(next.export_offsets().expect("export"), exported);
            next.bump_epoch().expect("epoch");
        }
        next.detach().expect("detach");
    });
}

#[lab_test(root)]
fn an_import_is_all_or_nothing() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let mut datapath = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        let all: Vec<Offset> = (1..=64).map(|port| told(port, 9)).collect();

        // One connection is translated differently here.
        let (key, flow) = numbered(64);
        datapath.insert_flow(&key, &flow).expect("insert");
        let error = datapath.import_offsets(&all, 1).expect_err("a conflict");
        assert!(matches!(error, DatapathError::OtherOffset { count: 1, .. }), "{error}");
        assert!(error.to_string().contains("192.0.2.1:64"), "{error}");
        assert_eq!(datapath.flows().collect::<Vec<_>>(), [(key, flow)]);

        // A checkpoint has made it void.
        datapath.bump_epoch().expect("epoch");
        let done = datapath.import_offsets(&all, 1).expect("import");
        assert_eq!((done.added, done.updated), (63, 1));
        assert_eq!(datapath.flows().count(), 64);
        let again = datapath.import_offsets(&all, 1).expect("import again");
        assert_eq!((again.added, again.updated), (0, 64));

        let error = datapath.import_offsets(&[told(65, 9)], 1).expect_err("no room");
        assert!(matches!(error, DatapathError::NoRoom { wanted: 1, room: 0 }), "{error}");
        assert_eq!(datapath.flows().count(), 64);
        datapath.detach().expect("detach");
    });
}

/// The surviving guest's daemon ends, and a daemon for the next pair's primary takes over.
#[lab_test(root)]
fn a_survivor_that_becomes_the_primary_goes_on_translating() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let mut survivor = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        let (key, flow) = translated(0);
        survivor.insert_flow(&key, &flow).expect("insert");
        survivor.set_mode(ProgramMode::FailedOver).expect("fail over");
        let exported = survivor.export_offsets().expect("export");
        drop(survivor);

        let mut primary = Datapath::attach(&host.plan(&name, Role::Primary)).expect("take over");
        primary.set_mode(ProgramMode::Protected).expect("protect");
        assert_eq!(primary.export_offsets().expect("export"), exported);
        let from_guest =
            Shape { ports: (80, 40_000), payload: b"from the guest".to_vec(), ..Shape::default() };
        let mut bytes = from_guest.build(Checksum::Full);
        // Exchanging source and destination does not change a checksum.
        let (src, dst) = bytes[26..34].split_at_mut(4);
        src.swap_with_slice(dst);
        host.netdev.write_plain(&bytes);
        let captured = host.output.read_until(has(b"from the guest"));
        let seq = u32::from_be_bytes(captured[VNET_HDR_LEN + 38..][..4].try_into().expect("four"));
        assert_eq!(seq, from_guest.seq.wrapping_add(T_SEQ));
        primary.detach().expect("detach");
    });
}

/// A bridge that floods gives out clones, and the mirror makes another. A translation for the guest
/// must not change the others.
#[lab_test(root)]
fn only_the_guest_sees_what_is_translated_for_it() {
    in_netns(|| {
        let host = Host::new();
        let others = ["lan0", "lan1", "lan2"].map(|name| Tap::new(name, Offloads::On));
        ip("link add br0 type bridge");
        ip("link set br0 up");
        for name in ["lan0", "lan1", "guest0", "lan2"] {
            ip(&format!("link set {name} master br0"));
        }
        let name = instance();
        let mut primary = Datapath::attach(&host.plan(&name, Role::Primary)).expect("attach");
        primary.import_offsets(&[told(40_000, T_SEQ)], 1).expect("import");
        let (sent, wanted) = to_the_guest(7);
        let [from, rest @ ..] = &others;
        from.write_plain(&sent);
        let got = host.netdev.read_until(has(b"to the guest"));
        assert_eq!(&got[VNET_HDR_LEN..], wanted, "the guest");
        for tap in rest.iter().chain([&host.input]) {
            let got = tap.read_until(has(b"to the guest"));
            assert_eq!(&got[VNET_HDR_LEN..], sent, "{}", tap.name);
        }
        primary.detach().expect("detach");
    });
}

#[lab_test(root)]
fn a_primary_translates_nothing_but_what_it_was_told() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let mut primary = Datapath::attach(&host.plan(&name, Role::Primary)).expect("attach");
        assert_eq!(primary.settings().translates, 0);
        primary.import_offsets(&[], 1).expect("import nothing");
        assert_eq!(primary.settings().translates, 0);
        primary.import_offsets(&[told(1, 9)], 1).expect("import");
        assert_eq!(primary.settings().translates, 1);
        primary.detach().expect("detach");
    });
}
