//! The compiler and the linker of the kernel programs. The compiler must have the source of `core`.
//!
//! Rust ships no `core` for the BPF target, so `core` is also built, from the source of exactly the
//! compiler's version. rustup's nightly has the source with the component rust-src, and Debian's
//! rustc-web with the package rust-web-src.

use super::record::Identity;
use crate::command::{self, find_program};
use crate::workspace;
use anyhow::{Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's compiler, by its full path. If rustup is installed, `rustc` alone is rustup's.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";
/// The oldest compiler that builds the workspace, `rust-version` in its Cargo.toml.
const OLDEST: (u32, u32) = (1, 95);

/// A compiler, its `core`, and the cargo and linker that belong to it.
#[derive(Debug)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: PathBuf,
    pub identity: Identity,
}

/// A compiler that has the source of its own library.
#[derive(Debug)]
pub struct Compiler {
    /// The compiler's owner, for messages.
    pub owner: &'static str,
    pub rustc: PathBuf,
    pub cargo: PathBuf,
    /// The source of the standard library.
    pub library: PathBuf,
    version: String,
    llvm: String,
    cargo_version: String,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { rustc, llvm, linker, .. } = &self.identity;
        write!(f, "{}: {rustc}, LLVM {llvm}, {linker}", self.compiler.owner)
    }
}

/// Finds a toolchain. The one of `recorded` comes first.
pub fn find(recorded: Option<&Identity>) -> Result<Toolchain> {
    let Some(linker) = find_linker() else {
        bail!("bpf-linker is missing: run `cargo xtask setup ebpf`");
    };
    let linker_version = command::output(Command::new(&linker).arg("--version"))?;
    let mut found: Vec<Toolchain> = compilers()
        .into_iter()
        .map(|compiler| Toolchain {
            identity: Identity {
                rustc: compiler.version.clone(),
                llvm: compiler.llvm.clone(),
                cargo: compiler.cargo_version.clone(),
                linker: linker_version.clone(),
            },
            linker: linker.clone(),
            compiler,
        })
        .collect();
    if found.is_empty() {
        bail!(
            "no Rust compiler (1.{} or newer) with the source of its core library: run `cargo \
             xtask setup ebpf`",
            OLDEST.1
        );
    }
    let at = recorded.and_then(|identity| found.iter().position(|t| t.identity == *identity));
    Ok(found.swap_remove(at.unwrap_or(0)))
}

/// The linker, from cargo's folder or from `PATH`.
pub fn find_linker() -> Option<PathBuf> {
    let installed = workspace::cargo_home().ok()?.join("bin/bpf-linker");
    find_program("bpf-linker").or_else(|| installed.exists().then_some(installed))
}

/// The compilers that can build `core`, the preferred one first.
pub fn compilers() -> Vec<Compiler> {
    let rustup = |arguments: &[&str]| {
        command::output(Command::new("rustup").args(["which", "rustc"]).args(arguments)).ok()
    };
    let candidates = [
        ("rustup's nightly", rustup(&["--toolchain", "nightly"])),
        ("the distribution's rustc", Some(DISTRIBUTION_RUSTC.to_owned())),
        ("rustup's default", rustup(&[])),
    ];
    candidates
        .into_iter()
        .filter_map(|(owner, rustc)| probe(owner, Path::new(rustc.as_ref()?)))
        .collect()
}

/// The compiler `rustc`, if it exists, is new enough, and has the source of its own library.
fn probe(owner: &'static str, rustc: &Path) -> Option<Compiler> {
    let verbose = command::output(Command::new(rustc).arg("-vV")).ok()?;
    let sysroot = command::output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    let library = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
    if !library.join("core/Cargo.toml").exists() || !is_new_enough(field(&verbose, "release")?) {
        return None;
    }
    // A rustup toolchain contains the cargo that knows its unstable flags. Debian's has none.
    let own = rustc.with_file_name("cargo");
    let cargo = if own.exists() { own } else { workspace::cargo() };
    Some(Compiler {
        owner,
        rustc: rustc.to_owned(),
        library,
        version: verbose.lines().next()?.to_owned(),
        llvm: field(&verbose, "LLVM version")?.to_owned(),
        cargo_version: command::output(Command::new(&cargo).arg("-V")).ok()?,
        cargo,
    })
}

/// The value of `name: value` in what `rustc -vV` prints.
fn field<'a>(verbose: &'a str, name: &str) -> Option<&'a str> {
    verbose.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn is_new_enough(release: &str) -> bool {
    let mut parts = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= OLDEST
}

#[cfg(test)]
mod tests {
    use super::{field, is_new_enough};

    const VERBOSE: &str = "rustc 1.96.0 (abc 2026-05-25)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn reads_the_fields_of_rustc() {
        assert_eq!(field(VERBOSE, "release"), Some("1.96.0"));
        assert_eq!(field(VERBOSE, "LLVM version"), Some("22.1.8"));
        assert_eq!(field(VERBOSE, "host"), None);
    }

    #[test]
    fn refuses_a_compiler_that_is_too_old() {
        assert!(
            is_new_enough("1.95.0") && is_new_enough("1.97.0-nightly") && is_new_enough("2.0.0")
        );
        assert!(!is_new_enough("1.94.1") && !is_new_enough("") && !is_new_enough("one"));
    }
}
