//! The flag for the directory of what a daemon remembers.

use std::path::PathBuf;

/// Where a daemon remembers who serves.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct StateDir {
    /// Directory in which the daemon remembers who serves, in one directory for each instance. It has to
    /// be on a disk that keeps it when the host goes down
    #[arg(
        long = "state-dir",
        value_name = "DIR",
        env = "STATE_DIRECTORY",
        default_value = "/var/lib/colo-proxy"
    )]
    pub(super) path: PathBuf,
}
