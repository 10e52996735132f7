//! Datagrams without a match: those of a flow in order of arrival, and each found by its bytes.
//!
//! A lookup, an addition and a removal each touch one entry of the index, however many datagrams
//! wait. Equal datagrams are linked behind the oldest, which is taken first. So two guests together
//! cannot make one frame cost more than another.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher};

use super::body::DatagramBytes;
use super::chain::{Chain, ChainEnds, ChainKey};
use super::hashing::{HashState, state};

/// A datagram, and the hash by which an equal one is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct DatagramTag {
    pub(super) datagram: DatagramBytes,
    /// The flow in the table, in whose line it is.
    flow: ChainKey,
    /// Of the flow and the bytes.
    hash: u64,
}

/// One datagram without a match.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnmatchedDatagram {
    /// The key of its frame or piece in the ledger.
    pub(super) key: ChainKey,
    pub(super) tag: DatagramTag,
}

#[derive(Clone, Copy, Debug)]
struct MultisetSlot {
    entry: UnmatchedDatagram,
    /// The next one with the same hash.
    twin: Option<ChainKey>,
}

/// The oldest and the newest of those with the same hash.
#[derive(Clone, Copy, Debug)]
struct Twins {
    first: ChainKey,
    last: ChainKey,
}

/// The datagrams of one flow in a multiset, in order of arrival.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DatagramLine {
    ends: ChainEnds,
    len: usize,
}

/// All datagrams of one side without a match.
#[derive(Debug)]
pub(super) struct Multiset {
    slots: Chain<MultisetSlot>,
    index: HashMap<u64, Twins, HashState>,
    /// The index has room for twice as many entries. So it never grows because of deleted places
    /// that are not reusable yet: it rehashes in place.
    entries_max: usize,
}

/// The multisets of both sides.
#[derive(Debug)]
pub(super) struct Multisets {
    pub(super) primary: Multiset,
    pub(super) secondary: Multiset,
    /// Those of the primary that the last checkpoint released. The secondary may still repeat them.
    covered: HashSet<u64, HashState>,
    state: HashState,
}

impl Multisets {
    /// `seed` keeps the guests from choosing bytes that collide.
    pub(super) fn new(seed: u64) -> Self {
        let multiset = || {
            let index = HashMap::with_hasher(state(seed));
            Multiset { slots: Chain::default(), index, entries_max: 0 }
        };
        let covered = HashSet::with_hasher(state(seed));
        let state = state(seed);
        Self { primary: multiset(), secondary: multiset(), covered, state }
    }

    /// The tag of a datagram of `flow` with these `octets`.
    pub(super) fn tag(
        &self,
        flow: ChainKey,
        datagram: DatagramBytes,
        octets: &[u8],
    ) -> DatagramTag {
        let mut hasher = self.state.build_hasher();
        hasher.write_u32(flow.number());
        hasher.write_u32(datagram.label);
        for part in datagram.parts(octets) {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        DatagramTag { datagram, flow, hash: hasher.finish() }
    }

    /// The last checkpoint released an equal datagram without the secondary's.
    pub(super) fn is_covered(&self, tag: &DatagramTag) -> bool {
        self.covered.contains(&tag.hash)
    }

    /// A checkpoint was made, or protection is off: nothing is without a match any more.
    pub(super) fn clear(&mut self, is_covered: bool) {
        self.covered.clear();
        if is_covered {
            self.covered.extend(self.primary.index.keys());
        }
        for multiset in [&mut self.primary, &mut self.secondary] {
            multiset.slots.clear();
            multiset.index.clear();
        }
    }
}

impl DatagramLine {
    pub(super) fn len(self) -> usize {
        self.len
    }
}

impl Multiset {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn push(&mut self, line: &mut DatagramLine, entry: UnmatchedDatagram) {
        let hash = entry.tag.hash;
        let key = self.slots.push_back(&mut line.ends, MultisetSlot { entry, twin: None });
        line.len += 1;
        let Some(twins) = self.index.get_mut(&hash) else {
            if self.index.len() >= self.entries_max {
                self.entries_max = (self.entries_max * 2).max(32);
                self.index.reserve(self.entries_max * 2 - self.index.len());
            }
            self.index.insert(hash, Twins { first: key, last: key });
            return;
        };
        if let Some(last) = self.slots.get_mut(twins.last) {
            last.twin = Some(key);
        }
        twins.last = key;
    }

    /// The oldest entry like `tag`, by its hash.
    pub(super) fn oldest(&self, tag: &DatagramTag) -> Option<&UnmatchedDatagram> {
        let slot = self.slots.get(self.index.get(&tag.hash)?.first)?;
        // The hash covers the flow; this is for the one collision in 2^64.
        (slot.entry.tag.flow == tag.flow).then_some(&slot.entry)
    }

