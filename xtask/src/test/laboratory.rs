//! The commands that run the lab's tests, one for each file in `tests/tests`.

use super::steps::{TestPart, cargo, lengthen};
use crate::command;
use crate::setup::{self, Need};
use anyhow::{Context as _, Result};
use colo_lab::harness::{PRETEND_NO_ROOT, REQUIRE_ROOT};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Tests of the lab that need no root, because they use sockets only.
const SOCKETS_ONLY: [&str; 1] = ["colo_compare"];
/// Tests of the lab with real guests. They are the slowest and come last.
const GUESTS: [&str; 2] = ["qemu", COLO];
/// The test with guests under COLO. Not every machine can have a QEMU for it.
const COLO: &str = "colo";
/// The lab's own unit tests.
const LIBRARY: &str = "laboratory";

/// One file of tests.
#[derive(Debug)]
pub(super) struct TestFile(String);

impl TestFile {
    /// All of them, in the order in which they run.
    pub(super) fn all(root: &Path) -> Result<Vec<Self>> {
        let folder = root.join("tests/tests");
        let mut names = Vec::new();
        let list = || format!("cannot list {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(list)? {
            let path = entry.with_context(list)?.path();
            if let (Some(name), Some("rs")) = (
                path.file_stem().and_then(|name| name.to_str()),
                path.extension().and_then(|end| end.to_str()),
            ) {
                names.push(name.to_owned());
            }
        }
        names.sort_by_key(|name| (GUESTS.contains(&name.as_str()), name.clone()));
        names.insert(0, LIBRARY.to_owned());
        Ok(names.into_iter().map(Self).collect())
    }

    pub(super) fn title(&self) -> String {
        let kind = if self.part() == TestPart::Unprivileged { "tests" } else { "root tests" };
        format!("{kind}: {}", self.0)
    }

    pub(super) fn part(&self) -> TestPart {
        match self.0.as_str() {
            // Rust's own harness runs them, and some need a package that only root installs.
            LIBRARY => TestPart::Privileged,
            name if SOCKETS_ONLY.contains(&name) => TestPart::Unprivileged,
            _ => TestPart::Lab,
        }
    }

    pub(super) fn has_guests(&self) -> bool {
        GUESTS.contains(&self.0.as_str())
    }

    pub(super) fn setup(&self) -> &'static [Need] {
        match self.0.as_str() {
            "differential" => &[Need::Qemu],
            // One of the library's tests reads an archive with busybox, which comes with QEMU.
            LIBRARY | "bench" | "filters" => &[Need::Lab, Need::Inspect, Need::Qemu],
            _ if self.has_guests() => &[Need::Lab, Need::Inspect, Need::Qemu],
            _ if self.part() == TestPart::Lab => &[Need::Lab, Need::Inspect],
            _ => &[],
        }
    }

    /// Runs the file's tests, if this machine can.
    pub(super) fn run(&self, root: &Path, long: bool) -> Result<()> {
        if self.0 == COLO
            && let Err(reason) = setup::colo_qemu()
        {
            println!("test: {} is left out: {reason:#}", self.0);
            return Ok(());
        }
        command::run(&mut command(root, &self.0, long))
    }
}

/// Runs the tests in the file `name`. There is one thread: the tests share the machine's two ends
/// of every veth, the bpffs and the clock, and the traffic of one disturbs another.
pub(super) fn command(root: &Path, name: &str, long: bool) -> Command {
    let mut cargo = cargo(root, &["test", "--locked", "--package", "colo-proxy-tests"]);
    match name {
        LIBRARY => cargo.args(["--lib", "--bins"]),
        _ => cargo.args(["--test", name]),
    };
    cargo.args(["--", "--test-threads=1"]).env(REQUIRE_ROOT, "1");
    lengthen(&mut cargo, long);
    cargo
}

/// Runs the lab's tests without root, also if this process has it, and returns how many tests the
/// harness has skipped.
pub(super) fn without_root(root: &Path) -> Result<usize> {
    let mut cargo = cargo(root, &["test", "--locked", "--package", "colo-proxy-tests"]);
    for file in TestFile::all(root)?.iter().filter(|file| file.part() == TestPart::Lab) {
        cargo.args(["--test", &file.0]);
    }
    cargo.env(PRETEND_NO_ROOT, "1").env_remove(REQUIRE_ROOT);
    Ok(skipped(&command::run_and_read(&mut cargo)?))
}

/// The sum of the ignored tests in the summaries of a test run.
fn skipped(output: &str) -> usize {
    let summaries = output.lines().filter(|line| line.starts_with("test result: "));
    let counts = summaries.flat_map(|line| line.split(';'));
    counts.filter_map(|count| count.trim().strip_suffix(" ignored")?.parse::<usize>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::skipped;

    #[test]
    fn skipped_tests_are_counted_over_all_programs() {
        let output = "test a ... ignored\n\
            test result: ok. 2 passed; 0 failed; 27 ignored; 0 measured; 0 filtered out\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 1 filtered out\n\
            3 tests are ignored: they need root\n\
            test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(skipped(output), 30);
        assert_eq!(skipped(""), 0);
    }
}
