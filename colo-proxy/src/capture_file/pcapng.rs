//! The pcapng format (draft-ietf-opsawg-pcapng): sections of blocks. Only blocks with packets and
//! blocks that describe interfaces are read.

use std::io::Read;

use super::input::{ByteOrder, CaptureInput, ReadOutcome};
use super::{CaptureError, NextPacket, PACKET_MAX, Packet, link_type, whole};

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete; its layout is almost that of an enhanced one.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
pub(super) const ENHANCED_PACKET: u32 = 6;

pub(super) const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// The type, and the length at either end.
pub(super) const BLOCK_OVERHEAD: u32 = 12;
/// Interfaces of a section that are remembered.
const INTERFACES_MAX: usize = 4096;
/// The longest description of an interface.
const DESCRIPTION_MAX: u32 = 65536;

const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

/// The state of reading.
#[derive(Debug)]
pub(super) struct PcapNg {
    order: ByteOrder,
    /// Interfaces of this section.
    interfaces: Vec<InterfaceDescription>,
    /// Interfaces of the sections before.
    interfaces_before: u32,
}

#[derive(Clone, Copy, Debug)]
struct InterfaceDescription {
    link_type: u16,
    /// `if_tsresol`: a power of 10, or of 2 if the highest bit is set; microseconds by default.
    resolution: u8,
    /// `if_tsoffset`.
    offset_seconds: i64,
}

/// The head of a block.
#[derive(Clone, Copy, Debug)]
struct BlockHead {
    at: u64,
    kind: u32,
    /// Everything but the overhead.
    body_len: u32,
}

impl BlockHead {
    fn damaged(&self, what: &'static str) -> CaptureError {
        CaptureError::Block { at: self.at, what }
    }
}

impl PcapNg {
    /// Reads the first section header, behind its type.
    pub(super) fn read<R: Read>(input: &mut CaptureInput<R>) -> Result<Self, CaptureError> {
        let mut new =
            Self { order: ByteOrder::Little, interfaces: Vec::new(), interfaces_before: 0 };
        match new.read_section(input, 0)? {
            ReadOutcome::Whole => Ok(new),
            _ => Err(CaptureError::NoHeader),
        }
    }

    pub(super) fn next_packet<R: Read>(
        &mut self,
        input: &mut CaptureInput<R>,
        number: u64,
    ) -> Result<NextPacket, CaptureError> {
        loop {
            let at = input.at();
            let mut head = [0; 4];
            match input.fill(&mut head)? {
                ReadOutcome::Whole => {}
                ReadOutcome::Empty => return Ok(NextPacket::End),
                ReadOutcome::Truncated => return Ok(NextPacket::Truncated),
            }
            // This number is the same in either byte order. The rest of the head is not.
            if head == SECTION_HEADER.to_be_bytes() {
                whole!(self.read_section(input, at)?);
                continue;
            }
            let kind = self.order.u32(&head, 0);
            whole!(input.fill(&mut head)?);
            let len = self.order.u32(&head, 0);
            let body_len = body_len(at, len)?;
            let block = BlockHead { at, kind, body_len };
            match kind {
                PACKET | ENHANCED_PACKET => return self.read_packet(input, &block, number),
                SIMPLE_PACKET => return Err(CaptureError::NoTime { number }),
                INTERFACE_DESCRIPTION => whole!(self.read_interface(input, &block)?),
                _ => whole!(input.skip(u64::from(body_len))?),
            }
            whole!(self.read_end(input, &block)?);
        }
    }

    /// Reads a section header behind its type.
    fn read_section<R: Read>(
        &mut self,
        input: &mut CaptureInput<R>,
        at: u64,
    ) -> Result<ReadOutcome, CaptureError> {
        let mut head = [0; 8];
        match input.fill(&mut head)? {
            ReadOutcome::Whole => {}
            end => return Ok(end),
        }
        self.order = if ByteOrder::Big.u32(&head, 4) == BYTE_ORDER_MAGIC {
            ByteOrder::Big
        } else if ByteOrder::Little.u32(&head, 4) == BYTE_ORDER_MAGIC {
            ByteOrder::Little
        } else {
            return Err(CaptureError::Block { at, what: "its byte order is unknown" });
        };
        let body_len = body_len(at, self.order.u32(&head, 0))?;
        let block = BlockHead { at, kind: SECTION_HEADER, body_len };
        let Some(rest) = body_len.checked_sub(4) else {
            return Err(block.damaged("it is too short for a section header"));
        };
        self.interfaces_before =
            self.interfaces_before.saturating_add(self.interfaces.len() as u32);
        self.interfaces.clear();
        match input.skip(u64::from(rest))? {
            ReadOutcome::Whole => self.read_end(input, &block),
            end => Ok(end),
        }
    }

