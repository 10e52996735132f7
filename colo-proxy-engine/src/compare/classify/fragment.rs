//! Where a fragment belongs in its packet.

use colo_proxy_common::decode::{FrameBytes, IpHeader, Malformed, protocol};

/// A fragment of IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::compare) struct Fragment {
    pub(in crate::compare) id: u32,
    /// Its place in the payload of the packet.
    pub(in crate::compare) offset: u16,
    pub(in crate::compare) more: bool,
    /// Where its payload starts and ends in the Ethernet frame. With IPv6 the payload is everything
    /// behind the fragment header, further extension headers included.
    pub(in crate::compare) at: u32,
    pub(in crate::compare) end: u32,
    /// Where the IP header starts.
    pub(in crate::compare) ip_at: u32,
    /// Where the byte lies that announces the fragment header of IPv6; 0 for IPv4.
    pub(in crate::compare) announced_at: u32,
}

impl Fragment {
    /// The bytes of its payload.
    pub(in crate::compare) fn payload(self, ethernet: &[u8]) -> &[u8] {
        ethernet.get(self.at as usize..self.end as usize).unwrap_or_default()
    }

    /// One past its last place in the payload of the packet.
    pub(in crate::compare) fn reach(self) -> u32 {
        u32::from(self.offset) + (self.end - self.at)
    }
}

/// The fragment that `ip` is; `None` for a whole packet, which one with offset 0 and nothing to
/// follow is too (RFC 6946). A fragment within a fragment is neither.
pub(super) fn read(octets: &[u8], ip: &IpHeader) -> Result<Option<Fragment>, Malformed> {
    let Some(own) = ip.fragment else { return Ok(None) };
    let mut fragment = Fragment {
        id: own.id,
        offset: own.offset,
        more: own.more,
        at: ip.payload_at,
        end: ip.end,
        ip_at: ip.at,
        announced_at: 0,
    };
    if ip.version == 6 {
        let (announced_at, header_at) =
            fragment_header(octets, ip.at as usize).ok_or(Malformed::Extension)?;
        let [_, _, o0, o1, id @ ..]: [u8; 8] =
            octets.read(header_at).ok_or(Malformed::Extension)?;
        // The decoder tells of the last one that it met.
        let word = u16::from_be_bytes([o0, o1]);
        let first = (word & 0xfff8, word & 1 != 0, u32::from_be_bytes(id));
        if first != (own.offset, own.more, own.id) {
            return Err(Malformed::Extension);
        }
        fragment.announced_at = announced_at as u32;
        fragment.at = (header_at + 8) as u32;
    }
    Ok((own.offset != 0 || own.more).then_some(fragment))
}

/// Where the first fragment header is announced, and where it lies (RFC 8200, section 4.5).
fn fragment_header(octets: &[u8], ip_at: usize) -> Option<(usize, usize)> {
    let (mut announced_at, mut at) = (ip_at + 6, ip_at + 40);
    loop {
        let [kind]: [u8; 1] = octets.read(announced_at)?;
        let [_, len]: [u8; 2] = octets.read(at)?;
        let len = match kind {
            protocol::FRAGMENT => return Some((announced_at, at)),
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
                (usize::from(len) + 1) * 8
            }
            protocol::AH => (usize::from(len) + 2) * 4,
            _ => return None,
        };
        announced_at = at;
        at += len;
    }
}
