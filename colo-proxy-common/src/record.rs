//! Records in the maps that the kernel programs and the daemon share.
//!
//! `bpftool map dump` prints these names, so they are part of the interface for operators. All are
//! `repr(C)` with explicit padding; a change of layout changes [`LAYOUT_VERSION`].

mod flow;

pub use flow::{FlowKey, FlowRecord, known, state};

/// Bumped whenever a record changes shape or meaning; a daemon does not use another version's maps.
/// In [`Settings`] the version and the mode stay where they are, so that a daemon can tell what it
/// has found.
pub const LAYOUT_VERSION: u32 = 5;

/// Octets of the `events` ring buffer; an [`EventRecord`] takes 136 of them.
pub const EVENTS_LEN: usize = 256 * 1024;

/// What the programs of one instance are to do: the one word in `settings` that changes in
/// operation.
pub mod mode {
    /// Everything passes untouched; nothing is mirrored or captured.
    pub const OFF: u32 = 0;
    /// The pair is protected: guest output is captured, guest input mirrored or translated.
    pub const PROTECTED: u32 = 1;
    /// Secondary only: the guest is on the network, translated connections stay translated.
    pub const FAILED_OVER: u32 = 2;
}

/// The one entry of the `settings` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// [`LAYOUT_VERSION`] of the daemon that wrote this.
    pub layout_version: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// The guest's TAP.
    pub netdev_ifindex: u32,
    /// The gate that takes guest output to the daemon, and releases what it writes.
    pub output_gate_ifindex: u32,
    /// The gate for guest input: mirrored input leaves (primary) or arrives (secondary) by it.
    pub input_gate_ifindex: u32,
    /// `skb->mark` of frames that the daemon released or that a program sent to a gate: random per
    /// daemon, in a range that no rule on the host may use.
    pub mark: u32,
    /// Counts the checkpoints that loaded state into the secondary guest; offsets learnt in an
    /// older epoch are void, because both guests then count alike.
    pub epoch: u32,
    /// Not 0 on a primary whose guest has connections that an earlier pair translated: they are
    /// translated here too.
    pub translates: u32,
    /// The tunnel to the other host, where frames go by the kernel lane; 0 where they go to the gates.
    pub lane_ifindex: u32,
    /// The present slot of that lane (see [`crate::lane`]).
    pub lane_slot: u32,
    /// On a primary: the secondary's epoch. What carries an older one vouches for nothing.
    pub lane_epoch: u32,
    /// On a secondary: not 0 while input has to wait, because its guest is stopped.
    pub lane_input_to_gate: u32,
    /// On a primary: where the secondary's output goes that came by the kernel lane, by the parity
    /// of its epoch.
    pub return_gate_ifindex: [u32; 2],
    /// The slot that the other end has told of last ([`crate::lane::told`]).
    pub lane_told: u32,
    /// Octets of the longest frame that the tunnel takes ([`crate::lane::fits`]); 0 is any.
    pub lane_frame_max: u32,
    /// `SO_NETNS_COOKIE` of the network namespace that the interface indexes belong to.
    pub netns_cookie: u64,
}

/// The one entry of the per-CPU `counters` map. Frames, each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProgramCounters {
    /// Guest output sent to the output gate.
    pub captured: u64,
    /// Frames that the daemon released and that left as the guest's.
    pub released: u64,
    /// Guest input copied to the input gate.
    pub mirrored: u64,
    /// Guest input whose copy the kernel refused.
    pub mirror_failed: u64,
    /// Frames that passed because protection is off.
    pub passed: u64,
    /// TCP frames translated towards the guest.
    pub translated_to_guest: u64,
    /// TCP frames translated from the guest.
    pub translated_from_guest: u64,
    /// Guest input sent back to the daemon because its offset is not known yet.
    pub input_to_daemon: u64,
    /// LAN frames kept from the protected secondary guest, which gets its input mirrored.
    pub dropped_lan_input: u64,
    /// Secondary output dropped because its offset is not known yet; the guest repeats it.
    pub dropped_no_offset: u64,
    /// Frames that somebody else sent into a gate.
    pub dropped_foreign: u64,
    /// Frames dropped because the settings are missing or of another layout.
    pub dropped_no_settings: u64,
    /// TCP frames that could not be parsed, and went on untranslated.
    pub malformed: u64,
    /// Frames of a connection that the guest has confirmed and for which `flows` has no room; it
    /// stays where others may push it out.
    pub flow_table_full: u64,
    /// Rewrites that a kernel helper refused; the frame was dropped.
    pub rewrite_failed: u64,
    /// Secondary output of an epoch that is over, which came by the kernel lane.
    pub lane_stale: u64,
    /// Frames that came by the kernel lane and for which there is no use: the pair is not protected.
    pub lane_ignored: u64,
    /// Frames that came by the kernel lane when they counted as lost.
    pub lane_late: u64,
    /// Frames that were put into the tunnel and are too long for it. They are dropped, and as they do not
    /// count as sent, nobody is told of a loss.
    pub lane_too_long: u64,
}

impl ProgramCounters {
    /// Adds what another processor has counted.
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

/// What the kernel programs tell the daemon: records of the `events` ring buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventRecord {
    /// One of [`event`].
    pub kind: u32,
    pub key: FlowKey,
    pub flow: FlowRecord,
}

/// Kinds of [`EventRecord`].
pub mod event {
    /// The offset of a connection became known: held input may go to the guest now.
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
