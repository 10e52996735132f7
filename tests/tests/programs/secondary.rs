//! The two programs that translate.

use colo_proxy_common::decode::{decode, decode_tcp, decode_tcp_options, flag};
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::record::{FlowKey, FlowRecord, Settings, mode};
use colo_proxy_common::rewrite::{self, Translation};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::frame::{Checksum, Ip, Shape, TcpOption, V4_DST, V4_SRC, V6_DST, V6_SRC, any_shape};
use crate::harness::{DROP, MARK, NEXT, Programs, REDIRECT, Run, settings, with_all_options};
use colo_lab::lab_test;

pub(crate) const TO_GUEST: &str = "colo_to_guest";
pub(crate) const FROM_GUEST: &str = "colo_from_guest";
pub(crate) const TRANSLATION: Translation = Translation { seq: 0x89ab_cdef, ts: 0xfedc_ba98 };

/// The connection of a shape, whose source is the peer (`to_guest`) or the guest.
pub(crate) fn key_of(shape: &Shape, to_guest: bool) -> FlowKey {
    let mut addresses = [[0u8; 16]; 2];
    let version = match shape.ip {
        Ip::V4 { .. } => {
            addresses[0][..4].copy_from_slice(&V4_SRC);
            addresses[1][..4].copy_from_slice(&V4_DST);
            4
        }
        Ip::V6 { .. } => {
            addresses = [V6_SRC, V6_DST];
            6
        }
    };
    let mut vlan = [0; 2];
    vlan.iter_mut().zip(&shape.vlans).for_each(|(to, from)| *to = *from);
    let [src, dst] = addresses;
    let (src_port, dst_port) = shape.ports;
    let (guest, peer) = if to_guest {
        ((dst, dst_port), (src, src_port))
    } else {
        ((src, src_port), (dst, dst_port))
    };
    FlowKey {
        guest_addr: guest.0,
        peer_addr: peer.0,
        guest_port: guest.1,
        peer_port: peer.1,
        vlan,
        ip_version: version,
        protocol: 6,
        reserved: [0; 2],
    }
}

pub(crate) fn established(translation: Translation) -> FlowRecord {
    FlowRecord {
        epoch: settings(0).epoch,
        state: state::ESTABLISHED,
        known: known::GUEST | known::WIRE | known::OFFSET,
        guest_isn: 100,
        wire_isn: 100u32.wrapping_add(translation.seq),
        seq_offset: translation.seq,
        ts_offset: translation.ts,
        ..FlowRecord::default()
    }
}

/// The translation by the userspace code.
pub(crate) fn rewritten(bytes: &[u8], to_guest: bool, translation: Translation) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let ip = decode(&bytes[..], None).expect("a whole frame").ip.expect("IP");
    let tcp = decode_tcp(&bytes[..], &ip).expect("TCP");
    let options = decode_tcp_options(&bytes[..], &tcp);
    assert!(if to_guest {
        rewrite::to_guest(&mut bytes[..], &tcp, &options, translation)
    } else {
        rewrite::from_guest(&mut bytes[..], &tcp, &options, translation)
    });
    bytes
}

/// A second opinion of the checksum.
fn etherparse_accepts(bytes: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(bytes).expect("a whole frame");
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return false };
    let sum = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => tcp
            .calc_checksum_ipv4(ip.header().source(), ip.header().destination())
            .expect("a short segment"),
        NetSlice::Ipv6(ip) => tcp
            .calc_checksum_ipv6(ip.header().source(), ip.header().destination())
            .expect("a short segment"),
        NetSlice::Arp(_) => return false,
    };
    sum == tcp.checksum()
}

