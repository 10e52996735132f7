//! The sizes of the kernel's tables of connections, and the times for which entries stay.

use std::time::Duration;

use super::AgeLimits;

/// Sizes and times of one instance. The tables of a leftover stay at their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationLimits {
    /// Translated connections in which the guest has sent something of its own (`flows`).
    pub flows_max: u32,
    /// Translated connections in which it has not (`unconfirmed`).
    pub unconfirmed_max: u32,
    /// Connections in the middle of their opening (`half_open`).
    pub half_open_max: u32,
    pub age: AgeLimits,
    /// Time between two looks at the age of the connections.
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
