//! Datagrams without a match: those of a flow in order of arrival, and each found by its octets.
//!
//! Looking one up, adding and taking it touch one entry of the index, whatever waits: equal ones
//! are linked behind the oldest, which is the one that is taken. So nothing that the guests agree
//! on between them makes a frame cost more than another.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::body::Datagram;
use super::chain::{Chain, Ends, Key};

/// One datagram without a match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// What the ledger has of it.
    pub(super) key: Key,
    pub(super) datagram: Datagram,
    /// The flow in the table, whose line it is in.
    pub(super) flow: Key,
    pub(super) hash: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    entry: Entry,
    /// The next one with the same hash.
    twin: Option<Key>,
}

/// The oldest and the newest of those with the same hash.
#[derive(Clone, Copy, Debug)]
struct Twins {
    first: Key,
    last: Key,
}

/// What one flow has in a bag, in order of arrival.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line {
    ends: Ends,
    len: usize,
}

/// All datagrams of one side without a match.
#[derive(Debug)]
pub(super) struct Bag {
    slots: Chain<Slot>,
    index: HashMap<u64, Twins, FixedState>,
}

/// The bags of both sides.
#[derive(Debug)]
pub(super) struct Bags {
    pub(super) primary: Bag,
    pub(super) secondary: Bag,
    /// Those of the primary that the last checkpoint released. The secondary may still repeat them.
    covered: HashSet<u64, FixedState>,
    state: FixedState,
}

impl Bags {
    /// `seed` keeps the guests from choosing octets that collide.
    pub(super) fn new(seed: u64) -> Self {
        let bag = || {
            let index = HashMap::with_hasher(FixedState::with_seed(seed));
            Bag { slots: Chain::default(), index }
        };
        let covered = HashSet::with_hasher(FixedState::with_seed(seed));
        let state = FixedState::with_seed(seed);
        Self { primary: bag(), secondary: bag(), covered, state }
    }

    /// What equal datagrams of a flow have in common.
    pub(super) fn hash(&self, flow: Key, datagram: Datagram, octets: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write_u32(flow.number());
        hasher.write_u32(datagram.label);
        for part in datagram.parts(octets) {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish()
    }

    /// The last checkpoint released such a datagram without the secondary's.
    pub(super) fn is_covered(&self, hash: u64) -> bool {
        self.covered.contains(&hash)
    }

    /// A checkpoint was made, or protection is off: nothing is without a match any more.
    pub(super) fn clear(&mut self, is_covered: bool) {
        self.covered.clear();
        if is_covered {
            self.covered.extend(self.primary.index.keys());
        }
        for bag in [&mut self.primary, &mut self.secondary] {
            bag.slots.clear();
            bag.index.clear();
        }
    }
}

impl Line {
    pub(super) fn len(self) -> usize {
        self.len
    }
}

impl Bag {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn push(&mut self, line: &mut Line, entry: Entry) {
        let key = self.slots.push_back(&mut line.ends, Slot { entry, twin: None });
        line.len += 1;
        let Some(twins) = self.index.get_mut(&entry.hash) else {
            self.index.insert(entry.hash, Twins { first: key, last: key });
            return;
        };
        if let Some(last) = self.slots.get_mut(twins.last) {
            last.twin = Some(key);
        }
        twins.last = key;
    }

    /// The oldest entry of `flow` with this hash.
    pub(super) fn oldest(&self, flow: Key, hash: u64) -> Option<&Entry> {
        let slot = self.slots.get(self.index.get(&hash)?.first)?;
        // The hash covers the flow; this is for the one collision in 2^64.
        (slot.entry.flow == flow).then_some(&slot.entry)
    }

    /// Takes the oldest entry of `flow` with this hash out of its line.
    pub(super) fn take(&mut self, line: &mut Line, flow: Key, hash: u64) -> Option<Entry> {
        let key = self.oldest(flow, hash)?.key;
        self.withdraw(line, flow, hash, key)
    }

