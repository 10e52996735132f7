//! Segments and datagrams as frames, and back. A frame whose checksum is wrong reads as nothing.

use bytes::Bytes;
use colo_proxy_common::checksum::{finish, pseudo_header, sum};
use colo_proxy_common::decode::{IpHeader, decode, decode_tcp, decode_tcp_options, protocol};

use crate::frame::{Frame, VNET_HDR_LEN};

/// The two ends of every conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TalkEnd {
    Client = 9,
    Guest = 1,
}

/// The form of the headers below TCP in a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Net {
    pub(super) v6: bool,
    /// 0 is no tag.
    pub(super) vlan: u16,
}

/// A conversation as one end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortPair {
    pub(super) own_port: u16,
    pub(super) peer_port: u16,
}

impl PortPair {
    /// As the other end sees it.
    pub(super) fn reversed(self) -> Self {
        Self { own_port: self.peer_port, peer_port: self.own_port }
    }
}

/// A TCP segment. `tuple` has its ports, seen from its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlainSegment {
    pub(super) tuple: PortPair,
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    pub(super) window: u16,
    /// Value and echo.
    pub(super) timestamps: Option<(u32, u32)>,
    pub(super) sack: Vec<(u32, u32)>,
    pub(super) payload: Vec<u8>,
}

pub(super) const MSS: usize = 1448;

/// The cargo of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Tcp(PlainSegment),
    Udp(PortPair, Vec<u8>),
}

impl PlainSegment {
    fn options(&self) -> Vec<u8> {
        let mut options = Vec::new();
        if self.syn {
            options.extend([2, 4]);
            options.extend((MSS as u16).to_be_bytes());
            options.extend([4, 2, 1, 1]);
        }
        if let Some((value, echo)) = self.timestamps {
            options.extend([1, 1, 8, 10]);
            options.extend(value.to_be_bytes());
            options.extend(echo.to_be_bytes());
        }
        if !self.sack.is_empty() {
            options.extend([1, 1, 5, 2 + 8 * self.sack.len() as u8]);
            for (start, end) in &self.sack {
                options.extend(start.to_be_bytes());
                options.extend(end.to_be_bytes());
            }
        }
        options
    }

    fn octets(&self) -> Vec<u8> {
        let options = self.options();
        let mut octets = Vec::new();
        octets.extend(self.tuple.own_port.to_be_bytes());
        octets.extend(self.tuple.peer_port.to_be_bytes());
        octets.extend(self.seq.to_be_bytes());
        octets.extend(self.ack.unwrap_or_default().to_be_bytes());
        let flags = u8::from(self.fin)
            | u8::from(self.syn) << 1
            | u8::from(self.rst) << 2
            | u8::from(self.ack.is_some()) << 4;
        octets.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
        octets.extend(self.window.to_be_bytes());
        octets.extend([0; 4]);
        octets.extend(options);
        octets.extend(&self.payload);
        octets
    }
}

impl Net {
    /// The frame in which `from` sends `body`.
    pub(super) fn frame(self, from: TalkEnd, body: &Body) -> Frame {
        let (protocol, mut octets, checksum_at) = match body {
            Body::Tcp(segment) => (protocol::TCP, segment.octets(), 16),
            Body::Udp(tuple, payload) => {
                let mut octets = Vec::new();
                octets.extend(tuple.own_port.to_be_bytes());
                octets.extend(tuple.peer_port.to_be_bytes());
                octets.extend((8 + payload.len() as u16).to_be_bytes());
                octets.extend([0; 2]);
                octets.extend(payload);
                (protocol::UDP, octets, 6)
            }
        };
        let to = if from == TalkEnd::Client { TalkEnd::Guest } else { TalkEnd::Client };
        let (source, target) = (self.address(from), self.address(to));
        let pseudo = pseudo_header([&source, &target], protocol, octets.len() as u32);
        let checksum = finish(sum(&octets, pseudo));
        octets[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = vec![0; VNET_HDR_LEN];
        frame.extend([2, 0, 0, 0, 0, to as u8, 2, 0, 0, 0, 0, from as u8]);
        if self.vlan != 0 {
            frame.extend([0x81, 0x00]);
            frame.extend(self.vlan.to_be_bytes());
        }
        self.ip(&mut frame, protocol, [&source, &target], octets.len());
        frame.extend(octets);
        frame.resize(frame.len().max(VNET_HDR_LEN + 60), 0);
        Frame::new(Bytes::from(frame), VNET_HDR_LEN).expect("longer than its header")
    }

    fn ip(self, frame: &mut Vec<u8>, protocol: u8, addresses: [&[u8]; 2], len: usize) {
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((len as u16).to_be_bytes());
            frame.extend([protocol, 64]);
        } else {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((len as u16 + 20).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        }
        frame.extend(addresses[0]);
        frame.extend(addresses[1]);
    }

    fn address(self, host: TalkEnd) -> Vec<u8> {
        let mut address = if self.v6 { vec![0xfd; 16] } else { vec![10; 4] };
        *address.last_mut().expect("it is not empty") = host as u8;
        address
    }
}

/// The cargo of `frame`. `None` if it cannot be read, or a checksum is wrong.
pub(super) fn read(frame: &Frame) -> Option<Body> {
    let octets = frame.ethernet();
    let ip = decode(octets, None).ok()?.ip?;
    let packet = octets.get(ip.payload_at as usize..ip.end as usize)?;
    let len = if ip.version == 4 { 4 } else { 16 };
    let pseudo = pseudo_header([&ip.src[..len], &ip.dst[..len]], ip.protocol, packet.len() as u32);
    if finish(sum(packet, pseudo)) != 0 {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let tuple = PortPair { own_port: port(0)?, peer_port: port(2)? };
    if ip.protocol == protocol::UDP {
        return Some(Body::Udp(tuple, packet.get(8..)?.to_vec()));
    }
    read_tcp(octets, &ip, tuple).map(Body::Tcp)
}

fn read_tcp(octets: &[u8], ip: &IpHeader, tuple: PortPair) -> Option<PlainSegment> {
    let tcp = decode_tcp(octets, ip).ok()?;
    let options = decode_tcp_options(octets, &tcp);
    let number =
        |at: usize| octets.get(at..at + 4).map(|o| u32::from_be_bytes([o[0], o[1], o[2], o[3]]));
    let sack = options.sack.map_or(Some(Vec::new()), |sack| {
        let blocks = (0..usize::from(sack.blocks)).map(|block| sack.at as usize + block * 8);
        blocks.map(|at| Some((number(at)?, number(at + 4)?))).collect()
    })?;
    let payload = octets.get(tcp.payload_at as usize..ip.end as usize)?;
    Some(PlainSegment {
        tuple,
        seq: tcp.seq,
        ack: (tcp.flags & 16 != 0).then_some(tcp.ack),
        syn: tcp.flags & 2 != 0,
        fin: tcp.flags & 1 != 0,
        rst: tcp.flags & 4 != 0,
        window: tcp.window,
        timestamps: options.timestamps.map(|t| (t.value, t.echo)),
        sack,
        payload: payload.to_vec(),
    })
}
