//! The data path on real interfaces, in network namespaces of its own: what the programs redirect
//! arrives where it should, and links and pins outlive the daemon, or do not, as they should.
#![allow(clippy::panic, reason = "that is how a test fails")]

#[path = "../../colo-proxy-common/tests/frame/mod.rs"]
mod frame;
#[path = "datapath/pair.rs"]
mod pair;
#[path = "datapath/tables.rs"]
mod tables;
#[path = "datapath/tap.rs"]
mod tap;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{HashMap, Map, MapData};
use colo_proxy::datapath::{Datapath, DatapathError, Limits, Plan};
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::lane::Speaker;
use colo_proxy_common::record::{Flow, FlowKey};
use colo_proxy_engine::pair::{OnDeath, ProgramMode, Role};
use frame::{Checksum, Shape};
use nix::net::if_::if_nametoindex;
use tap::{DEADLINE, Offloads, Tap, VNET_HDR_LEN, enter, in_netns, ip, new_netns, wait_until};

/// A name that no other test has, nor another run of the tests.
fn instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A guest's TAP and the daemon's two gates, in the current namespace.
struct Host {
    netdev: Tap,
    output: Tap,
    input: Tap,
}

impl Host {
    fn new() -> Self {
        Self {
            netdev: Tap::new("guest0", Offloads::On),
            output: Tap::new("output0", Offloads::On),
            input: Tap::new("input0", Offloads::On),
        }
    }

    fn plan<'a>(&self, instance: &'a str, role: Role) -> Plan<'a> {
        Plan {
            instance,
            role,
            mode: ProgramMode::Protected,
            netdev_ifindex: self.netdev.ifindex,
            output_gate_ifindex: self.output.ifindex,
            input_gate_ifindex: self.input.ifindex,
            on_death: OnDeath::Hold,
            limits: Limits { flows_max: 64, ..Limits::default() },
        }
    }
}

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The host's own stack is the network behind the guest's TAP.
fn host_with_address() -> Host {
    let host = Host::new();
    ip("link set guest0 address 02:00:00:00:00:01");
    ip("addr add 10.9.0.1/24 dev guest0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev guest0");
    host
}

fn udp_from_guest(payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(GUEST_MAC, HOST_MAC)
        .ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
        .udp(1234, 5678);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).expect("build UDP");
    bytes
}

fn has(payload: &'static [u8]) -> impl Fn(&[u8]) -> bool {
    move |frame| frame.ends_with(payload)
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    socket.set_read_timeout(Some(DEADLINE)).expect("set a timeout");
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer).expect("a datagram");
    buffer[..len].to_vec()
}

/// What a dead daemon's programs saw a guest use is not announced in the name of the next one.
#[test]
fn who_spoke_before_is_forgotten() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let datapath = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        let map = MapData::from_pin(datapath.dir().map("speakers")).expect("a pinned map");
        let map = Map::from_map_data(map).expect("a map");
        let mut map = HashMap::<_, Speaker, u64>::try_from(map).expect("a hash map");
        map.insert(Speaker { ip_version: 4, ..Speaker::default() }, 7, 0).expect("insert");
        assert_eq!(datapath.speakers(), [(Speaker { ip_version: 4, ..Speaker::default() }, 7)]);
        drop(datapath);
        let next = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("take over");
        assert!(next.taken_over());
        assert_eq!(next.speakers(), []);
        next.detach().expect("detach");
    });
}

#[test]
fn primary_captures_releases_and_mirrors() {
    in_netns(|| {
        let host = host_with_address();
        let name = instance();
        let mut datapath = Datapath::attach(&host.plan(&name, Role::Primary)).expect("attach");
        let socket = UdpSocket::bind("10.9.0.1:5678").expect("bind");

        // Output waits at the gate, and leaves when it is written back.
        host.netdev.write_plain(&udp_from_guest(b"output"));
        let held = host.output.read_until(has(b"output"));
        assert_eq!(&held[VNET_HDR_LEN..], udp_from_guest(b"output"));
        socket.set_nonblocking(true).expect("nonblocking");
        assert!(socket.recv(&mut [0; 9]).is_err(), "nothing has left");
        socket.set_nonblocking(false).expect("blocking");
        host.output.write(&held);
        assert_eq!(receive(&socket), b"output");

        // Input reaches the guest and, the same, the gate.
        socket.send_to(b"input", "10.9.0.2:1234").expect("send");
        let input = host.netdev.read_until(has(b"input"));
        assert_eq!(host.input.read_until(has(b"input")), input);

        let counters = datapath.counters().expect("counters");
        assert!(counters.captured >= 1 && counters.mirrored >= 1, "{counters:?}");
        assert_eq!((counters.released, counters.mirror_failed), (1, 0));

        // Without protection, everything passes.
        datapath.set_mode(ProgramMode::Off).expect("off");
        host.netdev.write_plain(&udp_from_guest(b"open"));
        assert_eq!(receive(&socket), b"open");
        datapath.detach().expect("detach");
    });
}