/// For any shape, in both directions: the kernel's result is the userspace code's result, and has a
/// right checksum.
#[lab_test(root)]
fn translates_every_shape() {
    let programs = Programs::load();
    let programs = std::cell::RefCell::new(programs);
    let mut runner =
        TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let number = || prop_oneof![Just(0u32), any::<u32>()];
    let input = (any_shape(), (number(), number()), any::<bool>(), any::<bool>());
    let result = runner.run(&input, |(mut shape, (seq, ts), to_guest, failed_over)| {
        let mut programs = programs.borrow_mut();
        let translation = Translation { seq, ts };
        // A segment in the middle of a connection.
        shape.flags &= !(flag::SYN | flag::RST);
        programs.set(&settings(if failed_over { mode::FAILED_OVER } else { mode::PROTECTED }));
        programs.insert_flow(key_of(&shape, to_guest), established(translation));
        let bytes = shape.build(Checksum::Full);
        let (name, mark) = if to_guest { (TO_GUEST, MARK) } else { (FROM_GUEST, 0) };
        let run = programs.run(name, &bytes, mark);
        prop_assert_eq!(&run.frame, &rewritten(&bytes, to_guest, translation));
        prop_assert!(etherparse_accepts(&run.frame));
        let wanted = if to_guest || failed_over { NEXT } else { REDIRECT };
        prop_assert_eq!(run.verdict, wanted);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let counters = programs.borrow().counters();
    assert_eq!((counters.malformed, counters.rewrite_failed), (0, 0));
    assert!(counters.translated_to_guest > 0 && counters.translated_from_guest > 0);
}

#[lab_test(root)]
fn a_wrong_checksum_stays_wrong() {
    let mut programs = Programs::load();
    programs.set(&settings(mode::PROTECTED));
    let shape = with_all_options();
    programs.insert_flow(key_of(&shape, true), established(TRANSLATION));
    let mut bytes = shape.build(Checksum::Full);
    let last = bytes.len() - 1;
    bytes[last] ^= 0x10;
    let run = programs.run(TO_GUEST, &bytes, MARK);
    assert_eq!(run.frame, rewritten(&bytes, true, TRANSLATION));
    assert!(!etherparse_accepts(&run.frame));
}

/// A conversation, by its frames.
pub(crate) struct Talk {
    pub(crate) programs: Programs,
    pub(crate) shape: Shape,
}

impl Talk {
    pub(crate) fn new(mode: u32, shape: Shape) -> Self {
        let mut programs = Programs::load();
        programs.set(&settings(mode));
        Self { programs, shape }
    }

    pub(crate) fn build(
        &self,
        from_peer: bool,
        flags: u8,
        seq: u32,
        ack: u32,
        ts: (u32, u32),
    ) -> Vec<u8> {
        let mut shape = self.shape.clone();
        if !from_peer {
            // The addresses are fixed. The guest's ports are the destination of the peer's frames,
            // so the guest's frames belong to the reverse connection.
            shape.ports = (shape.ports.1, shape.ports.0);
        }
        shape.flags = flags;
        (shape.seq, shape.ack) = (seq, ack);
        shape.options = vec![TcpOption::Timestamps(ts.0, ts.1)];
        let mut bytes = shape.build(Checksum::Full);
        if !from_peer {
            swap_addresses(&mut bytes);
        }
        bytes
    }

    pub(crate) fn peer(&mut self, flags: u8, ack: u32, echo: u32) -> (Run, Vec<u8>) {
        // The peer's initial sequence number, or the number after it.
        let seq = if flags == SYN { 6 } else { 7 };
        let bytes = self.build(true, flags, seq, ack, (5, echo));
        (self.programs.run(TO_GUEST, &bytes, MARK), bytes)
    }

    pub(crate) fn guest(&mut self, flags: u8, seq: u32, value: u32) -> (Run, Vec<u8>) {
        let bytes = self.build(false, flags, seq, 7, (value, 5));
        (self.programs.run(FROM_GUEST, &bytes, 0), bytes)
    }
}

/// Exchanging source and destination does not change a checksum.
fn swap_addresses(bytes: &mut [u8]) {
    let ip = decode(&*bytes, None).expect("a whole frame").ip.expect("IP");
    let (at, len) = if ip.version == 4 { (ip.at + 12, 4) } else { (ip.at + 8, 16) };
    let (at, len) = (at as usize, len);
    let (src, dst) = bytes[at..at + 2 * len].split_at_mut(len);
    src.swap_with_slice(dst);
}

pub(crate) const SYN: u8 = flag::SYN;
pub(crate) const SYN_ACK: u8 = flag::SYN | flag::ACK;
pub(crate) const ACK: u8 = flag::ACK;
pub(crate) const T: Translation = Translation { seq: 4_000_000_000 - 1_000, ts: 50_000 - 300 };

fn shapes() -> [Shape; 3] {
    [Shape::default(), Shape::v6(), Shape { vlans: vec![5, 6], ..Shape::default() }]
}

#[lab_test(root)]
fn the_peer_opens() {
    for shape in shapes() {
        let mut talk = Talk::new(mode::PROTECTED, shape.clone());
        let (run, bytes) = talk.peer(SYN, 0, 0);
        assert_eq!((run.verdict, run.frame), (NEXT, bytes));
        let (run, bytes) = talk.guest(SYN_ACK, 1_000, 300);
        assert_eq!((run.verdict, run.mark, run.frame), (REDIRECT, MARK, bytes));
        assert_eq!(talk.programs.entries("half_open").len(), 1);
        // The guest's data has no offset yet.
        assert_eq!(talk.guest(ACK, 1_001, 300).0.verdict, DROP);
        let (run, bytes) = talk.peer(ACK, 4_000_000_001, 50_000);
        assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
        assert!(talk.programs.entries("half_open").is_empty());
        assert!(talk.programs.entries("flows").is_empty());
        let unconfirmed = talk.programs.entries("unconfirmed");
        assert_eq!((unconfirmed.len(), unconfirmed[0].0), (1, key_of(&shape, true)));
        let (run, bytes) = talk.guest(ACK, 1_001, 310);
        assert_eq!((run.verdict, run.frame), (REDIRECT, rewritten(&bytes, false, T)));
        // The guest has sent data.
        assert!(talk.programs.entries("unconfirmed").is_empty());
        let flows = talk.programs.entries("flows");
        assert_eq!(flows[0].0, key_of(&shape, true));
        assert_eq!((flows[0].1.seq_offset, flows[0].1.ts_offset), (T.seq, T.ts));
        assert!(talk.programs.announced().is_empty(), "nothing was held");
        let line = "connection of guest port 80 with port 40000: wire = guest + ee6b2418, \
                    timestamps + c224";
        assert_eq!(talk.programs.logged(), [line; 2], "known, and confirmed");
        assert_eq!(talk.programs.counters().dropped_no_offset, 1);
    }
}

#[lab_test(root)]
fn the_peer_opens_and_is_faster() {
    for shape in shapes() {
        let mut talk = Talk::new(mode::PROTECTED, shape.clone());
        talk.peer(SYN, 0, 0);
        let (run, bytes) = talk.peer(ACK, 4_000_000_001, 50_000);
        assert_eq!((run.verdict, run.mark, run.frame), (REDIRECT, MARK, bytes), "held");
        assert!(talk.programs.announced().is_empty());
        let (run, bytes) = talk.guest(SYN_ACK, 1_000, 300);
        assert_eq!((run.verdict, run.frame), (REDIRECT, rewritten(&bytes, false, T)));
        assert_eq!(talk.programs.announced(), [key_of(&shape, true)]);
        let (run, bytes) = talk.peer(ACK, 4_000_000_001, 50_000);
        assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
        assert_eq!(talk.programs.counters().input_to_daemon, 1);
    }
}

#[lab_test(root)]
fn the_guest_opens_in_either_order() {
    for shape in shapes() {
        for faster in [false, true] {
            let mut talk = Talk::new(mode::PROTECTED, shape.clone());
            if faster {
                assert_eq!(talk.peer(SYN_ACK, 4_000_000_001, 50_000).0.verdict, REDIRECT);
            }
            let (run, bytes) = talk.guest(SYN, 1_000, 300);
            let wanted = if faster { rewritten(&bytes, false, T) } else { bytes };
            assert_eq!((run.verdict, run.frame), (REDIRECT, wanted));
            assert_eq!(talk.programs.announced().len(), usize::from(faster));
            let (run, bytes) = talk.peer(SYN_ACK, 4_000_000_001, 50_000);
            assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, T)));
        }
    }
}

