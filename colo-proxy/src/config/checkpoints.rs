//! How often checkpoints are made, and who may say that a guest takes over.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::limits::Ms;

/// When a COLO-frame that is driven by QMP makes checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// One at least this often, also where the guests never differ.
    pub interval_max: Duration,
    /// None sooner after the last one.
    pub interval_min: Duration,
    /// Space them by how often the guests differ.
    pub adaptive: bool,
    /// At most so far.
    pub spacing_max: Duration,
    /// The longest pause after one that failed.
    pub backoff_max: Duration,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self {
            // As QEMU's x-checkpoint-delay.
            interval_max: Duration::from_secs(20),
            interval_min: Duration::from_millis(10),
            adaptive: false,
            spacing_max: Duration::from_secs(1),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// What has to succeed before one half goes on without the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeover {
    /// Makes sure that the other guest answers nobody any more.
    pub fence: Option<PathBuf>,
    /// Says whether this host is the one that may go on.
    pub quorum: Option<PathBuf>,
    pub timeout: Duration,
}

impl Takeover {
    /// Nobody but an operator decides.
    pub fn is_manual(&self) -> bool {
        self.fence.is_none() && self.quorum.is_none()
    }
}

/// How long a fence or a quorum command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// `[guest.checkpoints]` as it is written.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointsTable {
    interval_max_ms: Option<Ms>,
    interval_min_ms: Option<Ms>,
    adaptive: Option<bool>,
    spacing_max_ms: Option<Ms>,
    backoff_max_ms: Option<Ms>,
}

/// `[guest.takeover]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeoverTable {
    fence: Option<PathBuf>,
    quorum: Option<PathBuf>,
    timeout_ms: Option<Ms>,
}

impl CheckpointsTable {
    pub(super) fn read(self) -> Result<Checkpoints, String> {
        let default = Checkpoints::default();
        let ms = |value: Option<Ms>, otherwise| value.map_or(otherwise, Ms::duration);
        let read = Checkpoints {
            interval_max: ms(self.interval_max_ms, default.interval_max),
            interval_min: ms(self.interval_min_ms, default.interval_min),
            adaptive: self.adaptive.unwrap_or(default.adaptive),
            spacing_max: ms(self.spacing_max_ms, default.spacing_max),
            backoff_max: ms(self.backoff_max_ms, default.backoff_max),
        };
        // QEMU's x-checkpoint-delay has 32 bits, and 0 would be no pause at all.
        let qemus = Duration::from_millis(1)..=Duration::from_millis(u32::MAX.into());
        if !qemus.contains(&read.interval_max) {
            return Err(format!("checkpoints: interval_max_ms is 1 to {}", u32::MAX));
        }
        if read.interval_min > read.interval_max {
            return Err("checkpoints: interval_min_ms is more than interval_max_ms".into());
        }
        if read.spacing_max < read.interval_min || read.spacing_max > read.interval_max {
            return Err(
                "checkpoints: spacing_max_ms is not between interval_min_ms and interval_max_ms"
                    .into(),
            );
        }
        Ok(read)
    }
}

impl TakeoverTable {
    pub(super) fn read(self) -> Result<Takeover, String> {
        let commands = [("fence", &self.fence), ("quorum", &self.quorum)];
        for (name, path) in commands {
            // Neither what is found in PATH nor where the daemon was started may decide.
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(format!("takeover: {name} is not an absolute path"));
            }
        }
        let timeout = self.timeout_ms.map_or(COMMAND_TIMEOUT, Ms::duration);
        if timeout.is_zero() {
            return Err("takeover: timeout_ms is 0, in which no command can succeed".into());
        }
        Ok(Takeover { fence: self.fence, quorum: self.quorum, timeout })
    }
}
