//! What `status` shows of the thread of an instance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often the thread stayed awake for the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BusyPollReport {
    /// Times that it stayed awake.
    pub windows: u64,
    /// Times that a frame arrived meanwhile.
    pub hits: u64,
}
