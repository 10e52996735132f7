//! Capture files: pcap and pcapng as tcpdump, dumpcap and Wireshark write them.
//!
//! The [`Reader`] gives one Ethernet frame at a time and is made for files of any size and any
//! content: whatever a file claims, no more than one packet ([`PACKET_MAX`]) and a bounded list of
//! interfaces is in memory. The [`Writer`] makes pcapng with a comment for each frame.

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

use self::input::{Filled, Input};
use self::pcap::Pcap;
use self::pcapng::PcapNg;

/// The longest packet that is read: tcpdump's own bound on its snapshot length.
pub const PACKET_MAX: u32 = 262_144;

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its place in the file, from 1 as Wireshark counts.
    pub number: u64,
    /// Nanoseconds since 1970; times beyond what this can say are the last that it can.
    pub time_ns: u64,
    /// Which of the file's interfaces it was captured on, from 0.
    pub interface: u32,
    /// Its length when it was captured, of which the file may have less.
    pub original_len: u32,
    /// The frame from its Ethernet header on.
    pub octets: Bytes,
}

impl Packet {
    /// The file has only the beginning of it.
    pub fn is_cut(&self) -> bool {
        (self.octets.len() as u64) < u64::from(self.original_len)
    }
}

/// Reads a capture, whichever of the two formats it is in.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    format: Format,
    packets: u64,
    is_truncated: bool,
    /// Nothing more can be read.
    is_over: bool,
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

impl<R: Read> Reader<R> {
    /// Reads the beginning of the file. `input` is read in small pieces: hand in a buffered one.
    pub fn new(input: R) -> Result<Self, CaptureError> {
        let mut input = Input::new(input);
        let mut magic = [0; 4];
        match input.fill(&mut magic)? {
            Filled::Whole => {}
            Filled::Empty => return Err(CaptureError::Empty),
            Filled::Cut => return Err(CaptureError::NoCapture { hint: "" }),
        }
        let format = if magic == pcapng::SECTION_HEADER.to_be_bytes() {
            Format::PcapNg(PcapNg::read(&mut input)?)
        } else {
            Format::Pcap(Pcap::read(&mut input, magic)?)
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
            Format::Pcap(pcap) => pcap.next_packet(&mut self.input, number),
            Format::PcapNg(pcapng) => pcapng.next_packet(&mut self.input, number),
        };
        match next {
            Ok(Next::Packet(packet)) => {
                self.packets = number;
                Ok(Some(packet))
            }
            Ok(end) => {
                self.is_over = true;
                self.is_truncated = matches!(end, Next::Truncated);
                Ok(None)
            }
            Err(error) => {
                self.is_over = true;
                Err(error)
            }
        }
    }

    /// The file ended in the middle of a record, as that of a capture that was killed does. What
    /// lies before has been read.
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

/// What comes next in a file.
#[derive(Debug)]
enum Next {
    Packet(Packet),
    End,
    Truncated,
}

/// Evaluates to what was read, or returns from the caller where the file ended before.
macro_rules! whole {
    ($filled:expr) => {
        match $filled {
            $crate::capture_file::input::Filled::Whole => {}
            _ => return Ok($crate::capture_file::Next::Truncated),
        }
    };
}
use whole;
