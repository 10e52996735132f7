//! The parts of the comparison, and captures with any content. `tests/diff.rs` shows the whole
//! through the command.

mod connections;
mod hostile;
mod in_flight;

use bytes::Bytes;
use etherparse::{PacketBuilder, TcpHeader};

use super::{CaptureSurvey, ComparedGuest, GuestAddress, MacAddress};
use crate::capture_file::Packet;

const GUEST: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
const PEER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

fn packet(number: u64, time_ns: u64, bytes: Vec<u8>) -> Packet {
    let original_len = bytes.len() as u32;
    Packet { number, time_ns, interface: 0, original_len, bytes: Bytes::from(bytes) }
}

fn guest() -> ComparedGuest {
    let empty = packet(1, 0, Vec::new());
    let mut survey = CaptureSurvey::default();
    survey.add(&empty);
    ComparedGuest::find(&[GuestAddress::Mac(GUEST)], &survey, &survey).expect("it is given")
}

/// A frame of the guest to port 4000 of its peer.
fn udp(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(GUEST.0, PEER.0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.udp(53, 4000).write(&mut frame, payload).expect("it is short");
    frame
}

fn tcp(seq: u32, ack: u32, flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(80, 4000, seq, 1000);
    header.acknowledgment_number = ack;
    header.syn = flags.contains('S');
    header.fin = flags.contains('F');
    header.rst = flags.contains('R');
    header.ack = flags.contains('A');
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(GUEST.0, PEER.0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.tcp_header(header).write(&mut frame, payload).expect("it is short");
    frame
}
