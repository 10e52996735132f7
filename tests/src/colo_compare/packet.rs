//! A guest's frames, built byte by byte, from 10.0.0.2 to 10.0.0.1.
//!
//! Checksums are right for IP and absent above it. Neither colo-compare looks at them.

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;

/// TCP's flags.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct TestSegment {
    port: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    data: Vec<u8>,
    ip_id: u16,
}

/// A segment of the connection from port 80, with the sequence number `seq`.
pub fn segment(seq: u32) -> TestSegment {
    TestSegment {
        port: 5000,
        seq,
        ack: 0,
        flags: 0,
        window: 60_000,
        options: Vec::new(),
        data: Vec::new(),
        ip_id: 0,
    }
}

impl TestSegment {
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    #[must_use]
    pub fn ack(mut self, ack: u32) -> Self {
        self.ack = ack;
        self.flags(ACK)
    }

    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags |= flags;
        self
    }

    #[must_use]
    pub fn syn(self) -> Self {
        self.flags(SYN)
    }

    #[must_use]
    pub fn fin(self) -> Self {
        self.flags(FIN)
    }

    #[must_use]
    pub fn rst(self) -> Self {
        self.flags(RST)
    }

    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// Whole words only.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    #[must_use]
    pub fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    #[must_use]
    pub fn ip_id(mut self, id: u16) -> Self {
        self.ip_id = id;
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(80u16.to_be_bytes());
        tcp.extend(self.port.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push(((20 + self.options.len()) as u8 / 4) << 4);
        tcp.push(self.flags);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.extend(&self.data);
        ipv4(6, self.ip_id, 0, &tcp)
    }

    /// With Ethernet's padding to 60 bytes.
    pub fn padded(&self) -> Vec<u8> {
        let mut frame = self.build();
        frame.resize(frame.len().max(60), 0);
        frame
    }
}

/// A datagram of UDP, or of another protocol.
#[derive(Clone, Debug)]
pub struct Datagram {
    protocol: u8,
    head: Vec<u8>,
    data: Vec<u8>,
    ip_id: u16,
    fragment: u16,
    is_v6: bool,
}

/// UDP from and to `port`.
pub fn datagram(port: u16) -> Datagram {
    let head = [port.to_be_bytes(), port.to_be_bytes()].concat();
    Datagram { protocol: 17, head, data: Vec::new(), ip_id: 0, fragment: 0, is_v6: false }
}

impl Datagram {
    /// An ICMP echo reply instead.
    #[must_use]
    pub fn icmp(mut self) -> Self {
        self.protocol = 1;
        self.head = vec![0, 0, 0, 0];
        self
    }

    /// Another protocol instead, without a header.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self.head.clear();
        self
    }

    /// Over IPv6.
    #[must_use]
    pub fn v6(mut self) -> Self {
        self.is_v6 = true;
        self
    }

    #[must_use]
    pub fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    #[must_use]
    pub fn ip_id(mut self, id: u16) -> Self {
        self.ip_id = id;
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let payload = self.payload();
        if self.is_v6 { ipv6(self.protocol, &payload) } else { self.ipv4(self.fragment, &payload) }
    }

    /// In two IPv4 fragments, the first with `first` bytes of payload, a multiple of 8.
    pub fn fragments(&self, first: usize) -> [Vec<u8>; 2] {
        let payload = self.payload();
        let (head, tail) = payload.split_at(first.min(payload.len()));
        [self.ipv4(0x2000, head), self.ipv4((first / 8) as u16, tail)]
    }

    fn ipv4(&self, fragment: u16, payload: &[u8]) -> Vec<u8> {
        ipv4(self.protocol, self.ip_id, fragment, payload)
    }

    fn payload(&self) -> Vec<u8> {
        let mut payload = self.head.clone();
        if self.protocol == 17 {
            payload.extend((8 + self.data.len() as u16).to_be_bytes());
            payload.extend([0, 0]);
        }
        payload.extend(&self.data);
        payload
    }
}

/// An ARP announcement, which is not compared. `mark` tells one from another.
pub fn arp(mark: u32) -> Vec<u8> {
    let mut frame = ethernet(ETHERTYPE_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mark.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// `frame` with an 802.1Q tag.
pub fn vlan(frame: &[u8], id: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &ETHERTYPE_VLAN.to_be_bytes(), &id.to_be_bytes(), rest].concat()
}

fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn ipv4(protocol: u8, id: u16, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload.len() as u16).to_be_bytes());
    header.extend(id.to_be_bytes());
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    let sum = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = sum.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header.splice(10..12, sum.to_be_bytes());
    let mut frame = ethernet(ETHERTYPE_IPV4);
    frame.extend(header);
    frame.extend(payload);
    frame
}

fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([protocol, 64]);
    for host in [2, 1] {
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    frame.extend(payload);
    frame
}
