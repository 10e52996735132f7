//! Held frames in queues, one for each thing that a frame can need. An event of the secondary finds
//! the frames that it concerns and no others.
//!
//! Guests are hostile: an event must not cost more than it brings. Frames that overlap no other are
//! sorted by both ends. A search finds the frames that new bytes reach, and each of those gains a
//! byte at least. Where order cannot help, the number is bounded.

use std::collections::VecDeque;

use super::claim::ControlSignal;
use super::maybe_empty::MaybeEmpty;
use crate::compare::chain::ChainKey;
use crate::compare::shrink;

/// Frames of one connection that need their bytes and overlap another held frame. They are
/// retransmissions, which back off.
const OVERLAPPING_MAX: usize = 256;
/// Frames of one connection that need control bits of the secondary. Most are resets, one for each
/// segment of a peer that goes on sending. Each SYN, FIN or RST of the secondary looks at all of
/// them, but only those that it concerns leave this list.
const AWAITING_CONTROL_MAX: usize = 4096;

/// A held frame that needs its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unverified {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) key: ChainKey,
}

/// The queue has no room: the frame stays held until a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

/// The frames that one connection holds.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct HeldQueues {
    /// Disjoint, in ascending order.
    unverified: VecDeque<Unverified>,
    /// By acknowledgment.
    pub(super) unacknowledged: ByPlace,
    others: MaybeEmpty<Others>,
}

/// The queues that are seldom used.
#[derive(Debug, Default)]
struct Others {
    /// Frames that overlap one of the unverified, in no order.
    overlapping: Vec<Unverified>,
    awaiting_control: VecDeque<(ControlSignal, ChainKey)>,
    /// By the place that is pointed to as urgent.
    unpointed: ByPlace,
}

impl HeldQueues {
    pub(super) fn clear(&mut self) {
        self.unverified.clear();
        self.unacknowledged.0.clear();
        if let Some(others) = self.others.used_mut() {
            others.overlapping.clear();
            others.awaiting_control.clear();
            others.unpointed.0.clear();
        }
    }

