//! What the records of a lane are to the one who reads it.

use super::{LaneError, RecordReader};
use crate::frame::Frame;

/// Makes items of the records of a lane.
pub(crate) trait Records: Default + Send + 'static {
    type Item: Carried + Send;

    fn reader(vnet_hdr: bool) -> RecordReader;

    /// The next item; `None` until more bytes have come.
    fn next(&mut self, reader: &mut RecordReader) -> Result<Option<Self::Item>, LaneError>;

    /// The connection is gone.
    fn reset(&mut self);
}

/// An item that a lane has carried.
pub(crate) trait Carried {
    /// Bytes that the lane has carried for it, without the framing.
    fn wire_len(&self) -> usize;

    /// It counts as a frame of the lane.
    fn is_frame(&self) -> bool;
}

/// A lane of frames and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Frames;

impl Records for Frames {
    type Item = Frame;

    fn reader(vnet_hdr: bool) -> RecordReader {
        RecordReader::new(vnet_hdr)
    }

    fn next(&mut self, reader: &mut RecordReader) -> Result<Option<Frame>, LaneError> {
        reader.next_frame()
    }

    fn reset(&mut self) {}
}

impl Carried for Frame {
    fn wire_len(&self) -> usize {
        self.len()
    }

    fn is_frame(&self) -> bool {
        true
    }
}
