//! Capture by `AF_XDP` on a TAP: whole frames of every size, every queue, and the refusals.

use std::path::Path;

use aya::programs::{XdpMode, links::FdLink};
use colo_lab::lab_test;
use colo_lab::phrases;
use colo_proxy::datapath::{
    af_xdp::XdpRefusal,
    capture::{CaptureBackend, CaptureKind},
};
use colo_proxy_engine::frame::Frame;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    frames,
    guest::{Guest, NETDEV},
    lab::{LINK_PIN, Lab, PROGRAM_PIN},
    namespace::in_namespace,
    packet_socket::wait_readable,
};

/// The next `count` frames.
pub(crate) fn read(capture: &mut dyn CaptureBackend, count: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    while frames.len() < count {
        wait_readable(&capture.poll_fd());
        capture.read_batch(count - frames.len(), &mut frames).expect("read");
    }
    frames
}

pub(crate) fn assert_nothing_waits(capture: &mut dyn CaptureBackend) {
    let mut frames = Vec::new();
    assert_eq!(capture.read_batch(1, &mut frames).expect("read"), 0, "{frames:?}");
}

#[lab_test(root)]
fn frames_of_every_size_arrive_whole_and_in_order() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let mut capture = lab.af_xdp(&guest);
        let small = ([0; 12], frames::tcp(1, &frames::payload(10)));
        let medium = frames::partial(frames::tcp(2, &frames::payload(1346)), 0);
        let large = frames::partial(frames::tcp(3, &frames::payload(65_000)), 1448);
        let jumbo = ([0; 12], frames::tcp(4, &frames::payload(8946)));
        let sent = [small, medium, large, jumbo];
        for (vnet, frame) in &sent {
            guest.send(vnet, frame);
        }
        let read = read(&mut *capture, sent.len());
        for (frame, (_, sent)) in read.iter().zip(&sent) {
            assert_eq!(frame.ethernet(), sent);
            assert_eq!(frame.vnet(), [0; 12], "XDP knows nothing of the header");
        }
        let stats = capture.stats();
        assert_eq!((stats.frames, stats.gate_frames), (4, 0));
        assert_eq!(stats.bytes, sent.iter().map(|(_, f)| f.len() as u64).sum::<u64>());
        assert_nothing_waits(&mut *capture);
    });
}

#[lab_test(root)]
fn the_memory_of_a_socket_comes_back() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let mut capture = lab.af_xdp(&guest);
        let (vnet, large) = frames::partial(frames::tcp(3, &frames::payload(65_000)), 1448);
        let small = frames::tcp(1, &frames::payload(10));
        // 18 chunks of 4096 each time, which goes several times through the ring.
        for _ in 0..1000 {
            guest.send(&vnet, &large);
            guest.send(&[0; 12], &small);
            let read = read(&mut *capture, 2);
            assert_eq!((read[0].ethernet(), read[1].ethernet()), (&large[..], &small[..]));
        }
        assert_eq!(capture.stats().dropped_ring_full + capture.stats().dropped_by_socket, 0);
    });
}

#[lab_test(root)]
fn what_a_slow_reader_loses_is_whole_frames_and_counted() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let mut capture = lab.af_xdp(&guest);
        let (vnet, large) = frames::partial(frames::tcp(3, &frames::payload(65_000)), 1448);
        let sent = 400;
        for _ in 0..sent {
            guest.send(&vnet, &large);
        }
        let mut frames = Vec::new();
        while capture.read_batch(7, &mut frames).expect("read") > 0 {}
        assert!(frames.iter().all(|f| f.ethernet() == large));
        let stats = capture.stats();
        assert!(frames.len() < sent, "{}", frames.len());
        let dropped = stats.dropped_ring_full + stats.dropped_by_socket;
        assert_eq!(frames.len() as u64 + dropped, sent as u64, "{stats:?}");
        guest.send(&[0; 12], &frames::tcp(9, b"after"));
        assert_eq!(read(&mut *capture, 1)[0].ethernet(), frames::tcp(9, b"after"));
    });
}

#[lab_test(root)]
fn a_batch_is_never_longer_than_asked_for() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let mut capture = lab.af_xdp(&guest);
        for seq in 0..10 {
            guest.send(&[0; 12], &frames::tcp(seq, b"x"));
        }
        let mut frames = Vec::new();
        for expected in [3, 3, 3, 1, 0] {
            assert_eq!(capture.read_batch(3, &mut frames).expect("read"), expected);
        }
        for (seq, frame) in (0..).zip(&frames) {
            assert_eq!(frame.ethernet(), frames::tcp(seq, b"x"));
        }
    });
}

#[lab_test(root)]
fn every_queue_of_a_guest_has_its_socket() {
    in_namespace(|| {
        let guest = Guest::with_queues(2);
        let mut lab = Lab::new();
        let mut capture = lab.af_xdp(&guest);
        let (vnet, large) = frames::partial(frames::tcp(3, &frames::payload(65_000)), 1448);
        for queue in [0, 1] {
            let small = frames::tcp(queue, &frames::payload(10));
            guest.send_by(queue as usize, &[0; 12], &small);
            guest.send_by(queue as usize, &vnet, &large);
            let read = read(&mut *capture, 2);
            assert_eq!(read[0].ethernet(), small, "queue {queue}");
            assert_eq!(read[1].ethernet(), large, "queue {queue}");
        }
        assert_eq!(capture.stats().gate_frames, 0);
    });
}

