//! Writes pcapng: frames of named interfaces, each with a comment.

use std::io::{self, Write};

use super::link_type;
use super::pcapng::{
    BLOCK_OVERHEAD, BYTE_ORDER_MAGIC, ENHANCED_PACKET, INTERFACE_DESCRIPTION, SECTION_HEADER,
};

const OPTION_COMMENT: u16 = 1;
const OPTION_INTERFACE_NAME: u16 = 2;
const OPTION_TIME_RESOLUTION: u16 = 9;
/// `shb_userappl`.
const OPTION_APPLICATION: u16 = 4;
/// Options have a 16-bit length. A longer value is truncated.
const OPTION_MAX: usize = 65532;

/// Writes a capture, with little-endian numbers and times in nanoseconds.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file with `interfaces`, which packets name by their place here. `output` is written
    /// block by block: pass a buffered one.
    pub fn new(output: W, interfaces: &[&str]) -> io::Result<Self> {
        let mut writer = Self { output, block: Vec::new() };
        writer.number(BYTE_ORDER_MAGIC);
        // Version 1.0, and a section of unknown length.
        writer.block.extend([1, 0, 0, 0]);
        writer.block.extend([0xff; 8]);
        let application = concat!("colo-proxy ", env!("CARGO_PKG_VERSION"));
        writer.option(OPTION_APPLICATION, application.as_bytes());
        writer.end_of_options();
        writer.finish_block(SECTION_HEADER)?;
        for name in interfaces {
            writer.number(u32::from(link_type::ETHERNET));
            // No limit on the length of packets.
            writer.number(0);
            writer.option(OPTION_INTERFACE_NAME, name.as_bytes());
            writer.option(OPTION_TIME_RESOLUTION, &[9]);
            writer.end_of_options();
            writer.finish_block(INTERFACE_DESCRIPTION)?;
        }
        Ok(writer)
    }

    /// Writes the captured `bytes` of a frame that had `original_len` bytes.
    pub fn write(
        &mut self,
        interface: u32,
        time_ns: u64,
        bytes: &[u8],
        original_len: u32,
        comment: &str,
    ) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "a frame longer than 4 GiB")
        })?;
        self.number(interface);
        self.number((time_ns >> 32) as u32);
        self.number(time_ns as u32);
        self.number(len);
        self.number(original_len.max(len));
        self.padded(bytes);
        self.option(OPTION_COMMENT, comment.as_bytes());
        self.end_of_options();
        self.finish_block(ENHANCED_PACKET)
    }

    /// Writes out everything, and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }

    fn number(&mut self, number: u32) {
        self.block.extend(number.to_le_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.block.extend(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = value.get(..OPTION_MAX).unwrap_or(value);
        self.block.extend(code.to_le_bytes());
        self.block.extend((value.len() as u16).to_le_bytes());
        self.padded(value);
    }

    fn end_of_options(&mut self) {
        self.number(0);
    }

    fn finish_block(&mut self, kind: u32) -> io::Result<()> {
        let len = (self.block.len() as u32 + BLOCK_OVERHEAD).to_le_bytes();
        self.output.write_all(&kind.to_le_bytes())?;
        self.output.write_all(&len)?;
        self.output.write_all(&self.block)?;
        self.output.write_all(&len)?;
        self.block.clear();
        Ok(())
    }
}
