//! Puts frames together from the pieces that an `AF_XDP` socket gives.

use bytes::Bytes;

use colo_proxy_engine::frame::{FRAME_MAX, Frame, VNET_HDR_LEN};

/// Puts the pieces of a frame together, behind an empty virtio-net header: XDP knows neither the
/// state of the checksum nor the segment size.
///
/// It keeps its pieces between batches, because a batch may end in the middle of a frame.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    buffer: Vec<u8>,
    oversize: bool,
}

/// The result of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Assembled {
    /// The frame has more pieces.
    Unfinished,
    Frame(Frame),
    /// A frame that is too long for a lane. It is dropped as a whole.
    Oversize,
}

impl Assembler {
    /// Takes the next `piece`, which is the last of its frame unless `continued`.
    pub(super) fn push(&mut self, piece: &[u8], continued: bool) -> Assembled {
        if self.buffer.is_empty() {
            let capacity = if continued { FRAME_MAX } else { VNET_HDR_LEN + piece.len() };
            self.buffer.reserve_exact(capacity);
            self.buffer.extend_from_slice(&[0; VNET_HDR_LEN]);
        }
        if self.buffer.len() + piece.len() > FRAME_MAX {
            self.oversize = true;
        } else {
            self.buffer.extend_from_slice(piece);
        }
        if continued { Assembled::Unfinished } else { self.finish() }
    }

    fn finish(&mut self) -> Assembled {
        let mut buffer = std::mem::take(&mut self.buffer);
        if std::mem::take(&mut self.oversize) {
            return Assembled::Oversize;
        }
        // A frame in one piece fits exactly. A longer one gives the unused tail back, without a move.
        buffer.shrink_to_fit();
        match Frame::new(Bytes::from(buffer), VNET_HDR_LEN) {
            Some(frame) => Assembled::Frame(frame),
            None => Assembled::Oversize,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Assembled, Assembler};
    use colo_proxy_engine::frame::{FRAME_MAX, VNET_HDR_LEN};

    #[test]
    fn an_oversize_frame_is_dropped_whole_and_the_next_is_not() {
        let mut assembler = Assembler::default();
        let piece = [7; 4096];
        for _ in 0..FRAME_MAX / piece.len() {
            assert_eq!(assembler.push(&piece, true), Assembled::Unfinished);
        }
        assert_eq!(assembler.push(&piece, true), Assembled::Unfinished);
        assert_eq!(assembler.push(&[7], false), Assembled::Oversize);
        let Assembled::Frame(frame) = assembler.push(b"next", false) else {
            unreachable!("a whole frame")
        };
        assert_eq!((frame.vnet(), frame.ethernet()), (&[0; VNET_HDR_LEN][..], &b"next"[..]));
    }

    #[test]
    fn the_longest_frame_is_kept() {
        let mut assembler = Assembler::default();
        let longest = vec![1; FRAME_MAX - VNET_HDR_LEN];
        let (head, tail) = longest.split_at(3840);
        assert_eq!(assembler.push(head, true), Assembled::Unfinished);
        assert!(
            matches!(assembler.push(tail, false), Assembled::Frame(f) if f.ethernet() == longest)
        );
    }

    proptest! {
        #[test]
        fn any_cut_of_any_frames_gives_the_frames(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..8),
            piece_len in 1usize..100,
        ) {
            let mut assembler = Assembler::default();
            for frame in &frames {
                let mut pieces = frame.chunks(piece_len).peekable();
                while let Some(piece) = pieces.next() {
                    let continued = pieces.peek().is_some();
                    match assembler.push(piece, continued) {
                        Assembled::Unfinished => prop_assert!(continued),
                        Assembled::Frame(got) => {
                            prop_assert!(!continued);
                            prop_assert_eq!(got.ethernet(), &frame[..]);
                            let held: Vec<u8> = got.bytes().clone().into();
                            prop_assert_eq!(held.len(), frame.len() + VNET_HDR_LEN);
                        }
                        Assembled::Oversize => prop_assert!(false, "not oversize"),
                    }
                }
            }
        }
    }
}
