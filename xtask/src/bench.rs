//! `bench`: measures the same work without a proxy, with QEMU's own chain and with colo-proxy.

use crate::setup::{self, Need};
use crate::{command, workspace};
use anyhow::{Context as _, Result, bail};
use colo_lab::bench::BenchOptions;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Builds what the benchmark needs, and then becomes it.
pub fn run(options: &BenchOptions) -> Result<()> {
    if options.from.is_none() {
        if !workspace::is_root() {
            bail!(
                "the benchmark makes network namespaces and loads kernel programs: run this as root"
            );
        }
        setup::ensure(&[Need::Lab, Need::Qemu])?;
    }
    let root = workspace::root()?;
    command::run(
        Command::new(workspace::cargo())
            .args(["build", "--release", "--locked", "--bins"])
            .args(["--package", "colo-proxy", "--package", "colo-proxy-tests"])
            .current_dir(&root),
    )?;
    let programs = workspace::target_dir(&root).join("release");
    let error = Command::new(programs.join("bench"))
        .args(options.arguments())
        .env("COLO_PROXY_BIN", programs.join("colo-proxy"))
        .current_dir(root)
        .exec();
    Err(error).context("cannot start the benchmark")
}
