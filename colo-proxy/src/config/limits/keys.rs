//! The keys of `[guest.limits]`, with their bounds.
//!
//! One table makes the keys, their bounds and their descriptions in the schema, so that no key can
//! be read without being listed. docs/reference/limits.md says which counter shows that a limit is
//! reached. A test compares the two.

use schemars::JsonSchema;
use serde::Deserialize;

use super::GuestLimits;
use super::setting::{LimitSetting, Ms, Seconds, Us};
use colo_proxy_engine::compare::Policy;
use colo_proxy_engine::pair::Role;

/// A limit as an operator knows it.
#[derive(Clone, Copy, Debug)]
pub struct LimitKey {
    pub name: &'static str,
    /// The only role that uses it; `None` is both.
    pub role: Option<Role>,
    /// The smallest and the largest value; `None` for a policy.
    pub bounds: Option<(u64, u64)>,
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
/// A thread that polls for longer hardly sleeps at all.
const BUSY_POLL_US_MAX: u64 = 1000;
/// Two of the longest frames: one that is being written, and one behind it.
const TWO_FRAMES: u64 = 2 * colo_proxy_engine::frame::FRAME_MAX as u64;

/// A key: type, role, smallest, largest and place in [`GuestLimits`], below its description. A policy has
/// no bounds.
macro_rules! limits {
    ($(
        $(#[doc = $doc:literal])+
        $key:ident: $kind:ty, $role:ident, $($min:expr, $max:expr)? => $($place:ident).+;
    )*) => {
        /// `[guest.limits]` as it is written.
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::config) struct LimitsTable {
            $($(#[doc = $doc])+ pub(in crate::config) $key: Option<$kind>,)*
        }

        /// All keys.
        pub const KEYS: &[LimitKey] = &[$(LimitKey {
            name: stringify!($key),
            role: role::$role,
            bounds: limits!(@bounds $($min, $max)?),
            default: || <$kind as LimitSetting>::written(&GuestLimits::default().$($place).+),
        },)*];

        impl LimitsTable {
            /// The limits that are written, and the defaults of the others; or why not.
            pub(in crate::config) fn read(&self, of: Role) -> Result<GuestLimits, String> {
                let mut limits = GuestLimits::default();
                $(if let Some(value) = self.$key {
                    let key = stringify!($key);
                    is_for(key, role::$role, of)?;
                    is_within(key, value.number(), limits!(@bounds $($min, $max)?))?;
                    value.put(&mut limits.$($place).+);
                })*
                self.relate(&mut limits)?;
                Ok(limits)
            }
        }
    };
    (@bounds) => { None };
    (@bounds $min:expr, $max:expr) => { Some(($min, $max)) };
}

/// The only role that uses a key.
mod role {
    use super::Role;

    pub(super) const BOTH: Option<Role> = None;
    pub(super) const PRIMARY: Option<Role> = Some(Role::Primary);
    pub(super) const SECONDARY: Option<Role> = Some(Role::Secondary);
}

limits! {
    /// Silence after which the peer is lost; time without progress after which a lane is closed;
    /// time without a frame after which a tunnel is closed.
    secondary_timeout_ms: Ms, BOTH, 1, MS_MAX => peer.timeout;
    /// Bytes that wait for the peer on an outgoing lane; beyond it the gate's queue fills.
    mirror_queue_bytes: usize, BOTH, TWO_FRAMES, BYTES_MAX => peer.queue_bytes;
    /// Frames in a gate that wait for the daemon; as many again of the kernel lane's input, for a
    /// guest that a checkpoint has stopped.
    gate_queue_frames: u32, BOTH, 64, COUNT_MAX => peer.gate_queue_frames;
    /// Frames in the TAP that wait for the guest; a longer queue is left as it is.
    guest_queue_frames: u32, BOTH, 1, COUNT_MAX => peer.guest_queue_frames;
    /// Time for which a daemon's thread stays awake for the next frame if frames come close
    /// together; costs up to one processor for each thread; at most 1000 microseconds, and 0 is
    /// never.
    busy_poll_us: Us, BOTH, 0, BUSY_POLL_US_MAX => peer.busy_poll;
    /// Bytes of the guest's output that are kept for `return = "digest"`: on the primary to find
    /// the bytes of a digest, on the secondary to answer the primary's questions; also bytes of the
    /// secondary's frames that wait on the primary.
    digest_bytes_max: usize, BOTH, TWO_FRAMES, BYTES_MAX => digest.bytes_max;

    /// Flows that the engine remembers.
    flows_max: usize, PRIMARY, 1, COUNT_MAX => compare.flows_max;
    /// Silence after which an established connection may be forgotten for a new one.
    flow_idle_ms: Ms, PRIMARY, 1, MS_MAX => compare.flow_idle;
    /// Held frames; also pieces of the secondary's output that wait.
    held_frames_max: usize, PRIMARY, 1, COUNT_MAX => compare.frames_max;
    /// Bytes of held frames; also of pieces of the secondary's output that wait.
    held_bytes_max: usize, PRIMARY, 1, BYTES_MAX => compare.bytes_max;
    /// Held frames of one flow; also pieces of the secondary's output that wait.
    flow_frames_max: usize, PRIMARY, 1, COUNT_MAX => compare.flow_frames_max;
    /// Bytes of held frames of one flow; also of pieces of the secondary's output that wait.
    flow_bytes_max: usize, PRIMARY, 1, BYTES_MAX => compare.flow_bytes_max;
    /// Connections of one flow that the secondary may have opened before the primary does.
    flow_connections_ahead_max: usize, PRIMARY, 1, COUNT_MAX => compare.flow_connections_ahead_max;
    /// Time that a frame is held, or that output of the secondary waits, before a checkpoint is
    /// asked for.
    compare_timeout_ms: Ms, PRIMARY, 1, MS_MAX => compare.compare_timeout;
    /// Pause between a failed checkpoint and the next request.
    request_retry_ms: Ms, PRIMARY, 1, MS_MAX => compare.request_retry;
    /// Time that the secondary's TCP window may be closed while the primary's is open.
    zero_window_timeout_ms: Ms, PRIMARY, 1, MS_MAX => compare.zero_window_timeout;
    /// Time that datagrams of both guests may stay without a match.
    datagram_grace_ms: Ms, PRIMARY, 1, MS_MAX => compare.datagram_grace;
    /// Datagrams of each guest that may stay without a match.
    datagram_grace_count: usize, PRIMARY, 0, COUNT_MAX => compare.datagram_grace_count;
    /// Time that a packet in fragments may be incomplete; half of `compare_timeout_ms` if that is
    /// less, and always shorter than it.
    fragment_timeout_ms: Ms, PRIMARY, 1, MS_MAX => compare.fragment_timeout;
    /// Incomplete packets of each guest.
    fragment_packets_max: usize, PRIMARY, 1, COUNT_MAX => compare.fragment_packets_max;
    /// Bytes in the incomplete packets of each guest.
    fragment_bytes_max: usize, PRIMARY, 1, BYTES_MAX => compare.fragment_bytes_max;
    /// Incomplete packets of one source address.
    fragment_source_packets_max: usize, PRIMARY, 1, COUNT_MAX => compare.fragment_source_packets_max;
    /// Bytes in the incomplete packets of one source address.
    fragment_source_bytes_max: usize, PRIMARY, 1, BYTES_MAX => compare.fragment_source_bytes_max;
    /// A policy, not a limit: `compare`, `release` or `hold` frames that are not the packets that
    /// they claim to be.
    on_malformed: Policy, PRIMARY, => compare.on_malformed;
    /// A policy, not a limit: `compare`, `release` or `hold` ARP, neighbour discovery and other
    /// frames that the rule of comparison leaves out.
    on_uncompared: Policy, PRIMARY, => compare.on_uncompared;
    /// Differences that are remembered for `colo-proxy divergences`.
    divergences_max: usize, PRIMARY, 1, COUNT_MAX => compare.divergences_max;
    /// Bytes of frames that are kept with the remembered differences.
    divergence_frames_bytes: usize, PRIMARY, 0, BYTES_MAX => compare.divergence_frames_bytes;
    /// Bytes that are shown on either side of a differing byte.
    context_bytes: usize, PRIMARY, 0, 1024 => compare.context_bytes;
    /// Frames of the secondary that are kept until their epoch is known.
    unsorted_frames_max: usize, PRIMARY, 1, COUNT_MAX => unsorted.frames_max;
    /// Bytes of the secondary's frames that are kept until their epoch is known.
    unsorted_bytes_max: usize, PRIMARY, 1, BYTES_MAX => unsorted.bytes_max;
    /// Frames of the secondary that wait for the bytes of their digests, or queue behind one that
    /// waits; twice as many while frames are asked for.
    digest_frames_max: usize, PRIMARY, 1, COUNT_MAX => digest.frames_max;

    /// Early input: frames for the guest that are parked until the offset of their connection is
    /// known.
    parked_input_frames_max: usize, SECONDARY, 1, COUNT_MAX => input.frames_max;
    /// Bytes of early input that is parked.
    parked_input_bytes_max: usize, SECONDARY, 1, BYTES_MAX => input.bytes_max;
    /// Time that early input is parked.
    parked_input_ms: Ms, SECONDARY, 1, MS_MAX => input.patience;
    /// Bytes of the kernel lane's input for a guest that a checkpoint has stopped; its frames are
    /// bounded by `gate_queue_frames`, and as many more are queued in the gate.
    stopped_input_bytes_max: usize, SECONDARY, TWO_FRAMES, BYTES_MAX => input.stopped_bytes_max;
    /// Frames for the guest that are kept until it has acknowledged them.
    repeat_frames_max: usize, SECONDARY, 1, COUNT_MAX => repeat.frames_max;
    /// Bytes of the frames for the guest that are kept until it has acknowledged them.
    repeat_bytes_max: usize, SECONDARY, 1, BYTES_MAX => repeat.bytes_max;
    /// Frames of one connection that are kept until the guest has acknowledged them.
    repeat_flow_frames_max: usize, SECONDARY, 1, COUNT_MAX => repeat.flow_frames_max;
    /// Bytes of the frames of one connection that are kept until the guest has acknowledged them.
    repeat_flow_bytes_max: usize, SECONDARY, 1, BYTES_MAX => repeat.flow_bytes_max;
    /// Time after which unacknowledged input is written to the guest again.
    repeat_after_ms: Ms, SECONDARY, 1, MS_MAX => repeat.patience;
    /// Longest pause between two tries, which doubles up to this; no shorter than
    /// `repeat_after_ms`.
    repeat_pause_max_ms: Ms, SECONDARY, 1, MS_MAX => repeat.patience_max;
    /// Time without an acknowledgment of the guest after which the input of a connection is given
    /// up.
    repeat_give_up_ms: Ms, SECONDARY, 1, MS_MAX => repeat.give_up;
    /// Frames that are written again at once.
    repeat_burst_frames: usize, SECONDARY, 1, COUNT_MAX => repeat.burst;
    /// Connections that the kernel programs translate; a daemon that takes over the tables of
    /// another keeps their sizes.
    connections_max: u32, SECONDARY, 1, COUNT_MAX => translation.flows_max;
    /// Connections in which the guest has not spoken yet; the longest silent one goes for a new
    /// one.
    connections_unconfirmed_max: u32, SECONDARY, 1, COUNT_MAX => translation.unconfirmed_max;
    /// Connections that are being opened; the longest silent one goes for a new one, so that a
    /// flood of SYNs displaces only these.
    connections_opening_max: u32, SECONDARY, 1, COUNT_MAX => translation.half_open_max;
    /// Fill level of the table from which the least useful connections go.
    connections_full_percent: u8, SECONDARY, 1, 100 => translation.age.full_percent;
    /// Time that a closed connection is remembered.
    connection_closed_s: Seconds, SECONDARY, 1, S_MAX => translation.age.closed_ns;
    /// Time that a connection is remembered after the peer, or somebody in its name, has reset it.
    connection_reset_s: Seconds, SECONDARY, 1, S_MAX => translation.age.reset_ns;
    /// Time that any connection is remembered without a frame.
    connection_idle_s: Seconds, SECONDARY, 1, S_MAX => translation.age.idle_ns;
    /// Silence after which a connection counts as idle if the table is too full.
    connection_pressed_idle_s: Seconds, SECONDARY, 1, S_MAX => translation.age.pressed_idle_ns;
    /// Time for a checkpoint that was asked for, before a connection in use goes.
    connections_checkpoint_wait_s: Seconds, SECONDARY, 1, S_MAX => translation.age.checkpoint_patience_ns;
    /// Connections that go in one look at the table.
    connections_forgotten_max: usize, SECONDARY, 1, COUNT_MAX => translation.age.victims_max;
    /// Time between two looks at the table of connections.
    connections_look_ms: Ms, SECONDARY, 1, MS_MAX => translation.ageing_interval;
}

impl LimitsTable {
    /// Takes a key that stands in `[[guest]]` itself. The most used ones may, because older files
    /// have them there.
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

    /// Checks limits that bound each other. A default adapts to the other value.
    fn relate(&self, limits: &mut GuestLimits) -> Result<(), String> {
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

/// A key of the other role would be ignored, and the operator would believe that it is not.
fn is_for(key: &str, role: Option<Role>, of: Role) -> Result<(), String> {
    match role {
        Some(role) if role != of => Err(format!("{key} is for role = \"{role}\"")),
        _ => Ok(()),
    }
}

fn is_within(key: &str, value: Option<u64>, bounds: Option<(u64, u64)>) -> Result<(), String> {
    let (Some(value), Some((min, max))) = (value, bounds) else { return Ok(()) };
    if value == 0 && min > 0 {
        return Err(format!("{key} must be above 0"));
    }
    if value < min && min == TWO_FRAMES {
        return Err(format!("{key} must leave room for two frames ({min})"));
    }
    if value < min {
        return Err(format!("{key} must be at least {min}"));
    }
    if value > max {
        return Err(format!("{key} must be at most {max}"));
    }
    Ok(())
}
