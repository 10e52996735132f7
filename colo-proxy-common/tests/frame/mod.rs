//! Frames of every shape, written byte by byte: the tests must not build them with the code that
//! they test.
#![allow(dead_code, reason = "each test uses its part of this")]

use proptest::prelude::*;

/// One TCP segment in one frame.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// VLAN ids, outer first; two of them are 802.1ad.
    pub(crate) vlans: Vec<u16>,
    pub(crate) ip: Ip,
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<TcpOption>,
    pub(crate) payload: Vec<u8>,
    /// Bytes behind the packet.
    pub(crate) padding: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Ip {
    V4 { options_words: u8 },
    V6 { extensions: Vec<Extension> },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Extension {
    HopByHop(u8),
    Destination(u8),
    Authentication(u8),
}

#[derive(Clone, Debug)]
pub(crate) enum TcpOption {
    Nop,
    Mss(u16),
    WindowScale(u8),
    SackPermitted,
    Timestamps(u32, u32),
    Sack(Vec<(u32, u32)>),
    Unknown(u8, u8),
}

/// What the checksum field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Full,
    /// The sum of the pseudo-header, as with `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
    Partial,
}

pub(crate) const V4_SRC: [u8; 4] = [192, 0, 2, 1];
pub(crate) const V4_DST: [u8; 4] = [198, 51, 100, 2];
pub(crate) const V6_SRC: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const V6_DST: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

impl Default for Shape {
    fn default() -> Self {
        Self {
            vlans: vec![],
            ip: Ip::V4 { options_words: 0 },
            ports: (40_000, 80),
            seq: 1_000,
            ack: 2_000,
            flags: 0x10,
            options: vec![],
            payload: vec![],
            padding: 0,
        }
    }
}

impl Shape {
    pub(crate) fn v6() -> Self {
        Self { ip: Ip::V6 { extensions: vec![] }, ..Self::default() }
    }

    pub(crate) fn build(&self, checksum: Checksum) -> Vec<u8> {
        let mut segment = self.segment();
        let pseudo = self.pseudo_header(segment.len());
        let sum = match checksum {
            Checksum::Full => !ones_complement_sum(&[&pseudo, &segment]),
            Checksum::Partial => ones_complement_sum(&[&pseudo]),
        };
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut frame = self.ethernet();
        match &self.ip {
            Ip::V4 { options_words } => ipv4(&mut frame, *options_words, &segment),
            Ip::V6 { extensions } => ipv6(&mut frame, extensions, &segment),
        }
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }

    fn ethernet(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (i, id) in self.vlans.iter().enumerate() {
            let outer_of_two = i == 0 && self.vlans.len() == 2;
            frame.extend(if outer_of_two { [0x88, 0xa8] } else { [0x81, 0x00] });
            frame.extend((0x2000 | id).to_be_bytes());
        }
        frame.extend(match self.ip {
            Ip::V4 { .. } => [0x08, 0x00],
            Ip::V6 { .. } => [0x86, 0xdd],
        });
        frame
    }

