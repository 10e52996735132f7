//! The gate alone: its configuration, and that frames pass unchanged.

use colo_proxy::gate::{Gate, GateError, GateOptions, Written};
use colo_proxy_engine::frame::Frame;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    frames::{self, HEADERS_LEN, TCP_AT},
    namespace::in_namespace,
    packet_socket::{PACKET_VNET_LEN, PacketSocket, wait_readable},
};
use colo_lab::lab_test;

fn open(vnet_hdr: bool) -> (Gate, PacketSocket) {
    let options =
        GateOptions { name_template: "colo-out%d".into(), vnet_hdr, ..GateOptions::default() };
    let gate = Gate::open(&options).expect("gate");
    gate.set_up().expect("up");
    let socket = PacketSocket::bound_to(gate.ifindex());
    (gate, socket)
}

fn read(gate: &Gate) -> Frame {
    loop {
        wait_readable(gate);
        if let Some(frame) = gate.read_frame().expect("read") {
            return frame;
        }
    }
}

fn frame(vnet: &[u8], ethernet: &[u8]) -> Frame {
    Frame::new([vnet, ethernet].concat().into(), vnet.len()).expect("frame")
}

/// A property of an interface. sysfs shows the namespace in which it was mounted, so this mounts it
/// again. The mount ends with this thread's mount namespace.
fn link_property(name: &str, property: &str) -> String {
    let at = tempfile::tempdir().expect("mount point");
    let flags = MsFlags::empty();
    mount(Some("sysfs"), at.path(), Some("sysfs"), flags, None::<&str>).expect("sysfs");
    let value = std::fs::read_to_string(at.path().join("class/net").join(name).join(property));
    umount2(at.path(), MntFlags::MNT_DETACH).expect("umount");
    value.expect("property").trim().to_owned()
}

#[lab_test(root)]
fn a_gate_is_quiet_wide_and_down() {
    in_namespace(|| {
        let first = Gate::open(&GateOptions::default()).expect("gate");
        let second = Gate::open(&GateOptions::default()).expect("gate");
        assert_eq!((first.name(), second.name()), ("colo-gate0", "colo-gate1"));
        assert_ne!(first.ifindex(), second.ifindex());
        if std::path::Path::new("/proc/sys/net/ipv6/conf/all").exists() {
            let ipv6 = "/proc/sys/net/ipv6/conf/colo-gate0/disable_ipv6";
            assert_eq!(std::fs::read_to_string(ipv6).expect("IPv6").trim(), "1");
        }
        assert_eq!(link_property("colo-gate0", "mtu"), "65521");
        assert_eq!(link_property("colo-gate0", "tx_queue_len"), "10000");
        assert_eq!(link_property("colo-gate0", "flags"), "0x1002", "down");
        first.set_up().expect("up");
        // IFF_UP, IFF_BROADCAST, IFF_NOARP, and no IFF_MULTICAST.
        assert_eq!(link_property("colo-gate0", "flags"), "0x83");
        // Without IPv6, there is never a link-local address.
        let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6");
        assert!(!addresses.unwrap_or_default().contains("colo-gate0"));
        assert_eq!(first.read_frame().expect("read"), None);
    });
}

#[lab_test(root)]
fn a_gate_disappears_with_its_owner() {
    in_namespace(|| {
        let gate = Gate::open(&GateOptions::default()).expect("gate");
        let name = gate.name().to_owned();
        drop(gate);
        assert!(nix::net::if_::if_nametoindex(name.as_str()).is_err());
    });
}

#[lab_test(root)]
fn names_that_are_taken_or_too_long_are_refused_with_the_name() {
    in_namespace(|| {
        let named = |name: &str| {
            Gate::open(&GateOptions { name_template: name.into(), ..GateOptions::default() })
        };
        let _taken = named("colo-taken").expect("gate");
        let error = named("colo-taken").expect_err("taken");
        assert!(matches!(&error, GateError::Configure { name, .. } if name == "colo-taken"));
        assert!(error.hint().is_some(), "{error:?}");
        assert!(matches!(named("colo-sixteen-oct"), Err(GateError::Name { .. })));
        assert!(matches!(named(""), Err(GateError::Name { .. })));
        assert!(matches!(named("a\0b"), Err(GateError::Name { .. })));
    });
}

#[lab_test(root)]
fn what_is_sent_to_a_gate_is_read_with_its_header() {
    in_namespace(|| {
        let (gate, socket) = open(true);
        let small = frames::tcp(1, &frames::payload(10));
        socket.send(&[0; 12], &small);
        let read_small = read(&gate);
        assert_eq!((read_small.vnet(), read_small.ethernet()), (&[0; 12][..], &small[..]));
        let (vnet, gso) = frames::partial(frames::tcp(1, &frames::payload(65_000)), 1448);
        socket.send(&vnet, &gso);
        let read_gso = read(&gate);
        assert_eq!(read_gso.ethernet(), gso);
        assert_eq!(read_gso.vnet()[..2], vnet[..2], "flags and GSO type");
        assert_eq!(read_gso.vnet()[4..], vnet[4..], "GSO size, checksum start and offset");
        assert_eq!(gate.read_frame().expect("read"), None);
    });
}

