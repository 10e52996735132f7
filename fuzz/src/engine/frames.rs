//! Frames from few possible ones, so that the guests send the same; and sometimes any bytes.

use colo_proxy_common::decode::{flag, protocol};
use colo_proxy_engine::frame::VNET_HDR_LEN;

use super::build::{Link, Piece, Tcp, ethernet, udp};
use crate::choices::Choices;

/// The output of a guest, before it is numbered.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) vnet: [u8; VNET_HDR_LEN],
    pub(super) octets: Vec<u8>,
}

/// MSS 1460, SACK permitted, timestamps, window scale 7.
const SYN_OPTIONS: [u8; 19] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 3, 3, 7];
const TIMESTAMPS: [u8; 10] = [8, 10, 0, 0, 0, 9, 0, 0, 0, 7];

pub(super) fn any(choices: &mut Choices<'_>) -> Raw {
    let kind = choices.octet();
    let mut raw = Raw { vnet: [0; VNET_HDR_LEN], octets: any_octets(choices, kind & 0xf) };
    if kind & 0xe0 == 0xe0 {
        change(choices, &mut raw.octets);
    }
    if kind & 0xf0 == 0x50 {
        offload(choices, &mut raw.vnet);
    }
    raw
}

fn any_octets(choices: &mut Choices<'_>, kind: u8) -> Vec<u8> {
    match kind {
        0..8 => any_link(choices).ip(protocol::TCP, &any_segment(choices).octets(), None),
        8 | 9 => {
            let datagram = any_datagram(choices);
            any_link(choices).ip(protocol::UDP, &datagram, None)
        }
        10 | 11 => any_fragment(choices),
        12 => any_icmp(choices),
        13 => {
            let protocol = choices.octet();
            let len = choices.below(30);
            let payload = choices.octets(len).to_vec();
            any_link(choices).ip(protocol, &payload, None)
        }
        14 => {
            let kind = choices.one_of(&[0x0806, 0x88cc, 0x0026, 0x8100, 0x88a8, 0x1234]);
            let len = choices.below(50);
            [ethernet(None, kind), choices.octets(len).to_vec()].concat()
        }
        _ => {
            let len = choices.below(120);
            choices.octets(len).to_vec()
        }
    }
}

/// One of six links.
fn any_link(choices: &mut Choices<'_>) -> Link {
    let kind = choices.octet();
    let vlan = (kind & 0xe == 0xe).then_some(u16::from(kind >> 7));
    Link { is_v6: kind & 1 != 0, vlan, peer: 8 + (kind >> 4 & 1) }
}

/// Few places and numbers. The byte of a place is mostly its own, so that guests agree.
fn any_segment(choices: &mut Choices<'_>) -> Tcp {
    let kind = choices.octet();
    let mut tcp = Tcp { ports: [kind & 1, 9], window: 200, ..Tcp::default() };
    tcp.flags = match kind >> 1 & 0xf {
        0 => flag::SYN,
        1 => flag::SYN | flag::ACK,
        2 => flag::FIN | flag::ACK,
        3 => flag::RST,
        4 => flag::RST | flag::ACK,
        5 => choices.octet(),
        6 => flag::URG | flag::ACK,
        _ => flag::ACK,
    };
    tcp.seq = match choices.octet() {
        255 => choices.number32(),
        place => 1000 + u32::from(place % 64),
    };
    tcp.ack = match choices.octet() {
        255 => choices.number32(),
        place => 500 + u32::from(place % 32),
    };
    let salt = u32::from(kind >> 5 == 7);
    let len = choices.below(64).saturating_sub(16) as u32;
    tcp.payload = (0..len).map(|n| tcp.seq.wrapping_add(n + salt) as u8).collect();
    tcp.options = any_options(choices, tcp.flags);
    if kind >> 5 == 6 {
        tcp.window = choices.one_of(&[0, 1, 200]);
    }
    tcp
}

fn any_options(choices: &mut Choices<'_>, flags: u8) -> Vec<u8> {
    if flags & flag::SYN != 0 {
        let mut options = SYN_OPTIONS.to_vec();
        if choices.octet() > 200 {
            let at = choices.below(options.len());
            options[at] = choices.octet();
        }
        return options;
    }
    match choices.octet() {
        200..230 => TIMESTAMPS.to_vec(),
        230..250 => {
            let left = 500 + u32::from(choices.octet());
            let edges = [left.to_be_bytes(), (left + 9).to_be_bytes()].concat();
            [&[1, 1, 5, 10], &edges[..]].concat()
        }
        250.. => choices.octets(12).to_vec(),
        _ => Vec::new(),
    }
}

fn any_datagram(choices: &mut Choices<'_>) -> Vec<u8> {
    let kind = choices.octet();
    let payload = vec![kind >> 1 & 3; usize::from(kind >> 3 & 7) * 6];
    udp([kind & 1, 53], &payload, choices.octet())
}

/// A piece of one of few datagrams. Mostly, the pieces fit together.
fn any_fragment(choices: &mut Choices<'_>) -> Vec<u8> {
    let kind = choices.octet();
    let id = kind & 3;
    let whole = udp([1, 53], &[id; 40], 0);
    let (offset, end) = match kind >> 2 & 7 {
        0 | 1 => (0, 24),
        2 | 3 => (3, 48),
        4 => (0, 16),
        5 => (2, 24),
        6 => (0, 48),
        _ => (choices.number16() & 0x1fff, choices.below(49)),
    };
    let more = if kind & 0x80 == 0 { end < 48 } else { choices.octet() & 1 != 0 };
    let start = (usize::from(offset) * 8).min(end);
    let piece = Piece { id, offset, more };
    any_link(choices).ip(protocol::UDP, &whole[start..end], Some(piece))
}

fn any_icmp(choices: &mut Choices<'_>) -> Vec<u8> {
    let link = any_link(choices);
    let kind = choices.octet();
    let types: [u8; 8] =
        if link.is_v6 { [128, 129, 1, 135, 136, 143, 2, 3] } else { [8, 0, 3, 5, 11, 12, 13, 4] };
    let mut message = vec![types[usize::from(kind & 7)], kind >> 6, 0, 0, 0, kind >> 3 & 3, 0, 1];
    message.extend([kind >> 5; 10]);
    link.ip(if link.is_v6 { protocol::ICMPV6 } else { protocol::ICMP }, &message, None)
}

/// Changes some bytes, and may truncate the frame.
fn change(choices: &mut Choices<'_>, octets: &mut Vec<u8>) {
    for _ in 0..choices.below(4) {
        if octets.is_empty() {
            return;
        }
        let at = choices.below(octets.len().min(256));
        octets[at] = choices.octet();
    }
    if choices.octet() & 1 != 0 {
        let len = choices.below(octets.len().min(255) + 1);
        octets.truncate(len);
    }
}

/// A virtio-net header that announces segmentation or a partial checksum, correctly or not.
fn offload(choices: &mut Choices<'_>, vnet: &mut [u8; VNET_HDR_LEN]) {
    let kind = choices.octet();
    vnet[0] = kind & 3;
    // None, TCPv4, UDP with fragmentation, TCPv6, UDP with segmentation, or any.
    vnet[1] = [0, 1, 3, 4, 5, choices.octet()][usize::from(kind >> 2) % 6];
    vnet[2] = 54;
    vnet[4] = choices.below(40) as u8;
    vnet[6] = choices.one_of(&[34, 54]);
    vnet[8] = choices.one_of(&[6, 16]);
}
