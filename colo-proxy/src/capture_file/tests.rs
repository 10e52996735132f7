//! Files as programs write them, and as nobody should.

mod build;
mod hostile;
mod pcap;
mod pcapng;

use super::{CaptureError, Packet, Reader};

/// Everything in `file`, and whether it was truncated.
fn read(file: &[u8]) -> Result<(Vec<Packet>, bool), CaptureError> {
    let mut reader = Reader::new(file)?;
    let packets = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
    Ok((packets, reader.is_truncated()))
}
