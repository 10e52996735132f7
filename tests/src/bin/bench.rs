//! `cargo xtask bench`: see `colo_lab::bench`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use colo_lab::bench::{self, BenchOptions, Results, service};

/// Measures the same work without a proxy, through QEMU's own chain and through colo-proxy.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    options: BenchOptions,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the service of a guest that is measured.
    #[command(hide = true)]
    Serve,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(Task::Serve) = arguments.task {
        return service::run(|| eprintln!("bench: ready")).context("serving");
    }
    let options = &arguments.options;
    if let Some(file) = &options.from {
        let results = Results::read(file)?;
        println!("{}", bench::plain(&bench::entries(&results)));
        return bench::write(&results, Path::new("."), false);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark makes network namespaces and loads kernel programs: run it as root"
    );
    let results = bench::measure(options, &|line| println!("{line}"))?;
    println!("\n{}", bench::plain(&bench::entries(&results)));
    if options.writes() { bench::write(&results, Path::new("."), true) } else { Ok(()) }
}