#[lab_test(root)]
fn a_gate_without_header_gives_segments_with_complete_checksums() {
    in_namespace(|| {
        let (gate, socket) = open(false);
        let bytes = frames::payload(10_000);
        let (vnet, gso) = frames::partial(frames::tcp(1, &bytes), 1448);
        socket.send(&vnet, &gso);
        let mut received = Vec::new();
        while received.len() < bytes.len() {
            let segment = read(&gate);
            assert!(segment.vnet().is_empty());
            assert!(segment.ethernet().len() <= HEADERS_LEN + 1448);
            assert_eq!(frames::tcp_sum(segment.ethernet()), 0xffff);
            received.extend_from_slice(&segment.ethernet()[HEADERS_LEN..]);
        }
        assert_eq!(received, bytes);
    });
}

#[lab_test(root)]
fn a_frame_read_from_one_gate_leaves_by_another_as_it_was() {
    in_namespace(|| {
        let (input, far_input) = open(true);
        let (output, far_output) = open(true);
        let (vnet, gso) = frames::partial(frames::tcp(1, &frames::payload(60_000)), 1448);
        far_input.send(&vnet, &gso);
        let held = read(&input);
        assert_eq!(output.write_frame(&held).expect("write"), Written::Sent);
        let record = far_output.receive();
        let (header, ethernet) = record.split_at(PACKET_VNET_LEN);
        assert_eq!(ethernet, gso);
        assert_eq!(
            (header[..2].to_vec(), header[4..].to_vec()),
            (vnet[..2].to_vec(), vnet[4..10].to_vec())
        );
    });
}

#[lab_test(root)]
fn headers_of_every_length_are_turned_into_the_gate_s() {
    in_namespace(|| {
        let (gate, socket) = open(true);
        let (vnet, bytes) = frames::partial(frames::tcp(1, b"hello"), 0);
        let hashed = [&vnet[..], &[9; 8]].concat();
        for header in [&vnet[..10], &vnet, &hashed] {
            assert_eq!(gate.write_frame(&frame(header, &bytes)).expect("write"), Written::Sent);
            let record = socket.receive();
            assert_eq!(record[..PACKET_VNET_LEN], vnet[..PACKET_VNET_LEN], "{}", header.len());
            assert_eq!(record[PACKET_VNET_LEN..], bytes);
        }
        let whole = frames::tcp(1, b"hello");
        assert_eq!(gate.write_frame(&frame(&[], &whole)).expect("write"), Written::Sent);
        assert_eq!(socket.receive()[PACKET_VNET_LEN..], whole);
    });
}

#[lab_test(root)]
fn a_gate_without_header_takes_only_frames_that_are_complete() {
    in_namespace(|| {
        let (gate, socket) = open(false);
        let whole = frames::tcp(1, b"hello");
        for header in [&[][..], &[0; 10], &[0; 12], &[0; 20]] {
            assert_eq!(gate.write_frame(&frame(header, &whole)).expect("write"), Written::Sent);
            assert_eq!(socket.receive()[PACKET_VNET_LEN..], whole);
        }
        let (vnet, partial) = frames::partial(whole, 0);
        assert_eq!(gate.write_frame(&frame(&vnet, &partial)).expect("write"), Written::Malformed);
    });
}

#[lab_test(root)]
fn a_malformed_header_is_a_verdict_and_the_next_frame_passes() {
    in_namespace(|| {
        let (gate, socket) = open(true);
        let (vnet, bytes) = frames::partial(frames::tcp(1, &frames::payload(3000)), 1448);
        let mut beyond = vnet;
        beyond[6..8].copy_from_slice(&60_000u16.to_le_bytes());
        let mut nonsense = vnet;
        nonsense[1] = 0x7f;
        let mut segmentless = vnet;
        segmentless[4..6].fill(0);
        for header in [&beyond[..], &nonsense, &segmentless, &vnet[..4]] {
            let written = gate.write_frame(&frame(header, &bytes)).expect("write");
            assert_eq!(written, Written::Malformed, "{header:?}");
        }
        let runt = gate.write_frame(&frame(&[0; 12], &bytes[..13])).expect("write");
        assert_eq!(runt, Written::Malformed);
        assert_eq!(gate.write_frame(&frame(&[0; 12], &[])).expect("write"), Written::Malformed);
        let good = frames::tcp(9, b"after");
        assert_eq!(gate.write_frame(&frame(&[0; 12], &good)).expect("write"), Written::Sent);
        assert_eq!(socket.receive()[PACKET_VNET_LEN + TCP_AT..], good[TCP_AT..]);
    });
}

#[lab_test(root)]
fn a_gate_that_is_down_is_an_error_not_a_verdict() {
    in_namespace(|| {
        let gate = Gate::open(&GateOptions::default()).expect("gate");
        let error = gate.write_frame(&frame(&[0; 12], &frames::tcp(1, b"x"))).expect_err("down");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    });
}

#[lab_test(root)]
fn a_held_frame_costs_its_own_size() {
    in_namespace(|| {
        let (gate, socket) = open(true);
        let small = frames::tcp(1, b"small");
        socket.send(&[0; 12], &small);
        let held = read(&gate);
        assert_eq!(held.len(), small.len() + 12);
        // Only a buffer without spare capacity returns its vector unchanged.
        let vector: Vec<u8> = held.bytes().clone().into();
        assert_eq!(vector.capacity(), vector.len());
    });
}
