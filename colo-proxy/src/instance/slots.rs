//! What the kernel lane has lost, from what both ends have counted in each slot of time.
//!
//! The sender begins a new slot where the present one has frames, and tells of one that is over for
//! as long as a slot lasts: by then its frames have come, or are lost. An idle lane says nothing.

use colo_proxy_common::lane::{LaneCounters, SLOTS};

use crate::control::Message;

/// No I/O and no clock: the owner brings counters, messages, and a tick for every slot.
#[derive(Debug)]
pub(super) struct Slots {
    present: u32,
    /// Of each slot, what had been counted when it was told of last.
    told: [u64; SLOTS],
    heard: [u64; SLOTS],
    /// The slot before the present one has yet to be told of.
    is_due: bool,
    /// Frames that the peer sent and that have not come.
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
            lost: 0,
        }
    }

    /// The slot that frames are to carry from now on.
    pub(super) fn present(&self) -> u32 {
        self.present
    }

    /// A slot's time is over: what to tell the peer, if there is something.
    pub(super) fn on_tick(&mut self, counters: &LaneCounters) -> Option<Message> {
        let before = self.present.wrapping_sub(1);
        let message = std::mem::take(&mut self.is_due).then(|| {
            let sent = take(&mut self.told, &counters.sent, before);
            Message::LaneCount { slot: before, sent }
        });
        let (at, has) = (index(self.present), |all: &[u64; SLOTS], at| all.get(at).copied());
        if has(&self.told, at) != has(&counters.sent, at) {
            self.present = self.present.wrapping_add(1);
            self.is_due = true;
        }
        message
    }

    /// The peer has sent so many frames in a slot that is over. Returns how many of them were lost.
    pub(super) fn on_count(&mut self, slot: u32, sent: u64, counters: &LaneCounters) -> u64 {
        let received = take(&mut self.heard, &counters.received, slot);
        let lost = sent.saturating_sub(received);
        self.lost = self.lost.saturating_add(lost);
        lost
    }
}

/// What has been counted in `slot` since the last time.
fn take(known: &mut [u64; SLOTS], counters: &[u64; SLOTS], slot: u32) -> u64 {
    match (known.get_mut(index(slot)), counters.get(index(slot))) {
        (Some(known), Some(now)) => now.wrapping_sub(std::mem::replace(known, *now)),
        _ => 0,
    }
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
            let Some(message) = slots.on_tick(counters) else { return 0 };
            let Message::LaneCount { slot, sent } = message else { panic!("{message:?}") };
            let (slots, counters) = &mut self.receiver;
            slots.on_count(slot, sent, counters)
        }
    }

    #[test]
    fn what_arrives_in_time_is_not_lost_whatever_its_order() {
        let mut rig = Rig::new();
        let mut under_way = Vec::new();
        for round in 0..1000 {
            under_way.extend((0..round % 7).map(|_| rig.send()));
            // A frame takes up to a slot: it arrives before the slot is told of.
            assert_eq!(rig.tick(), 0, "round {round}");
            for slot in under_way.drain(..).rev() {
                rig.arrive(slot);
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
        found += rig.tick() + rig.tick() + rig.tick();
        assert_eq!(found, lost);
        assert_eq!(rig.receiver.0.lost, lost);
    }

    #[test]
    fn an_idle_lane_says_nothing() {
        let mut rig = Rig::new();
        rig.send();
        let (slots, counters) = &mut rig.sender;
        let told = (0..100).filter(|_| slots.on_tick(counters).is_some()).count();
        assert_eq!((told, slots.present()), (1, 2));
    }

    #[test]
    fn nonsense_of_the_peer_is_a_number_at_most() {
        let mut rig = Rig::new();
        let (slots, counters) = &mut rig.receiver;
        slots.on_count(u32::MAX, u64::MAX, counters);
        slots.on_count(0, u64::MAX, counters);
        assert_eq!(slots.lost, u64::MAX);
    }
}
