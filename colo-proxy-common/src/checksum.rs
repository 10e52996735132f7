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

/// Folds a 32-bit sum to 16 bits.
#[inline]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum of a packet after a 32-bit number in it changed from `old` to `new` (RFC 1624,
/// equation 3).
///
/// `odd` says that the number starts at an odd distance from the start of what is summed; its
/// octets then fall into the other halves of the 16-bit words, which is a rotation by eight bits.
///
/// A checksum that was wrong stays wrong by the same amount: corruption on the way is not repaired.
#[inline]
#[must_use]
pub const fn update(checksum: u16, old: u32, new: u32, odd: bool) -> u16 {
    let (old, new) = place(old, new, odd);
    !fold(add(add(!checksum as u32, !old), new))
}

/// `old` and `new` as they enter the sum.
#[inline]
#[must_use]
pub const fn place(old: u32, new: u32, odd: bool) -> (u32, u32) {
    if odd { (old.rotate_right(8), new.rotate_right(8)) } else { (old, new) }
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
    !fold(sum)
}

/// What a frame with a partial checksum (`VIRTIO_NET_HDR_F_NEEDS_CSUM`) carries in the checksum's
/// place: the sum of the pseudo-header, not complemented.
#[inline]
#[must_use]
pub const fn partial(pseudo_header: u32) -> u16 {
    fold(pseudo_header)
}
