//! The QEMU that runs a guest. A guest that nobody copies runs in any release. COLO needs a newer
//! release than most distributions have ([`OLDEST`]).

mod debian;
mod release;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::program;
pub use release::{OLDEST, Release};

const NAME: &str = "qemu-system-x86_64";
/// This variable names the program for COLO.
const VARIABLE: &str = "COLO_LAB_QEMU_COLO";

/// How to start the program.
#[derive(Clone, Debug)]
pub struct Emulator {
    program: PathBuf,
    /// The first arguments.
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

impl Emulator {
    /// The QEMU of this machine, of any release.
    pub fn installed() -> Self {
        let found = program(NAME, "COLO_LAB_QEMU");
        Self::of(found.unwrap_or_else(|_| NAME.into()))
    }

    /// A QEMU that can do COLO: the one that `COLO_LAB_QEMU_COLO` names, this machine's, or one
    /// that is downloaded into `cache`. The error is one sentence with the reason why there is
    /// none.
    pub fn with_colo(cache: &Path) -> Result<Self> {
        if let Some(named) = std::env::var_os(VARIABLE) {
            let named = Self::of(named.into());
            let release = named.release().with_context(|| format!("{VARIABLE} names no QEMU"))?;
            ensure!(release >= OLDEST, "{VARIABLE} names QEMU {release}: COLO needs {OLDEST}");
            return Ok(named);
        }
        let installed = Self::installed();
        let release = installed.release();
        if release.as_ref().is_ok_and(|release| *release >= OLDEST) {
            return Ok(installed);
        }
        debian::bring(cache).with_context(|| {
            let here = release.map_or("no QEMU is installed".to_owned(), |release| {
                format!("the installed one is {release}")
            });
            format!("QEMU {OLDEST} cannot be had: {here}")
        })
    }

    fn of(program: PathBuf) -> Self {
        Self { program, arguments: Vec::new(), environment: Vec::new() }
    }

    /// The command, without the arguments of a guest.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// The release that it reports.
    pub fn release(&self) -> Result<Release> {
        let said = run(self.command().arg("--version"))?;
        Release::read(&said).with_context(|| {
            format!("no version of QEMU in `{}`", said.lines().next().unwrap_or_default())
        })
    }
}

/// Runs `command` and returns its output. If it fails, the last line of its stderr is the reason.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| format!("{name} does not start"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let reason = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason");
        bail!("{name} failed ({}): {reason}", done.status);
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
