//! `setup`: installs what is missing, split by what needs it.
//!
//! On Debian it installs with apt-get and cargo; elsewhere, or without the rights to, it prints the
//! commands.

mod packages;

use crate::build_ebpf::toolchain;
use crate::command::{self, find_program};
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use packages::Packages;
use std::path::Path;
use std::process::Command;

/// Version of bpf-linker that the committed object is built with.
const LINKER_VERSION: &str = "0.13.0";
/// Version of cargo-deny that deny.toml is written for.
const DENY_VERSION: &str = "0.20.2";
/// Where Debian keeps the LLVM that [`packages::EBPF`] installs.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to prepare for; everything when nothing is named.
    needs: Vec<Need>,
}

/// What wants something of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Need {
    /// The laboratory of namespaces: the demonstration and most tests.
    Lab,
    /// Tests that look at the kernel's side with bpftool.
    Inspect,
    /// Building the kernel programs.
    Ebpf,
    /// The test with real guests.
    Qemu,
    /// `cargo xtask lint`.
    Lint,
}

const ALL: [Need; 5] = [Need::Lab, Need::Inspect, Need::Ebpf, Need::Qemu, Need::Lint];

pub fn run(options: &Options) -> Result<()> {
    let needs = if options.needs.is_empty() { &ALL[..] } else { &options.needs };
    ensure(needs)?;
    println!("setup: everything is there");
    Ok(())
}

/// Installs what `needs` lack; nothing is asked of the network when nothing is missing.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let mut packages = Packages::default();
    for (need, program, package) in packages::PROGRAMS {
        if needs.contains(&need) && find_program(program).is_none() {
            packages.want_all(&[package]);
        }
    }
    let builds_ebpf = needs.contains(&Need::Ebpf);
    if builds_ebpf && toolchain::compilers().is_empty() {
        packages.want_all(&packages::EBPF_COMPILER);
    }
    let lacks_linker = builds_ebpf && toolchain::find_linker().is_none();
    if lacks_linker && packages::is_debian() {
        packages.want_all(&packages::EBPF_LINKER);
    }
    packages.install()?;
    if lacks_linker {
        install_linker()?;
    }
    if needs.contains(&Need::Lint) && find_program("cargo-deny").is_none() {
        let arguments = ["--version", DENY_VERSION, "--locked"];
        cargo_install(&mut Command::new(workspace::cargo()), "cargo-deny", &arguments)?;
    }
    if builds_ebpf && toolchain::compilers().is_empty() {
        bail!(
            "no compiler can build the kernel programs: `rustup toolchain install nightly \
             --component rust-src` brings one"
        );
    }
    Ok(())
}

/// bpf-linker, with the LLVM of Debian's package where there is one and its own otherwise.
fn install_linker() -> Result<()> {
    let mut cargo = Command::new(workspace::cargo());
    let mut arguments = vec!["--version", LINKER_VERSION, "--locked"];
    if Path::new(LLVM_PREFIX).exists() {
        // Without the variable its build script looks for LLVM where Debian has none.
        cargo.env("LLVM_PREFIX", LLVM_PREFIX);
        arguments.extend(["--no-default-features", "--features", "llvm-22"]);
    }
    cargo_install(&mut cargo, "bpf-linker", &arguments)
}

fn cargo_install(cargo: &mut Command, name: &str, arguments: &[&str]) -> Result<()> {
    println!("setup: installing {name} with cargo, which takes some minutes");
    // Ours: the flags and folders of the task that runs us are not for another crate.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR").env_remove("RUSTUP_TOOLCHAIN");
    command::run(cargo.args(["install", "--quiet", name]).args(arguments)).with_context(|| {
        format!("cannot install {name}: `cargo install {name} {}`", arguments.join(" "))
    })
}
