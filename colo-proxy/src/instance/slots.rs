//! What the kernel lane has lost, from what both ends have counted in each slot of time.
//!
//! The sender begins a new slot where the present one has frames, and tells of one that is over for
//! as long as a slot lasts. What has not come by then is waited for a little longer: a host that has
//! much to do keeps frames for a while, and a loss costs a checkpoint. An idle lane says nothing.

use colo_proxy_common::lane::{LaneCounters, SLOTS};

use crate::control::Message;

/// Ticks for which frames of a slot that was told of may still come. The place in the counters is
/// used again after [`SLOTS`] of them.
const LATE_TICKS: u32 = 6;

/// No I/O and no clock: the owner brings counters, messages, and a tick for every slot.
#[derive(Debug)]
pub(super) struct Slots {
    present: u32,
    /// Of each slot, what had been counted when it was told of last.
    told: [u64; SLOTS],
    heard: [u64; SLOTS],
    /// The slot before the present one has yet to be told of.
    is_due: bool,
    /// Of each slot, what is still to come.
    awaited: [Option<Awaited>; SLOTS],
    /// Frames that the peer sent and that have not come.
    pub(super) lost: u64,
}

/// Frames that the peer has sent, and that have not all come yet.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    sent: u64,
    ticks: u32,
}

/// What the end of a slot's time brings.
#[derive(Debug, Default)]
pub(super) struct Over {
    /// For the peer.
    pub(super) message: Option<Message>,
    /// Frames of the peer that are lost.
    pub(super) lost: u64,
}

impl Slots {
    /// Begins with `slot`; what was counted before is of the past.
    pub(super) fn new(slot: u32, counters: &LaneCounters) -> Self {
        Self {
            present: slot,
            told: counters.sent,
            heard: counters.received,
            is_due: false,
            awaited: [None; SLOTS],
            lost: 0,
        }
    }

    /// The slot that frames are to carry from now on.
    pub(super) fn present(&self) -> u32 {
        self.present
    }

    /// A slot's time is over.
    pub(super) fn on_tick(&mut self, counters: &LaneCounters) -> Over {
        let before = self.present.wrapping_sub(1);
        let message = std::mem::take(&mut self.is_due).then(|| {
            let sent = take(&mut self.told, &counters.sent, before);
            Message::LaneCount { slot: before, sent }
        });
        if since(&self.told, &counters.sent, self.present) != 0 {
            self.present = self.present.wrapping_add(1);
            self.is_due = true;
        }
        let lost =
            (0..SLOTS as u32).map(|slot| self.look(slot, counters)).fold(0, u64::saturating_add);
        Over { message, lost }
    }

    /// The peer has sent so many frames in a slot that is over. Returns how many are lost of those
    /// that were awaited in its place before.
    pub(super) fn on_count(&mut self, slot: u32, sent: u64, counters: &LaneCounters) -> u64 {
        let lost = self.give_up(slot, counters);
        if let Some(awaited) = self.awaited.get_mut(index(slot)) {
            *awaited = Some(Awaited { sent, ticks: 0 });
        }
        lost
    }

    /// Whether what is awaited has come, or has had its time.
    fn look(&mut self, slot: u32, counters: &LaneCounters) -> u64 {
        let received = since(&self.heard, &counters.received, slot);
        let Some(Some(awaited)) = self.awaited.get_mut(index(slot)) else { return 0 };
        awaited.ticks += 1;
        let is_over = received >= awaited.sent || awaited.ticks > LATE_TICKS;
        if is_over { self.give_up(slot, counters) } else { 0 }
    }

    /// What has not come by now is lost.
    fn give_up(&mut self, slot: u32, counters: &LaneCounters) -> u64 {
        let Some(awaited) = self.awaited.get_mut(index(slot)).and_then(Option::take) else {
            return 0;
        };
        let received = take(&mut self.heard, &counters.received, slot);
        let lost = awaited.sent.saturating_sub(received);
        self.lost = self.lost.saturating_add(lost);
        lost
    }
}

