//! The kernel lane: frames that go from host to host in a tunnel, past both daemons.
//!
//! A tunnel does not show which epoch a frame belongs to, nor which frames were lost. So every frame
//! carries a [`tag`] of 16 bits. VXLAN's Group Policy extension carries it from `skb->mark` on one
//! host to `skb->mark` on the other. The tag has the epoch of the guest that sent the frame, and the
//! *slot* of time in which it was sent. Both ends count the frames of each slot ([`LaneCounters`]),
//! and the daemons report their counts to each other. A difference is a loss, in whatever order the
//! frames came. A frame that comes long after its slot was reported is refused ([`is_late`]): it has
//! counted as lost already, and another slot will use its counter.

/// Slots with a counter: those to which a late frame may still belong, and those in which the peer
/// sends already while the control lane is late (`AHEAD_SLOTS`).
pub const SLOTS: usize = 64;
/// A frame may belong to a slot this long before the one that was reported last.
pub const LATE_SLOTS: u32 = 8;
/// A frame may belong to a slot this long after it: the control lane is then two seconds late.
const AHEAD_SLOTS: u32 = 40;
/// Bits of a tag that are the slot. The bits above are the epoch.
const SLOT_BITS: u32 = 8;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
const TAG_MASK: u32 = 0xffff;
const EPOCHS: u32 = 1 << (16 - SLOT_BITS);
/// The peer has reported a slot.
const REPORTED: u32 = 1 << 31;

/// The tag of a frame: the lower bits of an epoch and of a slot.
#[inline(always)]
#[must_use]
pub const fn tag(epoch: u32, slot: u32) -> u32 {
    ((epoch % EPOCHS) << SLOT_BITS) | (slot & SLOT_MASK)
}

/// The mark of a frame on its way into the tunnel. The upper half does not travel. It is that of the
/// daemon's own mark, so that no other frames get in.
#[inline(always)]
#[must_use]
pub const fn mark(own: u32, epoch: u32, slot: u32) -> u32 {
    (own & !TAG_MASK) | tag(epoch, slot)
}

/// The mark is one for the tunnel, of the daemon whose own mark is `own`.
#[inline(always)]
#[must_use]
pub const fn is_ours(mark: u32, own: u32) -> bool {
    (mark ^ own) & !TAG_MASK == 0
}

/// The counter of this tag's slot.
#[inline(always)]
#[must_use]
pub const fn slot_index(tag: u32) -> usize {
    tag as usize % SLOTS
}

/// The gate for frames of this tag's epoch. There is one gate for each parity, so that frames of the
/// next epoch stay apart.
#[inline(always)]
#[must_use]
pub const fn parity(tag: u32) -> usize {
    (tag >> SLOT_BITS) as usize & 1
}

/// The tag belongs neither to the epoch `present` nor to the next one.
#[inline(always)]
#[must_use]
pub const fn is_stale(tag: u32, present: u32) -> bool {
    ((tag & TAG_MASK) >> SLOT_BITS).wrapping_sub(present) % EPOCHS > 1
}

/// The value of `settings.lane_reported` for the slot that the peer has reported last. 0 means that it
/// has reported none.
#[inline(always)]
#[must_use]
pub const fn reported(slot: u32) -> u32 {
    REPORTED | (slot & SLOT_MASK)
}

/// The tag's slot is too long before the one in `reported`. The slots of tags repeat: a slot that
/// seems older still is a later one, which was not reported yet.
#[inline(always)]
#[must_use]
pub const fn is_late(tag: u32, reported: u32) -> bool {
    let age = reported.wrapping_sub(tag) & SLOT_MASK;
    reported != 0 && age > LATE_SLOTS && age <= SLOT_MASK - AHEAD_SLOTS
}

/// The longest headers of a segment, except for IPv6 with long extensions: Ethernet, two tags, IPv4,
/// TCP.
const HEADERS_MAX: u32 = 14 + 8 + 60 + 60;

/// A frame of `len` bytes certainly fits into a tunnel that takes `frame_max` bytes (0 is any), whole
/// or in segments of `gso_size`. If not, [`segment_fits`] decides with a look at the frame. A frame
/// that does not fit goes by the stream. In the tunnel it would count as sent and be lost, and many
/// losses in a row close the lane.
#[inline(always)]
#[must_use]
pub const fn fits(len: u32, gso_size: u32, frame_max: u32) -> bool {
    frame_max == 0
        || len <= frame_max
        || (gso_size != 0 && gso_size.saturating_add(HEADERS_MAX) <= frame_max)
}

/// The segments of a frame fit: it has `len` bytes in all, with `payload` bytes of payload in
/// segments of `gso_size`. Each segment has all headers of the frame, VLAN tags included.
#[inline(always)]
#[must_use]
pub const fn segment_fits(len: u32, gso_size: u32, payload: u32, frame_max: u32) -> bool {
    gso_size.saturating_add(len.saturating_sub(payload)) <= frame_max
}

