//! The guests' kernel: Debian's cloud kernel, taken out of its package without installing it.

use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that always depends on the current kernel.
const CURRENT: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct GuestKernel {
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
}

impl GuestKernel {
    /// The kernel in `cache`. It is downloaded and unpacked if it is missing.
    pub fn fetch(cache: &Path) -> Result<Self> {
        let unpacked = cache.join("kernel");
        if !unpacked.exists() {
            // The folder is moved into place when it is complete, so that an interrupted run leaves
            // nothing that looks like a kernel.
            let partial = cache.join(format!("kernel.{}", std::process::id()));
            fs::create_dir_all(&partial).with_context(|| at("create", &partial))?;
            let package = download(cache)?;
            run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&partial))?;
            if fs::rename(&partial, &unpacked).is_err() && !unpacked.exists() {
                bail!("cannot move the kernel to {}", unpacked.display());
            }
        }
        Self::find(&unpacked)
    }

    fn find(unpacked: &Path) -> Result<Self> {
        let image = entry(&unpacked.join("boot"), "vmlinuz-")?;
        let modules = entry(&unpacked.join("lib/modules"), "")?.join("kernel");
        Ok(Self { image, modules })
    }
}

/// Downloads the package and returns its path.
fn download(cache: &Path) -> Result<PathBuf> {
    let name = if let Ok(name) = current() {
        name
    } else {
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        current()?
    };
    run(Command::new("apt-get")
        // The user of apt's downloads cannot write to our folder.
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download", &name])
        .current_dir(cache))?;
    entry(cache, &format!("{name}_"))
}

/// The name of the current kernel's package.
fn current() -> Result<String> {
    let listed = run(Command::new("apt-cache").args(["depends", CURRENT]))?;
    listed
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::to_owned)
        .with_context(|| format!("no kernel behind the package {CURRENT}"))
}

/// The one entry of `folder` whose name starts with `prefix`.
fn entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    for found in fs::read_dir(folder).with_context(|| at("list", folder))? {
        let found = found.with_context(|| at("list", folder))?;
        if found.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(found.path());
        }
    }
    bail!("there is no {prefix}* in {}", folder.display())
}

/// Runs `command` and returns its output.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("starting {command:?}"))?;
    if !done.status.success() {
        bail!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn at(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}
