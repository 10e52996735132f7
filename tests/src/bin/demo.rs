//! `cargo xtask demo`: see `colo_lab::demo`.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

/// Shows a TCP service that outlives one of its two hosts.
#[derive(Debug, Parser)]
struct Arguments {
    /// Lines only, as for a log; this is also what a pipe gets.
    #[arg(long)]
    plain: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the demo needs root: it makes network namespaces");
    let held = colo_lab::demo::run(arguments.plain)?;
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
