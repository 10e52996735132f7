//! Packages of the distribution.

use super::Need;
use crate::{command, workspace};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;

/// Programs, with the need that they serve and Debian's package.
pub(super) const PROGRAMS: [(Need, &str, &str); 5] = [
    (Need::Lab, "ip", "iproute2"),
    (Need::Inspect, "bpftool", "bpftool"),
    (Need::Qemu, "qemu-system-x86_64", "qemu-system-x86"),
    (Need::Qemu, "busybox", "busybox-static"),
    (Need::Qemu, "dpkg-deb", "dpkg"),
];
/// A compiler with the source of its `core`, and the clippy that belongs to it.
pub(super) const EBPF_COMPILER: [&str; 3] = ["rustc-web", "rust-web-src", "rust-web-clippy"];
/// The LLVM that bpf-linker is built with.
pub(super) const EBPF_LINKER: [&str; 2] = ["llvm-22-dev", "libpolly-22-dev"];

/// How long to wait for another apt-get, in seconds.
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=300";

/// Packages that are missing.
#[derive(Debug, Default)]
pub(super) struct Packages {
    names: Vec<&'static str>,
}

/// The distribution installs with apt-get.
pub(super) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && command::find_program("apt-get").is_some()
}

impl Packages {
    pub(super) fn want_all(&mut self, packages: &[&'static str]) {
        for package in packages {
            if !self.names.contains(package) {
                self.names.push(package);
            }
        }
    }

    /// Installs them, or fails with the command to type.
    pub(super) fn install(&self) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let names = self.names.join(" ");
        let by_hand = format!("apt-get update && apt-get install --no-install-recommends {names}");
        if !workspace::is_root() {
            bail!("packages are missing. Run this as root: `{by_hand}`");
        }
        println!("setup: installing {names}");
        apt_get(&["update"])
            .with_context(|| format!("cannot install the packages: run `{by_hand}`"))?;
        let mut install = vec!["install", "--yes", "--no-install-recommends"];
        install.extend(&self.names);
        apt_get(&install).with_context(|| format!("cannot install the packages: run `{by_hand}`"))
    }
}

/// Updates the lists of packages, if this process may.
pub(super) fn update() -> Result<()> {
    if !workspace::is_root() {
        return Ok(());
    }
    apt_get(&["update"]).context("cannot update the lists of packages: run `apt-get update`")
}

/// Whether the distribution has all of them. Debian's relatives differ in their packages.
pub(super) fn are_offered(packages: &[&str]) -> bool {
    packages.iter().all(|package| {
        let mut policy = Command::new("apt-cache");
        policy.args(["policy", package]).env("LC_ALL", "C");
        command::output(&mut policy).is_ok_and(|text| has_candidate(&text))
    })
}

/// Reads the output of `apt-cache policy` for one package. For an unknown package it is empty.
fn has_candidate(policy: &str) -> bool {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate.is_some_and(|version| version != "(none)")
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    command::run(
        Command::new("apt-get")
            .args(["-qq", "-o", LOCK_TIMEOUT])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

#[cfg(test)]
mod tests {
    use super::has_candidate;

    #[test]
    fn a_package_without_a_candidate_is_not_offered() {
        assert!(has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: 1.95.0\n"));
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