/// What has been counted in `slot` since the last time.
fn since(known: &[u64; SLOTS], counters: &[u64; SLOTS], slot: u32) -> u64 {
    match (known.get(index(slot)), counters.get(index(slot))) {
        (Some(known), Some(now)) => now.wrapping_sub(*known),
        _ => 0,
    }
}

/// The same, and from here on it is the last time.
fn take(known: &mut [u64; SLOTS], counters: &[u64; SLOTS], slot: u32) -> u64 {
    let new = since(known, counters, slot);
    if let (Some(known), Some(now)) = (known.get_mut(index(slot)), counters.get(index(slot))) {
        *known = *now;
    }
    new
}

fn index(slot: u32) -> usize {
    slot as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane in one direction, which delivers late or never.
    struct Rig {
        sender: (Slots, LaneCounters),
        receiver: (Slots, LaneCounters),
    }

    impl Rig {
        fn new() -> Self {
            let counters = LaneCounters { sent: [7; SLOTS], received: [9; SLOTS], looked_ns: 0 };
            let end = || (Slots::new(1, &counters), counters);
            Self { sender: end(), receiver: end() }
        }

        /// Sends a frame; returns its slot, for [`Rig::arrive`].
        fn send(&mut self) -> u32 {
            let (slots, counters) = &mut self.sender;
            counters.sent[index(slots.present())] += 1;
            slots.present()
        }

        fn arrive(&mut self, slot: u32) {
            self.receiver.1.received[index(slot)] += 1;
        }

        /// Returns what was found lost.
        fn tick(&mut self) -> u64 {
            let (slots, counters) = &mut self.sender;
            let message = slots.on_tick(counters).message;
            let (slots, counters) = &mut self.receiver;
            let lost = match message {
                Some(Message::LaneCount { slot, sent }) => slots.on_count(slot, sent, counters),
                other => {
                    assert_eq!(other, None);
                    0
                }
            };
            lost + slots.on_tick(counters).lost
        }
    }

    #[test]
    fn what_arrives_late_is_not_lost_whatever_its_order() {
        let mut rig = Rig::new();
        let mut under_way = Vec::new();
        for round in 0..1000_usize {
            under_way.push((0..round % 7).map(|_| rig.send()).collect::<Vec<_>>());
            assert_eq!(rig.tick(), 0, "round {round}");
            // Now and then nothing comes for a while.
            if round % 5 == 4 {
                under_way.drain(..).rev().flatten().for_each(|slot| rig.arrive(slot));
            }
        }
        assert_eq!(rig.receiver.0.lost, 0);
    }

    #[test]
    fn every_lost_frame_is_found_once_and_soon() {
        let mut rig = Rig::new();
        let (mut lost, mut found) = (0, 0);
        for round in 0..1000_u64 {
            for frame in 0..5 {
                let slot = rig.send();
                if (round * 5 + frame) % 13 == 0 {
                    lost += 1;
                } else {
                    rig.arrive(slot);
                }
            }
            found += rig.tick();
        }
        found += (0..LATE_TICKS + 3).map(|_| rig.tick()).sum::<u64>();
        assert_eq!(found, lost);
        assert_eq!(rig.receiver.0.lost, lost);
    }

    #[test]
    fn what_never_comes_is_lost_when_its_place_is_needed_again() {
        let mut rig = Rig::new();
        let (slots, counters) = &mut rig.receiver;
        assert_eq!(slots.on_count(3, 4, counters), 0);
        assert_eq!(slots.on_count(3 + SLOTS as u32, 1, counters), 4);
    }

    #[test]
    fn an_idle_lane_says_nothing() {
        let mut rig = Rig::new();
        rig.send();
        let (slots, counters) = &mut rig.sender;
        let told = (0..100).filter(|_| slots.on_tick(counters).message.is_some()).count();
        assert_eq!((told, slots.present()), (1, 2));
    }

    #[test]
    fn nonsense_of_the_peer_is_a_number_at_most() {
        let mut rig = Rig::new();
        let (slots, counters) = &mut rig.receiver;
        slots.on_count(u32::MAX, u64::MAX, counters);
        slots.on_count(0, u64::MAX, counters);
        (0..=LATE_TICKS).for_each(|_| drop(slots.on_tick(counters)));
        assert_eq!(slots.lost, u64::MAX);
    }
}
