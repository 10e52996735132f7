//! `setup`: installs what is missing, split by what needs it.
//!
//! On Debian and its kin it installs with apt-get, cargo and, for a compiler that they do not
//! package, rustup; elsewhere, or without the rights to, it prints the commands.

mod missing;
mod packages;

use crate::build_ebpf::toolchain;
use crate::command::{self, find_program};
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use colo_lab::qemu::emulator::Emulator;
use missing::Missing;
use packages::Packages;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of bpf-linker that the committed object is built with.
const LINKER_VERSION: &str = "0.13.0";
/// A program that cargo installs.
#[derive(Debug, PartialEq, Eq)]
struct Tool {
    name: &'static str,
    version: &'static str,
    flags: &'static [&'static str],
}

/// The version is the one that deny.toml is written for.
const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", flags: &[] };
/// The version is the one whose warnings `cargo xtask book` knows. It leaves out what serves a book
/// while it is written.
const MDBOOK: Tool = Tool {
    name: "mdbook",
    version: "0.5.4",
    flags: &["--no-default-features", "--features", "search"],
};
/// What brings a compiler for the kernel programs where the distribution has none.
const NIGHTLY: &str = "rustup toolchain install nightly --profile minimal --component rust-src";
/// What brings rustfmt and clippy.
const COMPONENTS: &str = "rustup component add rustfmt clippy";
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
    /// Tests with real guests.
    Qemu,
    /// Real guests under COLO: a QEMU that is newer than most distributions'.
    Colo,
    /// `cargo xtask lint`.
    Lint,
    /// `cargo xtask book`.
    Book,
}

impl Need {
    fn purpose(self) -> &'static str {
        match self {
            Self::Lab => "for the laboratory of namespaces",
            Self::Inspect => "for tests that look at the kernel's side",
            Self::Ebpf => "for building the kernel programs",
            Self::Qemu => "for tests with real guests",
            Self::Colo => "for real guests under COLO",
            Self::Lint => "for `cargo xtask lint`",
            Self::Book => "for `cargo xtask book`",
        }
    }
}

const ALL: [Need; 7] =
    [Need::Lab, Need::Inspect, Need::Ebpf, Need::Qemu, Need::Colo, Need::Lint, Need::Book];

pub fn run(options: &Options) -> Result<()> {
    let needs = if options.needs.is_empty() { &ALL[..] } else { &options.needs };
    ensure(needs)?;
    let colo = if needs.contains(&Need::Colo) { colo_qemu() } else { Ok(()) };
    match colo {
        Err(reason) if options.needs.contains(&Need::Colo) => return Err(reason),
        // Everything but the tests that want it does without.
        Err(reason) => println!("setup: {reason:#}\nsetup: everything else is there"),
        Ok(()) => println!("setup: everything is there"),
    }
    Ok(())
}

/// A QEMU that can do COLO; brought beside what cargo builds where none is installed. The error
/// is one sentence.
pub fn colo_qemu() -> Result<()> {
    Emulator::with_colo(&cache()?).map(drop)
}

/// Where that one is, and what else real guests are made of.
pub fn cache() -> Result<PathBuf> {
    Ok(workspace::target_dir(&workspace::root()?).join("lab-cache"))
}

/// Installs what `needs` lack, but for [`colo_qemu`], which no package of this machine is; nothing
/// is asked of the network when nothing is missing.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing = Missing::of(needs);
    if missing == Missing::default() {
        return Ok(());
    }
    if !packages::is_debian() {
        bail!("these are missing, and only Debian and its kin are installed for:\n{missing}");
    }
    let mut packages = Packages::default();
    for (_, _, package) in &missing.programs {
        packages.want_all(&[*package]);
    }
    if missing.compiler || missing.linker {
        packages::update()?;
    }
    let rustup_compiler = missing.compiler && !packages::are_offered(&packages::EBPF_COMPILER);
    if missing.compiler && !rustup_compiler {
        packages.want_all(&packages::EBPF_COMPILER);
    }
    // A release that is too old for it has bpf-linker bring an LLVM of its own.
    if missing.linker && packages::are_offered(&packages::EBPF_LINKER) {
        packages.want_all(&packages::EBPF_LINKER);
    }
    packages.install()?;
    if rustup_compiler {
        install_nightly()?;
    }
    if missing.linker {
        install_linker()?;
    }
    for Tool { name, version, flags } in &missing.tools {
        let arguments = [&["--version", version, "--locked"], *flags].concat();
        cargo_install(&mut Command::new(workspace::cargo()), name, &arguments)?;
    }
    if missing.components {
        ensure_components()?;
    }
    if missing.compiler && toolchain::compilers().is_empty() {
        bail!("no compiler can build the kernel programs: `{NIGHTLY}` brings one");
    }
    Ok(())
}

/// rustfmt and clippy: they belong to the compiler that its owner chose, so he adds them.
pub fn ensure_components() -> Result<()> {
    if !has_components() {
        bail!("rustfmt or clippy is missing: `{COMPONENTS}`");
    }
    Ok(())
}

fn has_components() -> bool {
    ["fmt", "clippy"].iter().all(|task| {
        command::output(Command::new(workspace::cargo()).args([task, "--version"])).is_ok()
    })
}

/// A compiler for the kernel programs where the distribution has none.
fn install_nightly() -> Result<()> {
    if find_program("rustup").is_none() {
        bail!("no package here can build the kernel programs; with rustup, `{NIGHTLY}` can");
    }
    println!("setup: `{NIGHTLY}`");
    let mut words = NIGHTLY.split_whitespace();
    let program = words.next().unwrap_or_default();
    command::run(Command::new(program).args(words))
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

/// mdbook, on `PATH` or where cargo installs it.
pub fn find_mdbook() -> Option<PathBuf> {
    let installed = || workspace::cargo_home().ok().map(|home| home.join("bin/mdbook"));
    find_program("mdbook").or_else(|| installed().filter(|file| file.is_file()))
}

fn cargo_install(cargo: &mut Command, name: &str, arguments: &[&str]) -> Result<()> {
    println!("setup: installing {name} with cargo, which takes some minutes");
    // Ours: the flags and folders of the task that runs us are not for another crate.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR").env_remove("RUSTUP_TOOLCHAIN");
    command::run(cargo.args(["install", "--quiet", name]).args(arguments)).with_context(|| {
        format!("cannot install {name}: `cargo install {name} {}`", arguments.join(" "))
    })
}
