//! The steps of `cargo xtask test`, in the order in which they run: the quick ones first.

use super::laboratory::{self, TestFile};
use crate::setup::{self, Need};
use crate::{book, build_ebpf, command, demo, lint, tidy, workspace};
use anyhow::Result;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// Crates whose tests need another step: the kernel programs have another target, and the lab has a step
/// for each of its files. A new crate is tested without being named.
const TESTED_ELSEWHERE: [&str; 2] = ["colo-proxy-ebpf", "colo-proxy-tests"];
/// Tests of pairs that also run with digests instead of the secondary's frames. The outcome must
/// be the same.
const WITH_DIGESTS: [&str; 6] =
    ["checkpoint", "divergence", "failover", "input_loss", "lanes", "traffic"];
/// Variables that the tests with a duration read, and their values under `--long`: seconds of mixed
/// traffic, streams for the compare engine, and simulations of each kind.
const LONG: [(&str, &str); 3] = [
    ("COLO_PROXY_MIXED_S", "300"),
    ("COLO_PROXY_STREAMS", "150000"),
    ("COLO_PROXY_SIMULATIONS", "2000"),
];

/// Faults in the model of who serves. Without this variable, as among the unit tests, it has fewer.
const MODEL_FAULTS: (&str, &str) = ("COLO_PROXY_MODEL_FAULTS", "3");

/// Which run a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TestPart {
    /// Every run.
    Unprivileged,
    /// A run with root. Without root the step is left out.
    Privileged,
    /// A run with root. Without root [`TestPart::LabWithoutRoot`] counts the tests of this step.
    Lab,
    /// A run without root.
    LabWithoutRoot,
}

impl TestPart {
    /// The step belongs to a run with (or without) root.
    pub(super) fn runs(self, with_root: bool) -> bool {
        match self {
            Self::Unprivileged => true,
            Self::Privileged | Self::Lab => with_root,
            Self::LabWithoutRoot => !with_root,
        }
    }
}

/// One step.
pub(super) struct TestStep {
    pub name: String,
    pub part: TestPart,
    /// `--qemu` also runs it.
    pub guests: bool,
    pub setup: &'static [Need],
    /// Runs the step and returns how many tests it has skipped.
    pub run: Box<dyn Fn() -> Result<usize>>,
}

impl fmt::Debug for TestStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestStep").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of them.
pub(super) fn all(root: &Path, long: bool) -> Result<Vec<TestStep>> {
    let mut steps = vec![
        step("format", root, lint::format),
        step("tidy", root, |_| tidy::run()),
        step("clippy", root, lint::clippy),
        step("deny", root, lint::deny).with(&[Need::Lint]),
        step("unit tests", root, |root| command::run(&mut unit_tests(root))),
        step("who serves, exhaustively", root, |root| command::run(&mut who_serves(root))),
        step("doc tests", root, |root| command::run(&mut doc_tests(root))),
        step("README", root, tidy::readme_against_daemon),
        step("clippy on the kernel programs", root, build_ebpf::clippy)
            .with(&[Need::Ebpf])
            .needing_root(),
        step("build-ebpf --check", root, |_| build_ebpf::run(&build_ebpf::CHECK))
            .with(&[Need::Ebpf])
            .needing_root(),
    ];
    if long {
        steps.push(step("book", root, book::build).with(&[Need::Book]));
        steps.push(step("long tests of the engine", root, |root| command::run(&mut engine(root))));
    }
    let build = step("build", root, |root| command::run(&mut programs(root)));
    steps.push(TestStep { guests: true, ..build });
    steps.push(without_root(root));
    for file in TestFile::all(root)? {
        steps.push(lab_step(file, root, long));
    }
    for name in WITH_DIGESTS {
        let title = format!("root tests: {name}, with digests");
        let run = move |root: &Path| {
            let mut test = laboratory::command(root, name, long);
            command::run(test.env("COLO_PROXY_RETURN", "digest"))
        };
        steps.push(step(&title, root, run).with(&[Need::Lab, Need::Inspect]).needing_root());
    }
    steps.push(
        step("demo", root, |root| {
            command::run(&mut demo::prepare(root, &demo::DemoTaskOptions::plain())?)
        })
        .with(&[Need::Lab])
        .needing_root(),
    );
    let with_guests = step("demo --qemu", root, demo_with_guests);
    steps.push(TestStep {
        guests: true,
        ..with_guests.with(&[Need::Lab, Need::Qemu]).needing_root()
    });
    Ok(steps)
}

/// The demonstration with real guests, if this machine can have them.
fn demo_with_guests(root: &Path) -> Result<()> {
    if let Err(reason) = setup::colo_qemu() {
        println!("test: the demo with real guests is left out: {reason:#}");
        return Ok(());
    }
    command::run(&mut demo::prepare(root, &demo::DemoTaskOptions::plain_qemu())?)
}

