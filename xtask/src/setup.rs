//! `setup`: installs missing programs, by need.
//!
//! On Debian and its relatives, it installs with apt-get and cargo. If they have no compiler for
//! the kernel programs, it uses rustup. On other systems, or without the rights, it prints the
//! commands.

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

/// The version of bpf-linker that built the committed object.
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
/// This command installs a compiler for the kernel programs if the distribution has none.
const NIGHTLY: &str = "rustup toolchain install nightly --profile minimal --component rust-src";
/// This command installs rustfmt and clippy.
const COMPONENTS: &str = "rustup component add rustfmt clippy";
/// The folder of the LLVM that [`packages::EBPF`] installs.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

#[derive(Debug, clap::Args)]
pub struct SetupOptions {
    /// The needs to prepare for; all of them by default.
    needs: Vec<Need>,
}

/// A purpose for which programs are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Need {
    /// The lab of namespaces, for the demonstration and most tests.
    Lab,
    /// Tests that look into the kernel with bpftool.
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
            Self::Lab => "for the lab of namespaces",
            Self::Inspect => "for tests that look into the kernel",
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

pub fn run(options: &SetupOptions) -> Result<()> {
    let needs = if options.needs.is_empty() { &ALL[..] } else { &options.needs };
    ensure(needs)?;
    let colo = if needs.contains(&Need::Colo) { colo_qemu() } else { Ok(()) };
    match colo {
        Err(reason) if options.needs.contains(&Need::Colo) => return Err(reason),
        // Only the tests that need it do not run.
        Err(reason) => println!("setup: {reason:#}\nsetup: everything else is installed"),
        Ok(()) => println!("setup: everything is installed"),
    }
    Ok(())
}

/// Looks for a QEMU that can do COLO. If none is installed, it is downloaded into the target
/// folder. The error is one sentence.
pub fn colo_qemu() -> Result<()> {
    Emulator::with_colo(&cache()?).map(drop)
}

/// The folder of that QEMU and of the other parts of real guests.
pub fn cache() -> Result<PathBuf> {
    Ok(workspace::target_dir(&workspace::root()?).join("lab-cache"))
}

/// Installs the missing programs of `needs`, except for [`colo_qemu`], which is in no package of
/// this machine. If nothing is missing, it does not use the network.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing = Missing::of(needs);
    if missing == Missing::default() {
        return Ok(());
    }
    if !packages::is_debian() {
        bail!(
            "setup installs programs only on Debian and its relatives. Install these by hand:\n{missing}"
        );
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
    // If the release is too old to have LLVM, bpf-linker builds with an LLVM of its own.
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
        bail!("no compiler can build the kernel programs: `{NIGHTLY}` installs one");
    }
    Ok(())
}

/// rustfmt and clippy belong to the compiler that the user chose, so the user adds them.
pub fn ensure_components() -> Result<()> {
    if !has_components() {
        bail!("rustfmt or clippy is missing: run `{COMPONENTS}`");
    }
    Ok(())
}

fn has_components() -> bool {
    ["fmt", "clippy"].iter().all(|task| {
        command::output(Command::new(workspace::cargo()).args([task, "--version"])).is_ok()
    })
}

/// Installs a compiler for the kernel programs where the distribution has none.
fn install_nightly() -> Result<()> {
    if find_program("rustup").is_none() {
        bail!(
            "no package here can build the kernel programs. Install rustup, then run `{NIGHTLY}`"
        );
    }
    println!("setup: `{NIGHTLY}`");
    let mut words = NIGHTLY.split_whitespace();
    let program = words.next().unwrap_or_default();
    command::run(Command::new(program).args(words))
}

/// Installs bpf-linker, with the LLVM of Debian's package if there is one, and otherwise with its
/// own.
fn install_linker() -> Result<()> {
    let mut cargo = Command::new(workspace::cargo());
    let mut arguments = vec!["--version", LINKER_VERSION, "--locked"];
    if Path::new(LLVM_PREFIX).exists() {
        // Without the variable, its build script looks for LLVM in a folder that Debian does not
        // use.
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
    println!("setup: cargo installs {name}. This takes some minutes");
    // The flags and folders of the running task are not for another crate.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR").env_remove("RUSTUP_TOOLCHAIN");
    command::run(cargo.args(["install", "--quiet", name]).args(arguments)).with_context(|| {
        format!("cannot install {name}: run `cargo install {name} {}`", arguments.join(" "))
    })
}
