//! Values of a key: numbers of frames and bytes, times, and policies.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use colo_proxy_engine::compare::Policy;

/// A value of a key.
pub(super) trait LimitSetting: Copy {
    type Place;

    /// The number that is compared with the bounds; `None` if there are no bounds.
    fn number(self) -> Option<u64>;
    fn put(self, place: &mut Self::Place);
    fn written(place: &Self::Place) -> String;
}

macro_rules! numbers {
    ($($kind:ty)*) => {$(
        impl LimitSetting for $kind {
            type Place = Self;

            fn number(self) -> Option<u64> {
                Some(self as u64)
            }

            fn put(self, place: &mut Self) {
                *place = self;
            }

            fn written(place: &Self) -> String {
                place.to_string()
            }
        }
    )*};
}

numbers!(u8 u32 usize);

macro_rules! times {
    ($($(#[$doc:meta])* $name:ident: $from:ident, $to:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
        pub(in crate::config) struct $name(u64);

        impl $name {
            pub(in crate::config) fn duration(self) -> Duration {
                Duration::$from(self.0)
            }
        }

        impl LimitSetting for $name {
            type Place = Duration;

            fn number(self) -> Option<u64> {
                Some(self.0)
            }

            fn put(self, place: &mut Duration) {
                *place = self.duration();
            }

            fn written(place: &Duration) -> String {
                place.$to().to_string()
            }
        }
    )*};
}

times! {
    /// Milliseconds.
    Ms: from_millis, as_millis;
    /// Microseconds.
    Us: from_micros, as_micros;
}

/// Seconds, for a limit that is counted in nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(in crate::config) struct Seconds(u64);

impl Seconds {
    const NS: u64 = 1_000_000_000;
}

impl LimitSetting for Seconds {
    type Place = u64;

    fn number(self) -> Option<u64> {
        Some(self.0)
    }

    fn put(self, place: &mut u64) {
        *place = self.0.saturating_mul(Self::NS);
    }

    fn written(place: &u64) -> String {
        (place / Self::NS).to_string()
    }
}

impl LimitSetting for Policy {
    type Place = Self;

    fn number(self) -> Option<u64> {
        None
    }

    fn put(self, place: &mut Self) {
        *place = self;
    }

    fn written(place: &Self) -> String {
        toml::Value::try_from(place).map(|value| value.to_string()).unwrap_or_default()
    }
}
