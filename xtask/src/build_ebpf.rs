//! `build-ebpf`: builds the kernel programs reproducibly into the object that the daemon embeds.
//!
//! The object is committed, so `cargo build` and `cargo install` need no eBPF toolchain. A record
//! beside it names the toolchain and the sources. `--check` shows that the object belongs to the
//! sources. With the recorded toolchain it compares the bytes. With another toolchain it runs the
//! programs' own tests on a fresh object.

pub mod record;
mod sources;
pub mod toolchain;

use crate::{command, workspace};
use anyhow::{Context as _, Result, bail};
use record::Record;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};
use toolchain::Toolchain;

/// The committed object.
const OBJECT: &str = "colo-proxy/src/datapath/colo-proxy.bpf.o";
/// The record of its toolchain and sources.
const RECORD: &str = "colo-proxy/src/datapath/colo-proxy.bpf.toolchain";
/// The programs' tests load this object instead of the embedded one.
const OBJECT_VARIABLE: &str = "COLO_PROXY_BPF_OBJECT";
/// In this form, cargo-clippy passes `-D warnings` to the driver.
const CLIPPY_ARGUMENTS: &str = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";
const TARGET: &str = "bpfel-unknown-none";

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct BuildOptions {
    /// Change nothing. Fail if the committed object does not belong to the sources.
    #[arg(long)]
    check: bool,
}

/// `build-ebpf --check`, as a test runs it.
pub const CHECK: BuildOptions = BuildOptions { check: true };

pub fn run(options: &BuildOptions) -> Result<()> {
    let root = workspace::root()?;
    let committed = Record::read(&root.join(RECORD))?;
    let toolchain = toolchain::find(committed.as_ref().map(|record| &record.toolchain))?;
    println!("build-ebpf: {toolchain}");
    let object = build(&root, &toolchain)?;
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let record = Record {
        toolchain: toolchain.identity.clone(),
        sources: sources::digest(&root)?,
        object: command::sha256(&bytes)?,
    };
    if options.check {
        let committed = committed.with_context(|| {
            format!("there is no {RECORD}: run `cargo xtask build-ebpf` and commit both files")
        })?;
        return check(&root, &committed, &record, &object);
    }
    fs::write(root.join(OBJECT), &bytes).with_context(|| format!("cannot write {OBJECT}"))?;
    record.write(&root.join(RECORD))?;
    println!("build-ebpf: wrote {OBJECT} ({} bytes)", bytes.len());
    Ok(())
}

