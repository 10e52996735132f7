//! The output of two guests, and capture files of it.

use etherparse::{IpFragOffset, IpHeaders, Ipv4Header, PacketBuilder, TcpOptionElement};

pub(crate) const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
pub(crate) const GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
pub(crate) const GUEST_IP: [u8; 4] = [10, 0, 0, 2];
pub(crate) const CLIENT_IP: [u8; 4] = [10, 1, 0, 9];

pub(crate) const MS: u64 = 1_000_000;
/// The time at which the captures begin.
pub(crate) const START_NS: u64 = 1_790_000_000_000_000_000;

/// The frames on one TAP, with their times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tape {
    pub(crate) frames: Vec<(u64, Vec<u8>)>,
}

impl Tape {
    pub(crate) fn add(&mut self, at_ms: u64, frame: Vec<u8>) {
        self.frames.push((START_NS + at_ms * MS, frame));
    }

    /// Adds a frame at the beginning and one a minute later, so that nothing in between is too near to
    /// the end of a capture.
    pub(crate) fn framed(mut self) -> Self {
        self.add(0, udp(true, 5353, b"begin"));
        self.add(60_000, udp(true, 5353, b"end"));
        self.frames.sort_by_key(|(at, _)| *at);
        self
    }

    pub(crate) fn shifted(mut self, by_ms: i64) -> Self {
        for (at, _) in &mut self.frames {
            *at = at.saturating_add_signed(by_ms * MS as i64);
        }
        self
    }

    /// Only the guest's output.
    pub(crate) fn output(mut self) -> Self {
        self.frames.retain(|(_, frame)| frame[6..12] == GUEST);
        self
    }

    /// A pcap file with nanoseconds.
    pub(crate) fn pcap(&self) -> Vec<u8> {
        self.pcap_cut(usize::MAX, 1)
    }

    /// The same with a snapshot length and a link type.
    pub(crate) fn pcap_cut(&self, snap_len: usize, link_type: u32) -> Vec<u8> {
        let mut file = Vec::new();
        let words = |file: &mut Vec<u8>, words: &[u32]| {
            file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        };
        words(&mut file, &[0xa1b2_3c4d, 0x0004_0002, 0, 0, 65536, link_type]);
        for (at, frame) in &self.frames {
            let part = &frame[..frame.len().min(snap_len)];
            let (len, original) = (part.len() as u32, frame.len() as u32);
            words(&mut file, &[(at / 1_000_000_000) as u32, (at % 1_000_000_000) as u32]);
            words(&mut file, &[len, original]);
            file.extend(part);
        }
        file
    }
}

fn ip(from_guest: bool, id: u16) -> IpHeaders {
    let (source, destination) =
        if from_guest { (GUEST_IP, CLIENT_IP) } else { (CLIENT_IP, GUEST_IP) };
    let mut header = Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, source, destination)
        .expect("it is short");
    header.identification = id;
    header.fragment_offset = IpFragOffset::ZERO;
    IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
}

fn ethernet(from_guest: bool) -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    if from_guest {
        PacketBuilder::ethernet2(GUEST, GATEWAY)
    } else {
        PacketBuilder::ethernet2(GATEWAY, GUEST)
    }
}

pub(crate) fn udp(from_guest: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    udp_with_id(from_guest, port, payload, 0)
}

pub(crate) fn udp_with_id(from_guest: bool, port: u16, payload: &[u8], id: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let (source, destination) = if from_guest { (53, port) } else { (port, 53) };
    ethernet(from_guest)
        .ip(ip(from_guest, id))
        .udp(source, destination)
        .write(&mut frame, payload)
        .expect("it is short");
    frame
}

/// The ways in which a guest may differ from its equal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) isn: u32,
    pub(crate) peer_isn: u32,
    /// Its first timestamp and IP id.
    pub(crate) base: u32,
    /// Bytes in a segment.
    pub(crate) mss: usize,
    /// Its delay with all output.
    pub(crate) lag_ms: u64,
}

pub(crate) const PRIMARY: Manner =
    Manner { isn: 1000, peer_isn: 77_000, base: 5, mss: 1000, lag_ms: 0 };
pub(crate) const SECONDARY: Manner =
    Manner { isn: 0xffff_ff00, peer_isn: 77_000, base: 900_000, mss: 700, lag_ms: 3 };

/// A connection of the client to the guest.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    pub(crate) tape: &'a mut Tape,
    pub(crate) manner: Manner,
    pub(crate) port: u16,
    at_ms: u64,
    sent: u32,
    received: u32,
}

impl<'a> Connection<'a> {
    /// A connection that was opened before the capture began.
    pub(crate) fn middle(tape: &'a mut Tape, manner: Manner, port: u16, at_ms: u64) -> Self {
        Self { tape, manner, port, at_ms, sent: 1, received: 1 }
    }

    pub(crate) fn open(tape: &'a mut Tape, manner: Manner, port: u16, at_ms: u64) -> Self {
        let mut new = Self { tape, manner, port, at_ms, sent: 0, received: 0 };
        new.segment(false, "S", b"");
        new.received = 1;
        new.segment(true, "SA", b"");
        new.sent = 1;
        new.segment(false, "A", b"");
        new
    }

    /// The client asks, the guest answers.
    pub(crate) fn ask(&mut self, answer: &[u8]) {
        self.segment(false, "A", b"what?");
        self.received += 5;
        for part in answer.chunks(self.manner.mss) {
            self.segment(true, "A", part);
            self.sent += part.len() as u32;
        }
        self.segment(false, "A", b"");
    }

    pub(crate) fn close(&mut self) {
        self.segment(true, "FA", b"");
        self.sent += 1;
        self.segment(false, "FA", b"");
        self.received += 1;
        self.segment(true, "A", b"");
    }

    fn segment(&mut self, from_guest: bool, flags: &str, payload: &[u8]) {
        let Manner { isn, peer_isn, base, lag_ms, .. } = self.manner;
        let guest = isn.wrapping_add(self.sent);
        let peer = peer_isn.wrapping_add(self.received);
        let (seq, ack) = if from_guest { (guest, peer) } else { (peer, guest) };
        let (source, destination) = if from_guest { (80, self.port) } else { (self.port, 80) };
        let id = base.wrapping_add(self.tape.frames.len() as u32);
        let mut step = ethernet(from_guest).ip(ip(from_guest, id as u16)).tcp(
            source,
            destination,
            seq,
            64_000,
        );
        if flags.contains('S') {
            step = step.syn();
        }
        if flags.contains('F') {
            step = step.fin();
        }
        if flags.contains('A') {
            step = step.ack(ack);
        }
        let mut options = Vec::new();
        if flags.contains('S') {
            options.push(TcpOptionElement::MaximumSegmentSize(1460));
        }
        options.push(TcpOptionElement::Timestamp(id, 4));
        let mut frame = Vec::new();
        step.options(&options).expect("they fit").write(&mut frame, payload).expect("it is short");
        let lag = if from_guest { lag_ms } else { 0 };
        self.tape.add(self.at_ms + lag, frame);
        self.at_ms += 1;
    }
}

/// Text without repetitions.
pub(crate) fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}