/// The one entry of the per-CPU `lane` map: frames since the map was made, by slot modulo [`SLOTS`].
/// A GSO frame counts as its segments do on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LaneCounters {
    /// Frames that went into the tunnel.
    pub sent: [u64; SLOTS],
    /// Frames that came out of it, without the late ones.
    pub received: [u64; SLOTS],
    /// `CLOCK_MONOTONIC` of the last look for a sender's address.
    pub looked_ns: u64,
}

impl Default for LaneCounters {
    fn default() -> Self {
        Self { sent: [0; SLOTS], received: [0; SLOTS], looked_ns: 0 }
    }
}

impl LaneCounters {
    /// Adds the counts of another processor.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.sent.iter_mut().zip(other.sent) {
            *sum += more;
        }
        for (sum, more) in self.received.iter_mut().zip(other.received) {
            *sum += more;
        }
    }
}

/// A key of the `speakers` map: an address that the guest has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Speaker {
    /// An IPv4 address fills the first four bytes.
    pub address: [u8; 16],
    pub mac: [u8; 6],
    /// VLAN ids, outer first; 0 is no tag.
    pub vlan: [u16; 2],
    /// 4 or 6.
    pub ip_version: u8,
    pub reserved: u8,
}

/// The number of addresses that the map has room for.
pub const SPEAKERS_MAX: usize = 64;

const _: () = assert!(size_of::<LaneCounters>() == 129 * 8);
const _: () = assert!(size_of::<Speaker>() == 28);

#[cfg(feature = "user")]
mod pod {
    use super::{LaneCounters, Speaker};

    // SAFETY: repr(C), integers only, no implicit padding (the sizes above are the sums of the
    // fields): any bytes are a value, and every value is its bytes.
    unsafe impl aya::Pod for LaneCounters {}
    // SAFETY: see above.
    unsafe impl aya::Pod for Speaker {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_says_which_epoch_and_slot() {
        let tag = tag(0x1234_5675, 0xabc_d123);
        assert_eq!(tag, 0x7523);
        assert_eq!((slot_index(tag), parity(tag)), (35, 1));
        let mark = mark(0xdead_beef, 5, 0x123);
        assert_eq!(mark, 0xdead_0523);
        assert!(is_ours(mark, 0xdead_0001) && !is_ours(mark, 0xdeaf_0523));
    }

    #[test]
    fn only_the_present_epoch_and_the_next_count() {
        for present in [0, 1, 254, 255, 256, u32::MAX - 1, u32::MAX] {
            for epoch in 0..EPOCHS {
                let fresh = epoch == present % EPOCHS || epoch == present.wrapping_add(1) % EPOCHS;
                assert_eq!(is_stale(tag(epoch, 77), present), !fresh, "{epoch} in {present}");
            }
        }
    }

    /// A late frame is not taken for one of the later slot that uses the same counter.
    #[test]
    fn a_late_frame_is_told_from_one_that_is_ahead() {
        for last in [0_u32, 7, 255, 256, 1000, u32::MAX] {
            for age in 0..=LATE_SLOTS {
                assert!(
                    !is_late(tag(3, last.wrapping_sub(age)), reported(last)),
                    "{age} before {last}"
                );
            }
            for ahead in 1..=AHEAD_SLOTS {
                assert!(
                    !is_late(tag(3, last.wrapping_add(ahead)), reported(last)),
                    "{ahead} after"
                );
            }
            for age in LATE_SLOTS + 1..=SLOT_MASK - AHEAD_SLOTS {
                assert!(
                    is_late(tag(3, last.wrapping_sub(age)), reported(last)),
                    "{age} before {last}"
                );
            }
            assert!(!is_late(tag(3, last), 0), "nothing is known");
        }
    }

    /// As a guest with an MTU of 1500 sends them, into a tunnel that takes just these.
    #[test]
    fn what_a_tunnel_does_not_take_is_told_by_its_length() {
        const MAX: u32 = 1514;
        assert!(fits(MAX, 0, MAX) && !fits(MAX + 1, 0, MAX));
        assert!(fits(u32::MAX, 0, 0), "of a tunnel of which nothing is known");
        // Timestamps or not, the segments are whole frames; with a tag, or two, they are longer.
        for (gso_size, headers) in [(1448, 66), (1460, 54)] {
            let fits_with = |tags| {
                let payload = 60_000 - headers - tags;
                assert!(!fits(60_000, gso_size, MAX + tags), "that takes a look at it");
                assert!(segment_fits(60_000, gso_size, payload, MAX + tags));
                segment_fits(60_000, gso_size, payload, MAX)
            };
            assert_eq!([0, 4, 8].map(fits_with), [true, false, false]);
        }
        assert!(fits(60_000, 1448, 1448 + 142), "whatever their headers");
        assert!(!segment_fits(60_000, 9000, 59_000, MAX));
        assert!(!fits(60_000, u32::MAX, MAX) && !segment_fits(60_000, u32::MAX, 0, MAX));
    }

    #[test]
    fn what_two_processors_count_is_added() {
        let mut sum = LaneCounters::default();
        let mut other = LaneCounters::default();
        (other.sent[3], other.received[31]) = (2, 5);
        sum.add(&other);
        sum.add(&other);
        assert_eq!((sum.sent[3], sum.received[31]), (4, 10));
    }
}
