//! The program `colo_xdp_capture`: its verdict, its bytes, and the frames that it leaves to the TC
//! programs after it.

use aya::{TestRun, TestRunOptions, programs::XdpMode};
use colo_proxy::gate::Written;
use colo_proxy_common::{
    flow::{known, state},
    record::{FlowKey, FlowRecord, mode},
};

use colo_proxy_engine::frame::Frame;

use crate::{
    af_xdp::{assert_nothing_waits, read},
    frames,
    guest::{Guest, NETDEV},
    lab::Lab,
    namespace::in_namespace,
    packet_socket::{PACKET_VNET_LEN, PacketSocket},
};
use colo_lab::lab_test;

const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

const SEQ_OFFSET: u32 = 0xffff_0000;
const TS_OFFSET: u32 = 1000;

/// The connection of [`frames::tcp`], translated.
fn flow() -> (FlowKey, FlowRecord) {
    let mut key = FlowKey {
        guest_port: frames::GUEST_PORT,
        peer_port: frames::PEER_PORT,
        ip_version: 4,
        protocol: 6,
        ..FlowKey::default()
    };
    key.guest_addr[..4].copy_from_slice(&frames::GUEST.1);
    key.peer_addr[..4].copy_from_slice(&frames::PEER.1);
    let flow = FlowRecord {
        epoch: 1,
        state: state::ESTABLISHED,
        known: known::OFFSET,
        seq_offset: SEQ_OFFSET,
        ts_offset: TS_OFFSET,
        ..FlowRecord::default()
    };
    (key, flow)
}

/// Runs the program on a frame of the first queue, and returns verdict and bytes.
fn run(lab: &mut Lab, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; frame.len()];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    };
    let result = lab.loaded_xdp().test_run(options).expect("test run");
    (result.return_value, out)
}

#[lab_test(root)]
fn only_a_protected_guest_is_captured_and_only_where_a_socket_is() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::without_settings(true);
        let (key, flow) = flow();
        lab.add_flow(key, flow);
        let frame = frames::tcp(1, b"x");
        assert_eq!(run(&mut lab, &frame), (PASS, frame.clone()), "no settings");
        lab.set_mode(mode::PROTECTED);
        assert_eq!(run(&mut lab, &frame), (PASS, frame.clone()), "no socket");
        let capture = lab.af_xdp(&guest);
        for other in [mode::OFF, mode::FAILED_OVER, 77] {
            lab.set_mode(other);
            assert_eq!(run(&mut lab, &frame), (PASS, frame.clone()), "mode {other}");
        }
        assert_eq!(lab.counter(|c| c.captured + c.translated_from_guest), 0);
        lab.set_mode(mode::PROTECTED);
        assert_eq!(run(&mut lab, &frame).0, REDIRECT);
        assert_eq!(lab.counter(|c| c.captured), 1);
        drop(capture);
        assert_eq!(run(&mut lab, &frame), (PASS, frame), "the socket is gone");
        assert_eq!(lab.counter(|c| c.dropped_no_settings), 0, "left to the TC program");
    });
}

#[lab_test(root)]
fn sequence_number_and_timestamp_are_the_networks() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let (key, flow) = flow();
        lab.add_flow(key, flow);
        let _capture = lab.af_xdp(&guest);
        let frame = frames::tcp_with_timestamps(0x0002_0001, (77, 88), b"payload");
        // The checksum stays. Nothing tells whether it is partial, and nothing will look at it.
        let mut expected = frame.clone();
        expected[frames::TCP_AT + 4..][..4].copy_from_slice(&0x0001_0001u32.to_be_bytes());
        let value_at = frames::TCP_AT + 20 + 4;
        expected[value_at..][..4].copy_from_slice(&1077u32.to_be_bytes());
        assert_eq!(run(&mut lab, &frame), (REDIRECT, expected));
        assert_eq!(lab.counter(|c| c.translated_from_guest), 1);
    });
}

#[lab_test(root)]
fn a_frame_that_cannot_be_translated_yet_is_dropped_and_counted() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let (key, flow) = flow();
        let opening = FlowRecord { state: state::OPENING_PASSIVE, known: known::GUEST, ..flow };
        lab.add_flow(key, opening);
        let _capture = lab.af_xdp(&guest);
        assert_eq!(run(&mut lab, &frames::tcp(1, b"x")).0, DROP);
        assert_eq!(lab.counter(|c| c.dropped_no_offset), 1);
    });
}

