//! Frames built byte by byte, with headers as odd as possible.

use bytes::Bytes;
use colo_proxy_engine::frame::{Frame, VNET_HDR_LEN};

/// Addresses, tags and IP version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) is_v6: bool,
    pub(super) vlan: Option<u16>,
    /// Last byte of the peer's address.
    pub(super) peer: u8,
}

/// The number of the piece of a longer packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) id: u8,
    /// In units of eight bytes.
    pub(super) offset: u16,
    pub(super) more: bool,
}

impl Link {
    /// An Ethernet frame that carries `payload` as `protocol`.
    pub(super) fn ip(self, protocol: u8, payload: &[u8], piece: Option<Piece>) -> Vec<u8> {
        let kind: u16 = if self.is_v6 { 0x86dd } else { 0x0800 };
        let mut frame = ethernet(self.vlan, kind);
        if self.is_v6 {
            self.ipv6(&mut frame, protocol, payload, piece);
        } else {
            self.ipv4(&mut frame, protocol, payload, piece);
        }
        let len = frame.len().max(60);
        frame.resize(len, 0xee);
        frame
    }

    fn ipv4(self, frame: &mut Vec<u8>, protocol: u8, payload: &[u8], piece: Option<Piece>) {
        let word = piece.map_or(0, |piece| u16::from(piece.more) << 13 | piece.offset & 0x1fff);
        frame.extend([0x45, 0]);
        frame.extend(((payload.len() + 20) as u16).to_be_bytes());
        frame.extend([0, piece.map_or(0, |piece| piece.id)]);
        frame.extend(word.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, self.peer]);
        frame.extend(payload);
    }

    fn ipv6(self, frame: &mut Vec<u8>, protocol: u8, payload: &[u8], piece: Option<Piece>) {
        const FRAGMENT: u8 = 44;
        let extension = if piece.is_some() { 8 } else { 0 };
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(((payload.len() + extension) as u16).to_be_bytes());
        frame.extend([if piece.is_some() { FRAGMENT } else { protocol }, 64]);
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.peer]);
        if let Some(piece) = piece {
            frame.extend([protocol, 0]);
            frame.extend((piece.offset << 3 | u16::from(piece.more)).to_be_bytes());
            frame.extend([0, 0, 0, piece.id]);
        }
        frame.extend(payload);
    }
}

/// An Ethernet header.
pub(super) fn ethernet(vlan: Option<u16>, kind: u16) -> Vec<u8> {
    let mut frame = vec![0; 12];
    if let Some(id) = vlan {
        frame.extend([0x81, 0]);
        frame.extend(id.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame
}

/// A TCP header and the bytes after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tcp {
    pub(super) ports: [u8; 2],
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u8,
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Tcp {
    pub(super) fn octets(&self) -> Vec<u8> {
        let mut octets = vec![0, self.ports[0], 0, self.ports[1]];
        octets.extend(self.seq.to_be_bytes());
        octets.extend(self.ack.to_be_bytes());
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4).min(40), 1);
        octets.extend([((20 + options.len()) as u8 / 4) << 4, self.flags]);
        octets.extend([0, self.window, 0, 0, 0, 0]);
        octets.extend(options);
        octets.extend(&self.payload);
        octets
    }
}

pub(super) fn udp(ports: [u8; 2], payload: &[u8], checksum: u8) -> Vec<u8> {
    let len = payload.len() as u8 + 8;
    let mut octets = vec![0, ports[0], 0, ports[1], 0, len, 0, checksum];
    octets.extend(payload);
    octets
}

/// `bytes` after a virtio-net header of our gates' kind, with a number in the source address, which
/// nobody reads. The number tells equal frames apart.
pub(super) fn number(vnet: [u8; VNET_HDR_LEN], octets: &[u8], number: u32) -> Frame {
    let mut frame = vnet.to_vec();
    frame.extend(octets);
    // No gate gives less than an Ethernet header.
    let len = frame.len().max(VNET_HDR_LEN + 14);
    frame.resize(len, 0);
    frame[VNET_HDR_LEN + 8..VNET_HDR_LEN + 12].copy_from_slice(&number.to_be_bytes());
    let frame = Frame::new(Bytes::from(frame), VNET_HDR_LEN);
    frame.expect("it is longer than its header")
}

/// The number of a frame; `None` if it is too short to come from here.
pub(super) fn number_of(frame: &Frame) -> Option<u32> {
    frame.ethernet().get(8..12)?.first_chunk().map(|number| u32::from_be_bytes(*number))
}
