//! `test`: everything that CI runs, step by step.
//!
//! Every step runs, also after a step that failed. The end of the output names the failed steps.

mod laboratory;
mod steps;

use crate::{setup, workspace};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use steps::{TestPart, TestStep};

#[derive(Debug, clap::Args)]
pub struct TestOptions {
    /// Run without root. Steps that need it are left out, and the tests that need it are counted
    /// as skipped.
    #[arg(long)]
    no_root: bool,
    /// Run only the tests with real guests in QEMU.
    #[arg(long, conflicts_with = "no_root")]
    qemu: bool,
    /// Let the tests with a duration run as long as before a release.
    #[arg(long)]
    long: bool,
}

pub fn run(options: &TestOptions) -> Result<()> {
    let with_root = !options.no_root;
    if with_root && !workspace::is_root() {
        bail!(
            "network namespaces and kernel programs need root: run this as root, or run `cargo \
             xtask test --no-root` for the rest"
        );
    }
    let root = workspace::root()?;
    let mut steps = steps::all(&root, options.long)?;
    steps.retain(|step| !options.qemu || step.guests);
    let (steps, others): (Vec<TestStep>, Vec<TestStep>) =
        steps.into_iter().partition(|step| step.part.runs(with_root));
    let left_out: Vec<&str> = others
        .iter()
        .filter(|step| step.part == TestPart::Privileged)
        .map(|step| step.name.as_str())
        .collect();
    if !with_root && !left_out.is_empty() {
        println!("test: left out because they need root: {}", left_out.join(", "));
    }
    let started = Instant::now();
    let mut failed = Vec::new();
    let mut skipped = 0;
    for step in &steps {
        match passes(step) {
            Some(count) => skipped += count,
            None => failed.push(step.name.as_str()),
        }
    }
    println!("test: {} steps in {}", steps.len(), seconds(started.elapsed()));
    if skipped > 0 {
        println!("test: {skipped} tests skipped, because they need root or a QEMU");
    }
    if failed.is_empty() {
        println!("test: {}", if skipped > 0 { "all others passed" } else { "all passed" });
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

/// Runs one step and says how it ended. Returns how many tests it has skipped, if it passed.
fn passes(step: &TestStep) -> Option<usize> {
    println!("== {}", step.name);
    let started = Instant::now();
    let done = setup::ensure(step.setup).and_then(|()| (step.run)());
    let took = seconds(started.elapsed());
    match &done {
        Ok(0) => println!("== {}: passed in {took}", step.name),
        Ok(skipped) => println!("== {}: passed in {took}, {skipped} tests skipped", step.name),
        Err(error) => {
            println!("== {}: FAILED in {took}: {error:#}", step.name);
            return None;
        }
    }
    done.ok()
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
