//! The command line: the commands and the modules that run them.

mod args;
mod capture;
mod colo_compare;
mod daemon;
mod diff;
mod divergences;
mod filter;
mod hint;
mod offsets;
mod output;
mod protect;
mod qemu_args;
mod show;
mod show_filter;
mod state_dir;

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use colo_proxy::config::{self, Guest};
use colo_proxy::status::{self, RUNTIME_DIR, Reply, Request};

use self::args::{Args, Subcommand};
pub(crate) use self::hint::hint;

/// Runs the command. On success it returns the exit code of the process.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Subcommand::Diff(args) => return diff::diff(&args),
        Subcommand::Primary(args) => {
            let state_dir = args.state_dir();
            daemon::serve(vec![Guest::try_from(args)?], state_dir)
        }
        Subcommand::Secondary(args) => {
            let state_dir = args.state_dir();
            daemon::serve(vec![Guest::try_from(args)?], state_dir)
        }
        Subcommand::Run { config, state_dir } => daemon::serve(config::read(&config)?, state_dir),
        Subcommand::ColoCompare(args) => colo_compare::serve(args.into()),
        Subcommand::FilterMirror(args) => filter::serve(args.into()),
        Subcommand::FilterRedirector(args) => filter::serve(args.into()),
        Subcommand::FilterRewriter(args) => filter::serve(args.into()),
        Subcommand::Status { instance, json } => show::status(instance.as_deref(), json),
        Subcommand::Divergences(args) => divergences::divergences(&args),
        Subcommand::Offsets { command } => offsets::run(&command),
        Subcommand::QemuArgs { config, guest, peer } => {
            qemu_args::print(&config, guest.as_deref(), peer)
        }
        Subcommand::Protect { instance, migrate, timeout } => {
            protect::protect(&instance, migrate, timeout)
        }
        Subcommand::Failover { instance, force } => fail_over(&instance, force),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The exit code of the process after `error`.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<diff::CannotCompare>() { diff::CANNOT_COMPARE.into() } else { ExitCode::FAILURE }
}

fn fail_over(instance: &str, force: bool) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let name = status::find(dir, instance)?;
    match status::ask(dir, &name, &Request::Failover { force })? {
        Reply::Done(message) => Ok(output::print(&format!("{message}\n"))?),
        other => bail!("instance {name} answered {other:?}"),
    }
}