    /// Takes the oldest entry like `tag` out of its line.
    pub(super) fn take(
        &mut self,
        line: &mut DatagramLine,
        tag: &DatagramTag,
    ) -> Option<UnmatchedDatagram> {
        let key = self.oldest(tag)?.key;
        self.withdraw(line, tag, key)
    }

    /// Takes the entry for `key` of the ledger. It looks at the older ones with the same bytes.
    pub(super) fn withdraw(
        &mut self,
        line: &mut DatagramLine,
        tag: &DatagramTag,
        key: ChainKey,
    ) -> Option<UnmatchedDatagram> {
        let twins = self.index.get(&tag.hash).copied()?;
        let (mut before, mut at) = (None, twins.first);
        let twin = loop {
            let slot = self.slots.get(at)?;
            if slot.entry.key == key && slot.entry.tag.flow == tag.flow {
                break slot.twin;
            }
            before = Some(at);
            at = slot.twin?;
        };
        let slot = self.slots.remove(&mut line.ends, at)?;
        line.len = line.len.saturating_sub(1);
        self.unlink(tag.hash, twins, before, twin);
        Some(slot.entry)
    }

    /// Closes the gap between `before` and `twin` among those with the same hash.
    fn unlink(
        &mut self,
        hash: u64,
        twins: Twins,
        before: Option<ChainKey>,
        twin: Option<ChainKey>,
    ) {
        if let Some(before) = before.and_then(|before| self.slots.get_mut(before)) {
            before.twin = twin;
        }
        let twins = match (before, twin) {
            (None, None) => {
                self.index.remove(&hash);
                return;
            }
            (None, Some(first)) => Twins { first, ..twins },
            (Some(last), None) => Twins { last, ..twins },
            (Some(_), Some(_)) => return,
        };
        self.index.insert(hash, twins);
    }

    pub(super) fn front(&self, line: &DatagramLine) -> Option<&UnmatchedDatagram> {
        Some(&self.slots.get(line.ends.front()?)?.entry)
    }

    pub(super) fn pop_front(&mut self, line: &mut DatagramLine) -> Option<UnmatchedDatagram> {
        let UnmatchedDatagram { key, tag } = *self.front(line)?;
        self.withdraw(line, &tag, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<ChainKey> {
        let (mut chain, mut ends) = (Chain::default(), ChainEnds::default());
        (0..count).map(|n| chain.push_back(&mut ends, n)).collect()
    }

    fn tag(flow: ChainKey, hash: u64) -> DatagramTag {
        DatagramTag { datagram: DatagramBytes::default(), flow, hash }
    }

    #[test]
    fn equal_ones_are_taken_oldest_first_and_lines_keep_their_order() {
        let keys = keys(6);
        let [even, odd] = [0, 1].map(|hash| tag(keys[0], hash));
        let (mut multiset, mut line) = (Multisets::new(1).primary, DatagramLine::default());
        for (key, tag) in keys.iter().zip([even, odd].into_iter().cycle()) {
            multiset.push(&mut line, UnmatchedDatagram { key: *key, tag });
        }
        // Of 0, 2, 4 the one in the middle, then the others as they came.
        assert!(multiset.withdraw(&mut line, &even, keys[2]).is_some());
        assert!(multiset.withdraw(&mut line, &even, keys[2]).is_none());
        assert_eq!(multiset.take(&mut line, &even).map(|entry| entry.key), Some(keys[0]));
        assert_eq!(multiset.front(&line).map(|entry| entry.key), Some(keys[1]));
        // The last of 1, 3, 5; what is pushed then comes behind the others.
        assert!(multiset.withdraw(&mut line, &odd, keys[5]).is_some());
        multiset.push(&mut line, UnmatchedDatagram { key: keys[0], tag: odd });
        let mut left = Vec::new();
        while let Some(entry) = multiset.pop_front(&mut line) {
            left.push(entry.key);
        }
        assert_eq!(left, [keys[1], keys[3], keys[4], keys[0]]);
        assert_eq!((multiset.len(), line.len(), multiset.index.len()), (0, 0, 0));
    }

    #[test]
    fn another_flow_has_other_hashes_and_takes_nothing() {
        let keys = keys(2);
        let mut multisets = Multisets::new(1);
        let datagram = DatagramBytes::plain(0, 4);
        let tag = multisets.tag(keys[0], datagram, b"same");
        let others = [
            multisets.tag(keys[1], datagram, b"same"),
            multisets.tag(keys[0], DatagramBytes { label: 1, ..datagram }, b"same"),
            Multisets::new(2).tag(keys[0], datagram, b"same"),
        ];
        assert!(others.iter().all(|other| other.hash != tag.hash));
        let mut line = DatagramLine::default();
        multisets.primary.push(&mut line, UnmatchedDatagram { key: keys[0], tag });
        assert!(multisets.primary.take(&mut line, &DatagramTag { flow: keys[1], ..tag }).is_none());
        assert!(multisets.primary.take(&mut line, &tag).is_some());
    }
}
