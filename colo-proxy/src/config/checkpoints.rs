//! How often checkpoints are made, and which commands decide about a takeover.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::limits::Ms;

/// When a COLO-frame that is driven by QMP makes checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// A checkpoint at least this often, also if the guests never differ.
    pub interval_max: Duration,
    /// No checkpoint sooner after the last one.
    pub interval_min: Duration,
    /// Space the checkpoints by how often the guests differ.
    pub adaptive: bool,
    /// The longest distance with `adaptive`.
    pub spacing_max: Duration,
    /// The longest pause after a failed checkpoint.
    pub backoff_max: Duration,
}

impl Default for CheckpointConfig {
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

/// The commands that have to succeed before one half goes on without the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakeoverConfig {
    /// Ends the other guest, and succeeds only if that is certain.
    pub fence: Option<PathBuf>,
    /// Says whether this host may go on.
    pub quorum: Option<PathBuf>,
    /// Time for each command.
    pub timeout: Duration,
}

impl TakeoverConfig {
    /// Only an operator decides.
    pub fn is_manual(&self) -> bool {
        self.fence.is_none() && self.quorum.is_none()
    }
}

/// Time for a fence or quorum command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// QEMU's `x-checkpoint-delay` has 32 bits.
const INTERVAL_MS_MAX: u64 = u32::MAX as u64;

/// `[guest.checkpoints]` as it is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointsTable {
    /// A checkpoint at least this often, also if the guests never differ (QEMU's
    /// `x-checkpoint-delay`).
    #[schemars(range(min = 1, max = INTERVAL_MS_MAX), extend("default" = 20_000))]
    interval_max_ms: Option<Ms>,
    /// No checkpoint sooner after the last one.
    #[schemars(extend("default" = 10, "x-range" = "at most `interval_max_ms`"))]
    interval_min_ms: Option<Ms>,
    /// Space the checkpoints by how often the guests differ.
    #[schemars(extend("default" = false))]
    adaptive: Option<bool>,
    /// The longest distance with `adaptive`.
    #[schemars(extend(
        "default" = 1000,
        "x-range" = "from `interval_min_ms` to `interval_max_ms`"
    ))]
    spacing_max_ms: Option<Ms>,
    /// The longest pause after a failed checkpoint.
    #[schemars(extend("default" = 5000))]
    backoff_max_ms: Option<Ms>,
}

/// `[guest.takeover]` as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeoverTable {
    /// Command that ends the other guest, and succeeds only if that is certain.
    #[schemars(regex(pattern = "^/"), extend("x-type" = "absolute path"))]
    fence: Option<PathBuf>,
    /// Command that says whether this host may go on.
    #[schemars(regex(pattern = "^/"), extend("x-type" = "absolute path"))]
    quorum: Option<PathBuf>,
    /// Time for each command; then it is ended, and counts as a refusal.
    #[schemars(range(min = 1), extend("default" = 10_000))]
    timeout_ms: Option<Ms>,
}

impl CheckpointsTable {
    pub(super) fn read(self) -> Result<CheckpointConfig, String> {
        let default = CheckpointConfig::default();
        let ms = |value: Option<Ms>, otherwise| value.map_or(otherwise, Ms::duration);
        let read = CheckpointConfig {
            interval_max: ms(self.interval_max_ms, default.interval_max),
            interval_min: ms(self.interval_min_ms, default.interval_min),
            adaptive: self.adaptive.unwrap_or(default.adaptive),
            spacing_max: ms(self.spacing_max_ms, default.spacing_max),
            backoff_max: ms(self.backoff_max_ms, default.backoff_max),
        };
        // With 0 there would be no pause between checkpoints.
        let qemus = Duration::from_millis(1)..=Duration::from_millis(INTERVAL_MS_MAX);
        if !qemus.contains(&read.interval_max) {
            return Err(format!("checkpoints: interval_max_ms must be 1 to {INTERVAL_MS_MAX}"));
        }
        if read.interval_min > read.interval_max {
            return Err("checkpoints: interval_min_ms must be at most interval_max_ms".into());
        }
        if read.spacing_max < read.interval_min || read.spacing_max > read.interval_max {
            return Err(
                "checkpoints: spacing_max_ms must lie between interval_min_ms and interval_max_ms"
                    .into(),
            );
        }
        Ok(read)
    }
}

impl TakeoverTable {
    pub(super) fn read(self) -> Result<TakeoverConfig, String> {
        let commands = [("fence", &self.fence), ("quorum", &self.quorum)];
        for (name, path) in commands {
            // Neither PATH nor the daemon's working directory may decide which command runs.
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(format!("takeover: {name} must be an absolute path"));
            }
        }
        let timeout = self.timeout_ms.map_or(COMMAND_TIMEOUT, Ms::duration);
        if timeout.is_zero() {
            return Err("takeover: timeout_ms must be above 0, or no command can succeed".into());
        }
        Ok(TakeoverConfig { fence: self.fence, quorum: self.quorum, timeout })
    }
}
