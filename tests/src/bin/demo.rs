//! `cargo xtask demo`: see `colo_lab::demo`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use colo_lab::demo::{self, Guests};

/// Shows a TCP service that outlives one of its two hosts.
#[derive(Debug, Parser)]
struct Arguments {
    /// Use real guests in QEMU under COLO. Their downloads stay in this folder.
    #[arg(long, value_name = "CACHE")]
    qemu: Option<PathBuf>,
    /// Print only lines, as for a log. A pipe always gets lines.
    #[arg(long)]
    plain: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "the demo needs root: it makes network namespaces");
    let guests = match arguments.qemu {
        None => Guests::StandIns,
        // The hosts have a file system of their own.
        Some(cache) => Guests::Real(std::path::absolute(cache).context("finding the cache")?),
    };
    demo::run(&guests, arguments.plain)
}
