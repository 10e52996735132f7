//! The Internet checksum: changed in place when a number in the packet changes (RFC 1624), and
//! computed in full for tests and for frames that leave without offloads.
//!
//! Sums here are over octets in network order. A sum of ones' complement has two zeros; like the
//! kernel's, ours gives the negative one (`0xffff` before the final complement) whenever anything
//! but zeros went in, so that kernel and userspace agree to the bit.

/// Adds with end-around carry.
#[inline]
const fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u32
}

/// Folds a sum to 16 bits.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// How the sum over a packet changes with the numbers in it (RFC 1624, section 3). All changes of a
/// packet make one difference, and its checksum is changed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumDifference(u64);

impl ChecksumDifference {
    /// A 32-bit number changes from `old` to `new`.
    ///
    /// `odd` says that the number starts at an odd distance from the start of what is summed; its
    /// octets then fall into the other halves of the 16-bit words, which is a rotation by eight bits.
    #[inline(always)]
    pub const fn note(&mut self, old: u32, new: u32, odd: bool) {
        let (old, new) = if odd { (old.rotate_right(8), new.rotate_right(8)) } else { (old, new) };
        // Two numbers of 32 bits a change: carries have 31 bits of room, and no packet has as many
        // numbers.
        self.0 = self.0.wrapping_add(!old as u64).wrapping_add(new as u64);
    }

    /// Nothing was noted that makes a difference.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// In 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum of a packet that has changed by this, from what it was (RFC 1624, equation 3).
    ///
    /// A checksum that was wrong stays wrong by the same amount: corruption on the way is not
    /// repaired.
    #[inline]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        // The complement of 32 bits, as the kernel has it: which of the zeros comes out hangs on it.
        !fold(!(checksum as u32) as u64 + self.folded() as u64)
    }
}

/// The sum of `octets`, continued from `sum`. Only the last part of what is summed may be of odd
/// length.
#[must_use]
pub fn sum(octets: &[u8], sum: u32) -> u32 {
    let (words, rest) = octets.as_chunks::<2>();
    let total = words.iter().fold(sum, |sum, word| add(sum, u32::from(u16::from_be_bytes(*word))));
    match rest {
        [last] => add(total, u32::from(*last) << 8),
        _ => total,
    }
}

/// The sum of the pseudo-header of TCP or UDP over IPv4 (RFC 9293, section 3.1) or IPv6 (RFC 8200,
/// section 8.1). `addresses` are source and destination, of four or of sixteen octets each.
#[must_use]
pub fn pseudo_header(addresses: [&[u8]; 2], protocol: u8, len: u32) -> u32 {
    let [src, dst] = addresses;
    add(add(sum(dst, sum(src, 0)), u32::from(protocol)), len)
}

/// The checksum that belongs into the header, from the sum of everything else.
#[inline]
#[must_use]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum as u64)
}

/// What a frame with a partial checksum (`VIRTIO_NET_HDR_F_NEEDS_CSUM`) carries in the checksum's
/// place: the sum of the pseudo-header, not complemented.
#[inline]
#[must_use]
pub const fn partial(pseudo_header: u32) -> u16 {
    fold(pseudo_header as u64)
}

#[cfg(test)]
mod tests {
    use super::{ChecksumDifference, finish, sum};
    use proptest::prelude::*;

    proptest! {
        /// One difference for all numbers, wherever they lie, is what a new sum makes of them.
        #[test]
        fn one_difference_for_many_numbers(
            mut octets in proptest::collection::vec(any::<u8>(), 40..80),
            changes in proptest::collection::vec((0usize..9, 0usize..2, any::<u32>()), 0..12),
        ) {
            let before = finish(sum(&octets, 0));
            let mut difference = ChecksumDifference::default();
            for (slot, odd, new) in changes {
                let at = slot * 4 + odd;
                let place = octets.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
                let place: &mut [u8; 4] = place.expect("inside");
                difference.note(u32::from_be_bytes(*place), new, odd == 1);
                *place = new.to_be_bytes();
            }
            // Of the two zeros either may come out.
            prop_assert_eq!(difference.apply(before) % 0xffff, finish(sum(&octets, 0)) % 0xffff);
        }
    }

    #[test]
    fn what_is_replaced_by_itself_makes_no_difference_to_a_checksum() {
        let mut difference = ChecksumDifference::default();
        assert!(difference.is_none());
        difference.note(0x1234_5678, 0x1234_5678, true);
        assert!(!difference.is_none());
        for checksum in [0, 1, 0x8000, 0xfffe] {
            assert_eq!(difference.apply(checksum), checksum);
        }
    }

    /// As in the kernel, of whose sums 16 bits are always there.
    #[test]
    fn the_zero_that_nobody_sends_becomes_the_other_one() {
        assert_eq!(ChecksumDifference::default().apply(0xffff), 0);
    }
}
