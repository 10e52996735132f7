//! The compared part of an ICMP message.

use colo_proxy_common::decode::{FrameBytes, IpHeader, protocol};

use crate::compare::body::DatagramBytes;

/// Bytes of an ICMP header that every message has: type, code and checksum.
pub(super) const HEADER_LEN: u32 = 4;
/// Where an error message quotes the packet that it is about (RFC 792, RFC 4443).
const QUOTE_AT: u32 = 8;

/// The bytes of the message `kind` that count. Type and code name the flow; the checksum does not
/// count: that of `ICMPv6` may be left to the device, and it covers bytes that do not count either.
pub(super) fn body(octets: &[u8], ip: &IpHeader, kind: u8) -> DatagramBytes {
    let is_error = match ip.version {
        6 => kind < 128,
        _ => matches!(kind, 3 | 4 | 5 | 11 | 12),
    };
    let at = ip.payload_at + HEADER_LEN;
    let hole = is_error.then(|| quoted_tcp(octets, ip.payload_at + QUOTE_AT, ip.end)).flatten();
    let hole = hole.map_or((0, 0), |(from, to)| (from - at, to - at));
    DatagramBytes { lead: HEADER_LEN, hole, ..DatagramBytes::plain(at, ip.end) }
}

/// The part of a quoted TCP header with the guest's own numbers. Each guest quotes a frame that it
/// received, and that frame was translated to the guest's own sequence numbers and timestamps. The
/// engine compares the first 64 bits, which every quote must have (RFC 792: ports and sequence
/// number, both the peer's), and the data behind the header.
fn quoted_tcp(octets: &[u8], at: u32, end: u32) -> Option<(u32, u32)> {
    let octets = octets.get(..end as usize)?;
    let at = at as usize;
    let [first]: [u8; 1] = octets.read(at)?;
    let (next, tcp_at) = match first >> 4 {
        4 => {
            let [o0, o1, _, next]: [u8; 4] = octets.read(at + 6)?;
            // Behind the first fragment there is no header.
            let offset = u16::from_be_bytes([o0, o1]) & 0x1fff;
            ((offset == 0).then_some(next)?, at + usize::from(first & 0xf) * 4)
        }
        6 => (octets.read::<1>(at + 6)?[0], at + 40),
        _ => return None,
    };
    if next != protocol::TCP {
        return None;
    }
    // A quote may end within the header.
    let header_len =
        octets.read(tcp_at + 12).map_or(60, |[word]: [u8; 1]| usize::from(word >> 4) * 4);
    let (from, to) = (tcp_at + 8, (tcp_at + header_len).min(octets.len()));
    (from < to).then_some((from as u32, to as u32))
}
