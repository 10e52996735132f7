//! How many connections the kernel's tables hold, and for how long.

use std::time::Duration;

use super::AgeLimits;

/// Sizes and times of one instance. A leftover that is taken over keeps its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationLimits {
    /// Connections that are translated, and in which the guest has spoken (`flows`).
    pub flows_max: u32,
    /// Connections that are translated, and in which it has not (`unconfirmed`).
    pub unconfirmed_max: u32,
    /// Connections that are being opened (`half_open`).
    pub half_open_max: u32,
    pub age: AgeLimits,
    /// Time between two looks at the age of what is in `flows`.
    pub ageing_interval: Duration,
}

impl Default for TranslationLimits {
    fn default() -> Self {
        Self {
            flows_max: 65_536,
            unconfirmed_max: 16_384,
            half_open_max: 16_384,
            age: AgeLimits::default(),
            ageing_interval: Duration::from_secs(5),
        }
    }
}

impl TranslationLimits {
    /// The sizes, by the names of the maps.
    pub(super) fn sizes(&self) -> [(&'static str, u32); 3] {
        [
            ("flows", self.flows_max),
            ("unconfirmed", self.unconfirmed_max),
            ("half_open", self.half_open_max),
        ]
    }
}
