//! The programs of the kernel lane: the frames that they let into the tunnel and out of it, the
//! tags, and the counters.

use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, PerCpuArray};
use colo_proxy_common::lane::{LaneCounters, SLOTS, Speaker, mark, reported, tag};
use colo_proxy_common::record::{Settings, mode};

use crate::frame::{Checksum, Shape, TcpOption};
use crate::harness::{DROP, MARK, NEXT, Programs, REDIRECT, settings};
use crate::some_frame;
use colo_lab::lab_test;

/// Interfaces that do not exist.
const TUNNEL: u32 = 0x7fff_0011;
const RETURN_GATES: [u32; 2] = [0x7fff_0012, 0x7fff_0013];
const SLOT: u32 = 0x345;

fn with_lane(mode: u32) -> Settings {
    Settings {
        lane_ifindex: TUNNEL,
        lane_slot: SLOT,
        lane_epoch: 7,
        return_gate_ifindex: RETURN_GATES,
        ..settings(mode)
    }
}

impl Programs {
    fn lane_counters(&self) -> LaneCounters {
        let map = self.ebpf().map("lane").expect("lane");
        let map: PerCpuArray<_, LaneCounters> = map.try_into().expect("a per-CPU array");
        let mut sum = LaneCounters::default();
        map.get(&0, 0).expect("read counters").iter().for_each(|one| sum.add(one));
        sum
    }

    fn speakers(&self) -> Vec<Speaker> {
        let map = self.ebpf().map("speakers").expect("speakers");
        let map: HashMap<&MapData, Speaker, u64> = map.try_into().expect("a hash map");
        map.keys().collect::<Result<_, _>>().expect("read a map")
    }
}

/// The tag has the epoch of the translation and the slot. The rest of the mark is the daemon's.
#[lab_test(root)]
fn the_secondarys_output_goes_into_the_tunnel_with_a_tag() {
    let mut programs = Programs::load();
    programs.set(&with_lane(mode::PROTECTED));
    let run = programs.run("colo_from_guest", &some_frame(), 0);
    assert_eq!((run.verdict, run.mark), (REDIRECT, mark(MARK, 3, SLOT)));
    assert_eq!(run.mark & 0xffff, 0x0345);
    // On the network, the guest sends without a tag.
    programs.set(&with_lane(mode::FAILED_OVER));
    assert_eq!(programs.run("colo_from_guest", &some_frame(), 0).verdict, NEXT);
}

#[lab_test(root)]
fn only_what_we_send_gets_into_the_tunnel() {
    let mut programs = Programs::load();
    programs.set(&with_lane(mode::PROTECTED));
    let ours = mark(MARK, 3, SLOT);
    for name in ["colo_lane_copy", "colo_lane_reply"] {
        for _ in 0..3 {
            let run = programs.run(name, &some_frame(), ours);
            assert_eq!((run.verdict, run.mark), (NEXT, ours));
        }
        for foreign in [0, 0x0345, MARK ^ 0x1_0000] {
            assert_eq!(programs.run(name, &some_frame(), foreign).verdict, DROP);
        }
    }
    let counters = programs.lane_counters();
    assert_eq!(counters.sent.iter().sum::<u64>(), 6);
    assert_eq!(counters.sent[SLOT as usize % SLOTS], 6);
    assert_eq!(programs.counters().dropped_foreign, 6);
}

/// A frame that is one byte too long, whole or in segments, goes to the gate. It has no tag and is
/// not counted.
#[lab_test(root)]
fn what_is_too_long_for_the_tunnel_goes_to_the_gate() {
    let mut programs = Programs::load();
    let frame = Shape { payload: vec![7; 500], ..Shape::default() }.build(Checksum::Full);
    let (len, ours) = (frame.len() as u32, mark(MARK, 3, SLOT));
    for (frame_max, gso_size, expected) in [
        (0, 0, ours),
        (len, 0, ours),
        (len - 1, 0, MARK),
        (len - 1, 499, ours),
        (len - 1, 500, MARK),
        (len - 1, len - 1 - 142, ours),
    ] {
        let settings = Settings { lane_frame_max: frame_max, ..with_lane(mode::PROTECTED) };
        programs.set(&settings);
        let run = programs.run_gso("colo_from_guest", &frame, 0, gso_size);
        assert_eq!((run.verdict, run.mark), (REDIRECT, expected), "{frame_max} {gso_size}");
    }
    assert_eq!(programs.counters().lane_too_long, 0);
}

