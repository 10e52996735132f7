//! The keys of `[guest.limits]`, with their bounds.
//!
//! One table makes them, so that none can be read and not be listed, or the other way round.
//! docs/reference/limits.md says for each which counter shows that it bites, and a test holds the
//! two together.

use serde::Deserialize;

use super::Limits;
use super::setting::{Ms, Seconds, Setting, Us};
use colo_proxy_engine::compare::Policy;
use colo_proxy_engine::pair::Role;

/// A limit as an operator knows it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    /// The role that it is for; `None` is both.
    pub role: Option<Role>,
    /// The value without a configuration, as it would be written there.
    pub default: fn() -> String,
}

const COUNT_MAX: u64 = 1 << 24;
/// A tebibyte.
const BYTES_MAX: u64 = 1 << 40;
/// A day.
const MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// A year.
const S_MAX: u64 = 365 * 24 * 60 * 60;
/// A thread that polls for longer might as well never sleep.
const BUSY_POLL_US_MAX: u64 = 1000;
/// Two of the longest frames: one that is written, and one that waits.
const TWO_FRAMES: u64 = 2 * colo_proxy_engine::frame::FRAME_MAX as u64;

/// `key: type, role, smallest..=largest => place in [`Limits`]`.
macro_rules! limits {
    ($($key:ident: $kind:ty, $role:ident, $min:expr, $max:expr => $($place:ident).+;)*) => {
        /// `[guest.limits]` as it is written.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(in crate::config) struct LimitsTable {
            $(pub(in crate::config) $key: Option<$kind>,)*
        }

        /// All keys.
        pub const KEYS: &[Key] = &[$(Key {
            name: stringify!($key),
            role: role::$role,
            default: || <$kind as Setting>::written(&Limits::default().$($place).+),
        },)*];

        impl LimitsTable {
            /// What is written, over the defaults; or why not.
            pub(in crate::config) fn read(&self, of: Role) -> Result<Limits, String> {
                let mut limits = Limits::default();
                $(if let Some(value) = self.$key {
                    let key = stringify!($key);
                    is_for(key, role::$role, of)?;
                    is_within(key, value.number(), $min, $max)?;
                    value.put(&mut limits.$($place).+);
                })*
                self.relate(&mut limits)?;
                Ok(limits)
            }
        }
    };
}

/// Whose a key is.
mod role {
    use super::Role;

    pub(super) const BOTH: Option<Role> = None;
    pub(super) const PRIMARY: Option<Role> = Some(Role::Primary);
    pub(super) const SECONDARY: Option<Role> = Some(Role::Secondary);
}

