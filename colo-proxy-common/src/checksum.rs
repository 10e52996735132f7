//! The Internet checksum: changed in place when a number in the packet changes (RFC 1624), and
//! computed in full for tests and for frames that leave without offloads.
//!
//! Sums here are over bytes in network order. A ones' complement sum has two zeros. Like the kernel,
//! this code gives the negative zero (`0xffff` before the final complement) unless all input was
//! zero. So kernel and userspace agree to the bit.

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

/// The change of a packet's sum that follows from changed numbers (RFC 1624, section 3). All changes
/// of a packet make one difference, and its checksum changes once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumDifference(u64);

impl ChecksumDifference {
    /// A 32-bit number changes from `old` to `new`.
    ///
    /// `odd`: the number starts at an odd distance from the start of the sum. Its bytes then fall into
    /// the other halves of the 16-bit words, which is a rotation by eight bits.
    #[inline(always)]
    pub const fn note(&mut self, old: u32, new: u32, odd: bool) {
        let (old, new) = if odd { (old.rotate_right(8), new.rotate_right(8)) } else { (old, new) };
        // Each change adds two numbers of 32 bits. Carries have 31 bits of room, and no packet has
        // that many numbers.
        self.0 = self.0.wrapping_add(!old as u64).wrapping_add(new as u64);
    }

    /// No noted number has changed the sum.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The difference in 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The new checksum of a packet whose old one is `checksum` (RFC 1624, equation 3).
    ///
    /// A wrong checksum stays wrong by the same amount: this does not repair corruption.
    #[inline]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        // The complement of 32 bits, as in the kernel: it decides which of the zeros comes out.
        !fold(!(checksum as u32) as u64 + self.folded() as u64)
    }
}

/// The sum of `bytes`, continued from `sum`. Only the last part of a sum may have an odd length.
#[must_use]
pub fn sum(bytes: &[u8], sum: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let total = words.iter().fold(sum, |sum, word| add(sum, u32::from(u16::from_be_bytes(*word))));
    match rest {
        [last] => add(total, u32::from(*last) << 8),
        _ => total,
    }
}

/// The sum of the pseudo-header of TCP or UDP over IPv4 (RFC 9293, section 3.1) or IPv6 (RFC 8200,
/// section 8.1). `addresses` are source and destination, of four or of sixteen bytes each.
#[must_use]
pub fn pseudo_header(addresses: [&[u8]; 2], protocol: u8, len: u32) -> u32 {
    let [src, dst] = addresses;
    add(add(sum(dst, sum(src, 0)), u32::from(protocol)), len)
}

/// The checksum for the header, from the sum of everything else.
#[inline]
#[must_use]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum as u64)
}

/// The checksum field of a frame with a partial checksum (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): the sum of
/// the pseudo-header, not complemented.
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
        /// One difference for many numbers, wherever they lie, gives the same checksum as a new sum.
        #[test]
        fn one_difference_for_many_numbers(
            mut bytes in proptest::collection::vec(any::<u8>(), 40..80),
            changes in proptest::collection::vec((0usize..9, 0usize..2, any::<u32>()), 0..12),
        ) {
            let before = finish(sum(&bytes, 0));
            let mut difference = ChecksumDifference::default();
            for (slot, odd, new) in changes {
                let at = slot * 4 + odd;
                let place = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
                let place: &mut [u8; 4] = place.expect("inside");
                difference.note(u32::from_be_bytes(*place), new, odd == 1);
                *place = new.to_be_bytes();
            }
            // Either of the two zeros may come out.
            prop_assert_eq!(difference.apply(before) % 0xffff, finish(sum(&bytes, 0)) % 0xffff);
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

    /// As in the kernel.
    #[test]
    fn the_zero_that_nobody_sends_becomes_the_other_one() {
        assert_eq!(ChecksumDifference::default().apply(0xffff), 0);
    }
}
