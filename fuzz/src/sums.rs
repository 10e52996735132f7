//! The Internet checksum, written a second time and as plainly as possible. It shares no code with
//! the code under test.

/// The ones' complement sum of `parts` one after another, folded and not complemented. Every part
/// but the last has an even length.
pub(crate) fn ones_complement(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The error of a transport checksum: 0 is right.
pub(crate) fn error(addresses: [&[u8]; 2], protocol: u8, segment: &[u8]) -> u16 {
    let [source, destination] = addresses;
    let len = (segment.len() as u32).to_be_bytes();
    let pseudo = [source, destination, &[0, protocol], &len].concat();
    !ones_complement(&[&pseudo, segment])
}

/// Ones' complement has two zeros, and a receiver accepts each for the other.
pub(crate) fn is_same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}