#[test]
fn the_hosts_own_chatter_stays_out_of_the_gates() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let datapath = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        ip("addr add 10.8.0.1/24 dev output0");
        let socket = UdpSocket::bind("10.8.0.1:0").expect("bind");
        while host.output.try_read().is_some() {}
        socket.set_broadcast(true).expect("broadcast");
        ip("neigh add 10.8.0.2 lladdr 02:00:00:00:00:02 dev output0");
        let _refused = socket.send_to(b"chatter", "10.8.0.2:9");
        assert!(datapath.counters().expect("counters").dropped_foreign >= 1);
        assert!(host.output.try_read().is_none());
        datapath.detach().expect("detach");
    });
}

const T_SEQ: u32 = 0x8765_4321;
const T_TS: u32 = 0x1234_5678;

fn translated(vlan: u16) -> (FlowKey, Flow) {
    let mut key = FlowKey {
        guest_port: 80,
        peer_port: 40_000,
        vlan: [vlan, 0],
        ip_version: 4,
        protocol: 6,
        ..FlowKey::default()
    };
    key.peer_addr[..4].copy_from_slice(&frame::V4_SRC);
    key.guest_addr[..4].copy_from_slice(&frame::V4_DST);
    let flow = Flow {
        state: state::ESTABLISHED,
        known: known::GUEST | known::WIRE | known::OFFSET,
        seq_offset: T_SEQ,
        ts_offset: T_TS,
        ..Flow::default()
    };
    (key, flow)
}

/// `struct virtio_net_hdr_mrg_rxbuf` of a frame whose checksum is partial.
fn needs_csum(ethernet_to_tcp: u16) -> [u8; VNET_HDR_LEN] {
    let mut header = [0; VNET_HDR_LEN];
    header[0] = 1;
    header[6..8].copy_from_slice(&ethernet_to_tcp.to_le_bytes());
    header[8..10].copy_from_slice(&16u16.to_le_bytes());
    header
}

/// However much of its headers a frame has in one piece with its start.
#[test]
fn headers_in_pieces_are_translated() {
    in_netns(|| {
        let host = Host::new();
        ip("link set guest0 mtu 9000");
        let name = instance();
        let mut datapath = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        let (key, flow) = translated(0);
        datapath.insert_flow(&key, &flow).expect("insert");
        let sack = [(0xffff_fff0, 5), (7, 0x8000_0000), (9, 10)];
        let blocks = |by: u32| {
            frame::TcpOption::Sack(
                sack.iter()
                    .map(|(l, r): &(u32, u32)| (l.wrapping_sub(by), r.wrapping_sub(by)))
                    .collect(),
            )
        };
        // The kernel keeps what is longer than a page in pieces, the first as long as the header
        // of the frame says.
        let payload = [&[7; 5000][..], b"to the guest"].concat();
        let mut count = 0;
        for odd in [false, true] {
            let options = |echo: u32, by: u32| {
                use frame::TcpOption::{Nop, Timestamps};
                let nops = if odd { 1 } else { 2 };
                [vec![Nop; nops], vec![Timestamps(1, echo), Nop, Nop, blocks(by)]].concat()
            };
            let shape =
                Shape { options: options(2, 0), payload: payload.clone(), ..Shape::default() };
            let wanted = Shape {
                ack: shape.ack.wrapping_sub(T_SEQ),
                options: options(2u32.wrapping_sub(T_TS), T_SEQ),
                ..shape.clone()
            };
            for linear in [14u16, 20, 33, 34, 40, 53, 54, 60, 66, 67, 70, 75, 93, 94, 200, 0] {
                for (kind, mut header) in
                    [(Checksum::Full, [0; VNET_HDR_LEN]), (Checksum::Partial, needs_csum(34))]
                {
                    header[2..4].copy_from_slice(&linear.to_le_bytes());
                    host.input.write(&[&header[..], &shape.build(kind)].concat());
                    let got = host.netdev.read_until(has(b"to the guest"));
                    assert!(got[VNET_HDR_LEN..] == wanted.build(kind), "{linear} {kind:?} {odd}");
                    count += 1;
                }
            }
        }
        let counters = datapath.counters().expect("counters");
        assert_eq!((counters.translated_to_guest, counters.rewrite_failed), (count, 0));
        assert_eq!(counters.malformed, 0);
        datapath.detach().expect("detach");
    });
}

