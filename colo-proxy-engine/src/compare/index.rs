//! Finds a flow by the hash of its name.
//!
//! Eight bytes for each place, of which a quarter is free at the least: a flow that is looked for
//! costs one line of memory here, whatever the number of flows, and a caller that has many frames
//! can have the lines of all of them fetched before it needs the first.

use super::chain::ChainKey;

/// Places at first.
const PLACES_MIN: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    key: Option<ChainKey>,
}

const FREE: Place = Place { hash: 0, key: None };

/// Keys by hash. The caller compares the values that they name.
#[derive(Debug, Default)]
pub(super) struct FlowIndex {
    /// A power of two of them. Each key lies in the first place that was free from that of its hash
    /// on, with none free between the two.
    places: Vec<Place>,
    len: usize,
}

impl FlowIndex {
    /// The key with `hash` for which `is_it` returns `true`.
    #[inline]
    pub(super) fn find(
        &self,
        hash: u32,
        mut is_it: impl FnMut(ChainKey) -> bool,
    ) -> Option<ChainKey> {
        let mut at = self.home(hash);
        loop {
            // The loop ends: a quarter is free.
            let Place { hash: theirs, key } = *self.places.get(at)?;
            let key = key?;
            if theirs == hash && is_it(key) {
                return Some(key);
            }
            at = self.next(at);
        }
    }

    /// The first key with `hash`, whatever it is for: a guess that is nearly always right.
    #[inline]
    pub(super) fn guess(&self, hash: u32) -> Option<ChainKey> {
        self.find(hash, |_| true)
    }

    /// Something of the memory where `hash` is looked for first.
    #[inline]
    pub(super) fn touch(&self, hash: u32) -> u32 {
        self.places.get(self.home(hash)).map_or(0, |place| place.hash)
    }

    /// Adds a key that is not in.
    pub(super) fn insert(&mut self, hash: u32, key: ChainKey) {
        if (self.len + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        self.put(Place { hash, key: Some(key) });
        self.len += 1;
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, hash: u32, key: ChainKey) {
        let mut at = self.home(hash);
        loop {
            match self.places.get(at).map(|place| place.key) {
                Some(Some(theirs)) if theirs == key => break,
                Some(Some(_)) => at = self.next(at),
                _ => return,
            }
        }
        self.len -= 1;
        self.close(at);
    }

    pub(super) fn clear(&mut self) {
        self.places.fill(FREE);
        self.len = 0;
    }

    /// Frees the place `gap`: those behind it move up, so that none is free before where they are
    /// looked for.
    fn close(&mut self, mut gap: usize) {
        let mut at = self.next(gap);
        while let Some(place) = self.places.get(at).copied().filter(|place| place.key.is_some()) {
            if self.distance(self.home(place.hash), at) >= self.distance(gap, at) {
                self.set(gap, place);
                gap = at;
            }
            at = self.next(at);
        }
        self.set(gap, FREE);
    }

    fn grow(&mut self) {
        let places = (self.places.len() * 2).max(PLACES_MIN);
        let old = std::mem::replace(&mut self.places, vec![FREE; places]);
        for place in old.into_iter().filter(|place| place.key.is_some()) {
            self.put(place);
        }
    }

    fn put(&mut self, place: Place) {
        let mut at = self.home(place.hash);
        while self.places.get(at).is_some_and(|place| place.key.is_some()) {
            at = self.next(at);
        }
        self.set(at, place);
    }

    fn set(&mut self, at: usize, place: Place) {
        if let Some(own) = self.places.get_mut(at) {
            *own = place;
        }
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & self.places.len().wrapping_sub(1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & self.places.len().wrapping_sub(1)
    }

    /// Places from `from` on to `to`, around the end.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.places.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::chain::{Chain, ChainEnds, ChainKey};
    use super::FlowIndex;

    fn keys(count: usize) -> Vec<ChainKey> {
        let (mut chain, mut ends) = (Chain::default(), ChainEnds::default());
        (0..count).map(|n| chain.push_back(&mut ends, n)).collect()
    }

    proptest! {
        /// Few hashes, so that keys collide and lie around the end.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0..200_usize), 0..600)) {
            let keys = keys(200);
            let hash = |n: usize| (n as u32 % 23).wrapping_mul(0xffff_fff1);
            let (mut index, mut map) = (FlowIndex::default(), HashMap::new());
            for (adds, n) in steps {
                if !adds {
                    index.remove(hash(n), keys[n]);
                    map.remove(&n);
                } else if map.insert(n, keys[n]).is_none() {
                    index.insert(hash(n), keys[n]);
                }
                prop_assert_eq!(index.len, map.len());
            }
            for (n, key) in keys.iter().enumerate() {
                prop_assert_eq!(index.find(hash(n), |other| other == *key), map.get(&n).copied());
            }
            index.clear();
            prop_assert_eq!(index.find(hash(1), |_| true), None);
        }
    }

    #[test]
    fn a_place_takes_eight_bytes() {
        assert_eq!(size_of::<super::Place>(), 8);
    }
}
