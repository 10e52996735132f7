//! Frames as a guest writes them to its TAP.

use etherparse::{PacketBuilder, TcpOptionElement};

pub(crate) const GUEST: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 1], [10, 0, 0, 1]);
pub(crate) const PEER: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 2], [10, 0, 0, 2]);
pub(crate) const GUEST_PORT: u16 = 80;
pub(crate) const PEER_PORT: u16 = 40_000;
/// The place where the TCP header of these frames starts, and the place of the checksum in it.
pub(crate) const TCP_AT: usize = 34;
pub(crate) const CSUM_OFFSET: usize = 16;
/// Ethernet, IPv4 and TCP headers without options.
pub(crate) const HEADERS_LEN: usize = 54;

/// A TCP segment of the guest over IPv4, its checksum complete.
pub(crate) fn tcp(seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST.0, PEER.0)
        .ipv4(GUEST.1, PEER.1, 64)
        .tcp(GUEST_PORT, PEER_PORT, seq, 1024)
        .ack(7)
        .write(&mut frame, payload)
        .expect("frame");
    frame
}

/// The same with the timestamps option after two no-operations.
pub(crate) fn tcp_with_timestamps(seq: u32, (value, echo): (u32, u32), payload: &[u8]) -> Vec<u8> {
    let timestamps =
        [TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(value, echo)];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST.0, PEER.0)
        .ipv4(GUEST.1, PEER.1, 64)
        .tcp(GUEST_PORT, PEER_PORT, seq, 1024)
        .ack(7)
        .options(&timestamps)
        .expect("options")
        .write(&mut frame, payload)
        .expect("frame");
    frame
}

/// A payload whose every byte tells its place.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8)) as u8).collect()
}

/// The 12-byte header of a frame with a partial checksum, and the frame with the sum of its
/// pseudo-header instead of the checksum. A `gso_size` of 0 means no GSO.
pub(crate) fn partial(mut frame: Vec<u8>, gso_size: u16) -> ([u8; 12], Vec<u8>) {
    let tcp_len = (frame.len() - TCP_AT) as u32;
    let sum = pseudo_header_sum(tcp_len);
    frame[TCP_AT + CSUM_OFFSET..][..2].copy_from_slice(&sum.to_be_bytes());
    let mut vnet = [0; 12];
    vnet[0] = 1; // NEEDS_CSUM
    if gso_size > 0 {
        vnet[1] = 1; // TCPv4
        vnet[2..4].copy_from_slice(&(HEADERS_LEN as u16).to_le_bytes());
        vnet[4..6].copy_from_slice(&gso_size.to_le_bytes());
    }
    vnet[6..8].copy_from_slice(&(TCP_AT as u16).to_le_bytes());
    vnet[8..10].copy_from_slice(&(CSUM_OFFSET as u16).to_le_bytes());
    (vnet, frame)
}

/// The sum of the TCP segment of `frame` with its pseudo-header. It is `0xffff` if the checksum is
/// right.
pub(crate) fn tcp_sum(frame: &[u8]) -> u16 {
    let segment = &frame[TCP_AT..];
    let words =
        segment.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).copied().unwrap_or(0) as u32);
    fold(words.sum::<u32>() + u32::from(pseudo_header_sum(segment.len() as u32)))
}

fn pseudo_header_sum(tcp_len: u32) -> u16 {
    let addresses = [GUEST.1, PEER.1].concat();
    let words = addresses.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    fold(words.sum::<u32>() + 6 + (tcp_len & 0xffff) + (tcp_len >> 16))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
