//! A hierarchical timer wheel: to start, stop and find the next timer takes constant time however
//! many there are.
//!
//! The wheel counts ticks of a millisecond from an origin. A timer lies on the level of the highest
//! digit, to base 64, in which its tick differs from the wheel's own. When the wheel reaches its slot
//! there, the timer moves to a lower level, at most [`LEVELS`] times in all. A word of 64 bits for
//! each level shows which slots are in use, so neither the next timer nor a long silence costs a scan.

use std::time::{Duration, Instant};

use super::chain::{Chain, ChainEnds, ChainKey};

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Levels of 64 slots: the last tick is thousands of years away, beyond the time stamps of any
/// capture. A timer could not be later than it.
const LEVELS: usize = 8;
const TICK_MAX: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;

/// Names a timer that has neither run out nor been stopped; it is not to be used after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerKey(ChainKey);

#[derive(Clone, Copy, Debug)]
struct Timer<T> {
    tick: u64,
    level: u8,
    slot: u8,
    value: T,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Bit n is set where slot n holds a timer.
    occupied: u64,
    slots: [ChainEnds; SLOTS],
}

/// Timers that each carry a value.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    timers: Chain<Timer<T>>,
    levels: Box<[Level; LEVELS]>,
    /// Tick 0.
    origin: Option<Instant>,
    /// All timers before this tick have run out.
    elapsed: u64,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self {
            timers: Chain::default(),
            levels: Box::new([Level { occupied: 0, slots: [ChainEnds::default(); SLOTS] }; LEVELS]),
            origin: None,
            elapsed: 0,
        }
    }
}

impl<T: Copy> Wheel<T> {
    /// Starts a timer that runs out at `at`, or up to a tick later; never before.
    pub(super) fn start(&mut self, now: Instant, at: Instant, value: T) -> TimerKey {
        let origin = *self.origin.get_or_insert(now);
        let tick = self.tick_not_before(at.saturating_duration_since(origin));
        let (level, slot) = self.place(tick);
        let timer = Timer { tick, level, slot, value };
        let mut ends = self.slot(level, slot);
        let key = self.timers.push_back(&mut ends, timer);
        self.set_slot(level, slot, ends);
        TimerKey(key)
    }

    /// Stops a timer.
    pub(super) fn stop(&mut self, TimerKey(key): TimerKey) {
        let Some(Timer { level, slot, .. }) = self.timers.get(key).copied() else { return };
        let mut ends = self.slot(level, slot);
        self.timers.remove(&mut ends, key);
        self.set_slot(level, slot, ends);
    }

    /// When to ask for timers next: not later than the first of them, but it may be earlier.
    pub(super) fn next(&self) -> Option<Instant> {
        let (_, _, tick) = self.next_slot()?;
        self.origin?.checked_add(Duration::from_millis(tick))
    }

    /// Takes a timer that has run out at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        let now = now.saturating_duration_since(self.origin?).as_millis() as u64;
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now {
                break;
            }
            self.elapsed = tick;
            let mut ends = self.slot(level, slot);
            if level == 0 {
                let timer = self.timers.pop_front(&mut ends);
                self.set_slot(level, slot, ends);
                return timer.map(|timer| timer.value);
            }
            self.set_slot(level, slot, ChainEnds::default());
            self.sink(ends);
        }
        self.elapsed = self.elapsed.max(now.min(TICK_MAX));
        None
    }

    /// Stops all.
    pub(super) fn clear(&mut self) {
        // The slab keeps its memory, as everywhere.
        while let Some((level, slot, _)) = self.next_slot() {
            let mut ends = self.slot(level, slot);
            while self.timers.pop_front(&mut ends).is_some() {}
            self.set_slot(level, slot, ends);
        }
    }

    /// Moves the timers of a slot that the wheel has got to where they now belong.
    fn sink(&mut self, mut from: ChainEnds) {
        while let Some(key) = from.front() {
            let Some(tick) = self.timers.get(key).map(|timer| timer.tick) else { return };
            let (level, slot) = self.place(tick);
            let mut to = self.slot(level, slot);
            self.timers.move_back(&mut from, &mut to, key);
            if let Some(timer) = self.timers.get_mut(key) {
                (timer.level, timer.slot) = (level, slot);
            }
            self.set_slot(level, slot, to);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.timers.len()
    }

    /// The first slot that holds anything, and the tick at which it begins.
    fn next_slot(&self) -> Option<(u8, u8, u64)> {
        // A timer on a lower level is due earlier than any above it.
        let (level, first) =
            (0u8..).zip(self.levels.iter()).find(|(_, level)| level.occupied != 0)?;
        let slot = first.occupied.trailing_zeros() as u8;
        let shift = SLOT_BITS * u32::from(level);
        let above = self.elapsed >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        Some((level, slot, above | u64::from(slot) << shift))
    }

    /// Level and slot of a timer for `tick`.
    fn place(&self, tick: u64) -> (u8, u8) {
        let differing = (tick ^ self.elapsed) | (SLOTS as u64 - 1);
        let level = (u64::BITS - 1 - differing.leading_zeros()) / SLOT_BITS;
        (level as u8, (tick >> (SLOT_BITS * level)) as u8 & (SLOTS as u8 - 1))
    }

    /// The first tick not before `since_origin`, nor before what has run out already.
    fn tick_not_before(&self, since_origin: Duration) -> u64 {
        let tick = since_origin.as_nanos().div_ceil(1_000_000);
        u64::try_from(tick).unwrap_or(TICK_MAX).min(TICK_MAX).max(self.elapsed)
    }

    fn slot(&self, level: u8, slot: u8) -> ChainEnds {
        let level = self.levels.get(usize::from(level));
        level.and_then(|level| level.slots.get(usize::from(slot))).copied().unwrap_or_default()
    }

    fn set_slot(&mut self, level: u8, slot: u8, ends: ChainEnds) {
        let Some(level) = self.levels.get_mut(usize::from(level)) else { return };
        let bit = 1u64 << slot;
        level.occupied = match ends.front() {
            Some(_) => level.occupied | bit,
            None => level.occupied & !bit,
        };
        if let Some(own) = level.slots.get_mut(usize::from(slot)) {
            *own = ends;
        }
    }
}

#[cfg(test)]
mod tests;
