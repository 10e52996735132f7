//! Files as programs write them, and files that no program should write.

mod build;
mod hostile;
mod pcap;
mod pcapng;

use super::{CaptureError, Packet, Reader};

/// All packets of `file`, and whether it was truncated.
fn read(file: &[u8]) -> Result<(Vec<Packet>, bool), CaptureError> {
    let mut reader = Reader::new(file)?;
    let packets = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
    Ok((packets, reader.is_truncated()))
}
