//! The steps of `cargo xtask test`, in the order in which they run: the quick ones first.

use crate::setup::{self, Need};
use crate::{book, build_ebpf, command, demo, lint, tidy, workspace};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::process::Command;
use std::{fmt, fs};

/// The crates whose tests need neither root nor the laboratory.
const UNPRIVILEGED: [&str; 4] = ["colo-proxy-common", "colo-proxy", "colo-proxy-fuzz", "xtask"];
/// Tests of the laboratory that need no root: nothing but sockets.
const SOCKETS_ONLY: [&str; 1] = ["colo_compare"];
/// Tests of the laboratory with real guests. They come last, for they are the slowest.
const GUESTS: [&str; 2] = ["qemu", COLO];
/// The one whose guests are under COLO, for which not every machine can have a QEMU.
const COLO: &str = "colo";
/// Tests of pairs that run once more with digests in the place of the secondary's frames: all must come
/// out the same.
const WITH_DIGESTS: [&str; 6] =
    ["checkpoint", "divergence", "failover", "input_loss", "lanes", "traffic"];
/// What the tests with a duration read, and how much of it `--long` asks for: seconds of mixed
/// traffic, streams that the compare engine is given, and simulations of each kind.
const LONG: [(&str, &str); 3] = [
    ("COLO_PROXY_MIXED_S", "600"),
    ("COLO_PROXY_STREAMS", "1000000"),
    ("COLO_PROXY_SIMULATIONS", "3000"),
];

/// One step.
pub(super) struct Step {
    pub name: String,
    pub needs_root: bool,
    /// It is one of those that `--qemu` runs.
    pub guests: bool,
    pub setup: &'static [Need],
    pub run: Box<dyn Fn() -> Result<()>>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of them.
pub(super) fn all(root: &Path, long: bool) -> Result<Vec<Step>> {
    let mut steps = vec![
        step("format", root, lint::format),
        step("tidy", root, |_| tidy::run()),
        step("clippy", root, lint::clippy),
        step("deny", root, lint::deny).with(&[Need::Lint]),
        step("unit tests", root, move |root| command::run(&mut unit_tests(root, long))),
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
    }
    let build = step("build", root, |root| command::run(&mut programs(root)));
    steps.push(Step { guests: true, ..build });
    for name in laboratory_tests(root)? {
        let needs_root = !SOCKETS_ONLY.contains(&name.as_str());
        let needs: &[Need] = match name.as_str() {
            name if GUESTS.contains(&name) => &[Need::Lab, Need::Inspect, Need::Qemu],
            "differential" => &[Need::Qemu],
            "bench" | "filters" => &[Need::Lab, Need::Inspect, Need::Qemu],
            _ if needs_root => &[Need::Lab, Need::Inspect],
            _ => &[],
        };
        let title = format!("{}: {name}", if needs_root { "root tests" } else { "tests" });
        let guests = GUESTS.contains(&name.as_str());
        let step =
            Step { guests, ..step(&title, root, move |root| in_laboratory(root, &name, long)) };
        let step = step.with(needs);
        steps.push(if needs_root { step.needing_root() } else { step });
    }
    for name in WITH_DIGESTS {
        let title = format!("root tests: {name}, with digests");
        let run = move |root: &Path| {
            let mut test = laboratory_test(root, name, long);
            command::run(test.env("COLO_PROXY_RETURN", "digest"))
        };
        steps.push(step(&title, root, run).with(&[Need::Lab, Need::Inspect]).needing_root());
    }
    steps.push(
        step("demo", root, |root| command::run(&mut demo::prepare(root, &demo::Options::plain())?))
            .with(&[Need::Lab])
            .needing_root(),
    );
    let of_guests = step("demo --qemu", root, demo_of_guests);
    steps.push(Step { guests: true, ..of_guests.with(&[Need::Lab, Need::Qemu]).needing_root() });
    Ok(steps)
}

/// The demonstration with real guests, where this machine can.
fn demo_of_guests(root: &Path) -> Result<()> {
    if let Err(reason) = setup::colo_qemu() {
        println!("test: the demo with real guests is left out: {reason:#}");
        return Ok(());
    }
    command::run(&mut demo::prepare(root, &demo::Options::plain_qemu())?)
}

fn step(name: &str, root: &Path, run: impl Fn(&Path) -> Result<()> + 'static) -> Step {
    let root = root.to_owned();
    let run = Box::new(move || run(&root));
    Step { name: name.to_owned(), needs_root: false, guests: false, setup: &[], run }
}

impl Step {
    fn with(self, setup: &'static [Need]) -> Self {
        Self { setup, ..self }
    }

