//! A frame parsed for the translation.

use colo_proxy_common::decode::{
    FrameBytes, Malformed, Sack, Tcp, TcpOptions, Timestamps, decode_tcp_options,
};
use colo_proxy_common::record::FlowKey;
use colo_proxy_common::rewrite::Edit;
use colo_proxy_common::segment::{Direction, TcpSegment};

/// A frame that can be parsed and translated.
pub trait TranslatedFrame {
    /// Parses the frame; `false` if it is no whole TCP segment.
    fn parse(&self, direction: Direction, into: &mut Parsed) -> Result<bool, Malformed>;

    /// Access that changes the frame.
    fn edit(&mut self) -> impl Edit;
}

/// The parts of a TCP segment that the translation needs. All are numbers: the kernel refuses a map
/// with a Rust enum in its type, and a write of bytes that the compiler has left undefined.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Parsed {
    pub key: FlowKey,
    pub tcp: Tcp,
    timestamps: Timestamps,
    sack_at: u32,
    sack_blocks: u32,
}

impl Parsed {
    #[inline(always)]
    pub fn options(&self) -> TcpOptions {
        // A frame begins with an address, so no option lies at 0.
        let timestamps = (self.timestamps.at != 0).then_some(self.timestamps);
        let sack = Sack { at: self.sack_at, blocks: self.sack_blocks as u8 };
        TcpOptions { timestamps, sack: (sack.at != 0).then_some(sack), ..TcpOptions::default() }
    }
}

/// [`TranslatedFrame::parse`] for a frame whose bytes can be read.
#[inline(always)]
pub fn parse<F: FrameBytes>(
    frame: &F,
    outer_tag: Option<u16>,
    direction: Direction,
    into: &mut Parsed,
) -> Result<bool, Malformed> {
    let Some(segment) = TcpSegment::read(frame, outer_tag)? else { return Ok(false) };
    segment.fill_key(direction, &mut into.key);
    let tcp = segment.tcp;
    let options = decode_tcp_options(frame, &tcp);
    into.tcp = tcp;
    into.timestamps = options.timestamps.unwrap_or(Timestamps { value: 0, echo: 0, at: 0 });
    let sack = options.sack.unwrap_or(Sack { at: 0, blocks: 0 });
    (into.sack_at, into.sack_blocks) = (sack.at, u32::from(sack.blocks));
    Ok(true)
}