/// Compares the fresh build with the committed files.
fn check(root: &Path, committed: &Record, fresh: &Record, object: &Path) -> Result<()> {
    let bytes = fs::read(root.join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    committed.verify(&command::sha256(&bytes)?, fresh)?;
    if committed.toolchain == fresh.toolchain {
        println!("build-ebpf: the sources give the committed object, byte for byte");
        return Ok(());
    }
    println!(
        "build-ebpf: this is not the recorded toolchain, so the bytes are not compared. The \
         programs' tests run on the fresh object instead"
    );
    if !workspace::is_root() {
        bail!("the programs' tests need root: run this as root, or use the recorded toolchain");
    }
    command::run(
        Command::new(workspace::cargo())
            .args(["test", "--locked", "-p", "colo-proxy-tests", "--test", "programs"])
            .args(["--", "--test-threads=1"])
            .env(OBJECT_VARIABLE, object)
            .env("COLO_PROXY_REQUIRE_ROOT", "1")
            .current_dir(root),
    )
}

/// Builds the object into the target folder and returns its path.
fn build(root: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    command::run(&mut cargo("build", root, toolchain)?)?;
    let built = target_dir(root).join(TARGET).join("release/colo-proxy-ebpf");
    let object = built.with_extension("bpf.o");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let bytes = without_debug_sections(&bytes)
        .with_context(|| format!("cannot strip {}", built.display()))?;
    fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
    Ok(object)
}

/// Removes DWARF from the object. The linker has made the BTF from it, so it is not needed any
/// more. The result has a fifth of the size.
fn without_debug_sections(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut elf = object::build::elf::Builder::read(bytes)?;
    for section in &mut elf.sections {
        let name = String::from_utf8_lossy(&section.name).into_owned();
        section.delete = name.starts_with(".debug") || name.starts_with(".rel.debug");
    }
    // LLVM keeps the names of sections among the other strings. The writer needs them in a section
    // of their own.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

/// Runs clippy on the kernel programs, if their compiler has one.
pub fn clippy(root: &Path) -> Result<()> {
    let driver = toolchain::find(None).ok().and_then(|toolchain| {
        let driver = toolchain.compiler.rustc.with_file_name("clippy-driver");
        driver.exists().then_some((toolchain, driver))
    });
    let Some((toolchain, driver)) = driver else {
        println!(
            "lint: the kernel programs are not linted, because their compiler has no clippy here"
        );
        return Ok(());
    };
    let mut cargo = cargo("check", root, &toolchain)?;
    // The same as `cargo clippy -- -D warnings`, which would use the driver of another compiler.
    cargo.env("RUSTC_WORKSPACE_WRAPPER", driver).env("CLIPPY_ARGS", CLIPPY_ARGUMENTS);
    command::run(&mut cargo)
}

/// The target folder of the kernel programs. The other crates have another compiler, and another
/// folder.
fn target_dir(root: &Path) -> PathBuf {
    workspace::target_dir(root).join("ebpf")
}

/// Cargo with the arguments to do `task` with the kernel programs.
fn cargo(task: &str, root: &Path, toolchain: &Toolchain) -> Result<Command> {
    let mut cargo = Command::new(&toolchain.compiler.cargo);
    cargo
        .args([task, "--release", "--locked", "-Zbuild-std=core", "--target", TARGET])
        .args(["--package", "colo-proxy-ebpf", "--target-dir"])
        .arg(target_dir(root))
        .env("RUSTC", &toolchain.compiler.rustc)
        .env("PATH", search_path(&toolchain.linker)?)
        // A compiler that is no nightly builds `core` only with this permission.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, toolchain)?.join("\x1f"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .current_dir(root);
    Ok(cargo)
}

/// `PATH` with the linker's folder. If cargo had the linker's path, the path would change the
/// hashes of all symbols, and so the object.
fn search_path(linker: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folder = linker.parent().map(Path::to_owned);
    env::join_paths(env::split_paths(&path).chain(folder)).context("cannot extend PATH")
}

/// The compiler's flags. Debug information carries the names of maps and records into the BTF. It
/// also carries every path of this machine. The flags replace the paths, so that the object is the
/// same on every machine.
fn flags(root: &Path, toolchain: &Toolchain) -> Result<Vec<String>> {
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    let mut remap = |from: &Path, to: &str| -> Result<()> {
        let from = from.to_str().with_context(|| format!("{} is no UTF-8", from.display()))?;
        flags.push(format!("--remap-path-prefix={from}={to}"));
        Ok(())
    };
    remap(root, "/colo-proxy")?;
    remap(&toolchain.compiler.library, "/rust/library")?;
    if let Ok(resolved) = toolchain.compiler.library.canonicalize() {
        remap(&resolved, "/rust/library")?;
    }
    for registry in registries()? {
        remap(&registry, "/crates")?;
    }
    Ok(flags)
}

/// The folders of the registries' unpacked crates. Their names depend on the way to the registry.
fn registries() -> Result<Vec<PathBuf>> {
    let sources = workspace::cargo_home()?.join("registry/src");
    let listed = fs::read_dir(&sources)
        .with_context(|| format!("cannot list the crates' sources in {}", sources.display()))?;
    let mut found = Vec::new();
    for entry in listed {
        found.push(entry.with_context(|| format!("cannot list {}", sources.display()))?.path());
    }
    found.sort();
    Ok(found)
}