/// Full segments with timestamps, of a guest with an MTU of 1500. With VLAN tags, they are longer
/// than the limit of a link with an MTU of 1550, and the tunnel would lose them.
#[lab_test(root)]
fn segments_with_vlan_tags_go_where_they_fit() {
    let mut programs = Programs::load();
    let ours = mark(MARK, 3, SLOT);
    for (vlans, frame_max, expected) in [
        (vec![], 1514, ours),
        (vec![5], 1514, MARK),
        (vec![5], 1518, ours),
        (vec![5, 6], 1514, MARK),
        (vec![5, 6], 1518, MARK),
        (vec![5, 6], 1522, ours),
    ] {
        let options = vec![TcpOption::Nop, TcpOption::Nop, TcpOption::Timestamps(1, 2)];
        let shape = Shape { vlans, options, payload: vec![7; 2000], ..Shape::default() };
        let frame = shape.build(Checksum::Full);
        programs.set(&Settings { lane_frame_max: frame_max, ..with_lane(mode::PROTECTED) });
        let run = programs.run_gso("colo_from_guest", &frame, 0, 1448);
        let told = format!("{:?} {frame_max}", shape.vlans);
        assert_eq!((run.verdict, run.mark), (REDIRECT, expected), "{told}");
        let at_the_tunnel = if expected == ours { NEXT } else { DROP };
        for name in ["colo_lane_copy", "colo_lane_reply"] {
            let run = programs.run_gso(name, &frame, ours, 1448);
            assert_eq!(run.verdict, at_the_tunnel, "{name}: {told}");
        }
    }
}

/// Segments that are too long because of their headers are found at the tunnel. They do not count
/// as sent.
#[lab_test(root)]
fn segments_that_are_too_long_end_at_the_tunnel() {
    let mut programs = Programs::load();
    let frame = Shape { payload: vec![7; 500], ..Shape::default() }.build(Checksum::Full);
    let (headers, ours) = (frame.len() as u32 - 500, mark(MARK, 3, SLOT));
    let frame_max = frame.len() as u32 - 1;
    programs.set(&Settings { lane_frame_max: frame_max, ..with_lane(mode::PROTECTED) });
    for (runs, name) in (1..).zip(["colo_lane_copy", "colo_lane_reply"]) {
        assert_eq!(programs.run(name, &frame, ours).verdict, DROP, "{name}: whole");
        for (gso_size, expected) in [(frame_max - headers, NEXT), (frame_max - headers + 1, DROP)] {
            let run = programs.run_gso(name, &frame, ours, gso_size);
            assert_eq!(run.verdict, expected, "{name}: segments of {gso_size}");
        }
        assert_eq!(programs.counters().lane_too_long, 2 * runs, "{name}");
        assert_eq!(programs.lane_counters().sent[SLOT as usize % SLOTS], 2 * runs, "{name}");
    }
    programs.set(&with_lane(mode::PROTECTED));
    assert_eq!(programs.run("colo_lane_copy", &frame, ours).verdict, NEXT, "no limit is known");
}

