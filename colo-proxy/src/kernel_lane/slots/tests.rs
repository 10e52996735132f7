use colo_proxy_common::lane::{is_late, reported, tag};

use super::*;

const SILENT_TICKS: u32 = 20;

/// A lane in one direction, which delivers late or never.
struct Rig {
    sender: (Slots, LaneCounters),
    receiver: (Slots, LaneCounters),
    /// The slot of the last count, as the receiver's programs know it.
    told: u32,
    epoch: u32,
    is_silent: bool,
}

impl Rig {
    fn new() -> Self {
        let counters = LaneCounters { sent: [7; SLOTS], received: [9; SLOTS], looked_ns: 0 };
        let end = || (Slots::new(1, 0, SILENT_TICKS, &counters), counters);
        Self { sender: end(), receiver: end(), told: 0, epoch: 0, is_silent: false }
    }

    /// Sends a frame; returns its slot, for [`Rig::arrive`].
    fn send(&mut self) -> u32 {
        let (slots, counters) = &mut self.sender;
        counters.sent[index(slots.present())] += 1;
        slots.present()
    }

    fn arrive(&mut self, slot: u32) {
        if !is_late(tag(0, slot), self.told) {
            self.receiver.1.received[index(slot)] += 1;
        }
    }

    /// Returns the number of lost frames that were found.
    fn tick(&mut self) -> u64 {
        let (slots, counters) = &mut self.sender;
        let message = slots.on_tick(self.epoch, counters).message;
        let (slots, counters) = &mut self.receiver;
        let lost = match message {
            Some(ControlMessage::LaneCount { slot, sent }) => {
                self.told = reported(slot);
                slots.on_count(slot, sent, counters)
            }
            other => {
                assert_eq!(other, None);
                0
            }
        };
        let over = slots.on_tick(0, counters);
        self.is_silent = over.is_silent;
        lost + over.lost
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

/// A late frame has counted as lost. However late it is, the loss of another frame is found.
#[test]
fn a_late_frame_hides_no_loss() {
    for late in 0..3 * SLOTS as u32 {
        let mut rig = Rig::new();
        let slot = rig.send();
        let mut found = 0;
        // Each slot has a frame, and the last one in the same place is lost.
        for round in 1..=4 * SLOTS as u32 {
            found += rig.tick();
            let sent = rig.send();
            if round % SLOTS as u32 != 0 {
                rig.arrive(sent);
            }
            if round == LATE_TICKS + 2 + late {
                rig.arrive(slot);
            }
        }
        found += (0..LATE_TICKS + 3).map(|_| rig.tick()).sum::<u64>();
        assert_eq!(found, 5, "a frame that is {late} slots too late");
    }
}

/// The control lane stands still while frames come; then all counts come at once.
#[test]
fn counts_that_are_late_make_no_loss() {
    const LATE: u32 = 36;
    let mut rig = Rig::new();
    let mut counts = Vec::new();
    for _ in 0..LATE {
        let slot = rig.send();
        rig.arrive(slot);
        let (slots, counters) = &mut rig.sender;
        counts.extend(slots.on_tick(0, counters).message);
    }
    let (slots, counters) = &mut rig.receiver;
    let mut lost = 0;
    for count in counts {
        let ControlMessage::LaneCount { slot, sent } = count else { continue };
        lost += slots.on_count(slot, sent, counters);
    }
    lost += (0..LATE_TICKS + 2).map(|_| slots.on_tick(0, counters).lost).sum::<u64>();
    assert_eq!(lost, 0);
}

/// A path on which no frame comes is reported after a while. A lane on which nothing is sent is not
/// reported, nor one on which a frame comes now and then.
#[test]
fn a_closed_path_differs_from_one_that_loses_much() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.tick();
        assert!(!rig.is_silent, "nothing is sent");
    }
    for round in 0..=50 * SILENT_TICKS {
        let slot = rig.send();
        if round % SILENT_TICKS == 0 {
            rig.arrive(slot);
        }
        rig.tick();
        assert!(!rig.is_silent, "something comes");
    }
    let ticks = (1..1000).find(|_| {
        rig.send();
        rig.tick();
        rig.is_silent
    });
    assert!(
        ticks.is_some_and(|ticks| (SILENT_TICKS..SILENT_TICKS + 20).contains(&ticks)),
        "{ticks:?}"
    );
}

/// A slow sender does not delay the end for ever, and one lost frame does not bring it.
#[test]
fn a_slow_lane_is_closed_after_some_slots() {
    let mut rig = Rig::new();
    for frame in 1..=SILENT_SLOTS {
        rig.send();
        let silent = (0..2 * SILENT_TICKS).any(|_| {
            rig.tick();
            rig.is_silent
        });
        assert_eq!(silent, frame == SILENT_SLOTS, "after {frame} frames");
    }
}

/// So the programs refuse a frame that is many epochs old, because it is as many slots old.
#[test]
fn a_new_epoch_begins_a_slot() {
    let mut rig = Rig::new();
    let slot = rig.send();
    for epoch in 1..=2 * LATE_SLOTS {
        rig.epoch = epoch;
        rig.tick();
    }
    assert_eq!(rig.sender.0.present(), slot + 2 * LATE_SLOTS);
    assert!(is_late(tag(0, slot), rig.told));
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
    let told = (0..100).filter(|_| slots.on_tick(0, counters).message.is_some()).count();
    assert_eq!((told, slots.present()), (1, 2));
}

#[test]
fn nonsense_of_the_peer_is_a_number_at_most() {
    let mut rig = Rig::new();
    let (slots, counters) = &mut rig.receiver;
    slots.on_count(u32::MAX, u64::MAX, counters);
    slots.on_count(0, u64::MAX, counters);
    (0..=LATE_TICKS).for_each(|_| drop(slots.on_tick(0, counters)));
    assert_eq!(slots.lost, u64::MAX);
}
