//! An interrupted demo leaves nothing behind. If something is missing, it says so in one line.
//! `cargo xtask test` runs the whole demo.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use colo_lab::lab_test;
use colo_lab::process::Process;
use nix::sys::signal::Signal;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The namespaces and processes on the machine that belong to a demo with this pid.
fn left(pid: u32) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        left.extend(name.starts_with(&format!("colo-{pid}-")).then_some(name));
    }
    for entry in std::fs::read_dir("/proc").context("listing /proc")?.flatten() {
        let path = entry.path().join("cmdline");
        let line = std::fs::read(path).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        left.extend(line.contains(&format!("/colo-{pid}-")).then_some(line));
    }
    Ok(left)
}

fn interrupted(signal: Signal, at: &str) -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.arg("--plain").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut demo = Process::spawn("demo", command, &[])?;
    let stdout = demo.take_stdout().context("stdout is piped")?;
    let reached = BufReader::new(stdout).lines().map_while(Result::ok).any(|l| l.contains(at));
    assert!(reached, "the demo ended before `{at}`: {}", demo.stderr());
    assert!(!left(demo.pid())?.is_empty(), "the search finds nothing, even while it runs");
    demo.signal(signal)?;
    let status = demo.wait(TIMEOUT)?;
    assert_eq!(status.code(), Some(128 + signal as i32), "{}", demo.stderr());
    assert_eq!(left(demo.pid())?, Vec::<String>::new());
    Ok(())
}

#[lab_test(root)]
fn sigterm_in_plain_traffic_leaves_nothing() -> Result<()> {
    interrupted(Signal::SIGTERM, "1. ")
}

#[lab_test(root)]
fn ctrl_c_under_protection_leaves_nothing() -> Result<()> {
    interrupted(Signal::SIGINT, ": protected")
}

#[lab_test(root)]
fn without_a_qemu_it_fails_and_says_why() -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(["--plain", "--qemu", env!("CARGO_TARGET_TMPDIR")]);
    // This works on every machine: a named QEMU is used or refused.
    command.env("COLO_LAB_QEMU_COLO", "/bin/true").stdin(Stdio::null());
    let output = command.output().context("running the demo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: COLO_LAB_QEMU_COLO names no QEMU"), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    Ok(())
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