/// Only the present epoch and the next one pass, with any bits that the other end sends.
#[lab_test(root)]
fn an_epoch_that_is_over_ends_at_the_tunnel() {
    let mut programs = Programs::load();
    programs.set(&with_lane(mode::PROTECTED));
    for epoch in 0..256 {
        let run = programs.run("colo_lane_back", &some_frame(), tag(epoch, SLOT));
        let fresh = matches!(epoch, 7 | 8);
        let expected = if fresh { (REDIRECT, MARK) } else { (DROP, tag(epoch, SLOT)) };
        assert_eq!((run.verdict, run.mark, run.frame), (expected.0, expected.1, some_frame()));
    }
    assert_eq!(programs.counters().lane_stale, 254);
    assert_eq!(programs.lane_counters().received[SLOT as usize % SLOTS], 256, "stale is not lost");
    for mode in [mode::OFF, mode::FAILED_OVER] {
        programs.set(&with_lane(mode));
        assert_eq!(programs.run("colo_lane_back", &some_frame(), tag(7, 0)).verdict, DROP);
    }
    assert_eq!(programs.counters().lane_ignored, 2);
}

/// A frame that has counted as lost does not arrive later. It is counted for no slot: neither for
/// its own, nor for the slot that has its place now.
#[lab_test(root)]
fn what_comes_too_late_ends_at_the_tunnel() {
    let mut programs = Programs::load();
    for name in ["colo_lane_back", "colo_lane_input"] {
        programs.set(&Settings { lane_reported: reported(SLOT), ..with_lane(mode::PROTECTED) });
        let before = programs.lane_counters();
        let late = programs.counters().lane_late;
        for age in 9..=SLOTS as u32 {
            let run = programs.run(name, &some_frame(), tag(7, SLOT - age));
            assert_eq!(run.verdict, DROP, "{name}: {age} slots old");
        }
        assert_eq!(programs.lane_counters(), before, "{name}");
        assert_eq!(programs.counters().lane_late, late + SLOTS as u64 - 8, "{name}");
        for slot in SLOT - 8..SLOT + 40 {
            let run = programs.run(name, &some_frame(), tag(7, slot));
            assert_eq!(run.verdict, REDIRECT, "{name}: slot {slot:#x} at {SLOT:#x}");
        }
        // From a peer that has announced nothing yet.
        programs.set(&with_lane(mode::PROTECTED));
        assert_eq!(programs.run(name, &some_frame(), tag(7, SLOT - 9)).verdict, REDIRECT);
    }
}

#[lab_test(root)]
fn input_goes_to_the_guest_or_waits() {
    let mut programs = Programs::load();
    for (holds, held) in [(0, 0), (1, 1)] {
        programs.set(&Settings { lane_input_to_gate: holds, ..with_lane(mode::PROTECTED) });
        let run = programs.run("colo_lane_input", &some_frame(), tag(9, 4));
        assert_eq!((run.verdict, run.mark, run.frame), (REDIRECT, MARK, some_frame()));
        assert_eq!(programs.counters().input_to_daemon, held);
    }
    assert_eq!(programs.lane_counters().received[4], 2);
    for mode in [mode::OFF, mode::FAILED_OVER] {
        programs.set(&with_lane(mode));
        assert_eq!(programs.run("colo_lane_input", &some_frame(), tag(9, 4)).verdict, DROP);
    }
}

/// Every frame of the guest passes, truncated at any length, and the guest's address is known after
/// a moment.
#[lab_test(root)]
fn who_speaks_is_remembered() {
    let mut programs = Programs::load();
    programs.set(&with_lane(mode::PROTECTED));
    let frame = some_frame();
    let ours = mark(MARK, 3, SLOT);
    for len in 34..frame.len() {
        let cut = frame.get(..len).expect("a part of it");
        assert_eq!(programs.run("colo_lane_reply", cut, ours).verdict, NEXT);
    }
    // One look per millisecond of the kernel's coarse clock, on each processor.
    let until = Instant::now() + Duration::from_secs(5);
    while programs.speakers().is_empty() && Instant::now() < until {
        programs.run("colo_lane_reply", &frame, ours);
    }
    let speakers = programs.speakers();
    let [speaker] = *speakers else { panic!("{speakers:?}") };
    assert_eq!((Some(&speaker.mac[..]), speaker.ip_version), (frame.get(6..12), 4));
    assert_eq!(speaker.address.get(..4), frame.get(26..30));
}