    /// Takes the entry for `key` of the ledger. It looks at the older ones with the same octets.
    pub(super) fn withdraw(
        &mut self,
        line: &mut Line,
        flow: Key,
        hash: u64,
        key: Key,
    ) -> Option<Entry> {
        let twins = self.index.get(&hash).copied()?;
        let (mut before, mut at) = (None, twins.first);
        let twin = loop {
            let slot = self.slots.get(at)?;
            if slot.entry.key == key && slot.entry.flow == flow {
                break slot.twin;
            }
            before = Some(at);
            at = slot.twin?;
        };
        let slot = self.slots.remove(&mut line.ends, at)?;
        line.len = line.len.saturating_sub(1);
        self.unlink(hash, twins, before, twin);
        Some(slot.entry)
    }

    /// Closes the gap between `before` and `twin` among those with the same hash.
    fn unlink(&mut self, hash: u64, twins: Twins, before: Option<Key>, twin: Option<Key>) {
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

    pub(super) fn front(&self, line: &Line) -> Option<&Entry> {
        Some(&self.slots.get(line.ends.front()?)?.entry)
    }

    pub(super) fn pop_front(&mut self, line: &mut Line) -> Option<Entry> {
        let Entry { flow, hash, key, .. } = *self.front(line)?;
        self.withdraw(line, flow, hash, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<Key> {
        let (mut chain, mut ends) = (Chain::default(), Ends::default());
        (0..count).map(|n| chain.push_back(&mut ends, n)).collect()
    }

    fn entry(key: Key, flow: Key, hash: u64) -> Entry {
        Entry { key, datagram: Datagram::default(), flow, hash }
    }

    #[test]
    fn equal_ones_are_taken_oldest_first_and_lines_keep_their_order() {
        let keys = keys(6);
        let flow = keys[0];
        let (mut bag, mut line) = (Bags::new(1).primary, Line::default());
        for (n, key) in keys.iter().enumerate() {
            bag.push(&mut line, entry(*key, flow, n as u64 % 2));
        }
        // Of 0, 2, 4 the one in the middle, then the others as they came.
        assert!(bag.withdraw(&mut line, flow, 0, keys[2]).is_some());
        assert!(bag.withdraw(&mut line, flow, 0, keys[2]).is_none());
        assert_eq!(bag.take(&mut line, flow, 0).map(|entry| entry.key), Some(keys[0]));
        assert_eq!(bag.front(&line).map(|entry| entry.key), Some(keys[1]));
        // The last of 1, 3, 5; what is pushed then comes behind the others.
        assert!(bag.withdraw(&mut line, flow, 1, keys[5]).is_some());
        bag.push(&mut line, entry(keys[0], flow, 1));
        let mut left = Vec::new();
        while let Some(entry) = bag.pop_front(&mut line) {
            left.push(entry.key);
        }
        assert_eq!(left, [keys[1], keys[3], keys[4], keys[0]]);
        assert_eq!((bag.len(), line.len(), bag.index.len()), (0, 0, 0));
    }

    #[test]
    fn another_flow_has_other_hashes_and_takes_nothing() {
        let keys = keys(2);
        let mut bags = Bags::new(1);
        let datagram = Datagram::plain(0, 4);
        let hash = bags.hash(keys[0], datagram, b"same");
        assert_ne!(hash, bags.hash(keys[1], datagram, b"same"));
        assert_ne!(hash, bags.hash(keys[0], Datagram { label: 1, ..datagram }, b"same"));
        assert_ne!(hash, Bags::new(2).hash(keys[0], datagram, b"same"));
        let mut line = Line::default();
        bags.primary.push(&mut line, entry(keys[0], keys[0], hash));
        assert!(bags.primary.take(&mut line, keys[1], hash).is_none());
        assert!(bags.primary.take(&mut line, keys[0], hash).is_some());
    }
}