    /// Reads the length at the end of a block.
    fn read_end<R: Read>(
        &self,
        input: &mut CaptureInput<R>,
        block: &BlockHead,
    ) -> Result<ReadOutcome, CaptureError> {
        let mut end = [0; 4];
        let filled = input.fill(&mut end)?;
        if filled == ReadOutcome::Whole
            && self.order.u32(&end, 0) != block.body_len + BLOCK_OVERHEAD
        {
            return Err(block.damaged("the lengths at its start and at its end differ"));
        }
        Ok(filled)
    }

    fn read_interface<R: Read>(
        &mut self,
        input: &mut CaptureInput<R>,
        block: &BlockHead,
    ) -> Result<ReadOutcome, CaptureError> {
        if block.body_len < 8 || block.body_len > DESCRIPTION_MAX {
            return Err(block.damaged("its length is not that of an interface description"));
        }
        if self.interfaces.len() >= INTERFACES_MAX {
            return Err(CaptureError::Interfaces { max: INTERFACES_MAX });
        }
        let Some(body) = input.take(block.body_len)? else { return Ok(ReadOutcome::Truncated) };
        let mut interface = InterfaceDescription {
            link_type: self.order.u16(&body, 0),
            resolution: 6,
            offset_seconds: 0,
        };
        for (code, value) in options(self.order, body.get(8..).unwrap_or_default()) {
            match (code, value) {
                (OPTION_TIME_RESOLUTION, [resolution]) => interface.resolution = *resolution,
                (OPTION_TIME_OFFSET, [_, _, _, _, _, _, _, _]) => {
                    interface.offset_seconds = self.order.u64(value, 0) as i64;
                }
                _ => {}
            }
        }
        self.interfaces.push(interface);
        Ok(ReadOutcome::Whole)
    }

    fn read_packet<R: Read>(
        &self,
        input: &mut CaptureInput<R>,
        block: &BlockHead,
        number: u64,
    ) -> Result<NextPacket, CaptureError> {
        const HEADER_LEN: u32 = 20;
        let Some(room) = block.body_len.checked_sub(HEADER_LEN) else {
            return Err(block.damaged("it is too short for a packet"));
        };
        let mut header = [0; HEADER_LEN as usize];
        whole!(input.fill(&mut header)?);
        let order = self.order;
        let id = if block.kind == PACKET {
            u32::from(order.u16(&header, 0))
        } else {
            order.u32(&header, 0)
        };
        let ticks = u64::from(order.u32(&header, 4)) << 32 | u64::from(order.u32(&header, 8));
        let (len, original_len) = (order.u32(&header, 12), order.u32(&header, 16));
        let Some(interface) = self.interfaces.get(id as usize) else {
            return Err(CaptureError::Interface { number, interface: id });
        };
        if interface.link_type != link_type::ETHERNET {
            return Err(CaptureError::LinkType { number, link_type: interface.link_type });
        }
        if len > room || len > PACKET_MAX {
            return Err(CaptureError::PacketLength { number, at: block.at, len });
        }
        let Some(bytes) = input.take(len)? else { return Ok(NextPacket::Truncated) };
        whole!(input.skip(u64::from(room - len))?);
        whole!(self.read_end(input, block)?);
        Ok(NextPacket::Packet(Packet {
            number,
            time_ns: interface.time_ns(ticks),
            interface: self.interfaces_before.saturating_add(id),
            original_len,
            bytes,
        }))
    }
}

impl InterfaceDescription {
    fn time_ns(&self, ticks: u64) -> u64 {
        let ticks = u128::from(ticks);
        let power = u32::from(self.resolution & 0x7f);
        let since = if self.resolution & 0x80 != 0 {
            (ticks * 1_000_000_000) >> power
        } else if power <= 9 {
            ticks * 10u128.pow(9 - power)
        } else {
            10u128.checked_pow(power - 9).map_or(0, |finer| ticks / finer)
        };
        let offset = i128::from(self.offset_seconds) * 1_000_000_000;
        let time = i128::try_from(since).unwrap_or(i128::MAX).saturating_add(offset);
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

/// The length of a block's body, if `len` can be the length of a block.
fn body_len(at: u64, len: u32) -> Result<u32, CaptureError> {
    if !len.is_multiple_of(4) {
        return Err(CaptureError::Block { at, what: "its length is no multiple of 4" });
    }
    len.checked_sub(BLOCK_OVERHEAD)
        .ok_or(CaptureError::Block { at, what: "its length is shorter than the shortest block" })
}

/// The options in `bytes`, up to their end or to the first one that does not fit.
fn options(order: ByteOrder, bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_at_checked(4)?;
        let (code, len) = (order.u16(head, 0), usize::from(order.u16(head, 2)));
        if code == 0 {
            return None;
        }
        let value = behind.get(..len)?;
        rest = behind.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((code, value))
    })
}