fn step(name: &str, root: &Path, run: impl Fn(&Path) -> Result<()> + 'static) -> TestStep {
    let root = root.to_owned();
    let run = Box::new(move || run(&root).map(|()| 0));
    TestStep { name: name.to_owned(), part: TestPart::Unprivileged, guests: false, setup: &[], run }
}

/// The tests in one file of the lab.
fn lab_step(file: TestFile, root: &Path, long: bool) -> TestStep {
    let (part, guests, setup) = (file.part(), file.has_guests(), file.setup());
    let title = file.title();
    let step = step(&title, root, move |root| file.run(root, long));
    TestStep { part, guests, setup, ..step }
}

/// All tests of the lab, where most are skipped.
fn without_root(root: &Path) -> TestStep {
    let name = "root tests, without root".to_owned();
    let root = root.to_owned();
    let run = Box::new(move || laboratory::without_root(&root));
    TestStep { name, part: TestPart::LabWithoutRoot, guests: false, setup: &[], run }
}

impl TestStep {
    fn with(self, setup: &'static [Need]) -> Self {
        Self { setup, ..self }
    }

    fn needing_root(self) -> Self {
        Self { part: TestPart::Privileged, ..self }
    }
}

pub(super) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(arguments).current_dir(root);
    cargo
}

fn unit_tests(root: &Path) -> Command {
    let mut cargo = cargo(root, &["test", "--locked", "--lib", "--bins", "--tests"]);
    cargo.arg("--workspace").args(TESTED_ELSEWHERE.iter().flat_map(|name| ["--exclude", name]));
    cargo
}

/// The engine's tests that have a duration. Without optimisation they would take hours.
fn engine(root: &Path) -> Command {
    let mut cargo = cargo(root, &["test", "--locked", "--release", "--lib"]);
    cargo.args(["--package", "colo-proxy-engine", "--", "streams", "simulation"]);
    lengthen(&mut cargo, true);
    cargo
}

/// The model of who serves, optimised: millions of states. It prints how many.
fn who_serves(root: &Path) -> Command {
    let mut cargo = cargo(root, &["test", "--locked", "--release", "-p", "colo-proxy-engine"]);
    cargo.args(["--test", "who_serves", "--", "--nocapture", "--test-threads=1"]);
    let (name, faults) = MODEL_FAULTS;
    cargo.env(name, faults);
    cargo
}

fn doc_tests(root: &Path) -> Command {
    cargo(root, &["test", "--locked", "--doc"])
}

/// The programs that the lab starts. For a test, cargo builds only the test's own package.
fn programs(root: &Path) -> Command {
    let packages = ["--package", "colo-proxy", "--package", "colo-proxy-tests"];
    let mut cargo = cargo(root, &["build", "--locked", "--bins"]);
    cargo.args(packages);
    cargo
}

pub(super) fn lengthen(cargo: &mut Command, long: bool) {
    if long {
        cargo.envs(LONG);
    }
}

#[cfg(test)]
mod tests {
    use super::{LONG, TestPart, all, engine, laboratory, unit_tests};
    use std::path::Path;

    #[test]
    fn long_reaches_the_tests_that_have_a_duration() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (command, is_long) in [
            (unit_tests(root), false),
            (engine(root), true),
            (laboratory::command(root, "traffic", false), false),
            (laboratory::command(root, "traffic", true), true),
        ] {
            for (name, value) in LONG {
                let set =
                    command.get_envs().any(|env| env == (name.as_ref(), Some(value.as_ref())));
                assert_eq!(set, is_long, "{command:?}: {name}");
            }
        }
        let names = |long| all(root, long).unwrap().into_iter().map(|step| step.name);
        assert!(names(true).any(|name| name == "long tests of the engine"));
        assert!(!names(false).any(|name| name == "long tests of the engine"));
    }

    /// A test of the lab runs once: with root in its own step, without root in the one for all.
    #[test]
    fn without_root_the_tests_of_the_lab_are_counted_in_one_step() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let steps = all(root, false).unwrap();
        let names = |with_root: bool, part: TestPart| -> Vec<&str> {
            let steps = steps.iter().filter(|step| step.part.runs(with_root) && step.part == part);
            steps.map(|step| step.name.as_str()).collect()
        };
        assert_eq!(names(false, TestPart::LabWithoutRoot), ["root tests, without root"]);
        assert_eq!(names(false, TestPart::Lab), [""; 0]);
        assert_eq!(names(true, TestPart::LabWithoutRoot), [""; 0]);
        assert!(names(true, TestPart::Lab).contains(&"root tests: traffic"));
        assert!(names(false, TestPart::Unprivileged).contains(&"tests: colo_compare"));
    }
}