/// A dead daemon leaves its program on the guest's TAP, by a pinned link, and no socket.
fn leave_behind(lab: &mut Lab) {
    let program = lab.loaded_xdp();
    let link = program.attach(NETDEV, XdpMode::Driver).expect("attach");
    let link = program.take_link(link).expect("link");
    drop(FdLink::try_from(link).expect("link").pin(LINK_PIN).expect("pin"));
    program.pin(PROGRAM_PIN).expect("pin");
}

fn assert_unattached(lab: &mut Lab) {
    assert!(!Path::new(LINK_PIN).exists() && !Path::new(PROGRAM_PIN).exists());
    let program = lab.loaded_xdp();
    let link = program.attach(NETDEV, XdpMode::Driver).expect("the interface is free");
    program.detach(link).expect("detach");
}

#[lab_test(root)]
fn a_dead_daemons_program_is_replaced_and_ours_goes_with_us() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        leave_behind(&mut lab);
        let mut capture = lab.af_xdp(&guest);
        assert!(Path::new(LINK_PIN).exists() && Path::new(PROGRAM_PIN).exists());
        guest.send(&[0; 12], &frames::tcp(1, b"x"));
        assert_eq!(read(&mut *capture, 1)[0].ethernet(), frames::tcp(1, b"x"));
        drop(capture);
        assert_unattached(&mut lab);
    });
}

#[lab_test(root)]
fn a_dead_daemons_program_goes_where_the_gate_captures_now() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        leave_behind(&mut lab);
        let (capture, refusal) = lab.choose_kind(CaptureKind::Gate, guest.ifindex);
        assert!(refusal.is_none());
        assert_eq!(capture.name(), "gate");
        assert_unattached(&mut lab);
    });
}

#[lab_test(root)]
fn auto_is_af_xdp_where_that_takes_every_frame() {
    for (whole, name) in [(true, "af-xdp"), (false, "gate")] {
        in_namespace(move || {
            let guest = Guest::with_queues(1);
            let mut lab = Lab::with_gate(whole);
            let (capture, refusal) = lab.choose_kind(CaptureKind::Auto, guest.ifindex);
            assert_eq!((capture.name(), refusal.is_some()), (name, !whole));
        });
    }
}

#[lab_test(root)]
fn a_guest_that_comes_back_is_captured_again() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let mut old = lab.af_xdp(&guest);
        guest.send(&[0; 12], &frames::tcp(1, b"before"));
        assert_eq!(read(&mut *old, 1)[0].ethernet(), frames::tcp(1, b"before"));
        drop(guest);
        assert_nothing_waits(&mut *old);
        // There is nothing to read, and nothing wakes a reader without need.
        let mut fds = [PollFd::new(old.poll_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
        let guest = Guest::with_queues(1);
        let mut capture = lab.af_xdp(&guest);
        drop(old);
        assert!(Path::new(LINK_PIN).exists(), "the old attachment took the new one's pin along");
        guest.send(&[0; 12], &frames::tcp(2, b"after"));
        assert_eq!(read(&mut *capture, 1)[0].ethernet(), frames::tcp(2, b"after"));
    });
}

/// The refusal with its text and hint, for a TAP where the gate is used instead.
fn refused(lab: &mut Lab, ifindex: u32) -> (XdpRefusal, String) {
    let (capture, refusal) = lab.choose(ifindex);
    assert_eq!(capture.name(), "gate");
    assert!(!Path::new(LINK_PIN).exists());
    let refusal = refusal.expect("refused");
    let message = format!("{refusal} {}", refusal.hint().unwrap_or_default());
    (refusal, message)
}

#[lab_test(root)]
fn a_plain_wire_is_refused() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let (refusal, message) = refused(&mut Lab::with_gate(false), guest.ifindex);
        assert!(matches!(refusal, XdpRefusal::PlainWire), "{refusal:?}");
        assert!(message.contains("--vnet-hdr-support"), "{message}");
    });
}

#[lab_test(root)]
fn more_queues_than_sockets_are_refused() {
    in_namespace(|| {
        let guest = Guest::with_queues(17);
        let (refusal, message) = refused(&mut Lab::new(), guest.ifindex);
        assert!(matches!(refusal, XdpRefusal::Queues { sockets_max: 16, .. }), "{refusal:?}");
        assert!(message.contains(phrases::capture::TOO_MANY_QUEUES), "{message}");
    });
}

#[lab_test(root)]
fn an_interface_without_native_xdp_is_refused() {
    in_namespace(|| {
        let loopback = nix::net::if_::if_nametoindex("lo").expect("lo");
        let (refusal, message) = refused(&mut Lab::new(), loopback);
        assert!(matches!(refusal, XdpRefusal::Attach { .. }), "{refusal:?}");
        assert!(message.contains(phrases::capture::NO_NATIVE_XDP), "{message}");
    });
}

#[lab_test(root)]
fn an_interface_with_a_program_of_somebody_else_is_refused() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut lab = Lab::new();
        let _theirs = lab.loaded_xdp().attach(NETDEV, XdpMode::Driver).expect("attach");
        let (refusal, message) = refused(&mut lab, guest.ifindex);
        assert!(matches!(refusal, XdpRefusal::Attach { .. }), "{refusal:?}");
        assert!(message.contains(phrases::capture::ANOTHER_PROGRAM), "{message}");
    });
}

#[lab_test(root)]
fn an_interface_that_is_not_there_is_refused() {
    in_namespace(|| {
        let (refusal, message) = refused(&mut Lab::new(), 4711);
        assert!(matches!(refusal, XdpRefusal::Socket { queue: 0, .. }), "{refusal:?}");
        assert!(message.contains(phrases::capture::BIND), "{message}");
    });
}
