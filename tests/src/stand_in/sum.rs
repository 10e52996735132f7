//! Internet checksums: checks them, and keeps them right over a change.

use super::packet::{ICMP, PacketPlaces, UDP, be16};
use super::tap::VnetHdr;

/// The ones' complement sum of `bytes`, not inverted, folded to 16 bits.
fn fold(bytes: &[u8], start: u64) -> u16 {
    let mut sum = start;
    let words = bytes.chunks_exact(4);
    if let Some(rest) = words.remainder().chunks(2).next() {
        sum += word_of(rest);
        if let Some(rest) = words.remainder().get(2..).filter(|rest| !rest.is_empty()) {
            sum += word_of(rest);
        }
    }
    for word in words {
        sum += word.try_into().map_or(0, |word| u64::from(u32::from_be_bytes(word)));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn word_of(bytes: &[u8]) -> u64 {
    let high = bytes.first().copied().unwrap_or(0);
    let low = bytes.get(1).copied().unwrap_or(0);
    u64::from(u16::from_be_bytes([high, low]))
}

/// The sum of the pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1).
fn pseudo(frame: &[u8], packet: &PacketPlaces) -> u64 {
    let (at, len) = if packet.ip_version == 4 { (12, 8) } else { (8, 32) };
    let addresses = frame.get(packet.ip_at + at..).and_then(|rest| rest.get(..len));
    u64::from(fold(addresses.unwrap_or_default(), 0))
        + u64::from(packet.protocol)
        + (packet.end - packet.l4_at) as u64
}

/// A description of the wrong checksums of a frame, if there are any.
pub fn fault(frame: &[u8], packet: &PacketPlaces, vnet: VnetHdr) -> Option<&'static str> {
    if packet.ip_version == 4 {
        let header = frame.get(packet.ip_at..packet.l4_at)?;
        if fold(header, 0) != 0xffff {
            return Some("IPv4 header");
        }
    }
    let sum_at = packet.sum_at().filter(|_| !packet.fragment)?;
    let Some(sum) = be16(frame, sum_at) else { return Some("cut") };
    if vnet.needs_csum() {
        let start = usize::from(vnet.csum_start);
        if start != packet.l4_at || start + usize::from(vnet.csum_offset) != sum_at {
            return Some("start and offset of the partial sum");
        }
        let expected = fold(&[], pseudo(frame, packet));
        return (sum != expected).then_some("partial sum");
    }
    if vnet.is_gso() {
        return Some("segment size without a partial sum");
    }
    if packet.protocol == UDP && sum == 0 && packet.ip_version == 4 {
        return None;
    }
    let start = if packet.protocol == ICMP { 0 } else { pseudo(frame, packet) };
    let all = frame.get(packet.l4_at..packet.end)?;
    (fold(all, start) != 0xffff).then_some("full sum")
}

/// Puts `new` at `at`, anywhere in the transport header or the payload. A full checksum stays as
/// right or wrong as it was (RFC 1624). A partial checksum covers only the pseudo header.
pub fn put(
    frame: &mut [u8],
    packet: &PacketPlaces,
    vnet: VnetHdr,
    at: usize,
    new: &[u8],
) -> Option<()> {
    // The words of the sum start at even distances from the transport header.
    let start = at - (at - packet.l4_at) % 2;
    let end = (at + new.len()) + (at + new.len() - start) % 2;
    let end = end.min(packet.end);
    let old_sum = fold(frame.get(start..end)?, 0);
    frame.get_mut(at..at + new.len())?.copy_from_slice(new);
    let sum_at = packet.sum_at()?;
    let sum = be16(frame, sum_at)?;
    let unused = packet.protocol == UDP && sum == 0;
    if vnet.needs_csum() || unused {
        return Some(());
    }
    let new_sum = fold(frame.get(start..end)?, 0);
    let changed = u64::from(!sum) + u64::from(!old_sum) + u64::from(new_sum);
    let sum = match !fold(&[], changed) {
        // For UDP, 0 means that there is no checksum (RFC 768).
        0 if packet.protocol == UDP => 0xffff,
        sum => sum,
    };
    frame.get_mut(sum_at..sum_at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests;
