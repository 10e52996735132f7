//! Bytes of the secondary that wait until the primary sends the same.

use std::ops::Range;

use bytes::Bytes;

use crate::frame::Frame;

/// Up to here a frame is copied out of the buffer that it was read into: a reader fills one large
/// buffer with many small frames, and a single waiting frame would pin all of it.
const COPY_MAX: usize = 2048;
/// Block sizes of the copies; a frame occupies the smallest that holds it.
const BLOCKS: [usize; 2] = [256, COPY_MAX];
/// Blocks of each size kept for the next use.
const SPARE_MAX: usize = 1024;

/// Waiting bytes, with the whole frame in which they came: a record of a difference shows the frames
/// of both guests.
#[derive(Debug)]
pub(super) struct WaitingBytes {
    frame: Store,
    from: u32,
    to: u32,
}

/// A frame in a block of ours, or by reference to the buffer that it came in.
#[derive(Debug)]
enum Store {
    Shared(Bytes),
    Copied { block: Box<[u8]>, len: u32 },
}

impl WaitingBytes {
    /// The bytes that wait.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.frame().get(self.from as usize..self.to as usize).unwrap_or_default()
    }

    /// The Ethernet frame that they came in.
    pub(super) fn frame(&self) -> &[u8] {
        match &self.frame {
            Store::Shared(bytes) => bytes,
            Store::Copied { block, len } => block.get(..*len as usize).unwrap_or_default(),
        }
    }

    /// The same, by copy if it is short.
    pub(super) fn to_frame(&self) -> Option<Frame> {
        let bytes = match &self.frame {
            Store::Shared(bytes) => bytes.clone(),
            Store::Copied { .. } => Bytes::copy_from_slice(self.frame()),
        };
        Frame::new(bytes, 0)
    }

    /// Shortens the waiting bytes to `len` from `at` on.
    pub(super) fn trim(&mut self, at: usize, len: usize) {
        self.from = self.from.saturating_add(at as u32).min(self.to);
        self.to = self.from.saturating_add(len as u32).min(self.to);
    }
}

/// Blocks to copy into, reused so that waiting costs no allocation.
#[derive(Debug, Default)]
pub(super) struct FrameBlocks {
    spare: [Vec<Box<[u8]>>; BLOCKS.len()],
}

impl FrameBlocks {
    /// Keeps `frame`, of which `range` waits; by copy if it is short.
    pub(super) fn keep(&mut self, frame: &Frame, range: Range<usize>) -> WaitingBytes {
        let octets = frame.ethernet();
        let frame = if octets.len() > COPY_MAX {
            Store::Shared(frame.slice(0..octets.len()))
        } else {
            self.copy(octets)
        };
        WaitingBytes { frame, from: range.start as u32, to: range.end as u32 }
    }

    /// Keeps a copy of `range` of `frame` behind the first `head_len` bytes of it, without the
    /// rest: each of many pieces of one frame must not keep all of it.
    pub(super) fn keep_part(
        &mut self,
        frame: &Frame,
        head_len: usize,
        range: Range<usize>,
    ) -> WaitingBytes {
        let octets = frame.ethernet();
        let head = octets.get(..head_len).unwrap_or_default();
        let part = octets.get(range).unwrap_or_default();
        let (from, to) = (head.len(), head.len() + part.len());
        WaitingBytes { frame: self.copy_both(head, part), from: from as u32, to: to as u32 }
    }

    /// Keeps the first bytes of `frame`, as many as fit the smallest block.
    pub(super) fn keep_head(&mut self, frame: &Frame) -> WaitingBytes {
        let head = frame.ethernet();
        let head = head.get(..BLOCKS[0]).unwrap_or(head);
        WaitingBytes { frame: self.copy(head), from: 0, to: head.len() as u32 }
    }

    /// A copy of `octets`, at most [`COPY_MAX`] of them; more get a block of their own.
    fn copy(&mut self, octets: &[u8]) -> Store {
        self.copy_both(octets, &[])
    }

    /// Likewise of `octets` and of `more` behind them.
    fn copy_both(&mut self, octets: &[u8], more: &[u8]) -> Store {
        let total = octets.len() + more.len();
        let size = BLOCKS.iter().position(|size| total <= *size);
        let mut block = size.and_then(|i| self.spare.get_mut(i)?.pop()).unwrap_or_else(|| {
            let len = size.and_then(|i| BLOCKS.get(i).copied()).unwrap_or(total);
            vec![0; len].into_boxed_slice()
        });
        for (at, part) in [(0, octets), (octets.len(), more)] {
            if let Some(into) = block.get_mut(at..at + part.len()) {
                into.copy_from_slice(part);
            }
        }
        Store::Copied { block, len: total as u32 }
    }

    /// Takes the block of `kept` back.
    pub(super) fn give_back(&mut self, kept: WaitingBytes) {
        let Store::Copied { block, .. } = kept.frame else { return };
        let spare = BLOCKS.iter().position(|size| block.len() == *size);
        if let Some(spare) = spare.and_then(|i| self.spare.get_mut(i))
            && spare.len() < SPARE_MAX
        {
            spare.push(block);
        }
    }

    /// A second piece: the bytes of `kept` from `at` on.
    pub(super) fn tail(&mut self, kept: &WaitingBytes, at: usize) -> WaitingBytes {
        let frame = match &kept.frame {
            Store::Shared(bytes) => Store::Shared(bytes.clone()),
            Store::Copied { .. } => self.copy(kept.frame()),
        };
        let from = kept.from.saturating_add(at as u32).min(kept.to);
        WaitingBytes { frame, from, to: kept.to }
    }
}

#[cfg(test)]
mod tests {
    use super::{FrameBlocks, Store};
    use crate::frame::Frame;

    fn frame(octets: Vec<u8>) -> Frame {
        Frame::new(octets.into(), 0).expect("no header")
    }

    #[test]
    fn short_frames_do_not_pin_the_buffer_they_came_in() {
        let mut blocks = FrameBlocks::default();
        assert!(matches!(blocks.keep(&frame(vec![7; 2048]), 0..9).frame, Store::Copied { .. }));
        assert!(matches!(blocks.keep(&frame(vec![7; 2049]), 0..9).frame, Store::Shared(_)));
    }

    #[test]
    fn trim_and_tail_cut_where_they_are_told_and_the_frame_stays_whole() {
        let mut blocks = FrameBlocks::default();
        for len in [20usize, 300, 5000] {
            let octets: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let mut kept = blocks.keep(&frame(octets.clone()), 3..len);
            let tail = blocks.tail(&kept, 7);
            assert_eq!((tail.as_slice(), tail.frame()), (&octets[10..], &octets[..]));
            kept.trim(2, 5);
            assert_eq!((kept.as_slice(), kept.frame()), (&octets[5..10], &octets[..]));
            let head = blocks.keep_head(&frame(octets.clone()));
            assert_eq!(head.frame(), &octets[..len.min(256)]);
            for kept in [kept, tail, head] {
                blocks.give_back(kept);
            }
        }
    }
}