#[lab_test(root)]
fn a_cut_frame_is_captured_as_it_is() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let _capture = lab.af_xdp(&guest);
        let frame = frames::tcp_with_timestamps(1, (77, 88), b"payload");
        for len in 14..frame.len() {
            let cut = &frame[..len];
            assert_eq!(run(&mut lab, cut), (REDIRECT, cut.to_vec()), "{len}");
        }
    });
}

#[lab_test(root)]
fn frames_are_translated_whatever_their_size() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let (key, flow) = flow();
        lab.add_flow(key, flow);
        let mut capture = lab.af_xdp(&guest);
        for len in [1, 1400, 8000, 65_000] {
            let (vnet, frame) =
                frames::partial(frames::tcp(0x0002_0000, &frames::payload(len)), 1448);
            guest.send(&vnet, &frame);
            let mut expected = frame;
            expected[frames::TCP_AT + 4..][..4].copy_from_slice(&0x0001_0000u32.to_be_bytes());
            assert_eq!(read(&mut *capture, 1)[0].ethernet(), expected, "{len}");
        }
    });
}

#[lab_test(root)]
fn after_failover_the_guests_frames_pass() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let mut capture = lab.af_xdp(&guest);
        lab.attach_ingress("colo_from_guest", NETDEV);
        let network = PacketSocket::behind_programs(guest.ifindex);
        lab.set_mode(mode::FAILED_OVER);
        let (vnet, frame) = frames::partial(frames::tcp(1, &frames::payload(60_000)), 1448);
        guest.send(&vnet, &frame);
        let record = network.receive();
        assert_eq!(record[PACKET_VNET_LEN..], frame);
        assert_eq!(record[..2], vnet[..2], "still GSO with a partial checksum");
        assert_nothing_waits(&mut *capture);
    });
}

#[lab_test(root)]
fn a_queue_that_comes_later_is_captured_by_the_gate() {
    in_namespace(|| {
        let mut guest = Guest::with_queues(2);
        let mut lab = Lab::new();
        let mut capture = lab.af_xdp(&guest);
        lab.attach_ingress("colo_from_guest", NETDEV);
        guest.add_queue();
        let (vnet, frame) = frames::partial(frames::tcp(1, &frames::payload(60_000)), 1448);
        guest.send_by(2, &vnet, &frame);
        let read = read(&mut *capture, 1);
        assert_eq!(read[0].ethernet(), frame);
        assert_eq!(read[0].vnet()[..2], vnet[..2], "the gate keeps the header");
        assert_eq!((capture.stats().frames, capture.stats().gate_frames), (1, 1));
    });
}

#[lab_test(root)]
fn without_a_daemon_the_guests_frames_go_nowhere() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        lab.attach_ingress("colo_from_guest", NETDEV);
        // A killed daemon leaves the program, by its pinned link, and no socket.
        lab.loaded_xdp().attach(NETDEV, XdpMode::Driver).expect("attach");
        let network = PacketSocket::behind_programs(guest.ifindex);
        guest.send(&[0; 12], &frames::tcp(1, b"protected"));
        lab.set_mode(mode::FAILED_OVER);
        guest.send(&[0; 12], &frames::tcp(2, b"failed over"));
        assert_eq!(network.receive()[PACKET_VNET_LEN..], frames::tcp(2, b"failed over"));
    });
}

#[lab_test(root)]
fn what_the_daemon_releases_is_not_captured_again() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let mut capture = lab.af_xdp(&guest);
        lab.attach_ingress("colo_from_guest", NETDEV);
        let gate = lab.gate.name().to_owned();
        lab.attach_ingress("colo_release", &gate);
        let network = PacketSocket::behind_programs(guest.ifindex);
        let (vnet, bytes) = frames::partial(frames::tcp(1, &frames::payload(60_000)), 1448);
        let frame = Frame::new([&vnet[..], &bytes].concat().into(), 12).expect("frame");
        assert_eq!(lab.gate.write_frame(&frame).expect("write"), Written::Sent);
        assert_eq!(network.receive()[PACKET_VNET_LEN..], bytes);
        assert_nothing_waits(&mut *capture);
        assert_eq!(lab.counter(|c| c.released), 1);
        assert_eq!(lab.counter(|c| c.captured), 0);
    });
}
