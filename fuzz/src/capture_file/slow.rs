//! The pcap format, read only with indices. pcapng is too complex for a slow reader. Our writer is
//! the other side of its test.

use colo_proxy::capture_file::Packet;

use super::Reading;

/// The packets in `file`, if it is an undamaged pcap file of Ethernet frames.
pub(super) fn read(file: &[u8]) -> Option<Reading> {
    let (is_big, unit_ns) = match *file.get(..4)? {
        [0xa1, 0xb2, 0xc3, 0xd4] => (true, 1000),
        [0xa1, 0xb2, 0x3c, 0x4d] => (true, 1),
        [0xd4, 0xc3, 0xb2, 0xa1] => (false, 1000),
        [0x4d, 0x3c, 0xb2, 0xa1] => (false, 1),
        _ => return None,
    };
    let number = |at: usize| {
        let octets: [u8; 4] = *file.get(at..)?.first_chunk()?;
        Some(if is_big { u32::from_be_bytes(octets) } else { u32::from_le_bytes(octets) })
    };
    if number(20)? as u16 != 1 {
        return None;
    }
    let mut packets = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let head = [number(at), number(at + 4), number(at + 8), number(at + 12)];
        let [Some(seconds), Some(fraction), Some(len), Some(original_len)] = head else {
            return Some((packets, Ok(true)));
        };
        if len > 262_144 {
            return None;
        }
        let Some(octets) = file.get(at + 16..at + 16 + len as usize) else {
            return Some((packets, Ok(true)));
        };
        packets.push(Packet {
            number: packets.len() as u64 + 1,
            time_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit_ns,
            interface: 0,
            original_len,
            bytes: octets.to_vec().into(),
        });
        at += 16 + len as usize;
    }
    Some((packets, Ok(false)))
}
