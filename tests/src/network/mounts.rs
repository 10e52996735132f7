//! The file system that the processes of a host see.

use std::fs::File;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// The mounts of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// A bpffs and a `/run` of its own in a mount namespace of its own. Both hosts can pin under
    /// the same names, and the pins disappear with the lab.
    Private,
    /// The mounts of this machine.
    Shared,
}

/// The mount namespace of a host. It lives as long as the handle.
///
/// `/sys` stays that of this machine. A process that reads counters of links there reads the wrong
/// ones, as in any namespace that another process made.
pub(super) fn make(mounts: Mounts) -> Result<Option<File>> {
    match mounts {
        Mounts::Shared => Ok(None),
        // A thread of its own, because it leaves the mount namespace of this process for good.
        Mounts::Private => match std::thread::spawn(private).join() {
            Ok(handle) => handle.map(Some),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

fn private() -> Result<File> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).context("making the mounts private")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), NONE)
        .context("mounting a bpffs")?;
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("mounting a tmpfs on /run")?;
    File::open("/proc/thread-self/ns/mnt").context("opening the mount namespace")
}
