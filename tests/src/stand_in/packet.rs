//! The parts of a packet that a stand-in needs. It shares no code with colo-proxy's decoder on
//! purpose.

/// Places in an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketPlaces {
    pub ip_version: u8,
    pub ip_at: usize,
    pub protocol: u8,
    /// The transport header.
    pub l4_at: usize,
    /// The first byte after the packet. Padding follows it.
    pub end: usize,
    pub fragment: bool,
}

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub fn be16(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

pub fn be32(frame: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

/// `None` if the frame is not IP or is truncated.
pub fn parse(frame: &[u8]) -> Option<PacketPlaces> {
    let mut at = 12;
    while matches!(be16(frame, at)?, 0x8100 | 0x88a8) {
        at += 4;
    }
    let ip_at = at + 2;
    let packet = match be16(frame, at)? {
        0x0800 => parse_v4(frame, ip_at)?,
        0x86dd => parse_v6(frame, ip_at)?,
        _ => return None,
    };
    (packet.l4_at <= packet.end && packet.end <= frame.len()).then_some(packet)
}

fn parse_v4(frame: &[u8], ip_at: usize) -> Option<PacketPlaces> {
    Some(PacketPlaces {
        ip_version: 4,
        ip_at,
        protocol: *frame.get(ip_at + 9)?,
        l4_at: ip_at + usize::from(frame.get(ip_at)? & 0xf) * 4,
        end: ip_at + usize::from(be16(frame, ip_at + 2)?),
        fragment: be16(frame, ip_at + 6)? & 0x3fff != 0,
    })
}

fn parse_v6(frame: &[u8], ip_at: usize) -> Option<PacketPlaces> {
    let (mut next, mut l4_at) = (*frame.get(ip_at + 6)?, ip_at + 40);
    let mut fragment = false;
    while matches!(next, 0 | 43 | 44 | 60) {
        fragment |= next == 44;
        let len = if next == 44 { 8 } else { (usize::from(*frame.get(l4_at + 1)?) + 1) * 8 };
        next = *frame.get(l4_at)?;
        l4_at += len;
    }
    let end = ip_at + 40 + usize::from(be16(frame, ip_at + 4)?);
    Some(PacketPlaces { ip_version: 6, ip_at, protocol: next, l4_at, end, fragment })
}

impl PacketPlaces {
    /// The place where the payload of TCP or UDP starts.
    pub fn payload_at(&self, frame: &[u8]) -> Option<usize> {
        let at = match self.protocol {
            TCP => self.l4_at + usize::from(frame.get(self.l4_at + 12)? >> 4) * 4,
            UDP => self.l4_at + 8,
            _ => return None,
        };
        (at <= self.end && !self.fragment).then_some(at)
    }

    /// The place of the checksum in the transport header.
    pub fn sum_at(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(self.l4_at + 16),
            UDP => Some(self.l4_at + 6),
            ICMP | ICMPV6 => Some(self.l4_at + 2),
            _ => None,
        }
    }

    /// The places of TCP's options of `kind`, after their kind and length bytes, with the remaining
    /// length.
    pub fn tcp_option(&self, frame: &[u8], kind: u8) -> Option<(usize, usize)> {
        let end = self.payload_at(frame)?;
        let mut at = self.l4_at + 20;
        while at < end {
            match *frame.get(at)? {
                0 => return None,
                1 => at += 1,
                found => {
                    let len = usize::from(*frame.get(at + 1)?);
                    if len < 2 || at + len > end {
                        return None;
                    }
                    if found == kind {
                        return Some((at + 2, len - 2));
                    }
                    at += len;
                }
            }
        }
        None
    }
}