#[lab_test(root)]
fn modes() {
    let mut talk = Talk::new(mode::PROTECTED, Shape::default());
    talk.programs.insert_flow(key_of(&Shape::default(), true), established(TRANSLATION));

    // The protected guest gets no input from the LAN.
    let bytes = talk.build(true, ACK, 1, 2, (3, 4));
    assert_eq!(talk.programs.run(TO_GUEST, &bytes, 0).verdict, DROP);
    assert_eq!(talk.programs.run(TO_GUEST, &bytes, MARK ^ 1).verdict, DROP);
    assert_eq!(talk.programs.counters().dropped_lan_input, 2);

    talk.programs.set(&settings(mode::FAILED_OVER));
    let run = talk.programs.run(TO_GUEST, &bytes, 0);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&bytes, true, TRANSLATION)));
    let (run, sent) = talk.guest(ACK, 9, 9);
    assert_eq!((run.verdict, run.frame), (NEXT, rewritten(&sent, false, TRANSLATION)));
    // Frames that the daemon injects there pass unchanged.
    let run = talk.programs.run(FROM_GUEST, &sent, MARK);
    assert_eq!((run.verdict, run.mark, run.frame), (NEXT, 0, sent));

    talk.programs.set(&settings(mode::OFF));
    let run = talk.programs.run(TO_GUEST, &bytes, 0);
    assert_eq!((run.verdict, run.frame), (NEXT, bytes));
    let (run, sent) = talk.guest(ACK, 9, 9);
    assert_eq!((run.verdict, run.frame), (NEXT, sent));
}

