//! The losses of the kernel lane. Both ends count the frames of each slot of time, and a difference is a
//! loss.
//!
//! When a slot with frames is over, the sender begins a new one. One slot later it tells the peer the
//! count of the old one. The peer gives missing frames a little more time: a busy host delays frames,
//! and a loss costs a checkpoint. An idle lane sends no counts.
//!
//! A frame that comes even later has counted as lost, and counts for no other slot. So it can hide no
//! loss there. The programs refuse frames that are too late. If they counted one before they knew the
//! slot as old, it is forgotten before another slot uses the place ([`Slots::on_count`]).

use colo_proxy_common::lane::{LATE_SLOTS, LaneCounters, SLOTS};

use colo_proxy_engine::pair::message::ControlMessage;

/// Ticks for which frames of a slot may still come after the peer has told its count. The programs
/// refuse them after [`LATE_SLOTS`], and another slot uses the place in the counters after [`SLOTS`].
const LATE_TICKS: u32 = 6;
/// The path counts as closed after so many slots in a row from which no frame came. On a link that loses
/// every tenth frame, chance needs ten thousand slots of one frame each for that.
const SILENT_SLOTS: u32 = 4;

/// Has no I/O and no clock: the owner brings counters, messages, and a tick for every slot.
#[derive(Debug)]
pub(super) struct Slots {
    present: u32,
    /// For each place in the counters: the frames sent that are in a count for the peer already.
    sent_told: [u64; SLOTS],
    /// For each place in the counters: the frames received that are settled already.
    received_settled: [u64; SLOTS],
    /// The peer does not have the count of the slot before the present one yet.
    is_count_due: bool,
    /// For each place in the counters: the slot whose frames are still to come.
    awaited: [Option<AwaitedSlot>; SLOTS],
    /// Frames that the peer sent and that did not come.
    pub(super) lost: u64,
    /// The epoch of the frames that are sent in the present slot. A new epoch begins a new slot, so
    /// that a frame which is many epochs old is many slots old too.
    epoch: u32,
    silence: Silence,
}

/// The frames that the peer has sent in a slot, not all of which have come yet.
#[derive(Clone, Copy, Debug)]
struct AwaitedSlot {
    sent: u64,
    /// Ticks since the peer told the count.
    ticks: u32,
}

/// The results of a slot's end.
#[derive(Debug, Default)]
pub(super) struct SlotOver {
    /// For the peer.
    pub(super) message: Option<ControlMessage>,
    /// Frames of the peer that are lost.
    pub(super) lost: u64,
    /// The peer sends, and none of its frames come.
    pub(super) is_silent: bool,
}

/// How long the peer has been sending without a frame that came.
#[derive(Debug)]
struct Silence {
    /// Slots in which the peer has sent, since the last frame that came.
    slots: u32,
    /// Ticks since the first of these slots.
    ticks: u32,
    ticks_max: u32,
    /// All frames that have come.
    arrived: u64,
}

impl Slots {
    /// Begins with `slot` and `epoch`. Frames that were counted before do not count here. The path
    /// counts as closed if no frame has come for `silent_ticks` although the peer has sent some.
    pub(super) fn new(slot: u32, epoch: u32, silent_ticks: u32, counters: &LaneCounters) -> Self {
        Self {
            present: slot,
            sent_told: counters.sent,
            received_settled: counters.received,
            is_count_due: false,
            awaited: [None; SLOTS],
            lost: 0,
            epoch,
            silence: Silence {
                slots: 0,
                ticks: 0,
                ticks_max: silent_ticks,
                arrived: arrived(counters),
            },
        }
    }

    /// The slot that frames carry from now on.
    pub(super) fn present(&self) -> u32 {
        self.present
    }

    /// All frames that had come by the last tick.
    pub(super) fn arrived(&self) -> u64 {
        self.silence.arrived
    }

    /// A slot's time is over. Frames are sent with `epoch`.
    pub(super) fn on_tick(&mut self, epoch: u32, counters: &LaneCounters) -> SlotOver {
        let before = self.present.wrapping_sub(1);
        let message = std::mem::take(&mut self.is_count_due).then(|| {
            let sent = take(&mut self.sent_told, &counters.sent, before);
            ControlMessage::LaneCount { slot: before, sent }
        });
        let has_epoch = std::mem::replace(&mut self.epoch, epoch) == epoch;
        if !has_epoch || since(&self.sent_told, &counters.sent, self.present) != 0 {
            self.present = self.present.wrapping_add(1);
            self.is_count_due = true;
        }
        let lost =
            (0..SLOTS as u32).map(|slot| self.look(slot, counters)).fold(0, u64::saturating_add);
        SlotOver { message, lost, is_silent: self.silence.on_tick(arrived(counters)) }
    }

    /// The peer has sent so many frames in a slot that is over. Another slot may have been awaited in
    /// the same place of the counters: its missing frames are lost, and their number is returned.
    pub(super) fn on_count(&mut self, slot: u32, sent: u64, counters: &LaneCounters) -> u64 {
        let lost = self.give_up(slot, counters);
        if let Some(awaited) = self.awaited.get_mut(index(slot)) {
            *awaited = Some(AwaitedSlot { sent, ticks: 0 });
        }
        // The programs refuse frames of these slots by now. Nobody sends yet in the slots that will
        // use their places, unless the control lane is more than two seconds late.
        for late in LATE_SLOTS + 1..=2 * LATE_SLOTS {
            let late = slot.wrapping_sub(late);
            if self.awaited.get(index(late)).is_some_and(Option::is_none) {
                take(&mut self.received_settled, &counters.received, late);
            }
        }
        lost
    }

    /// Settles a slot whose frames have all come, or whose time is over. Returns the lost frames.
    fn look(&mut self, slot: u32, counters: &LaneCounters) -> u64 {
        let received = since(&self.received_settled, &counters.received, slot);
        let Some(Some(awaited)) = self.awaited.get_mut(index(slot)) else { return 0 };
        awaited.ticks += 1;
        let is_over = received >= awaited.sent || awaited.ticks > LATE_TICKS;
        if is_over { self.give_up(slot, counters) } else { 0 }
    }

    /// Settles a slot: the frames that have not come by now are lost.
    fn give_up(&mut self, slot: u32, counters: &LaneCounters) -> u64 {
        let Some(awaited) = self.awaited.get_mut(index(slot)).and_then(Option::take) else {
            return 0;
        };
        let received = take(&mut self.received_settled, &counters.received, slot);
        let lost = awaited.sent.saturating_sub(received);
        self.silence.slots += u32::from(awaited.sent > 0 && received == 0);
        self.lost = self.lost.saturating_add(lost);
        lost
    }
}

impl Silence {
    /// Whether the silence has lasted too long. `arrived` frames have come by now.
    fn on_tick(&mut self, arrived: u64) -> bool {
        if std::mem::replace(&mut self.arrived, arrived) != arrived {
            (self.slots, self.ticks) = (0, 0);
        }
        self.ticks += u32::from(self.slots > 0);
        self.slots >= SILENT_SLOTS && self.ticks > self.ticks_max
    }
}

fn arrived(counters: &LaneCounters) -> u64 {
    counters.received.iter().fold(0, |sum, frames| sum.wrapping_add(*frames))
}

/// The frames that have been counted in `slot` since `known`.
fn since(known: &[u64; SLOTS], counters: &[u64; SLOTS], slot: u32) -> u64 {
    match (known.get(index(slot)), counters.get(index(slot))) {
        (Some(known), Some(now)) => now.wrapping_sub(*known),
        _ => 0,
    }
}

/// The same, and `known` takes the new number.
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
mod tests;
