//! The command line: what is asked for, and who does it.

mod args;
mod daemon;
mod hint;
mod offsets;
mod output;
mod show;

use std::path::Path;

use anyhow::bail;
use clap::Parser;
use colo_proxy::config::{self, Guest};
use colo_proxy::status::{self, RUNTIME_DIR, Reply, Request};

use self::args::{Args, Subcommand};
pub(crate) use self::hint::hint;

pub(crate) fn run() -> anyhow::Result<()> {
    match Args::parse().command {
        Subcommand::Primary(args) => daemon::serve(vec![Guest::try_from(args)?]),
        Subcommand::Secondary(args) => daemon::serve(vec![Guest::try_from(args)?]),
        Subcommand::Run { config } => daemon::serve(config::read(&config)?),
        Subcommand::Status { instance, json } => show::status(instance.as_deref(), json),
        Subcommand::Offsets { command } => offsets::run(&command),
        Subcommand::Failover { instance } => fail_over(&instance),
    }
}

fn fail_over(instance: &str) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let name = status::find(dir, instance)?;
    match status::ask(dir, &name, Request::Failover)? {
        Reply::Done(message) => Ok(output::print(&format!("{message}\n"))?),
        other => bail!("instance {name} answered {other:?}"),
    }
}