limits! {
    secondary_timeout_ms: Ms, BOTH, 1, MS_MAX => peer.timeout;
    mirror_queue_bytes: usize, BOTH, TWO_FRAMES, BYTES_MAX => peer.queue_bytes;
    gate_queue_frames: u32, BOTH, 64, COUNT_MAX => peer.gate_queue_frames;
    guest_queue_frames: u32, BOTH, 1, COUNT_MAX => peer.guest_queue_frames;
    busy_poll_us: Us, BOTH, 0, BUSY_POLL_US_MAX => peer.busy_poll;
    digest_bytes_max: usize, BOTH, TWO_FRAMES, BYTES_MAX => digest.bytes_max;

    flows_max: usize, PRIMARY, 1, COUNT_MAX => compare.flows_max;
    flow_idle_ms: Ms, PRIMARY, 1, MS_MAX => compare.flow_idle;
    held_frames_max: usize, PRIMARY, 1, COUNT_MAX => compare.frames_max;
    held_bytes_max: usize, PRIMARY, 1, BYTES_MAX => compare.bytes_max;
    flow_frames_max: usize, PRIMARY, 1, COUNT_MAX => compare.flow_frames_max;
    flow_bytes_max: usize, PRIMARY, 1, BYTES_MAX => compare.flow_bytes_max;
    compare_timeout_ms: Ms, PRIMARY, 1, MS_MAX => compare.compare_timeout;
    request_retry_ms: Ms, PRIMARY, 1, MS_MAX => compare.request_retry;
    zero_window_timeout_ms: Ms, PRIMARY, 1, MS_MAX => compare.zero_window_timeout;
    datagram_grace_ms: Ms, PRIMARY, 1, MS_MAX => compare.datagram_grace;
    datagram_grace_count: usize, PRIMARY, 0, COUNT_MAX => compare.datagram_grace_count;
    fragment_timeout_ms: Ms, PRIMARY, 1, MS_MAX => compare.fragment_timeout;
    fragment_packets_max: usize, PRIMARY, 1, COUNT_MAX => compare.fragment_packets_max;
    fragment_bytes_max: usize, PRIMARY, 1, BYTES_MAX => compare.fragment_bytes_max;
    fragment_source_packets_max: usize, PRIMARY, 1, COUNT_MAX => compare.fragment_source_packets_max;
    fragment_source_bytes_max: usize, PRIMARY, 1, BYTES_MAX => compare.fragment_source_bytes_max;
    on_malformed: Policy, PRIMARY, 0, 0 => compare.on_malformed;
    on_uncompared: Policy, PRIMARY, 0, 0 => compare.on_uncompared;
    divergences_max: usize, PRIMARY, 1, COUNT_MAX => compare.divergences_max;
    divergence_frames_bytes: usize, PRIMARY, 0, BYTES_MAX => compare.divergence_frames_bytes;
    context_bytes: usize, PRIMARY, 0, 1024 => compare.context_bytes;
    unsorted_frames_max: usize, PRIMARY, 1, COUNT_MAX => unsorted.frames_max;
    unsorted_bytes_max: usize, PRIMARY, 1, BYTES_MAX => unsorted.bytes_max;
    digest_frames_max: usize, PRIMARY, 1, COUNT_MAX => digest.frames_max;

    held_input_frames_max: usize, SECONDARY, 1, COUNT_MAX => input.frames_max;
    held_input_bytes_max: usize, SECONDARY, 1, BYTES_MAX => input.bytes_max;
    held_input_ms: Ms, SECONDARY, 1, MS_MAX => input.patience;
    stopped_input_bytes_max: usize, SECONDARY, TWO_FRAMES, BYTES_MAX => input.stopped_bytes_max;
    repeat_frames_max: usize, SECONDARY, 1, COUNT_MAX => repeat.frames_max;
    repeat_bytes_max: usize, SECONDARY, 1, BYTES_MAX => repeat.bytes_max;
    repeat_flow_frames_max: usize, SECONDARY, 1, COUNT_MAX => repeat.flow_frames_max;
    repeat_flow_bytes_max: usize, SECONDARY, 1, BYTES_MAX => repeat.flow_bytes_max;
    repeat_after_ms: Ms, SECONDARY, 1, MS_MAX => repeat.patience;
    repeat_pause_max_ms: Ms, SECONDARY, 1, MS_MAX => repeat.patience_max;
    repeat_give_up_ms: Ms, SECONDARY, 1, MS_MAX => repeat.give_up;
    repeat_burst_frames: usize, SECONDARY, 1, COUNT_MAX => repeat.burst;
    connections_max: u32, SECONDARY, 1, COUNT_MAX => translation.flows_max;
    connections_unconfirmed_max: u32, SECONDARY, 1, COUNT_MAX => translation.unconfirmed_max;
    connections_opening_max: u32, SECONDARY, 1, COUNT_MAX => translation.half_open_max;
    connections_full_percent: u8, SECONDARY, 1, 100 => translation.age.full_percent;
    connection_closed_s: Seconds, SECONDARY, 1, S_MAX => translation.age.closed_ns;
    connection_reset_s: Seconds, SECONDARY, 1, S_MAX => translation.age.reset_ns;
    connection_idle_s: Seconds, SECONDARY, 1, S_MAX => translation.age.idle_ns;
    connection_pressed_idle_s: Seconds, SECONDARY, 1, S_MAX => translation.age.pressed_idle_ns;
    connections_checkpoint_wait_s: Seconds, SECONDARY, 1, S_MAX => translation.age.checkpoint_patience_ns;
    connections_forgotten_max: usize, SECONDARY, 1, COUNT_MAX => translation.age.victims_max;
    connections_look_ms: Ms, SECONDARY, 1, MS_MAX => translation.ageing_interval;
}

impl LimitsTable {
    /// Takes a key that may also stand beside the guest's other ones, where the most used have been
    /// from the beginning.
    pub(in crate::config) fn also<T>(
        key: &str,
        here: &mut Option<T>,
        flat: Option<T>,
    ) -> Result<(), String> {
        match (&here, flat) {
            (Some(_), Some(_)) => Err(format!("{key} is set twice")),
            (_, None) => Ok(()),
            (None, flat) => {
                *here = flat;
                Ok(())
            }
        }
    }

    /// Limits of which one bounds another: by default in proportion, and never the wrong way round.
    fn relate(&self, limits: &mut Limits) -> Result<(), String> {
        let compare = &mut limits.compare;
        if self.fragment_timeout_ms.is_none() {
            compare.fragment_timeout = compare.fragment_timeout.min(compare.compare_timeout / 2);
        } else if compare.fragment_timeout >= compare.compare_timeout {
            return Err("fragment_timeout_ms must be shorter than compare_timeout_ms".into());
        }
        let repeat = &mut limits.repeat;
        if self.repeat_pause_max_ms.is_none() {
            repeat.patience_max = repeat.patience_max.max(repeat.patience);
        } else if repeat.patience_max < repeat.patience {
            return Err("repeat_pause_max_ms must not be shorter than repeat_after_ms".into());
        }
        Ok(())
    }
}

/// A key of the other role would be ignored, and whoever wrote it believes that it is not.
fn is_for(key: &str, role: Option<Role>, of: Role) -> Result<(), String> {
    match role {
        Some(Role::Primary) if of != Role::Primary => Err(only(key, "primary")),
        Some(Role::Secondary) if of != Role::Secondary => Err(only(key, "secondary")),
        _ => Ok(()),
    }
}

fn only(key: &str, role: &str) -> String {
    format!("{key} is for role = \"{role}\"")
}

fn is_within(key: &str, value: Option<u64>, min: u64, max: u64) -> Result<(), String> {
    match value {
        Some(0) if min > 0 => Err(format!("{key} must be above 0")),
        Some(value) if value < min && min == TWO_FRAMES => {
            Err(format!("{key} must leave room for two frames ({min})"))
        }
        Some(value) if value < min => Err(format!("{key} must be at least {min}")),
        Some(value) if value > max => Err(format!("{key} must be at most {max}")),
        _ => Ok(()),
    }
}
