//! A guest's virtual machine, as far as the network can see; see `colo_lab::stand_in`.

use std::fs::File;
use std::io::{stdin, stdout};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use colo_lab::stand_in::command::StandInReport;
use colo_lab::stand_in::pump::{Pump, report};
use colo_lab::stand_in::shift::Shift;
use colo_lab::stand_in::tap::{self, TapOffloads};
use nix::sched::{CloneFlags, setns};

#[derive(Debug, Parser)]
struct Arguments {
    /// The host's network namespace.
    #[arg(long)]
    host_netns: PathBuf,
    /// The guest's network namespace.
    #[arg(long)]
    guest_netns: PathBuf,
    /// The guest's TAP on the host. If it does not exist, it is made, and removed when this process
    /// ends.
    #[arg(long, default_value = "tap0")]
    tap: String,
    /// The link in the guest.
    #[arg(long, default_value = "eth0")]
    eth: String,
    #[arg(long, value_enum, default_value = "on")]
    offloads: TapOffloads,
    /// Frames without a virtio-net header.
    #[arg(long)]
    plain: bool,
    /// Move the guest's sequence numbers and timestamps by these amounts.
    #[arg(long, value_name = "SEQ,TIMESTAMP")]
    shift: Option<Shift>,
    /// Do not check checksums.
    #[arg(long)]
    no_verify: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let offloads = if arguments.plain { TapOffloads::Off } else { arguments.offloads };
    enter(&arguments.host_netns)?;
    let host = tap::open(&arguments.tap, !arguments.plain, offloads)?;
    enter(&arguments.guest_netns)?;
    let guest = tap::open(&arguments.eth, !arguments.plain, offloads)?;
    let mut pump = Pump::new(host, guest, !arguments.plain);
    pump.shift = arguments.shift;
    pump.verify = !arguments.no_verify;
    report(&mut stdout(), &StandInReport::Ready)?;
    // Without a buffer: poll() does not see the content of a buffer.
    let commands = File::from(stdin().as_fd().try_clone_to_owned().context("duplicating stdin")?);
    pump.run(commands, stdout())
}

fn enter(namespace: &Path) -> Result<()> {
    let handle = File::open(namespace)
        .with_context(|| format!("opening namespace {}", namespace.display()))?;
    setns(handle, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("entering namespace {}", namespace.display()))
}
