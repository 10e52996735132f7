//! `lint`: formatting, clippy with the workspace's lint table, and cargo-deny.

use crate::build_ebpf;
use crate::setup::{self, Need};
use crate::{command, workspace};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

pub fn run() -> Result<()> {
    let root = workspace::root()?;
    format(&root)?;
    clippy(&root)?;
    build_ebpf::clippy(&root)?;
    deny(&root)
}

/// rustfmt, with the rules of rustfmt.toml.
pub fn format(root: &Path) -> Result<()> {
    setup::ensure_components()?;
    cargo(root, &["fmt", "--all", "--check"])
}

/// clippy on everything that stable Rust builds.
pub fn clippy(root: &Path) -> Result<()> {
    setup::ensure_components()?;
    cargo(root, &["clippy", "--locked", "--all-targets", "--", "-D", "warnings"])
}

/// Licences, sources and bans of the dependencies. Advisories need a database from the internet,
/// and change without a change here. A separate job checks them.
pub fn deny(root: &Path) -> Result<()> {
    setup::ensure(&[Need::Lint])?;
    cargo(root, &["deny", "--log-level", "error", "check", "bans", "licenses", "sources"])?;
    println!(
        "lint: security advisories are not checked. `cargo deny check advisories` checks them, online"
    );
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    command::run(Command::new(workspace::cargo()).args(arguments).current_dir(root))
}
