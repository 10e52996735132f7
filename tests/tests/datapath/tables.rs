//! The tables of connections as the daemon sees them: what it forgets, takes over, exports and
//! imports.

use aya::maps::{Array, Map, MapData};
use colo_proxy::datapath::{AgeLimits, Datapath, DatapathError, Limits, PerClass, Plan};
use colo_proxy::offsets::{self, FlowState, Offset};
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::record::{Flow, FlowKey, LAYOUT_VERSION, Settings};
use colo_proxy_engine::pair::{ProgramMode, Role};

use crate::tap::{Offloads, Tap, VNET_HDR_LEN, in_netns, ip};
use crate::{Host, T_SEQ, T_TS, frame, has, instance, links_on, translated};
use frame::{Checksum, Shape};

const SECOND_NS: u64 = 1_000_000_000;
/// Far enough from the clock's beginning for every age.
const NOW_NS: u64 = 1_000_000 * SECOND_NS;

fn numbered(port: u16) -> (FlowKey, Flow) {
    let (key, flow) = translated(0);
    let known = flow.known | known::CONFIRMED;
    (FlowKey { peer_port: port, ..key }, Flow { known, last_seen_ns: NOW_NS, ..flow })
}

/// On the real maps: a table beyond its mark loses what is over and what needs no entry, and then
/// asks for a checkpoint before it loses what is in use.
#[test]
fn a_nearly_full_table_loses_what_is_over_before_what_is_in_use() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let age = AgeLimits { full_percent: 50, ..AgeLimits::default() };
        let limits = Limits { flows_max: 64, age, ..Limits::default() };
        let plan = Plan { limits, ..host.plan(&name, Role::Secondary) };
        let mut datapath = Datapath::attach(&plan).expect("attach");
        for port in 0..64 {
            let (key, flow) = numbered(port);
            let flow = match port {
                0..10 => Flow { state: state::CLOSED, ..flow },
                10..20 => Flow { seq_offset: 0, ts_offset: 0, ..flow },
                20..25 => Flow { state: state::RESET, ..flow },
                25..30 => Flow { last_seen_ns: NOW_NS - 7441 * SECOND_NS, ..flow },
                _ => flow,
            };
            datapath.insert_flow(&key, &flow).expect("insert");
        }
        let aged = datapath.age_flows(NOW_NS).expect("age");
        let evicted =
            PerClass { closed: 10, identity: 10, reset: 5, idle: 5, ..PerClass::default() };
        assert_eq!((aged.evicted, aged.kept, aged.wants_checkpoint), (evicted, 34, true));
        assert!(datapath.flows().all(|(key, _)| key.peer_port >= 30), "none in use");

        // A checkpoint comes, and two of those need no entry now.
        datapath.bump_epoch().expect("epoch");
        let aged = datapath.age_flows(NOW_NS).expect("age");
        let evicted = PerClass { identity: 2, ..PerClass::default() };
        assert_eq!((aged.evicted, aged.kept, aged.wants_checkpoint), (evicted, 32, false));
        datapath.detach().expect("detach");
    });
}

#[test]
fn a_full_table_is_read_whole() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let limits = Limits { flows_max: 20_000, ..Limits::default() };
        let plan = Plan { limits, ..host.plan(&name, Role::Secondary) };
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

/// Makes the maps look like those of another version.
fn change_layout(datapath: &Datapath) {
    let map = MapData::from_pin(datapath.dir().map("settings")).expect("the pinned settings");
    let map = Map::from_map_data(map).expect("a map");
    let mut map: Array<_, Settings> = map.try_into().expect("an array");
    let settings = Settings { layout_version: LAYOUT_VERSION - 1, ..*datapath.settings() };
    map.set(0, settings, 0).expect("write settings");
}

/// Its connections could not be mended by a checkpoint, so the guest stays as it is.
#[test]
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
        assert!(error.hint().is_some_and(|hint| hint.contains("remove")));
        assert_eq!(links_on("guest0"), before, "untouched");
        // What the hint says.
        std::fs::remove_dir_all(&dir).expect("remove the directory");
        Datapath::attach(&host.plan(&name, Role::Secondary))
            .expect("attach")
            .detach()
            .expect("detach");
    });
}

#[test]
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

/// A segment for the guest as the network sends it, and as a guest has to see it whose numbers are
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

#[test]
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

#[test]
fn an_import_is_all_or_nothing() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let mut datapath = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        let all: Vec<Offset> = (1..=64).map(|port| told(port, 9)).collect();

        // One is translated otherwise here.
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

/// The daemon of the guest that has survived ends, and one for the next pair's primary takes over.
#[test]
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
        // Source for destination does not change a checksum.
        let (src, dst) = bytes[26..34].split_at_mut(4);
        src.swap_with_slice(dst);
        host.netdev.write_plain(&bytes);
        let captured = host.output.read_until(has(b"from the guest"));
        let seq = u32::from_be_bytes(captured[VNET_HDR_LEN + 38..][..4].try_into().expect("four"));
        assert_eq!(seq, from_guest.seq.wrapping_add(T_SEQ));
        primary.detach().expect("detach");
    });
}

/// A bridge that floods hands out clones, and the mirror makes another one: what is translated for the
/// guest is translated for nobody else.
#[test]
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

#[test]
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
