//! Records in the maps that the kernel programs and the daemon share.
//!
//! `bpftool map dump` prints the names of the fields, so they are part of the operator's interface.
//! All records are `repr(C)` with explicit padding. A change of layout changes [`LAYOUT_VERSION`].

mod flow;

pub use flow::{FlowKey, FlowRecord, known, state};

/// Grows when a record changes shape or meaning. A daemon does not use maps of another version.
/// In [`Settings`] the version and the mode stay in their places, so that a daemon can read those two
/// in any version.
pub const LAYOUT_VERSION: u32 = 5;

/// Bytes of the `events` ring buffer. An [`EventRecord`] takes 136 of them.
pub const EVENTS_LEN: usize = 256 * 1024;

/// The modes of the programs of one instance: [`Settings::mode`].
pub mod mode {
    /// Every frame passes unchanged. The programs neither mirror nor capture.
    pub const OFF: u32 = 0;
    /// The pair is protected: guest output is captured, guest input mirrored or translated.
    pub const PROTECTED: u32 = 1;
    /// Secondary only: the guest is on the network, and translated connections stay translated.
    pub const FAILED_OVER: u32 = 2;
}

/// The one entry of the `settings` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// [`LAYOUT_VERSION`] of the daemon that wrote this record.
    pub layout_version: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// The guest's TAP.
    pub netdev_ifindex: u32,
    /// The gate that takes guest output to the daemon, and releases the frames that it writes.
    pub output_gate_ifindex: u32,
    /// The gate for guest input: mirrored input leaves by it (primary) or arrives by it (secondary).
    pub input_gate_ifindex: u32,
    /// `skb->mark` of frames that the daemon released or that a program sent to a gate. Each daemon
    /// chooses a random one, in a range that no rule on the host may use.
    pub mark: u32,
    /// Counts the checkpoints that loaded state into the secondary guest. Offsets that were learnt in
    /// an older epoch are void, because both guests have counted alike since.
    pub epoch: u32,
    /// Not 0 on a primary whose guest has connections that an earlier pair translated. The programs
    /// of this primary go on translating them.
    pub translates: u32,
    /// The tunnel to the other host, if frames go by the kernel lane; 0 if they go to the gates.
    pub lane_ifindex: u32,
    /// The present slot of the kernel lane (see [`crate::lane`]).
    pub lane_slot: u32,
    /// On a primary: the secondary's epoch. A frame of an older epoch vouches for nothing.
    pub lane_epoch: u32,
    /// On a secondary: not 0 while its guest is stopped, so that input of the kernel lane goes to the
    /// input gate.
    pub lane_input_to_gate: u32,
    /// On a primary: the gates for the secondary's output that came by the kernel lane, by the parity
    /// of its epoch.
    pub return_gate_ifindex: [u32; 2],
    /// The slot that the other end has reported last ([`crate::lane::reported`]).
    pub lane_reported: u32,
    /// Length in bytes of the longest frame that the tunnel takes ([`crate::lane::fits`]); 0 is any.
    pub lane_frame_max: u32,
    /// `SO_NETNS_COOKIE` of the network namespace that the interface indexes belong to.
    pub netns_cookie: u64,
}

/// Counters of the programs of a pair, in frames: the one entry of the per-CPU `counters` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema))]
#[repr(C)]
pub struct ProgramCounters {
    /// Guest output that was sent to the output gate.
    pub captured: u64,
    /// Frames that the daemon released and that left as the guest's.
    pub released: u64,
    /// Guest input that was copied to the input gate.
    pub mirrored: u64,
    /// Guest input whose copy the kernel refused.
    pub mirror_failed: u64,
    /// Frames that passed because protection is off.
    pub passed: u64,
    /// TCP frames that were translated towards the guest.
    pub translated_to_guest: u64,
    /// TCP frames that were translated from the guest.
    pub translated_from_guest: u64,
    /// Guest input sent to the daemon: its offset is not known yet, or the guest is stopped.
    pub input_to_daemon: u64,
    /// LAN frames that were dropped before the protected secondary guest. It gets only mirrored input.
    pub dropped_lan_input: u64,
    /// Secondary output dropped because its offset is not known yet. The guest repeats it.
    pub dropped_no_offset: u64,
    /// Frames dropped because neither the daemon nor its programs sent them into the gate or tunnel.
    pub dropped_foreign: u64,
    /// Frames dropped because the settings are missing or of another layout.
    pub dropped_no_settings: u64,
    /// TCP frames with a malformed header. They went on untranslated.
    pub malformed: u64,
    /// Frames of a connection that the guest has confirmed, for which `flows` has no room. The
    /// connection stays in a map from which others may push it out.
    pub flow_table_full: u64,
    /// Frames dropped because a kernel helper refused a rewrite.
    pub rewrite_failed: u64,
    /// Secondary output that came by the kernel lane in an epoch that is over.
    pub lane_stale: u64,
    /// Frames that came by the kernel lane while the pair was not protected.
    pub lane_ignored: u64,
    /// Frames that came by the kernel lane after they had counted as lost.
    pub lane_late: u64,
    /// Frames dropped at the tunnel because they are too long for it. They do not count as sent, so
    /// they are not reported as lost.
    pub lane_too_long: u64,
}

impl ProgramCounters {
    /// Adds the counts of another processor.
    pub fn add(&mut self, other: &Self) {
        self.captured += other.captured;
        self.released += other.released;
        self.mirrored += other.mirrored;
        self.mirror_failed += other.mirror_failed;
        self.passed += other.passed;
        self.translated_to_guest += other.translated_to_guest;
        self.translated_from_guest += other.translated_from_guest;
        self.input_to_daemon += other.input_to_daemon;
        self.dropped_lan_input += other.dropped_lan_input;
        self.dropped_no_offset += other.dropped_no_offset;
        self.dropped_foreign += other.dropped_foreign;
        self.dropped_no_settings += other.dropped_no_settings;
        self.malformed += other.malformed;
        self.flow_table_full += other.flow_table_full;
        self.rewrite_failed += other.rewrite_failed;
        self.lane_stale += other.lane_stale;
        self.lane_ignored += other.lane_ignored;
        self.lane_late += other.lane_late;
        self.lane_too_long += other.lane_too_long;
    }
}

/// A record of the `events` ring buffer: a message of the kernel programs to the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventRecord {
    /// One of [`event`].
    pub kind: u32,
    pub key: FlowKey,
    pub flow: FlowRecord,
}

/// Kinds of events: [`EventRecord::kind`].
pub mod event {
    /// The offset of a connection became known: parked input may go to the guest now.
    pub const OFFSET_KNOWN: u32 = 1;
}

const _: () = assert!(size_of::<Settings>() == 72);
const _: () = assert!(size_of::<ProgramCounters>() == 19 * 8);
const _: () = assert!(size_of::<EventRecord>() == 128);

#[cfg(feature = "user")]
mod pod {
    use super::{EventRecord, ProgramCounters, Settings};

    // SAFETY: all are repr(C), made of integers only, and have no implicit padding (the sizes
    // above are the sums of their fields), so any bytes are a value and every value is its bytes.
    unsafe impl aya::Pod for Settings {}
    // SAFETY: see above.
    unsafe impl aya::Pod for ProgramCounters {}
    // SAFETY: see above.
    unsafe impl aya::Pod for EventRecord {}
}
