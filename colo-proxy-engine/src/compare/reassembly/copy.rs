//! The packet that fragments make, for comparison; it never leaves.

use bytes::Bytes;
use colo_proxy_common::checksum;

use super::FragmentPiece;
use crate::frame::Frame;

const IPV6_HEADER_LEN: usize = 40;
const FRAGMENT_HEADER_LEN: usize = 8;
/// Of the flags of IPv4, only "don't fragment" can stay.
const DONT_FRAGMENT: u8 = 0x40;

/// The packet of `pieces`, which are all of it in order of place: headers and options of the first,
/// the bytes of all, as if it had never been cut. `None` where it would be too long.
pub(in crate::compare) fn whole(pieces: &[FragmentPiece]) -> Option<Frame> {
    let first = pieces.first()?;
    let payload_len = pieces.last()?.fragment.reach() as usize;
    let vnet_len = first.frame.vnet().len();
    let at = first.fragment.at as usize;
    let mut copy = Vec::with_capacity(vnet_len + at + payload_len);
    // Nothing is left to segment or to sum up.
    copy.resize(vnet_len, 0);
    copy.extend_from_slice(first.frame.ethernet().get(..at)?);
    let ip_at = first.fragment.ip_at as usize;
    let is_ipv6 = first.fragment.announced_at != 0;
    if is_ipv6 {
        drop_fragment_header(&mut copy, vnet_len, first)?;
    }
    for piece in pieces {
        copy.extend_from_slice(piece.payload());
    }
    let packet = copy.get_mut(vnet_len + ip_at..)?;
    let closed = if is_ipv6 { close_ipv6(packet) } else { close_ipv4(packet, at - ip_at) };
    closed?;
    Frame::new(Bytes::from(copy), vnet_len)
}

/// The header before it announces what it announced.
fn drop_fragment_header(copy: &mut Vec<u8>, vnet_len: usize, first: &FragmentPiece) -> Option<()> {
    let header_at = copy.len().checked_sub(FRAGMENT_HEADER_LEN)?;
    let next = *copy.get(header_at)?;
    *copy.get_mut(vnet_len + first.fragment.announced_at as usize)? = next;
    copy.truncate(header_at);
    Some(())
}

fn close_ipv6(packet: &mut [u8]) -> Option<()> {
    let len = u16::try_from(packet.len().checked_sub(IPV6_HEADER_LEN)?).ok()?;
    packet.get_mut(4..6)?.copy_from_slice(&len.to_be_bytes());
    Some(())
}

fn close_ipv4(packet: &mut [u8], header_len: usize) -> Option<()> {
    let len = u16::try_from(packet.len()).ok()?;
    let header = packet.get_mut(..header_len)?;
    header.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
    let [flags, offset] = header.get_mut(6..8)? else { return None };
    *flags &= DONT_FRAGMENT;
    *offset = 0;
    header.get_mut(10..12)?.fill(0);
    let sum = checksum::finish(checksum::sum(header, 0));
    header.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}
