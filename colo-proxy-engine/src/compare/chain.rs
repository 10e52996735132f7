//! Doubly linked lists over one slab: insertion and removal anywhere in constant time, and no
//! allocation once the slab has grown to what is needed.

use std::num::NonZeroU32;

const NONE: u32 = u32::MAX;

/// A place in a [`Chain`]. The owner of the key removes the value. Counted from 1, so that
/// none is a number as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainKey(NonZeroU32);

impl ChainKey {
    /// The place as a number.
    pub(super) fn number(self) -> u32 {
        self.0.get()
    }

    fn new(at: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(at))
    }

    fn at(self) -> u32 {
        self.0.get() - 1
    }
}

/// The two ends of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainEnds {
    head: u32,
    tail: u32,
}

impl Default for ChainEnds {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl ChainEnds {
    #[inline]
    pub(super) fn front(self) -> Option<ChainKey> {
        (self.head != NONE).then_some(ChainKey::new(self.head))
    }
}

#[derive(Debug)]
struct ChainSlot<T> {
    value: Option<T>,
    prev: u32,
    /// The next in the list, or the next free slot.
    next: u32,
}

/// A slab whose values are linked into lists; each value is in exactly one.
#[derive(Debug)]
pub(super) struct Chain<T> {
    slots: Vec<ChainSlot<T>>,
    free: u32,
    len: usize,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: NONE, len: 0 }
    }
}

impl<T> Chain<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Drops every value of every list; their ends are void.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.free = NONE;
        self.len = 0;
    }

    #[inline]
    pub(super) fn get(&self, key: ChainKey) -> Option<&T> {
        self.slots.get(key.at() as usize)?.value.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: ChainKey) -> Option<&mut T> {
        self.slots.get_mut(key.at() as usize)?.value.as_mut()
    }

    /// Appends `value` to the list `ends`.
    pub(super) fn push_back(&mut self, ends: &mut ChainEnds, value: T) -> ChainKey {
        let prev = ends.tail;
        let at = if let Some(reused) = self.slots.get_mut(self.free as usize) {
            let at = self.free;
            self.free = reused.next;
            reused.value = Some(value);
            (reused.prev, reused.next) = (prev, NONE);
            at
        } else {
            // The engine's limits are far below 2^32 - 1 entries.
            let at = self.slots.len() as u32;
            self.slots.push(ChainSlot { value: Some(value), prev, next: NONE });
            at
        };
        self.len += 1;
        self.link_tail(ends, at);
        ChainKey::new(at)
    }

    /// Takes the value at `key` out of the list `ends`, which must be the one that it is in.
    pub(super) fn remove(&mut self, ends: &mut ChainEnds, key: ChainKey) -> Option<T> {
        self.get(key)?;
        self.unlink(ends, key.at());
        let free = self.free;
        let slot = self.slots.get_mut(key.at() as usize)?;
        slot.next = free;
        self.free = key.at();
        self.len -= 1;
        slot.value.take()
    }

    pub(super) fn pop_front(&mut self, ends: &mut ChainEnds) -> Option<T> {
        self.remove(ends, ends.front()?)
    }

    /// Moves the value at `key` from one list to the end of another, or of the same.
    pub(super) fn move_back(&mut self, from: &mut ChainEnds, to: &mut ChainEnds, key: ChainKey) {
        if self.get(key).is_some() {
            self.unlink(from, key.at());
            self.link_back(to, key.at());
        }
    }

    /// Moves the value at `key` to the end of the list that it is in.
    pub(super) fn requeue(&mut self, ends: &mut ChainEnds, key: ChainKey) {
        if self.get(key).is_some() {
            self.unlink(ends, key.at());
            self.link_back(ends, key.at());
        }
    }

    fn link_back(&mut self, ends: &mut ChainEnds, at: u32) {
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.prev = ends.tail;
            slot.next = NONE;
        }
        self.link_tail(ends, at);
    }

    /// Makes the slot `at`, which knows the one before it, the last of `ends`.
    #[inline]
    fn link_tail(&mut self, ends: &mut ChainEnds, at: u32) {
        match self.slots.get_mut(ends.tail as usize) {
            Some(tail) => tail.next = at,
            None => ends.head = at,
        }
        ends.tail = at;
    }

    fn unlink(&mut self, ends: &mut ChainEnds, at: u32) {
        let Some((prev, next)) = self.slots.get(at as usize).map(|s| (s.prev, s.next)) else {
            return;
        };
        match self.slots.get_mut(prev as usize) {
            Some(slot) => slot.next = next,
            None => ends.head = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(slot) => slot.prev = prev,
            None => ends.tail = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chain, ChainEnds};

    #[test]
    fn removal_from_the_middle_keeps_the_order() {
        let (mut chain, mut ends) = (Chain::default(), ChainEnds::default());
        let keys: Vec<_> = (0..5).map(|n| chain.push_back(&mut ends, n)).collect();
        assert_eq!(chain.remove(&mut ends, keys[2]), Some(2));
        assert_eq!(chain.remove(&mut ends, keys[2]), None);
        assert_eq!(chain.remove(&mut ends, keys[0]), Some(0));
        chain.requeue(&mut ends, keys[1]);
        chain.push_back(&mut ends, 9);
        let mut left = Vec::new();
        while let Some(n) = chain.pop_front(&mut ends) {
            left.push(n);
        }
        assert_eq!(left, [3, 4, 1, 9]);
        assert_eq!((chain.len(), ends.front()), (0, None));
    }

    #[test]
    fn slots_are_used_again() {
        let (mut chain, mut ends) = (Chain::default(), ChainEnds::default());
        for n in 0..1000 {
            chain.push_back(&mut ends, n);
            chain.push_back(&mut ends, n);
            chain.pop_front(&mut ends);
            chain.pop_front(&mut ends);
        }
        assert_eq!(chain.slots.len(), 2);
    }
}