/// Mirrored input, written to the input gate, reaches the guest translated; full and partial
/// checksums are right in their own way, and a VLAN tag is part of the connection.
#[test]
fn secondary_translates_what_comes_through_the_gate() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let mut datapath = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        for (vlans, tcp_at) in [(vec![], 34u16), (vec![9], 38)] {
            let (key, flow) = translated(vlans.first().copied().unwrap_or(0));
            datapath.insert_flow(&key, &flow).expect("insert");
            let shape = Shape {
                vlans,
                options: vec![frame::TcpOption::Timestamps(1, 2)],
                payload: b"to the guest".to_vec(),
                ..Shape::default()
            };
            let mut wanted = shape.clone();
            wanted.ack = wanted.ack.wrapping_sub(T_SEQ);
            wanted.options = vec![frame::TcpOption::Timestamps(1, 2u32.wrapping_sub(T_TS))];
            for (kind, header) in
                [(Checksum::Full, [0; 12]), (Checksum::Partial, needs_csum(tcp_at))]
            {
                host.input.write(&[&header[..], &shape.build(kind)].concat());
                let got = host.netdev.read_until(has(b"to the guest"));
                assert_eq!(&got[VNET_HDR_LEN..], wanted.build(kind), "{kind:?}");
                assert_eq!(got[0] & 1, header[0], "NEEDS_CSUM");
            }
        }
        let counters = datapath.counters().expect("counters");
        assert_eq!((counters.translated_to_guest, counters.rewrite_failed), (4, 0));
        datapath.detach().expect("detach");
    });
}

/// Input that is early comes back by the gate it came from, and an event says when to try again.
#[test]
fn secondary_gives_early_input_back() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let mut datapath = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        let mut events = datapath.take_events().expect("events");
        let peer = |flags: u8, payload: &[u8]| {
            let seq = if flags == 2 { 1000 } else { 1001 };
            let shape = Shape { flags, seq, payload: payload.to_vec(), ..Shape::default() };
            shape.build(Checksum::Full)
        };
        host.input.write_plain(&peer(2, b""));
        let early = peer(0x10, b"early");
        host.input.write_plain(&early);
        let back = host.input.read_until(has(b"early"));
        assert_eq!(&back[VNET_HDR_LEN..], early, "as it was");
        assert!(events.next_event().is_none());

        let answer = etherparse::PacketBuilder::ethernet2(GUEST_MAC, HOST_MAC)
            .ipv4(frame::V4_DST, frame::V4_SRC, 64)
            .tcp(80, 40_000, 7, 1000)
            .syn()
            .ack(1001);
        let mut bytes = Vec::new();
        answer.write(&mut bytes, &[]).expect("build");
        host.netdev.write_plain(&bytes);
        let sent = host.output.read_until(|frame| frame.len() == bytes.len());
        // The peer's acknowledgment is 2000, so the network's number is 1999.
        assert_eq!(sent[VNET_HDR_LEN + 38..][..4], 1999u32.to_be_bytes());
        assert!(events.next_event().is_some());

        host.input.write(&back);
        let got = host.netdev.read_until(has(b"early"));
        assert_eq!(got[VNET_HDR_LEN + 42..][..4], 8u32.to_be_bytes(), "the guest's number plus 1");
        datapath.detach().expect("detach");
    });
}

#[test]
fn the_secondary_is_not_heard_and_hears_nothing_but_the_mirror() {
    in_netns(|| {
        let host = host_with_address();
        let name = instance();
        let mut datapath = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        let socket = UdpSocket::bind("10.9.0.1:5678").expect("bind");
        while host.netdev.try_read().is_some() {}
        let _refused = socket.send_to(b"lan", "10.9.0.2:1234");
        assert!(datapath.counters().expect("counters").dropped_lan_input >= 1);
        assert!(host.netdev.try_read().is_none());
        host.netdev.write_plain(&udp_from_guest(b"output"));
        let captured = host.output.read_until(has(b"output"));
        // The daemon may let a frame of its own through, to announce an address.
        host.output.write(&captured);
        assert_eq!(receive(&socket), b"output");

        datapath.set_mode(ProgramMode::FailedOver).expect("fail over");
        socket.send_to(b"lan again", "10.9.0.2:1234").expect("send");
        host.netdev.read_until(has(b"lan again"));
        host.netdev.write_plain(&udp_from_guest(b"heard"));
        assert_eq!(receive(&socket), b"heard");
        datapath.detach().expect("detach");
    });
}

fn links_on(ifname: &str) -> Vec<u32> {
    use aya::programs::{SchedClassifier, TcAttachType};
    let mut ids = Vec::new();
    for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, programs) = SchedClassifier::query_tcx(ifname, hook).expect("query");
        ids.extend(programs.iter().map(aya::programs::ProgramInfo::id));
    }
    ids
}

