//! The records in the maps of a filter, and the tokens by which several filters on one TAP stay in
//! order. A filter's programs and its process share them.
//!
//! QEMU's filters of one netdev are a list. A frame that a filter injects goes on behind that filter.
//! In the kernel the frame has to go through the whole list once more. Meanwhile it carries the
//! injector's *token* in `skb->mark`. A filter that finds another filter's token lies before the
//! injector and leaves the frame alone. The injector takes the token off. The filters behind it see
//! an ordinary frame.

/// The upper half of every token. No rule on the host may use marks with this half.
pub const TOKEN_MAGIC: u32 = 0xc010_0000;
const TOKEN_MASK: u32 = 0xffff_0000;

/// The token of the filter that owns the gate `ifindex`. No other filter of this network namespace
/// owns that gate.
#[inline(always)]
pub const fn token(ifindex: u32) -> u32 {
    TOKEN_MAGIC | (ifindex & !TOKEN_MASK)
}

/// `mark` is the token of some filter.
#[inline(always)]
pub const fn is_token(mark: u32) -> bool {
    mark & TOKEN_MASK == TOKEN_MAGIC
}

/// The kinds of filters: [`FilterRecord::kind`].
pub mod kind {
    /// Copies a frame to the out gate and lets it go on.
    pub const MIRROR: u32 = 1;
    /// Sends a frame to the out gate. Without an out gate the frame goes on.
    pub const REDIRECTOR: u32 = 2;
    /// Translates a frame. It has programs of its own, which use [`crate::record::Settings`].
    pub const REWRITER: u32 = 3;
}

/// Directions, as bits of [`FilterRecord::queue`].
pub mod queue {
    /// Towards the guest.
    pub const TX: u32 = 1;
    /// From the guest.
    pub const RX: u32 = 2;
}

/// The one entry of the `filter` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FilterRecord {
    /// [`crate::record::LAYOUT_VERSION`] of the process that wrote this.
    pub layout_version: u32,
    /// One of [`kind`].
    pub kind: u32,
    /// Bits of [`queue`].
    pub queue: u32,
    /// The guest's TAP.
    pub netdev_ifindex: u32,
    /// The gate by which frames leave for `outdev`; 0 without one.
    pub out_gate_ifindex: u32,
    /// `skb->mark` of the frames that this filter sends to a gate or injects.
    pub token: u32,
    /// Place among the filters of a TAP: the earlier filter has the lower number. `CLOCK_BOOTTIME`.
    pub position_ns: u64,
    /// `SO_NETNS_COOKIE` of the network namespace that the interface indexes belong to.
    pub netns_cookie: u64,
}

/// Counters of a filter's programs, in frames: the one entry of the per-CPU `filter_counters` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema))]
#[repr(C)]
pub struct FilterCounters {
    /// Copied to the out gate.
    pub mirrored: u64,
    /// Frames that the kernel refused to copy. They went on all the same.
    pub mirror_failed: u64,
    /// Sent to the out gate.
    pub redirected: u64,
    /// Frames of this filter's directions that went on because there is no outdev.
    pub passed: u64,
    /// Injected by this filter; they went on behind it towards the guest.
    pub injected_tx: u64,
    /// Injected by this filter; they went on behind it away from the guest.
    pub injected_rx: u64,
    /// Injected by this filter in both directions, but the kernel refused the copy for one of them.
    pub inject_failed: u64,
    /// Injected by a filter behind this one, and left alone.
    pub passed_over: u64,
    /// Frames dropped because neither a filter nor its programs sent them into the gate.
    pub dropped_foreign: u64,
    /// Frames dropped because the settings are missing or of another layout.
    pub dropped_no_settings: u64,
}

impl FilterCounters {
    /// Adds the counts of another processor.
    pub fn add(&mut self, other: &Self) {
        self.mirrored += other.mirrored;
        self.mirror_failed += other.mirror_failed;
        self.redirected += other.redirected;
        self.passed += other.passed;
        self.injected_tx += other.injected_tx;
        self.injected_rx += other.injected_rx;
        self.inject_failed += other.inject_failed;
        self.passed_over += other.passed_over;
        self.dropped_foreign += other.dropped_foreign;
        self.dropped_no_settings += other.dropped_no_settings;
    }
}

const _: () = assert!(size_of::<FilterRecord>() == 40);
const _: () = assert!(size_of::<FilterCounters>() == 10 * 8);

#[cfg(feature = "user")]
mod pod {
    use super::{FilterCounters, FilterRecord};

    // SAFETY: repr(C), made of integers only, and without implicit padding (the sizes above are the
    // sums of the fields), so any bytes are a value and every value is its bytes.
    unsafe impl aya::Pod for FilterRecord {}
    // SAFETY: see above.
    unsafe impl aya::Pod for FilterCounters {}
}

#[cfg(test)]
mod tests {
    use super::{is_token, token};

    #[test]
    fn a_token_is_known_as_one_and_no_other_mark_is() {
        for ifindex in [1, 7, 0xffff, 0x1_0000, 0x12_3456, u32::MAX] {
            assert!(is_token(token(ifindex)), "{ifindex:#x}");
            assert_eq!(token(ifindex) & 0xffff, ifindex & 0xffff);
        }
        for mark in [0, 1, 0xc010, 0xc011_0000, 0x00c0_1000, u32::MAX] {
            assert!(!is_token(mark), "{mark:#x}");
        }
        assert_ne!(token(7), token(8));
    }
}
