//! `test`: everything that CI runs, step by step.
//!
//! Every step runs, whatever became of the ones before it; the failing ones are named at the end.

mod steps;

use crate::{setup, workspace};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use steps::Step;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Leave out what needs root: namespaces, kernel programs, guests.
    #[arg(long)]
    no_root: bool,
    /// Run the tests with real guests in QEMU, and nothing else.
    #[arg(long, conflicts_with = "no_root")]
    qemu: bool,
    /// Let the tests with a duration run for as long as before a release.
    #[arg(long)]
    long: bool,
}

pub fn run(options: &Options) -> Result<()> {
    if !options.no_root && !workspace::is_root() {
        bail!(
            "network namespaces and kernel programs need root: run this as root, or `cargo xtask \
             test --no-root` for the rest"
        );
    }
    let root = workspace::root()?;
    let mut steps = steps::all(&root, options.long)?;
    steps.retain(|step| !options.qemu || step.guests);
    let (steps, left_out): (Vec<Step>, Vec<Step>) =
        steps.into_iter().partition(|s| !options.no_root || !s.needs_root);
    if !left_out.is_empty() {
        let names: Vec<&str> = left_out.iter().map(|step| step.name.as_str()).collect();
        println!("test: left out, for they need root: {}", names.join(", "));
    }
    let started = Instant::now();
    let failed: Vec<&Step> = steps.iter().filter(|step| !passes(step)).collect();
    println!("test: {} steps in {}", steps.len(), seconds(started.elapsed()));
    if failed.is_empty() {
        println!("test: all passed");
        return Ok(());
    }
    let names: Vec<&str> = failed.iter().map(|step| step.name.as_str()).collect();
    bail!("failed: {}", names.join(", "))
}

/// Runs one step and says how it went.
fn passes(step: &Step) -> bool {
    println!("== {}", step.name);
    let started = Instant::now();
    let done = setup::ensure(step.setup).and_then(|()| (step.run)());
    let took = seconds(started.elapsed());
    match done {
        Ok(()) => println!("== {}: passed in {took}", step.name),
        Err(error) => {
            println!("== {}: FAILED in {took}: {error:#}", step.name);
            return false;
        }
    }
    true
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
