//! Builds the frames of the tests.

use bytes::Bytes;
use colo_proxy_common::decode::flag;

use crate::frame::{Frame, VNET_HDR_LEN};

/// Addresses, tags and IP version of a test flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) ip_version: u8,
    pub(super) vlan: [u16; 2],
    /// Last byte of the peer's address.
    pub(super) peer: u8,
}

impl Default for Link {
    fn default() -> Self {
        Self { ip_version: 4, vlan: [0, 0], peer: 9 }
    }
}

impl Link {
    /// A frame that carries `payload` as `protocol`; `salt` goes where nothing counts: IP id, TTL
    /// and padding.
    pub(super) fn ip(self, protocol: u8, payload: &[u8], salt: u8) -> Frame {
        let mut octets = vec![0; VNET_HDR_LEN];
        octets.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        for id in self.vlan.iter().filter(|id| **id != 0) {
            octets.extend([0x81, 0x00]);
            octets.extend(id.to_be_bytes());
        }
        if self.ip_version == 4 {
            octets.extend([0x08, 0x00, 0x45, salt]);
            octets.extend(((payload.len() + 20) as u16).to_be_bytes());
            octets.extend([salt, salt, 0, 0, 64 - salt % 8, protocol, 0, 0]);
            octets.extend([10, 0, 0, 1, 10, 0, 0, self.peer]);
        } else {
            octets.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            octets.extend((payload.len() as u16).to_be_bytes());
            octets.extend([protocol, 64 - salt % 8]);
            octets.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            octets.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.peer]);
        }
        octets.extend(payload);
        if octets.len() < VNET_HDR_LEN + 60 {
            octets.resize(VNET_HDR_LEN + 60, salt);
        }
        Frame::new(Bytes::from(octets), VNET_HDR_LEN).expect("longer than its header")
    }

    pub(super) fn udp(self, ports: (u16, u16), payload: &[u8], checksum: u16) -> Frame {
        let mut octets = Vec::new();
        octets.extend(ports.0.to_be_bytes());
        octets.extend(ports.1.to_be_bytes());
        octets.extend(((payload.len() + 8) as u16).to_be_bytes());
        octets.extend(checksum.to_be_bytes());
        octets.extend(payload);
        self.ip(17, &octets, checksum as u8)
    }
}

/// A TCP segment to be built.
#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub(super) link: Link,
    pub(super) ports: (u16, u16),
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) flags: u8,
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// Goes where nothing counts, the window included unless it is given.
    pub(super) salt: u8,
    pub(super) window: Option<u16>,
    pub(super) urgent: u16,
}

pub(super) fn tcp(seq: u32) -> Tcp {
    Tcp {
        link: Link::default(),
        ports: (80, 5000),
        seq,
        ack: None,
        flags: 0,
        options: Vec::new(),
        payload: Vec::new(),
        salt: 0,
        window: None,
        urgent: 0,
    }
}

/// The same segment at `seq`.
pub(super) fn at(base: &Tcp, seq: u32) -> Tcp {
    Tcp { seq, ..base.clone() }
}

/// MSS 1460, SACK permitted, timestamps, window scale 7.
pub(super) fn syn_options() -> Vec<u8> {
    vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]
}

impl Tcp {
    /// SYN or SYN/ACK.
    pub(super) fn is_opening(&self) -> bool {
        self.flags & flag::SYN != 0
    }

    pub(super) fn ack(mut self, ack: u32) -> Self {
        self.ack = Some(ack);
        self
    }

    pub(super) fn data(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.payload = payload.as_ref().to_vec();
        self
    }

    pub(super) fn syn(mut self) -> Self {
        self.flags |= flag::SYN;
        self.options = syn_options();
        self
    }

    pub(super) fn fin(mut self) -> Self {
        self.flags |= flag::FIN;
        self
    }

    pub(super) fn rst(mut self) -> Self {
        self.flags |= flag::RST;
        self
    }

    pub(super) fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub(super) fn salt(mut self, salt: u8) -> Self {
        self.salt = salt;
        self
    }

    pub(super) fn window(mut self, window: u16) -> Self {
        self.window = Some(window);
        self
    }

    /// Points `pointer` bytes on as urgent.
    pub(super) fn urgent(mut self, pointer: u16) -> Self {
        self.flags |= flag::URG;
        self.urgent = pointer;
        self
    }

    pub(super) fn build(&self) -> Frame {
        let mut octets = Vec::new();
        octets.extend(self.ports.0.to_be_bytes());
        octets.extend(self.ports.1.to_be_bytes());
        octets.extend(self.seq.to_be_bytes());
        octets.extend(self.ack.unwrap_or_default().to_be_bytes());
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 1);
        let ack = if self.ack.is_some() { flag::ACK } else { 0 };
        octets.extend([((20 + options.len()) as u8 / 4) << 4, self.flags | ack]);
        let salted = u16::from_be_bytes([200 - self.salt, self.salt]);
        octets.extend(self.window.unwrap_or(salted).to_be_bytes());
        octets.extend([0, 0]);
        octets.extend(self.urgent.to_be_bytes());
        octets.extend(options);
        octets.extend(&self.payload);
        self.link.ip(6, &octets, self.salt)
    }
}
