//! The lab's test harness. It shows a test as ignored where the test cannot run.
//!
//! Rust's own harness decides about `#[ignore]` when it compiles a test. A test that returns early
//! because root is missing passes there. Here, [`lab_test`](crate::lab_test) says what a test
//! needs. [`run`] looks at the machine and marks as ignored what cannot run on it. If
//! `COLO_PROXY_REQUIRE_ROOT=1` says that everything must run, these tests fail instead.
//!
//! A file in `tests/tests` that uses this harness has `harness = false` in `Cargo.toml` and a
//! `main` that calls [`run`]. Rust's own harness still runs the others.

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

#[doc(hidden)]
pub use inventory;

/// If this is 1, a test that cannot run fails.
pub const REQUIRE_ROOT: &str = "COLO_PROXY_REQUIRE_ROOT";
/// If this is 1, the harness treats root as missing. Only the harness reads it: it lets root see
/// what others see.
pub const PRETEND_NO_ROOT: &str = "COLO_PROXY_PRETEND_NO_ROOT";

/// A condition on the machine that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TestNeed {
    /// Namespaces, kernel programs or TAPs.
    Root,
    /// `qemu-system-x86_64`, of any release.
    Qemu,
}

impl TestNeed {
    fn is_met(self) -> bool {
        match self {
            Self::Root => nix::unistd::geteuid().is_root() && !is_set(PRETEND_NO_ROOT),
            Self::Qemu => {
                let mut command = Command::new("qemu-system-x86_64");
                command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
                command.status().is_ok_and(|status| status.success())
            }
        }
    }
}

impl fmt::Display for TestNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Qemu => "qemu-system-x86_64 (`cargo xtask setup qemu` installs it)",
        })
    }
}

/// A test, as [`lab_test`](crate::lab_test) registers it.
#[derive(Debug)]
pub struct LabTest {
    pub module: &'static str,
    pub name: &'static str,
    pub needs: &'static [TestNeed],
    pub run: fn() -> Result<Completion, Failed>,
}

inventory::collect!(LabTest);

impl LabTest {
    /// The name that Rust's own harness would give it: without the crate.
    fn full_name(&self) -> String {
        match self.module.split_once("::") {
            Some((_, module)) => format!("{module}::{}", self.name),
            None => self.name.to_owned(),
        }
    }

    fn trial(&self, missing: Option<TestNeed>) -> Trial {
        let run = self.run;
        let is_ignored = missing.is_some() && !is_set(REQUIRE_ROOT);
        let trial = Trial::ignorable_test(self.full_name(), move || match missing {
            None => run(),
            Some(need) if is_set(REQUIRE_ROOT) => {
                Err(format!("this test needs {need}, and {REQUIRE_ROOT}=1 forbids a skip").into())
            }
            // `--ignored` wants it all the same.
            Some(need) => Err(format!("this test needs {need}").into()),
        });
        trial.with_ignored_flag(is_ignored)
    }
}

/// Marks an error by which a test finds out, while it runs, that the machine lacks something. As
/// the outermost context of an [`anyhow::Error`], it makes the test ignored instead of failed.
#[derive(Clone, Copy, Debug)]
pub struct Skip;

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this machine cannot run the test")
    }
}

/// The return types of test functions.
pub trait TestEnding {
    fn ending(self) -> Result<Completion, Failed>;
}

impl TestEnding for () {
    fn ending(self) -> Result<Completion, Failed> {
        Ok(Completion::Completed)
    }
}

impl TestEnding for anyhow::Result<()> {
    fn ending(self) -> Result<Completion, Failed> {
        match self {
            Ok(()) => Ok(Completion::Completed),
            Err(error) if error.is::<Skip>() && !is_set(REQUIRE_ROOT) => {
                Ok(Completion::ignored_with(format!("{error:#}")))
            }
            Err(error) => Err(format!("Error: {error:?}").into()),
        }
    }
}

/// Runs the tests of this program that the arguments choose. It is the `main` of a test file.
pub fn run() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut tests: Vec<&LabTest> = inventory::iter::<LabTest>.into_iter().collect();
    tests.sort_by_key(|test| test.full_name());
    let mut machine = MetNeeds::default();
    let mut trials = Vec::new();
    let mut ignored: BTreeMap<TestNeed, usize> = BTreeMap::new();
    for test in tests {
        let missing = test.needs.iter().copied().find(|need| !machine.meets(*need));
        let trial = test.trial(missing);
        if let Some(need) = missing
            && arguments.is_ignored(&trial)
            && !arguments.is_filtered_out(&trial)
        {
            *ignored.entry(need).or_default() += 1;
        }
        trials.push(trial);
    }
    if !arguments.list {
        for (need, count) in ignored {
            say_ignored(need, count);
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The needs that this machine meets, looked at once.
#[derive(Debug, Default)]
struct MetNeeds(BTreeMap<TestNeed, bool>);

impl MetNeeds {
    fn meets(&mut self, need: TestNeed) -> bool {
        *self.0.entry(need).or_insert_with(|| need.is_met())
    }
}

fn say_ignored(need: TestNeed, count: usize) {
    let tests =
        if count == 1 { "test is ignored: it needs" } else { "tests are ignored: they need" };
    eprintln!("{count} {tests} {need}. With {REQUIRE_ROOT}=1 this is a failure.");
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}
