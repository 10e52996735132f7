//! Octets of the secondary that wait for the primary to say the same.

use bytes::Bytes;

/// Up to here the octets are copied out of the buffer that they were read into: a reader fills one
/// large buffer with many small frames, and a single waiting frame would pin all of it.
const COPY_MAX: usize = 2048;
/// Block sizes of the copies; a piece occupies the smallest that holds it.
const BLOCKS: [usize; 2] = [256, COPY_MAX];
/// Blocks of each size kept for the next use.
const SPARE_MAX: usize = 1024;

/// Octets kept, in a block of ours or by reference to the buffer that they came in.
#[derive(Debug)]
pub(super) enum Kept {
    Shared(Bytes),
    Copied { block: Box<[u8]>, from: u32, to: u32 },
}

impl Kept {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Copied { block, from, to } => {
                block.get(*from as usize..*to as usize).unwrap_or_default()
            }
        }
    }
}

/// Blocks to copy into, reused so that waiting costs no allocation.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    spare: [Vec<Box<[u8]>>; BLOCKS.len()],
}

impl Blocks {
    /// Keeps `octets`, by copy if they are few.
    pub(super) fn keep(&mut self, octets: Bytes) -> Kept {
        if octets.len() > COPY_MAX { Kept::Shared(octets) } else { self.copy(&octets) }
    }

    /// Keeps a copy of `octets`, at most [`COPY_MAX`] of them; more get a block of their own.
    fn copy(&mut self, octets: &[u8]) -> Kept {
        let size = BLOCKS.iter().position(|size| octets.len() <= *size);
        let mut block = size.and_then(|i| self.spare.get_mut(i)?.pop()).unwrap_or_else(|| {
            let len = size.and_then(|i| BLOCKS.get(i).copied()).unwrap_or(octets.len());
            vec![0; len].into_boxed_slice()
        });
        if let Some(into) = block.get_mut(..octets.len()) {
            into.copy_from_slice(octets);
        }
        Kept::Copied { block, from: 0, to: octets.len() as u32 }
    }

    /// Takes the block of `kept` back.
    pub(super) fn give_back(&mut self, kept: Kept) {
        let Kept::Copied { block, .. } = kept else { return };
        let spare = BLOCKS.iter().position(|size| block.len() == *size);
        if let Some(spare) = spare.and_then(|i| self.spare.get_mut(i))
            && spare.len() < SPARE_MAX
        {
            spare.push(block);
        }
    }

    /// Cuts `kept` down to `len` octets from `at` on.
    pub(super) fn trim(&mut self, kept: &mut Kept, at: usize, len: usize) {
        match kept {
            Kept::Shared(bytes) => {
                let end = at.saturating_add(len).min(bytes.len());
                let rest = bytes.slice(at.min(end)..end);
                *kept = self.keep(rest);
            }
            Kept::Copied { from, to, .. } => {
                let start = from.saturating_add(at as u32).min(*to);
                *to = start.saturating_add(len as u32).min(*to);
                *from = start;
            }
        }
    }

    /// A second piece: `kept` from `at` on.
    pub(super) fn tail(&mut self, kept: &Kept, at: usize) -> Kept {
        match kept {
            Kept::Shared(bytes) => self.keep(bytes.slice(at.min(bytes.len())..)),
            Kept::Copied { .. } => self.copy(kept.as_slice().get(at..).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Blocks, Kept};
    use bytes::Bytes;

    #[test]
    fn small_pieces_do_not_pin_the_buffer_they_came_in() {
        let mut blocks = Blocks::default();
        let buffer = Bytes::from(vec![7; 65536]);
        assert!(matches!(blocks.keep(buffer.slice(..2048)), Kept::Copied { .. }));
        let mut large = blocks.keep(buffer.slice(..4000));
        assert!(matches!(large, Kept::Shared(_)));
        blocks.trim(&mut large, 3990, 10);
        assert!(matches!(large, Kept::Copied { .. }));
        assert_eq!(large.as_slice(), [7; 10]);
    }

    #[test]
    fn trim_and_tail_cut_where_they_are_told() {
        let mut blocks = Blocks::default();
        for len in [10usize, 300, 5000] {
            let octets: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let mut kept = blocks.keep(Bytes::from(octets.clone()));
            let tail = blocks.tail(&kept, 7);
            assert_eq!(tail.as_slice(), &octets[7..]);
            blocks.trim(&mut kept, 2, 5);
            assert_eq!(kept.as_slice(), &octets[2..7]);
            blocks.give_back(kept);
            blocks.give_back(tail);
        }
    }
}
