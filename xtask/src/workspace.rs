//! The folders of the workspace, of its target and of cargo's home.

use anyhow::{Context as _, Result};
use std::env;
use std::path::{Path, PathBuf};

/// The folder of the workspace's `Cargo.toml`.
pub fn root() -> Result<PathBuf> {
    // Cargo also sets the variable at run time. The compiled-in value is for a binary that was
    // started by hand. It names the folder where the binary was built.
    let crate_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = crate_dir.parent().context("the xtask crate is in no workspace")?;
    root.canonicalize().with_context(|| format!("cannot find the workspace at {}", root.display()))
}

/// The folder where cargo builds: `CARGO_TARGET_DIR`, or `target` in the workspace.
pub fn target_dir(root: &Path) -> PathBuf {
    // Cargo reads a relative folder against the folder it runs in, which is the root here.
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Cargo's home, with the sources of the dependencies.
pub fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// The cargo that started this program.
pub fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Whether this process is root. The lab needs root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of our own entry in /proc is our effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
