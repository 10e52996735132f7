//! Runs the function of each target on every committed input.

use std::collections::BTreeSet;
use std::path::Path;

use colo_proxy_fuzz::{TARGETS, replay};

/// The corpora are for quick replay. These are the limits of a target's files, and of their bytes
/// in all.
const FILES_MAX: usize = 300;
const BYTES_MAX: u64 = 300 * 1024;

fn replays(name: &str) {
    let (_, run) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    for folder in replay::FOLDERS {
        for path in replay::inputs(folder, name).unwrap_or_default() {
            replay::file(*run, &path).expect("it can be read");
        }
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replays(stringify!($name)); })*

        /// Each target must have its test here.
        #[test]
        fn every_target_is_replayed() {
            let names = TARGETS.map(|(name, _)| name);
            assert_eq!([$(stringify!($name)),*], names);
        }
    };
}

replays!(capture_file config decoder engine framing offsets rewriter);

#[test]
fn every_corpus_is_there_and_small() {
    for (name, _) in TARGETS {
        let files = replay::inputs("corpus", name).expect(name);
        let bytes: u64 = files.iter().map(|file| file.metadata().expect("a file").len()).sum();
        assert!((1..=FILES_MAX).contains(&files.len()), "{name}: {} files", files.len());
        assert!(bytes <= BYTES_MAX, "{name}: {bytes} bytes; `cargo fuzz cmin {name}`");
    }
}

/// A corpus without a target would never be replayed, and a program without a target would never be
/// built.
#[test]
fn folders_and_programs_are_those_of_the_targets() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for folder in ["corpus", "regressions", "fuzz_targets"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let found: BTreeSet<String> = path
            .read_dir()
            .expect(folder)
            .map(|entry| entry.expect(folder).path())
            .map(|path| path.file_stem().expect(folder).to_string_lossy().into_owned())
            .collect();
        let is_right =
            if folder == "regressions" { found.is_subset(&names) } else { found == names };
        assert!(is_right, "{folder}: {found:?}");
    }
}