    fn segment(&self) -> Vec<u8> {
        let options = self.option_octets();
        let mut tcp = Vec::new();
        tcp.extend(self.ports.0.to_be_bytes());
        tcp.extend(self.ports.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push(((20 + options.len()) / 4 * 16) as u8);
        tcp.push(self.flags);
        tcp.extend([0xfa, 0xf0, 0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(&self.payload);
        tcp
    }

    /// What fits into 40 bytes, padded with the end of options.
    fn option_octets(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for option in &self.options {
            let one = option.bytes();
            if bytes.len() + one.len() <= 40 {
                bytes.extend(one);
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        let mut pseudo = Vec::new();
        match self.ip {
            Ip::V4 { .. } => {
                pseudo.extend(V4_SRC);
                pseudo.extend(V4_DST);
            }
            Ip::V6 { .. } => {
                pseudo.extend(V6_SRC);
                pseudo.extend(V6_DST);
            }
        }
        pseudo.extend([0, 6]);
        pseudo.extend((len as u32).to_be_bytes());
        pseudo
    }
}

impl TcpOption {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Nop => vec![1],
            Self::Mss(mss) => [&[2, 4][..], &mss.to_be_bytes()].concat(),
            Self::WindowScale(shift) => vec![3, 3, *shift],
            Self::SackPermitted => vec![4, 2],
            Self::Timestamps(value, echo) => {
                [&[8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
            }
            Self::Sack(blocks) => {
                let mut bytes = vec![5, 2 + 8 * blocks.len() as u8];
                for (left, right) in blocks {
                    bytes.extend(left.to_be_bytes());
                    bytes.extend(right.to_be_bytes());
                }
                bytes
            }
            Self::Unknown(kind, len) => {
                let mut bytes = vec![*kind, 2 + len];
                bytes.resize(2 + usize::from(*len), 0xaa);
                bytes
            }
        }
    }
}

fn ipv4(frame: &mut Vec<u8>, options_words: u8, segment: &[u8]) {
    let header_len = 20 + 4 * usize::from(options_words);
    let mut header = vec![0x40 | (header_len / 4) as u8, 0];
    header.extend(((header_len + segment.len()) as u16).to_be_bytes());
    header.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0]);
    header.extend(V4_SRC);
    header.extend(V4_DST);
    header.resize(header_len, 1);
    let sum = !ones_complement_sum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(segment);
}

fn ipv6(frame: &mut Vec<u8>, extensions: &[Extension], segment: &[u8]) {
    let mut rest = Vec::new();
    let kind = |i: usize| match extensions.get(i) {
        Some(Extension::HopByHop(_)) => 0u8,
        Some(Extension::Destination(_)) => 60,
        Some(Extension::Authentication(_)) => 51,
        None => 6,
    };
    for (i, extension) in extensions.iter().enumerate() {
        let start = rest.len();
        match extension {
            Extension::HopByHop(units) | Extension::Destination(units) => {
                // PadN fills the header.
                let len = 8 * (usize::from(*units) + 1);
                rest.extend([kind(i + 1), *units, 1, (len - 4) as u8]);
                rest.resize(start + len, 0);
            }
            Extension::Authentication(words) => {
                let len = 12 + 8 * usize::from(*words);
                rest.extend([kind(i + 1), (len / 4 - 2) as u8]);
                rest.resize(start + len, 0);
            }
        }
    }
    rest.extend(segment);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((rest.len() as u16).to_be_bytes());
    frame.extend([kind(0), 64]);
    frame.extend(V6_SRC);
    frame.extend(V6_DST);
    frame.extend(rest);
}

/// Folded, not complemented. Every part but the last must be of even length.
pub(crate) fn ones_complement_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub(crate) fn any_option() -> impl Strategy<Value = TcpOption> {
    prop_oneof![
        3 => Just(TcpOption::Nop),
        1 => any::<u16>().prop_map(TcpOption::Mss),
        1 => any::<u8>().prop_map(TcpOption::WindowScale),
        1 => Just(TcpOption::SackPermitted),
        3 => any::<(u32, u32)>().prop_map(|(v, e)| TcpOption::Timestamps(v, e)),
        3 => proptest::collection::vec(any::<(u32, u32)>(), 1..=4).prop_map(TcpOption::Sack),
        1 => (9u8..=255, 0u8..6).prop_map(|(kind, len)| TcpOption::Unknown(kind, len)),
    ]
}

/// Anything, and what an established connection has: timestamps, SACK blocks, or these behind those.
pub(crate) fn any_options() -> impl Strategy<Value = Vec<TcpOption>> {
    let usual = (
        proptest::option::of(any::<(u32, u32)>()),
        proptest::collection::vec(any::<(u32, u32)>(), 0..=4),
    )
        .prop_map(|(timestamps, blocks)| {
            let padded = |option| [TcpOption::Nop, TcpOption::Nop, option];
            let sack = (!blocks.is_empty()).then_some(TcpOption::Sack(blocks));
            let timestamps = timestamps.map(|(value, echo)| TcpOption::Timestamps(value, echo));
            [timestamps, sack].into_iter().flatten().flat_map(padded).collect()
        });
    prop_oneof![proptest::collection::vec(any_option(), 0..8), usual]
}

fn any_ip() -> impl Strategy<Value = Ip> {
    let extension = prop_oneof![
        (0u8..3).prop_map(Extension::Destination),
        (0u8..3).prop_map(Extension::Authentication),
    ];
    prop_oneof![
        (0u8..=10).prop_map(|options_words| Ip::V4 { options_words }),
        (proptest::option::of(0u8..3), proptest::collection::vec(extension, 0..3)).prop_map(
            |(hop_by_hop, mut extensions)| {
                // RFC 8200, section 4.1: the hop-by-hop header comes first or not at all.
                if let Some(units) = hop_by_hop {
                    extensions.insert(0, Extension::HopByHop(units));
                }
                Ip::V6 { extensions }
            }
        ),
    ]
}

pub(crate) fn any_shape() -> impl Strategy<Value = Shape> {
    (
        (proptest::collection::vec(1u16..4095, 0..=2), any_ip(), any::<(u16, u16)>()),
        (any::<u32>(), any::<u32>(), 0u8..64),
        any_options(),
        proptest::collection::vec(any::<u8>(), 0..64),
        prop_oneof![Just(0usize), 1usize..20],
    )
        .prop_map(|((vlans, ip, ports), (seq, ack, flags), options, payload, padding)| Shape {
            vlans,
            ip,
            ports,
            seq,
            ack,
            flags,
            options,
            payload,
            padding,
        })
}