    /// Nothing is in any of them.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.unverified.is_empty()
            && self.unacknowledged.0.is_empty()
            && self.others.used().is_none_or(Others::is_empty)
    }

    /// Notes that the seldom used queues are empty, which the caller knows.
    #[inline]
    pub(super) fn set_empty(&mut self) {
        if let Some(others) = self.others.used_mut() {
            others.give_back_memory();
        }
        self.others.set_empty();
    }

    /// Adds a frame that needs its bytes. It has one at least.
    pub(super) fn push_unverified(&mut self, entry: Unverified) -> Result<(), QueueFull> {
        if self.unverified.back().is_none_or(|last| last.end <= entry.start) {
            self.unverified.push_back(entry);
            return Ok(());
        }
        let at = self.unverified.partition_point(|other| other.end <= entry.start);
        if self.unverified.get(at).is_none_or(|next| entry.end <= next.start) {
            self.unverified.insert(at, entry);
        } else if self.others.overlapping.len() < OVERLAPPING_MAX {
            self.others.overlapping.push(entry);
        } else {
            return Err(QueueFull);
        }
        Ok(())
    }

    /// An index into the frames that need their bytes. Frames before it end at `start` or earlier.
    #[inline]
    pub(super) fn first_behind(&self, start: i64) -> usize {
        // Nearly always the first one.
        match self.unverified.front() {
            Some(first) if first.end <= start => {
                self.unverified.partition_point(|entry| entry.end <= start)
            }
            _ => 0,
        }
    }

    /// The frame at this place, if it begins before `end`.
    pub(super) fn unverified(&self, at: usize, end: i64) -> Option<Unverified> {
        self.unverified.get(at).filter(|entry| entry.start < end).copied()
    }

    /// Forgets the frame at this place: mostly the first; it moves no more than the queue of one
    /// connection may hold.
    pub(super) fn forget_unverified(&mut self, at: usize) {
        if at == 0 {
            self.unverified.pop_front();
        } else {
            self.unverified.remove(at);
        }
    }

    #[inline]
    pub(super) fn has_overlapping(&self) -> bool {
        self.others.used().is_some_and(|others| !others.overlapping.is_empty())
    }

    /// Takes the frames that overlap another one. The caller puts them back.
    pub(super) fn take_overlapping(&mut self) -> Vec<Unverified> {
        std::mem::take(&mut self.others.overlapping)
    }

    pub(super) fn put_overlapping(&mut self, overlapping: Vec<Unverified>) {
        self.others.overlapping = overlapping;
    }

    pub(super) fn push_awaiting_control(
        &mut self,
        signal: ControlSignal,
        key: ChainKey,
    ) -> Result<(), QueueFull> {
        if self.others.awaiting_control.len() >= AWAITING_CONTROL_MAX {
            return Err(QueueFull);
        }
        self.others.awaiting_control.push_back((signal, key));
        Ok(())
    }

    /// Hands every frame that the secondary's `sign` settles to `take`, and forgets it.
    pub(super) fn take_settled(&mut self, signal: &ControlSignal, mut take: impl FnMut(ChainKey)) {
        let Some(others) = self.others.used_mut() else { return };
        others.awaiting_control.retain(|(awaited, key)| {
            let is_settled = awaited.is_settled_by(signal);
            if is_settled {
                take(*key);
            }
            !is_settled
        });
    }

    /// By the place that is pointed to as urgent.
    pub(super) fn unpointed(&mut self) -> &mut ByPlace {
        &mut self.others.unpointed
    }

    /// A held frame that needs its acknowledgment or its bytes.
    #[inline]
    pub(super) fn first(&self) -> Option<ChainKey> {
        let unpointed = self.others.used().and_then(|others| others.unpointed.first());
        let ours = self.unacknowledged.first().or(unpointed);
        ours.or_else(|| self.unverified.front().map(|entry| entry.key))
    }

    /// The frame `key` waits here. Looks at all: for a report, not for a frame.
    pub(super) fn has(&self, key: ChainKey) -> bool {
        let others = self.others.used();
        let overlapping = others.map_or(&[][..], |others| &others.overlapping);
        let awaiting_control = others.into_iter().flat_map(|others| &others.awaiting_control);
        let by_place = [Some(&self.unacknowledged), others.map(|others| &others.unpointed)];
        self.unverified.iter().chain(overlapping).any(|entry| entry.key == key)
            || awaiting_control.into_iter().any(|entry| entry.1 == key)
            || by_place.into_iter().flatten().any(|queue| queue.0.iter().any(|e| e.1 == key))
    }

    /// The last frames of the stream that need their bytes or their control bits.
    pub(super) fn last(&self) -> impl Iterator<Item = ChainKey> {
        let unverified = self.unverified.back().map(|entry| entry.key);
        let awaiting_control = self.others.used().and_then(|others| others.awaiting_control.back());
        unverified.into_iter().chain(awaiting_control.map(|entry| entry.1))
    }

    #[inline]
    pub(super) fn give_back_memory(&mut self) {
        shrink(&mut self.unverified);
        shrink(&mut self.unacknowledged.0);
        if let Some(others) = self.others.used_mut() {
            others.give_back_memory();
        }
    }
}

impl Others {
    fn is_empty(&self) -> bool {
        self.overlapping.is_empty()
            && self.awaiting_control.is_empty()
            && self.unpointed.0.is_empty()
    }

    fn give_back_memory(&mut self) {
        shrink(&mut self.awaiting_control);
        shrink(&mut self.unpointed.0);
    }
}

/// Frames in ascending order of the place that the secondary has to get to.
#[derive(Debug, Default)]
pub(super) struct ByPlace(VecDeque<(i64, ChainKey)>);

impl ByPlace {
    pub(super) fn push(&mut self, place: i64, key: ChainKey) {
        if self.0.back().is_none_or(|last| last.0 <= place) {
            self.0.push_back((place, key));
        } else {
            let at = self.0.partition_point(|entry| entry.0 <= place);
            self.0.insert(at, (place, key));
        }
    }

    /// The next frame that waits for `place` or less.
    #[inline]
    pub(super) fn pop_up_to(&mut self, place: i64) -> Option<ChainKey> {
        self.0.pop_front_if(|entry| entry.0 <= place).map(|entry| entry.1)
    }

    fn first(&self) -> Option<ChainKey> {
        self.0.front().map(|entry| entry.1)
    }
}
