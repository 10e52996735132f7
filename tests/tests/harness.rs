//! The lab's harness. Without root, a test is shown as ignored. Where root is required, it fails.
//! With root, it runs.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use colo_lab::harness::{PRETEND_NO_ROOT, REQUIRE_ROOT, Skip};
use colo_lab::lab_test;

/// Names the test that must end in an unusual way. Only the tests below set it.
const PLAY: &str = "COLO_PROXY_HARNESS_PLAY";

fn is_played(name: &str) -> bool {
    std::env::var(PLAY).is_ok_and(|played| played == name)
}

/// The tests below run this one in a process of its own, with and without root.
#[lab_test(root)]
fn needs_root() {
    assert!(nix::unistd::geteuid().is_root());
}

#[lab_test]
fn needs_nothing() {}

#[lab_test]
fn panics_if_asked() {
    assert!(!is_played("panic"), "the test was asked to panic");
}

#[lab_test]
fn fails_if_asked() -> Result<()> {
    if is_played("error") {
        return Err(anyhow::anyhow!("the cause").context("the test was asked to fail"));
    }
    Ok(())
}

#[lab_test]
fn skips_itself_if_asked() -> Result<()> {
    if is_played("skip") {
        bail!(anyhow::anyhow!("something is missing").context(Skip));
    }
    Ok(())
}

/// The end and the output of a run of this program.
#[derive(Debug)]
struct Run {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Run {
    /// Runs `command`, which starts this program, with a clean environment of the harness.
    fn of(mut command: Command, variables: &[(&str, &str)]) -> Result<Self> {
        for variable in [REQUIRE_ROOT, PRETEND_NO_ROOT, PLAY] {
            command.env_remove(variable);
        }
        let done = command.envs(variables.iter().copied()).output().context("running the test")?;
        Ok(Self {
            success: done.status.success(),
            stdout: String::from_utf8(done.stdout)?,
            stderr: String::from_utf8(done.stderr)?,
        })
    }

    /// Runs the test of this program with this exact name.
    fn test(name: &str, variables: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", name]);
        Self::of(command, variables)
    }

    /// The run ends like this, with this line of counts.
    fn expect(&self, success: bool, counts: &str) -> Result<()> {
        ensure!(self.success == success && self.stdout.contains(counts), "{self:#?}");
        Ok(())
    }
}

const IGNORED: &str = "0 passed; 0 failed; 1 ignored";
const FAILED: &str = "0 passed; 1 failed; 0 ignored";
const PASSED: &str = "1 passed; 0 failed; 0 ignored";

#[lab_test]
fn without_root_a_test_is_shown_as_ignored_and_the_reason_is_said() -> Result<()> {
    let run = Run::test("needs_root", &[(PRETEND_NO_ROOT, "1")])?;
    run.expect(true, IGNORED)?;
    ensure!(run.stderr.contains("1 test is ignored: it needs root"), "{run:#?}");
    let run = Run::test("needs_nothing", &[(PRETEND_NO_ROOT, "1")])?;
    run.expect(true, PASSED)?;
    ensure!(!run.stderr.contains("ignored"), "{run:#?}");
    Ok(())
}

#[lab_test]
fn where_root_is_required_and_missing_a_test_fails() -> Result<()> {
    let run = Run::test("needs_root", &[(PRETEND_NO_ROOT, "1"), (REQUIRE_ROOT, "1")])?;
    run.expect(false, FAILED)?;
    ensure!(run.stdout.contains("this test needs root"), "{run:#?}");
    Ok(())
}

/// The twin of the two above.
#[lab_test(root)]
fn with_root_a_test_runs() -> Result<()> {
    for variables in [&[][..], &[(REQUIRE_ROOT, "1")]] {
        Run::test("needs_root", variables)?.expect(true, PASSED)?;
    }
    Ok(())
}

/// The harness does not only pretend: a user who is not root sees the same.
#[lab_test(root)]
fn another_user_sees_the_test_as_ignored() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = executable_by_anybody(folder.path())?;
    let by_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.arg(&program).args(["--exact", "needs_root"]).current_dir("/");
        command
    };
    Run::of(by_nobody(), &[])?.expect(true, IGNORED)?;
    Run::of(by_nobody(), &[(REQUIRE_ROOT, "1")])?.expect(false, FAILED)
}

/// A copy of this program in `folder`: the folder where cargo builds may be root's alone.
fn executable_by_anybody(folder: &Path) -> Result<PathBuf> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let copy = folder.join("harness");
    fs::copy(std::env::current_exe()?, &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    Ok(copy)
}

#[lab_test]
fn a_panic_fails_the_test_and_shows_its_message_and_its_line() -> Result<()> {
    Run::test("panics_if_asked", &[])?.expect(true, PASSED)?;
    let run = Run::test("panics_if_asked", &[(PLAY, "panic")])?;
    run.expect(false, FAILED)?;
    ensure!(run.stdout.contains("the test was asked to panic"), "{run:#?}");
    ensure!(run.stderr.contains(&format!("{}:", file!())), "{run:#?}");
    Ok(())
}

#[lab_test]
fn an_error_fails_the_test_and_shows_its_chain() -> Result<()> {
    Run::test("fails_if_asked", &[])?.expect(true, PASSED)?;
    let run = Run::test("fails_if_asked", &[(PLAY, "error")])?;
    run.expect(false, FAILED)?;
    for part in ["the test was asked to fail", "the cause"] {
        ensure!(run.stdout.contains(part), "{run:#?}");
    }
    Ok(())
}

/// It fails if everything must run.
#[lab_test]
fn a_test_that_finds_something_missing_is_shown_as_ignored() -> Result<()> {
    Run::test("skips_itself_if_asked", &[])?.expect(true, PASSED)?;
    let run = Run::test("skips_itself_if_asked", &[(PLAY, "skip")])?;
    run.expect(true, IGNORED)?;
    ensure!(run.stdout.contains("something is missing"), "{run:#?}");
    Run::test("skips_itself_if_asked", &[(PLAY, "skip"), (REQUIRE_ROOT, "1")])?
        .expect(false, FAILED)
}

/// Rust's own harness drops a `#[lab_test]` without a word, and the lab's harness a `#[test]`.
#[lab_test]
fn every_file_is_run_by_the_harness_that_its_attributes_are_for() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let ours: BTreeSet<String> = manifest
        .split("[[test]]\n")
        .skip(1)
        .filter(|entry| entry.contains("harness = false"))
        .filter_map(|entry| entry.split('"').nth(1).map(str::to_owned))
        .collect();
    let mut found = BTreeSet::new();
    for file in sources(&root.join("tests"))? {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let relative = file.strip_prefix(root.join("tests"))?.with_extension("");
        let program = relative.iter().next().context("a name")?.to_string_lossy().into_owned();
        let wrong = if ours.contains(&program) { "#[test]" } else { "#[lab_test" };
        let line = text.lines().position(|line| line.trim().starts_with(wrong));
        ensure!(line.is_none(), "{}: line {line:?} has {wrong}", file.display());
        found.insert(program);
    }
    let unknown: Vec<_> = ours.difference(&found).collect();
    ensure!(unknown.is_empty() && ours.len() > 20, "{unknown:?} of {ours:?} have no file");
    Ok(())
}

/// The Rust files in `folder` and below it.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(sources(&path)?);
        } else if path.extension().is_some_and(|end| end == "rs") {
            all.push(path);
        }
    }
    Ok(all)
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