/// The daemon dies (its process does; here, everything it holds is dropped): the programs stay, and
/// the next daemon's take their places, with the connections, without a moment in between.
#[test]
fn a_leftover_is_taken_over_and_not_stacked_upon() {
    in_netns(|| {
        let mut host = host_with_address();
        let name = instance();
        let mut first = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("attach");
        assert!(!first.taken_over());
        first.set_mode(ProgramMode::FailedOver).expect("fail over");
        first.bump_epoch().expect("epoch");
        let (key, flow) = translated(0);
        first.insert_flow(&key, &flow).expect("insert");
        let dir = first.dir().clone();
        let before = links_on("guest0");
        assert_eq!(before.len(), 2);
        drop(first);
        assert_eq!(links_on("guest0"), before, "pinned");

        // The gates have gone with the daemon.
        drop(std::mem::replace(&mut host.output, Tap::new("output1", Offloads::On)));
        drop(std::mem::replace(&mut host.input, Tap::new("input1", Offloads::On)));
        let second = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("take over");
        assert!(second.taken_over());
        assert_eq!((second.mode(), second.epoch()), (ProgramMode::FailedOver, 1));
        assert_eq!(second.flows().collect::<Vec<_>>(), [(key, flow)]);
        let after = links_on("guest0");
        assert_eq!(after.len(), 2, "not stacked");
        assert!(after.iter().all(|id| !before.contains(id)), "new programs");
        assert_eq!((links_on("output1").len(), links_on("input1").len()), (2, 2));

        second.detach().expect("detach");
        assert!(links_on("guest0").is_empty());
        assert!(!dir.path().exists());
    });
}

/// A leftover of the other role, or of a network namespace that is no more.
#[test]
fn a_leftover_that_does_not_fit_is_replaced() {
    in_netns(|| {
        let name = instance();
        let host = Host::new();
        let first = Datapath::attach(&host.plan(&name, Role::Primary)).expect("attach");
        drop(first);
        let second = Datapath::attach(&host.plan(&name, Role::Secondary)).expect("other role");
        assert_eq!(links_on("guest0").len(), 2);
        let names: Vec<_> =
            second.programs().iter().map(|attached| attached.attachment().program).collect();
        assert!(names.contains(&"colo_to_guest") && !names.contains(&"colo_mirror"));
        drop(second);

        let old = new_netns();
        let elsewhere = Host::new();
        let third = Datapath::attach(&elsewhere.plan(&name, Role::Secondary)).expect("elsewhere");
        assert!(!third.taken_over());
        enter(&old);
        assert_eq!(links_on("guest0").len(), 2);
        third.detach().expect("detach");
    });
}

#[test]
fn on_death_pass_leaves_no_link() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let hold = host.plan(&name, Role::Primary);
        drop(Datapath::attach(&hold).expect("attach"));
        assert_eq!(links_on("guest0").len(), 2);
        let pass = Plan { on_death: OnDeath::Pass, ..hold };
        let datapath = Datapath::attach(&pass).expect("take over");
        assert_eq!(links_on("guest0").len(), 2);
        drop(datapath);
        // The pin that was taken over ends when the kernel comes round to it.
        wait_until("no programs", || links_on("guest0").is_empty());
        Datapath::attach(&pass).expect("attach").detach().expect("detach");
    });
}

#[test]
fn a_guest_that_restarts_is_attached_again() {
    in_netns(|| {
        let mut host = Host::new();
        let name = instance();
        let mut datapath = Datapath::attach(&host.plan(&name, Role::Primary)).expect("attach");
        let before = host.netdev.ifindex;
        drop(std::mem::replace(&mut host.netdev, Tap::new("guest1", Offloads::On)));
        // A child that another test is starting may hold the descriptor for a moment.
        wait_until("no old TAP", || if_nametoindex("guest0").is_err());
        ip("link set guest1 down");
        ip("link set guest1 name guest0 up");
        assert_ne!(host.netdev.ifindex, before);
        datapath.set_netdev(host.netdev.ifindex).expect("attach again");
        assert_eq!(links_on("guest0").len(), 2);
        host.netdev.write_plain(&udp_from_guest(b"output"));
        host.output.read_until(has(b"output"));
        datapath.detach().expect("detach");
    });
}

#[test]
fn errors_say_what_to_do() {
    in_netns(|| {
        let host = Host::new();
        let name = instance();
        let plan = Plan { netdev_ifindex: 9_999, ..host.plan(&name, Role::Primary) };
        let error = Datapath::attach(&plan).expect_err("no such interface");
        assert!(matches!(error, DatapathError::NoInterface { ifindex: 9_999, .. }), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("TAP")));
        // What was attached to the gates is taken over, and can be removed.
        Datapath::attach(&host.plan(&name, Role::Primary))
            .expect("attach")
            .detach()
            .expect("detach");
        for bad in ["", "a/b", "..", "a b"] {
            let error = Datapath::attach(&host.plan(bad, Role::Primary)).expect_err("bad name");
            assert!(matches!(error, DatapathError::InstanceName { .. }), "{error}");
        }
    });
}
