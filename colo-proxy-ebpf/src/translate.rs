//! The translation of one frame: finds its connection's entry, advances it, and puts it into the right
//! map.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_log_ebpf::debug;
use colo_proxy_common::flow::{
    self, FlowChange, FlowContext, FlowEntry, FlowSegment, FlowStep, FlowVerdict, known,
};
use colo_proxy_common::record::{EventRecord, FlowKey, FlowRecord, event};
use colo_proxy_common::rewrite;
use colo_proxy_common::segment::Direction;

use crate::maps::{EVENTS, FLOWS, HALF_OPEN, Scratch, UNCONFIRMED, count, scratch};
use crate::parsed::{Parsed, TranslatedFrame};

/// The result of a translation.
pub enum TranslationFate {
    Go,
    Park,
    Drop,
}

/// Finds the frame's connection and translates the frame. A frame that is no whole TCP segment goes on
/// as it is. `epoch` comes from the settings. With `known_only` no new connection gets an entry.
#[inline(always)]
pub fn translate<F: TranslatedFrame>(
    frame: &mut F,
    epoch: u32,
    known_only: bool,
    direction: Direction,
) -> TranslationFate {
    let Some(scratch) = scratch() else { return TranslationFate::Drop };
    let Ok(is_segment) = frame.parse(direction, &mut scratch.parsed) else {
        count(|c| &mut c.malformed);
        return TranslationFate::Go;
    };
    if !is_segment {
        return TranslationFate::Go;
    }
    let Scratch { record, parsed } = forget(scratch);
    let key = &parsed.key;
    let now = FlowContext {
        failed_over: known_only,
        epoch,
        // SAFETY: a helper without arguments.
        ns: unsafe { bpf_ktime_get_coarse_ns() },
    };
    let step = advance(&now, key, parsed, direction, record);
    apply(key, &step, record);
    if step.change == FlowChange::Establish {
        trace(key, record);
    }
    carry_out(frame, parsed, &step, direction)
}

/// Makes the verifier forget the contents of `scratch`: they are read from there from now on.
/// Otherwise it would follow the rest of the program once for each way to parse a frame.
#[inline(always)]
fn forget(scratch: &mut Scratch) -> &mut Scratch {
    let known: *mut Scratch = scratch;
    let forgotten: *mut Scratch;
    // SAFETY: a move. To the compiler the memory may have changed.
    unsafe {
        core::arch::asm!(
            "{forgotten} = {known}",
            forgotten = lateout(reg) forgotten,
            known = in(reg) known,
            options(nostack),
        );
        &mut *forgotten
    }
}

#[inline(always)]
fn advance(
    now: &FlowContext,
    key: &FlowKey,
    parsed: &Parsed,
    direction: Direction,
    record: &mut FlowRecord,
) -> FlowStep {
    let segment = FlowSegment::new(&parsed.tcp, parsed.options().timestamps);
    match direction {
        Direction::ToGuest => flow::to_guest(now, &segment, find(key), record),
        Direction::FromGuest => flow::from_guest(now, &segment, find(key), record),
    }
}

/// The connection's entry. While another processor moves it from map to map, it is in both for a
/// moment, and never in neither. So a second look finds it.
#[inline(always)]
fn find(key: &FlowKey) -> Option<FlowEntry<'static>> {
    let at = FLOWS
        .get_ptr_mut(key)
        .or_else(|| UNCONFIRMED.get_ptr_mut(key))
        .or_else(|| HALF_OPEN.get_ptr_mut(key))
        .or_else(|| UNCONFIRMED.get_ptr_mut(key))
        .or_else(|| FLOWS.get_ptr_mut(key))?;
    // SAFETY: the kernel's value is aligned to 8 and accessible until the program ends. Meanwhile the
    // kernel may delete it and use it for another connection. `FlowEntry` allows that: one frame is
    // then translated wrongly, and the receiver discards it.
    unsafe { FlowEntry::from_ptr(at) }
}

#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value the record would be copied to a stack of 512 bytes"
)]
#[inline(always)]
fn apply(key: &FlowKey, step: &FlowStep, record: &mut FlowRecord) {
    match step.change {
        FlowChange::Keep => {}
        FlowChange::Open => {
            let _full = HALF_OPEN.insert(key, &*record, 0);
            let _absent = UNCONFIRMED.remove(key);
            let _absent = FLOWS.remove(key);
        }
        FlowChange::Establish => establish(key, record),
        FlowChange::Forget => {
            let _absent = HALF_OPEN.remove(key);
            let _absent = UNCONFIRMED.remove(key);
            let _absent = FLOWS.remove(key);
        }
    }
    if step.frees_parked {
        tell(key, record);
    }
}

/// Puts the record into `flows`, from which no other connection evicts it, if the guest has shown that
/// the connection is real.
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value the record would be copied to a stack of 512 bytes"
)]
#[inline(always)]
fn establish(key: &FlowKey, record: &mut FlowRecord) {
    if record.known & known::CONFIRMED != 0 {
        if FLOWS.insert(key, &*record, 0).is_ok() {
            let _absent = UNCONFIRMED.remove(key);
            let _absent = HALF_OPEN.remove(key);
            return;
        }
        count(|c| &mut c.flow_table_full);
        // The guest's next frame tries again.
        record.known &= !known::CONFIRMED;
    }
    // A full table evicts another connection. If the kernel does not find one at once, this
    // connection stays where it is, and its next frame tries again.
    if UNCONFIRMED.insert(key, &*record, 0).is_ok() {
        let _absent = FLOWS.remove(key);
        let _absent = HALF_OPEN.remove(key);
    }
}

/// Tells the daemon that the parked input of this connection may go to the guest now. If the ring is
/// full, the peer repeats that input.
#[inline(always)]
fn tell(key: &FlowKey, record: &FlowRecord) {
    if let Some(mut slot) = EVENTS.reserve(0) {
        slot.write(EventRecord { kind: event::OFFSET_KNOWN, key: *key, flow: *record });
        slot.submit(0);
    }
}

/// For operators who follow a connection. Unless the daemon's log is at "debug", the verifier removes
/// this.
#[inline(always)]
fn trace(key: &FlowKey, record: &FlowRecord) {
    debug!(
        &(),
        "connection of guest port {} with port {}: wire = guest + {:x}, timestamps + {:x}",
        key.guest_port,
        key.peer_port,
        record.seq_offset,
        record.ts_offset
    );
}

#[inline(always)]
fn carry_out<F: TranslatedFrame>(
    frame: &mut F,
    parsed: &Parsed,
    step: &FlowStep,
    direction: Direction,
) -> TranslationFate {
    let options = parsed.options();
    let done = match step.verdict {
        FlowVerdict::Pass => return TranslationFate::Go,
        FlowVerdict::Park => return TranslationFate::Park,
        FlowVerdict::Drop => {
            count(|c| &mut c.dropped_no_offset);
            return TranslationFate::Drop;
        }
        FlowVerdict::Translate(translation) if direction == Direction::ToGuest => {
            count(|c| &mut c.translated_to_guest);
            rewrite::to_guest(&mut frame.edit(), &parsed.tcp, &options, translation)
        }
        FlowVerdict::Translate(translation) => {
            count(|c| &mut c.translated_from_guest);
            rewrite::from_guest(&mut frame.edit(), &parsed.tcp, &options, translation)
        }
    };
    if done {
        return TranslationFate::Go;
    }
    count(|c| &mut c.rewrite_failed);
    TranslationFate::Drop
}
