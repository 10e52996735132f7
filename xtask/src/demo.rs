//! `demo`: shows the main job in a lab of network namespaces.

use crate::setup::{self, Need};
use crate::{command, workspace};
use anyhow::{Context as _, Result, bail};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

#[derive(Debug, clap::Args)]
pub struct DemoTaskOptions {
    /// Print a plain log, as if the output were no terminal.
    #[arg(long)]
    plain: bool,
    /// Use real guests, in QEMU under COLO.
    #[arg(long)]
    qemu: bool,
}

/// Builds what the demonstration needs, and then becomes it. So the exit status and the signals are
/// the demonstration's.
pub fn run(options: &DemoTaskOptions) -> Result<()> {
    let root = workspace::root()?;
    let error = prepare(&root, options)?.exec();
    Err(error).context("cannot start the demonstration")
}

/// The demonstration, built and ready to start.
pub fn prepare(root: &Path, options: &DemoTaskOptions) -> Result<Command> {
    if !workspace::is_root() {
        bail!(
            "the demonstration makes network namespaces and loads kernel programs: run this as root"
        );
    }
    setup::ensure(options.needs())?;
    if options.qemu {
        // This comes before the build, because not every machine can have one.
        setup::colo_qemu()?;
    }
    command::run(
        Command::new(workspace::cargo())
            .args(["build", "--release", "--locked", "--bins"])
            .args(["--package", "colo-proxy", "--package", "colo-proxy-tests"])
            .current_dir(root),
    )?;
    let programs = workspace::target_dir(root).join("release");
    let mut demo = Command::new(programs.join("demo"));
    demo.env("COLO_PROXY_BIN", programs.join("colo-proxy")).current_dir(root);
    if options.plain {
        demo.arg("--plain");
    }
    if options.qemu {
        demo.arg("--qemu").arg(setup::cache()?);
    }
    Ok(demo)
}

impl DemoTaskOptions {
    /// The demonstration with real guests, as a test runs it.
    pub fn plain_qemu() -> Self {
        Self { qemu: true, ..Self::plain() }
    }

    /// The demonstration as a test runs it.
    pub fn plain() -> Self {
        Self { plain: true, qemu: false }
    }

    fn needs(&self) -> &'static [Need] {
        if self.qemu { &[Need::Lab, Need::Qemu] } else { &[Need::Lab] }
    }
}
