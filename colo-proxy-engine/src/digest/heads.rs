//! Headers on the wire: the bytes that differ from an earlier segment, as a rule of the same connection.
//!
//! ```text
//! context, length: one byte each
//! a bit for each byte of the headers, the first in the highest bit: it differs
//! the bytes that differ
//! ```
//!
//! Both ends remember the last headers of each context. The sender chooses the context.

use bytes::{Buf, BufMut};

/// Headers remembered, by a hash of the connection.
const CONTEXTS: usize = 64;
/// The longest headers that are sent in this form: a virtio-net header, Ethernet with two tags, IPv6
/// with some extensions or IPv4 with options, and TCP with options.
pub(super) const HEAD_MAX: usize = 200;

/// The headers that one end remembers.
#[derive(Debug)]
pub(super) struct HeadContexts {
    last: Vec<[u8; HEAD_MAX]>,
}

impl HeadContexts {
    pub(super) fn new() -> Self {
        Self { last: vec![[0; HEAD_MAX]; CONTEXTS] }
    }

    /// Writes `head`, at most [`HEAD_MAX`] bytes, as a difference to the last headers of the context that
    /// `hash` names.
    pub(super) fn write(&mut self, hash: u32, head: &[u8], into: &mut impl BufMut) {
        let context = hash as usize % CONTEXTS;
        let Some(last) = self.last.get_mut(context) else { return };
        into.put_u8(context as u8);
        into.put_u8(head.len() as u8);
        for (new, old) in head.chunks(8).zip(last.chunks(8)) {
            let differ = new.iter().zip(old).enumerate();
            into.put_u8(
                differ.fold(0, |bits, (at, (new, old))| bits | u8::from(new != old) << (7 - at)),
            );
        }
        for (new, old) in head.iter().zip(last) {
            if new != old {
                into.put_u8(*new);
                *old = *new;
            }
        }
    }

    /// Reads the output of [`HeadContexts::write`]; `None` if it is something else.
    pub(super) fn read(&mut self, from: &mut impl Buf) -> Option<Vec<u8>> {
        let context = usize::from(from.try_get_u8().ok()?);
        let len = usize::from(from.try_get_u8().ok()?);
        let last = self.last.get_mut(context)?.get_mut(..len)?;
        let mut differ = [0; HEAD_MAX.div_ceil(8)];
        from.try_copy_to_slice(differ.get_mut(..len.div_ceil(8))?).ok()?;
        for (at, octet) in last.iter_mut().enumerate() {
            let bits = differ.get(at / 8).copied().unwrap_or_default();
            if bits << (at % 8) & 0x80 != 0 {
                *octet = from.try_get_u8().ok()?;
            }
        }
        Some(last.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(
            heads in prop::collection::vec((0..4u32, prop::collection::vec(0..3u8, 0..=HEAD_MAX)), 1..40),
        ) {
            let (mut ours, mut theirs) = (HeadContexts::new(), HeadContexts::new());
            for (hash, head) in heads {
                let mut wire = Vec::new();
                ours.write(hash, &head, &mut wire);
                let mut wire = wire.as_slice();
                prop_assert_eq!(theirs.read(&mut wire), Some(head));
                prop_assert!(wire.is_empty());
            }
        }

        #[test]
        fn what_nobody_has_written_is_refused_or_read(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut heads = HeadContexts::new();
            let mut wire = octets.as_slice();
            if let Some(head) = heads.read(&mut wire) {
                prop_assert!(head.len() <= HEAD_MAX);
            }
        }
    }

    #[test]
    fn what_stays_the_same_costs_a_bit() {
        let mut heads = HeadContexts::new();
        let mut wire = Vec::new();
        heads.write(5, &[9; 66], &mut wire);
        assert_eq!(wire.len(), 2 + 9 + 66);
        wire.clear();
        let mut head = [9; 66];
        head[40] = 1;
        heads.write(5, &head, &mut wire);
        assert_eq!(wire.len(), 2 + 9 + 1);
    }
}
