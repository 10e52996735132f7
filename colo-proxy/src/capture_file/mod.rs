//! Capture files: pcap and pcapng as tcpdump, dumpcap and Wireshark write them.
//!
//! The [`Reader`] gives one Ethernet frame at a time, from a file of any size and any content. Only
//! one packet ([`PACKET_MAX`]) and a bounded list of interfaces are in memory, even if a file claims
//! more. The [`Writer`] makes pcapng with a comment for each frame.

mod error;
mod input;
mod link_type;
mod pcap;
mod pcapng;
mod writer;

#[cfg(test)]
mod tests;

use std::io::Read;

use bytes::Bytes;

pub use self::error::CaptureError;
pub use self::writer::Writer;

use self::input::{CaptureInput, ReadOutcome};
use self::pcap::Pcap;
use self::pcapng::PcapNg;

/// The longest packet that is read: tcpdump's own bound on its snapshot length.
pub const PACKET_MAX: u32 = 262_144;

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its place in the file, from 1 as in Wireshark.
    pub number: u64,
    /// Nanoseconds since 1970. A later time than this number can say becomes the latest one.
    pub time_ns: u64,
    /// The number of its interface in the file, from 0.
    pub interface: u32,
    /// Its length on the wire. The file may have fewer bytes.
    pub original_len: u32,
    /// The frame from its Ethernet header on.
    pub bytes: Bytes,
}

impl Packet {
    /// The file has only the start of the frame.
    pub fn is_truncated(&self) -> bool {
        (self.bytes.len() as u64) < u64::from(self.original_len)
    }
}

/// Reads a capture in either format.
#[derive(Debug)]
pub struct Reader<R> {
    input: CaptureInput<R>,
    format: CaptureFormat,
    packets: u64,
    is_truncated: bool,
    /// There are no more packets, or an error has ended the reading.
    is_over: bool,
}

#[derive(Debug)]
enum CaptureFormat {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

impl<R: Read> Reader<R> {
    /// Reads the start of the file. `input` is read in small pieces: pass a buffered one.
    pub fn new(input: R) -> Result<Self, CaptureError> {
        let mut input = CaptureInput::new(input);
        let mut magic = [0; 4];
        match input.fill(&mut magic)? {
            ReadOutcome::Whole => {}
            ReadOutcome::Empty => return Err(CaptureError::Empty),
            ReadOutcome::Truncated => return Err(CaptureError::NoCapture { hint: "" }),
        }
        let format = if magic == pcapng::SECTION_HEADER.to_be_bytes() {
            CaptureFormat::PcapNg(PcapNg::read(&mut input)?)
        } else {
            CaptureFormat::Pcap(Pcap::read(&mut input, magic)?)
        };
        Ok(Self { input, format, packets: 0, is_truncated: false, is_over: false })
    }

    /// The next frame, or `None` at the end of the file.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, CaptureError> {
        if self.is_over {
            return Ok(None);
        }
        let number = self.packets + 1;
        let next = match &mut self.format {
            CaptureFormat::Pcap(pcap) => pcap.next_packet(&mut self.input, number),
            CaptureFormat::PcapNg(pcapng) => pcapng.next_packet(&mut self.input, number),
        };
        match next {
            Ok(NextPacket::Packet(packet)) => {
                self.packets = number;
                Ok(Some(packet))
            }
            Ok(end) => {
                self.is_over = true;
                self.is_truncated = matches!(end, NextPacket::Truncated);
                Ok(None)
            }
            Err(error) => {
                self.is_over = true;
                Err(error)
            }
        }
    }

    /// The file ended in the middle of a record, as after a capture that was killed. The packets
    /// before it have been read.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Frames read so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Packet, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_packet().transpose()
    }
}

/// The next step in a file.
#[derive(Debug)]
enum NextPacket {
    Packet(Packet),
    End,
    Truncated,
}

/// Returns from the caller if the file ended before the read was complete.
macro_rules! whole {
    ($filled:expr) => {
        match $filled {
            $crate::capture_file::input::ReadOutcome::Whole => {}
            _ => return Ok($crate::capture_file::NextPacket::Truncated),
        }
    };
}
use whole;