    fn needing_root(self) -> Self {
        Self { needs_root: true, ..self }
    }
}

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(arguments).current_dir(root);
    cargo
}

fn unit_tests(root: &Path, long: bool) -> Command {
    let mut cargo = cargo(root, &["test", "--locked", "--lib", "--bins", "--tests"]);
    cargo.args(UNPRIVILEGED.iter().flat_map(|name| ["--package", name]));
    lengthen(&mut cargo, long);
    cargo
}

fn doc_tests(root: &Path) -> Command {
    cargo(root, &["test", "--locked", "--doc"])
}

/// The programs that the laboratory starts: cargo builds a test's own package only.
fn programs(root: &Path) -> Command {
    let packages = ["--package", "colo-proxy", "--package", "colo-proxy-tests"];
    let mut cargo = cargo(root, &["build", "--locked", "--bins"]);
    cargo.args(packages);
    cargo
}

/// Runs one of the laboratory's tests, where this machine can.
fn in_laboratory(root: &Path, name: &str, long: bool) -> Result<()> {
    if name == COLO
        && let Err(reason) = setup::colo_qemu()
    {
        println!("test: {name} is left out: {reason:#}");
        return Ok(());
    }
    command::run(&mut laboratory_test(root, name, long))
}

/// One of the laboratory's tests. One thread: they share the machine's two ends of every veth, the
/// bpffs and the clock, and a test's traffic is another test's noise.
fn laboratory_test(root: &Path, name: &str, long: bool) -> Command {
    let mut cargo = cargo(root, &["test", "--locked", "--package", "colo-proxy-tests"]);
    match name {
        LIBRARY => cargo.args(["--lib", "--bins"]),
        _ => cargo.args(["--test", name]),
    };
    cargo.args(["--", "--test-threads=1"]).env("COLO_PROXY_REQUIRE_ROOT", "1");
    lengthen(&mut cargo, long);
    cargo
}

fn lengthen(cargo: &mut Command, long: bool) {
    if long {
        cargo.envs(LONG);
    }
}

/// The laboratory's own unit tests.
const LIBRARY: &str = "laboratory";

/// The names of the laboratory's tests: every file in its folder of tests.
fn laboratory_tests(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("tests/tests");
    let mut names = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if let (Some(name), Some("rs")) = (
            path.file_stem().and_then(|name| name.to_str()),
            path.extension().and_then(|end| end.to_str()),
        ) {
            names.push(name.to_owned());
        }
    }
    names.sort_by_key(|name| (GUESTS.contains(&name.as_str()), name.clone()));
    names.insert(0, LIBRARY.to_owned());
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::{LONG, laboratory_test, unit_tests};
    use std::path::Path;

    #[test]
    fn long_reaches_the_tests_that_have_a_duration() {
        for long in [false, true] {
            for command in
                [unit_tests(Path::new("."), long), laboratory_test(Path::new("."), "traffic", long)]
            {
                for (name, value) in LONG {
                    let set =
                        command.get_envs().any(|env| env == (name.as_ref(), Some(value.as_ref())));
                    assert_eq!(set, long, "{name}");
                }
            }
        }
    }
}
