//! The programs of stand-alone filters: their handling of an ordinary frame, of a frame with their
//! own token, and of a frame with another token.

use colo_proxy_common::filter::{FilterRecord, kind, queue, token};
use colo_proxy_common::record::{LAYOUT_VERSION, Settings, mode};

use crate::harness::{DROP, NETDEV, NEXT, Programs, REDIRECT, settings};
use crate::some_frame;
use colo_lab::lab_test;

/// Gates that do not exist.
const GATE: u32 = 0x7fff_0007;
const OTHER: u32 = 0x7fff_0008;
const BOTH: [&str; 2] = ["colo_filter_tx", "colo_filter_rx"];

fn filter(kind: u32) -> FilterRecord {
    FilterRecord {
        layout_version: LAYOUT_VERSION,
        kind,
        queue: queue::TX | queue::RX,
        netdev_ifindex: NETDEV,
        out_gate_ifindex: GATE,
        token: token(GATE),
        ..FilterRecord::default()
    }
}

#[lab_test(root)]
fn without_a_record_nothing_passes() {
    let mut programs = Programs::load();
    let wrong = [
        FilterRecord::default(),
        FilterRecord { layout_version: LAYOUT_VERSION + 1, ..filter(kind::MIRROR) },
        FilterRecord { token: 0, ..filter(kind::MIRROR) },
    ];
    for wrong in &wrong {
        programs.set_filter(wrong);
        for name in [BOTH[0], BOTH[1], "colo_filter_in", "colo_filter_guard"] {
            let run = programs.run(name, &some_frame(), 0);
            assert_eq!((run.verdict, run.frame), (DROP, some_frame()), "{name} {wrong:?}");
        }
    }
    assert_eq!(programs.filter_counters().dropped_no_settings, 12);
}

/// A failed copy does not stop the frame. The host's mark stays on it.
#[lab_test(root)]
fn a_mirror_passes_the_frame_on_whatever_becomes_of_the_copy() {
    let mut programs = Programs::load();
    programs.set_filter(&filter(kind::MIRROR));
    for name in BOTH {
        for mark in [0, 7] {
            let run = programs.run(name, &some_frame(), mark);
            assert_eq!((run.verdict, run.mark, run.frame), (NEXT, mark, some_frame()), "{name}");
        }
    }
    let counters = programs.filter_counters();
    assert_eq!((counters.mirrored, counters.mirror_failed), (0, 4));
}

#[lab_test(root)]
fn a_redirector_takes_the_frame_where_it_has_somewhere_to_send_it() {
    let mut programs = Programs::load();
    programs.set_filter(&filter(kind::REDIRECTOR));
    for name in BOTH {
        let run = programs.run(name, &some_frame(), 7);
        assert_eq!((run.verdict, run.mark), (REDIRECT, token(GATE)), "{name}");
    }
    programs.set_filter(&FilterRecord { out_gate_ifindex: 0, ..filter(kind::REDIRECTOR) });
    for name in BOTH {
        let run = programs.run(name, &some_frame(), 7);
        assert_eq!((run.verdict, run.mark), (NEXT, 7), "{name}");
    }
    let counters = programs.filter_counters();
    assert_eq!((counters.redirected, counters.passed), (2, 2));
}

#[lab_test(root)]
fn a_token_is_taken_off_by_its_owner_and_left_by_others() {
    let mut programs = Programs::load();
    for kind in [kind::MIRROR, kind::REDIRECTOR] {
        programs.set_filter(&filter(kind));
        for name in BOTH {
            let own = programs.run(name, &some_frame(), token(GATE));
            assert_eq!((own.verdict, own.mark), (NEXT, 0), "{name} {kind}");
            let other = programs.run(name, &some_frame(), token(OTHER));
            assert_eq!((other.verdict, other.mark), (NEXT, token(OTHER)), "{name} {kind}");
        }
    }
    let counters = programs.filter_counters();
    assert_eq!((counters.injected_tx, counters.injected_rx, counters.passed_over), (2, 2, 4));
    assert_eq!((counters.redirected, counters.mirror_failed), (0, 0));
}

#[lab_test(root)]
fn what_is_injected_has_the_token() {
    let mut programs = Programs::load();
    for queue in [queue::TX, queue::RX, queue::TX | queue::RX] {
        programs.set_filter(&FilterRecord { queue, ..filter(kind::REDIRECTOR) });
        let run = programs.run("colo_filter_in", &some_frame(), 0);
        assert_eq!((run.verdict, run.mark), (REDIRECT, token(GATE)));
    }
    // A copy is needed only for both directions.
    assert_eq!(programs.filter_counters().inject_failed, 1);
}

#[lab_test(root)]
fn the_guard_lets_only_the_filters_own_frames_into_a_gate() {
    let mut programs = Programs::load();
    programs.set_filter(&filter(kind::REDIRECTOR));
    assert_eq!(programs.run("colo_filter_guard", &some_frame(), token(GATE)).verdict, NEXT);
    for mark in [0, 7, token(OTHER)] {
        assert_eq!(programs.run("colo_filter_guard", &some_frame(), mark).verdict, DROP);
    }
    assert_eq!(programs.filter_counters().dropped_foreign, 3);
}

/// The rewriter resumes at its own token, and ignores frames with other tokens.
#[lab_test(root)]
fn the_rewriter_handles_its_own_token_and_no_other() {
    let mut programs = Programs::load();
    for mode in [mode::OFF, mode::PROTECTED, mode::FAILED_OVER] {
        programs.set(&Settings { mark: token(GATE), ..settings(mode) });
        let run = programs.run("colo_rewrite_tx", &some_frame(), token(GATE));
        assert_eq!((run.verdict, run.mark), (NEXT, 0), "{mode}");
        for name in ["colo_rewrite_tx", "colo_rewrite_rx"] {
            let run = programs.run(name, &some_frame(), token(OTHER));
            assert_eq!((run.verdict, run.mark), (NEXT, token(OTHER)), "{name} {mode}");
            let run = programs.run(name, &some_frame(), 7);
            assert_eq!((run.verdict, run.mark), (NEXT, 7), "{name} {mode}");
        }
    }
}
