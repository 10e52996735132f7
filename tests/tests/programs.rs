//! Every kernel program. The kernel runs it on frames that never touch an interface. The tests
//! check verdict, bytes and counters (`BPF_PROG_TEST_RUN`).
#![allow(clippy::panic, reason = "that is how a test fails")]

#[path = "programs/earlier_pair.rs"]
mod earlier_pair;
#[path = "programs/filter.rs"]
mod filter;
#[path = "programs/flood.rs"]
mod flood;
#[path = "../../colo-proxy-common/tests/frame/mod.rs"]
mod frame;
#[path = "programs/harness.rs"]
mod harness;
#[path = "programs/lane.rs"]
mod lane;
#[path = "programs/life.rs"]
mod life;
#[path = "programs/secondary.rs"]
mod secondary;

use std::process::ExitCode;

use colo_lab::lab_test;
use colo_proxy_common::record::{LAYOUT_VERSION, Settings, mode};
use frame::{Checksum, Shape};
use harness::{DROP, MARK, NETDEV, NEXT, Programs, REDIRECT, settings};

const ALL: [&str; 13] = [
    "colo_mirror",
    "colo_capture",
    "colo_release",
    "colo_to_guest",
    "colo_from_guest",
    "colo_input",
    "colo_gate_guard",
    "colo_lane_copy",
    "colo_lane_reply",
    "colo_lane_back",
    "colo_lane_input",
    "colo_rewrite_tx",
    "colo_rewrite_rx",
];

fn some_frame() -> Vec<u8> {
    Shape::default().build(Checksum::Full)
}

#[lab_test(root)]
fn all_pass_the_verifier_under_their_names() {
    let mut programs = Programs::load();
    for name in ALL {
        let info = programs.program(name).info().expect("info of a loaded program");
        assert_eq!(info.name_as_str(), Some(name));
        assert_eq!(info.gpl_compatible(), Some(true));
        assert!(info.btf_id().is_some(), "{name} has BTF");
    }
}

#[lab_test(root)]
fn without_settings_nothing_passes() {
    let wrong = [
        Settings::default(),
        Settings { layout_version: LAYOUT_VERSION + 1, ..settings(mode::OFF) },
        Settings { mark: 0, ..settings(mode::OFF) },
    ];
    let mut programs = Programs::load();
    for (i, wrong) in wrong.iter().enumerate() {
        programs.set(wrong);
        for name in ALL {
            let run = programs.run(name, &some_frame(), 0);
            assert_eq!((run.verdict, run.frame), (DROP, some_frame()), "{name} {wrong:?}");
        }
        let dropped = programs.counters().dropped_no_settings;
        assert_eq!(dropped, ((i + 1) * ALL.len()) as u64);
    }
}

#[lab_test(root)]
fn release_and_input_mark_and_redirect() {
    let mut programs = Programs::load();
    for mode in [mode::OFF, mode::PROTECTED, mode::FAILED_OVER] {
        programs.set(&settings(mode));
        for name in ["colo_release", "colo_input"] {
            let run = programs.run(name, &some_frame(), 0);
            assert_eq!((run.verdict, run.mark, run.frame), (REDIRECT, MARK, some_frame()));
        }
    }
}

#[lab_test(root)]
fn the_guard_lets_only_marked_frames_into_a_gate() {
    let mut programs = Programs::load();
    programs.set(&settings(mode::PROTECTED));
    assert_eq!(programs.run("colo_gate_guard", &some_frame(), MARK).verdict, NEXT);
    for mark in [0, MARK ^ 1] {
        assert_eq!(programs.run("colo_gate_guard", &some_frame(), mark).verdict, DROP);
    }
    assert_eq!(programs.counters().dropped_foreign, 2);
}

#[lab_test(root)]
fn capture() {
    let mut programs = Programs::load();
    programs.set(&settings(mode::PROTECTED));
    let run = programs.run("colo_capture", &some_frame(), 0);
    assert_eq!((run.verdict, run.mark, run.frame), (REDIRECT, MARK, some_frame()));
    let run = programs.run("colo_capture", &some_frame(), MARK);
    assert_eq!((run.verdict, run.mark, run.frame), (NEXT, 0, some_frame()));
    // A frame with another program's mark does not leave, and is not lost when protection is off.
    assert_eq!(programs.run("colo_capture", &some_frame(), MARK ^ 1).verdict, REDIRECT);
    for mode in [mode::OFF, mode::FAILED_OVER] {
        programs.set(&settings(mode));
        let run = programs.run("colo_capture", &some_frame(), 7);
        assert_eq!((run.verdict, run.mark, run.frame), (NEXT, 7, some_frame()));
        // The frame is released while the mode changes.
        assert_eq!(programs.run("colo_capture", &some_frame(), MARK).mark, 0);
    }
    let counters = programs.counters();
    assert_eq!((counters.captured, counters.released, counters.passed), (2, 3, 2));
}

/// The copy needs interfaces, so the tests of the data path cover it. This test shows that a failed
/// copy does not stop the frame.
#[lab_test(root)]
fn mirror_passes_the_frame_on_whatever_becomes_of_the_copy() {
    let mut programs = Programs::load();
    programs.set(&Settings { input_gate_ifindex: NETDEV, ..settings(mode::PROTECTED) });
    let run = programs.run("colo_mirror", &some_frame(), 7);
    assert_eq!((run.verdict, run.mark, run.frame), (NEXT, 7, some_frame()));
    programs.set(&settings(mode::OFF));
    assert_eq!(programs.run("colo_mirror", &some_frame(), 7).verdict, NEXT);
    let counters = programs.counters();
    assert_eq!((counters.mirror_failed, counters.mirrored, counters.passed), (1, 0, 1));
}

/// Frames of every kind, truncated at every length: each has a verdict, and its bytes stay the
/// same.
#[lab_test(root)]
fn cut_at_every_length() {
    let mut programs = Programs::load();
    // The shortest frame for which the kernel runs a program: an Ethernet header, and an IP header
    // if the Ethernet header announces one. The decoder's own tests cover shorter frames.
    let shapes = [
        (34, Shape { payload: vec![1; 9], ..harness::with_all_options() }),
        (14, Shape { vlans: vec![7, 8], ..harness::with_all_options() }),
        (
            54,
            Shape {
                ip: frame::Ip::V6 {
                    extensions: vec![
                        frame::Extension::HopByHop(0),
                        frame::Extension::Destination(1),
                        frame::Extension::Authentication(0),
                    ],
                },
                ..harness::with_all_options()
            },
        ),
    ];
    for mode in [mode::PROTECTED, mode::FAILED_OVER] {
        programs.set(&settings(mode));
        for (least, shape) in &shapes {
            let whole = shape.build(Checksum::Full);
            for len in *least..whole.len() {
                let cut = &whole[..len];
                for name in ["colo_to_guest", "colo_from_guest"] {
                    let mark = if name == "colo_to_guest" { MARK } else { 0 };
                    let run = programs.run(name, cut, mark);
                    let wanted = match (name, mode) {
                        ("colo_from_guest", mode::PROTECTED) => REDIRECT,
                        _ => NEXT,
                    };
                    assert_eq!((run.verdict, &run.frame[..]), (wanted, cut), "{name} at {len}");
                }
            }
        }
    }
    let lens = shapes.iter().map(|(least, shape)| shape.build(Checksum::Full).len() - least);
    assert_eq!(programs.counters().malformed, 4 * lens.sum::<usize>() as u64);
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
