//! The pcap format (draft-ietf-opsawg-pcap): one header, then packets.

use std::io::Read;

use super::input::{ByteOrder, CaptureInput, ReadOutcome};
use super::{CaptureError, NextPacket, PACKET_MAX, Packet, link_type};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

/// The header.
#[derive(Debug)]
pub(super) struct Pcap {
    order: ByteOrder,
    /// The smaller unit of time, in nanoseconds.
    unit_ns: u64,
    link_type: u16,
}

impl Pcap {
    /// Reads the rest of the header, behind `magic`.
    pub(super) fn read<R: Read>(
        input: &mut CaptureInput<R>,
        magic: [u8; 4],
    ) -> Result<Self, CaptureError> {
        let (order, unit_ns) = match (u32::from_be_bytes(magic), u32::from_le_bytes(magic)) {
            (MICROSECONDS, _) => (ByteOrder::Big, 1000),
            (NANOSECONDS, _) => (ByteOrder::Big, 1),
            (_, MICROSECONDS) => (ByteOrder::Little, 1000),
            (_, NANOSECONDS) => (ByteOrder::Little, 1),
            _ => return Err(CaptureError::NoCapture { hint: hint(magic) }),
        };
        let mut header = [0; 20];
        if input.fill(&mut header)? != ReadOutcome::Whole {
            return Err(CaptureError::NoHeader);
        }
        // The upper half of the field has the length of the frame check sequence. That lies behind the
        // packet, as padding does.
        let link_type = order.u32(&header, 16) as u16;
        Ok(Self { order, unit_ns, link_type })
    }

    pub(super) fn next_packet<R: Read>(
        &self,
        input: &mut CaptureInput<R>,
        number: u64,
    ) -> Result<NextPacket, CaptureError> {
        let at = input.at();
        let mut header = [0; 16];
        match input.fill(&mut header)? {
            ReadOutcome::Whole => {}
            ReadOutcome::Empty => return Ok(NextPacket::End),
            ReadOutcome::Truncated => return Ok(NextPacket::Truncated),
        }
        let seconds = u64::from(self.order.u32(&header, 0));
        let fraction = u64::from(self.order.u32(&header, 4));
        let len = self.order.u32(&header, 8);
        let original_len = self.order.u32(&header, 12);
        if self.link_type != link_type::ETHERNET {
            return Err(CaptureError::LinkType { number, link_type: self.link_type });
        }
        if len > PACKET_MAX {
            return Err(CaptureError::PacketLength { number, at, len });
        }
        let Some(bytes) = input.take(len)? else { return Ok(NextPacket::Truncated) };
        let time_ns = seconds * 1_000_000_000 + fraction * self.unit_ns;
        Ok(NextPacket::Packet(Packet { number, time_ns, interface: 0, original_len, bytes }))
    }
}

/// A hint for a file that may be a compressed capture.
fn hint(magic: [u8; 4]) -> &'static str {
    match magic {
        [0x1f, 0x8b, ..] => ", but compressed with gzip: unpack it first",
        [0x28, 0xb5, 0x2f, 0xfd] => ", but compressed with zstd: unpack it first",
        [0xfd, b'7', b'z', b'X'] => ", but compressed with xz: unpack it first",
        _ => "",
    }
}
