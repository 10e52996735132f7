//! Writes the frames of divergences for Wireshark.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use anyhow::Context;
use colo_proxy::capture_file::Writer;
use colo_proxy_engine::compare::Side;

/// A frame to be written.
#[derive(Debug)]
pub(super) struct CapturedFrame {
    pub(super) side: Side,
    pub(super) time_ns: u64,
    pub(super) octets: Vec<u8>,
    pub(super) original_len: u32,
    /// The difference that it belongs to, in words.
    pub(super) summary: String,
}

/// Writes `frames` to `path`. An existing file is replaced, as by `tcpdump -w`.
pub(super) fn write(path: &Path, frames: &[CapturedFrame]) -> anyhow::Result<()> {
    let written = File::create(path).and_then(|file| write_to(file, frames));
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write_to(file: File, frames: &[CapturedFrame]) -> io::Result<()> {
    let mut writer = Writer::new(BufWriter::new(file), &["primary", "secondary"])?;
    for frame in frames {
        let (interface, side) = match frame.side {
            Side::Primary => (0, "primary"),
            Side::Secondary => (1, "secondary"),
        };
        let comment = format!("{} ({side})", frame.summary);
        writer.write(interface, frame.time_ns, &frame.octets, frame.original_len, &comment)?;
    }
    writer.finish().map(|_| ())
}