#[lab_test(root)]
fn a_new_epoch_voids_the_offsets() {
    let mut talk = Talk::new(mode::PROTECTED, Shape::default());
    talk.programs.insert_flow(key_of(&Shape::default(), true), established(TRANSLATION));
    talk.programs.set(&Settings { epoch: 4, ..settings(mode::PROTECTED) });
    let (run, bytes) = talk.peer(ACK, 1, 1);
    assert_eq!((run.verdict, run.frame), (NEXT, bytes));
    let (run, bytes) = talk.guest(ACK, 1, 1);
    assert_eq!((run.verdict, run.frame), (REDIRECT, bytes));
}

/// RFC 6946: a fragment that is all of its packet.
#[lab_test(root)]
fn an_atomic_fragment_is_translated() {
    let mut programs = Programs::load();
    programs.set(&settings(mode::PROTECTED));
    let shape = Shape { ip: Ip::V6 { extensions: Vec::new() }, ..with_all_options() };
    programs.insert_flow(key_of(&shape, true), established(TRANSLATION));
    let mut bytes = shape.build(Checksum::Full);
    bytes.splice(54..54, [6, 0, 0, 0, 1, 2, 3, 4]);
    bytes[20] = 44;
    let len = u16::from_be_bytes([bytes[18], bytes[19]]) + 8;
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    let run = programs.run(TO_GUEST, &bytes, MARK);
    assert_eq!((run.verdict, &run.frame), (NEXT, &rewritten(&bytes, true, TRANSLATION)));
    assert_ne!(run.frame, bytes);
    // The twin: more fragments follow.
    bytes[57] = 1;
    let run = programs.run(TO_GUEST, &bytes, MARK);
    assert_eq!((run.verdict, run.frame), (NEXT, bytes));
}

#[lab_test(root)]
fn what_is_not_tcp_goes_on_as_it_is() {
    let mut programs = Programs::load();
    programs.set(&settings(mode::PROTECTED));
    let udp =
        etherparse::PacketBuilder::ethernet2([2; 6], [3; 6]).ipv4(V4_SRC, V4_DST, 64).udp(1, 2);
    let mut frames = vec![vec![0xff; 14], [&[0xff; 12][..], &[0x08, 0x06], &[0; 46]].concat()];
    frames.push(Vec::new());
    udp.write(&mut frames[2], &[1, 2, 3]).expect("build UDP");
    // A fragment. Its payload may have any bytes.
    let mut fragment = Shape::default().build(Checksum::Full);
    fragment[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
    frames.push(fragment);
    for bytes in frames {
        let run = programs.run(TO_GUEST, &bytes, MARK);
        assert_eq!((run.verdict, &run.frame), (NEXT, &bytes));
        let run = programs.run(FROM_GUEST, &bytes, 0);
        assert_eq!((run.verdict, &run.frame), (REDIRECT, &bytes));
    }
    assert!(programs.entries("flows").is_empty() && programs.entries("half_open").is_empty());
}
