//! Connections that an earlier pair translated: on the primary, which survived that pair, and on
//! the new secondary, which has imported them.

use colo_proxy_common::decode::flag;
use colo_proxy_common::flow::known;
use colo_proxy_common::record::{FlowRecord, Settings, mode};

use crate::frame::{Checksum, Shape};
use crate::harness::{MARK, NEXT, Programs, REDIRECT, settings, with_all_options};
use crate::secondary::{FROM_GUEST, TO_GUEST, TRANSLATION, established, key_of, rewritten};
use colo_lab::lab_test;

fn told() -> FlowRecord {
    FlowRecord {
        known: known::OFFSET | known::CONFIRMED,
        base_seq_offset: TRANSLATION.seq,
        base_ts_offset: TRANSLATION.ts,
        ..established(TRANSLATION)
    }
}

/// A segment in the middle of a connection, and the same in the other direction.
fn both_ways() -> [(Shape, bool); 2] {
    let shape = Shape { flags: flag::ACK, ..with_all_options() };
    [(shape.clone(), true), (Shape { ports: (shape.ports.1, 9), ..shape }, false)]
}

#[lab_test(root)]
fn an_imported_connection_is_translated_both_ways_in_every_epoch_and_after_a_failover() {
    let mut programs = Programs::load();
    for (shape, to_guest) in both_ways() {
        let bytes = shape.build(Checksum::Full);
        programs.set(&settings(mode::PROTECTED));
        programs.insert_flow(key_of(&shape, to_guest), told());
        for (epoch, mode) in [
            (3, mode::PROTECTED),
            (4, mode::PROTECTED),
            (9, mode::PROTECTED),
            (9, mode::FAILED_OVER),
        ] {
            programs.set(&Settings { epoch, ..settings(mode) });
            let (name, mark) = if to_guest { (TO_GUEST, MARK) } else { (FROM_GUEST, 0) };
            let run = programs.run(name, &bytes, mark);
            assert_eq!(run.frame, rewritten(&bytes, to_guest, TRANSLATION), "epoch {epoch}");
        }
    }
}

#[lab_test(root)]
fn the_primary_that_survived_translates_what_it_knows_in_every_mode() {
    let mut programs = Programs::load();
    for (shape, to_guest) in both_ways() {
        let bytes = shape.build(Checksum::Full);
        programs.insert_flow(key_of(&shape, to_guest), told());
        let name = if to_guest { "colo_mirror" } else { "colo_capture" };
        for (mode, translates) in
            [(mode::PROTECTED, 1), (mode::OFF, 1), (mode::PROTECTED, 0), (mode::OFF, 0)]
        {
            programs.set(&Settings { translates, ..settings(mode) });
            let run = programs.run(name, &bytes, 0);
            let captured = !to_guest && mode == mode::PROTECTED;
            assert_eq!(run.verdict, if captured { REDIRECT } else { NEXT });
            let wanted = rewritten(&bytes, to_guest, TRANSLATION);
            assert_eq!(run.frame, if translates == 1 { wanted } else { bytes.clone() });
        }
        // The frame is released. It was translated when it was captured.
        if !to_guest {
            programs.set(&Settings { translates: 1, ..settings(mode::PROTECTED) });
            let run = programs.run(name, &bytes, MARK);
            assert_eq!((run.verdict, run.mark, run.frame), (NEXT, 0, bytes));
        }
    }
}

#[lab_test(root)]
fn the_primary_that_survived_makes_no_connection_known() {
    let mut programs = Programs::load();
    programs.set(&Settings { translates: 1, ..settings(mode::PROTECTED) });
    for flags in [flag::SYN, flag::SYN | flag::ACK, flag::ACK, flag::RST] {
        let bytes = Shape { flags, ..Shape::default() }.build(Checksum::Full);
        let run = programs.run("colo_mirror", &bytes, 0);
        assert_eq!((run.verdict, &run.frame), (NEXT, &bytes));
        let run = programs.run("colo_capture", &bytes, 0);
        assert_eq!((run.verdict, &run.frame), (REDIRECT, &bytes));
    }
    for map in ["flows", "unconfirmed", "half_open"] {
        assert!(programs.entries(map).is_empty());
    }
}
