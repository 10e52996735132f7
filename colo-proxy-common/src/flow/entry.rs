//! One entry of the flow maps, as the programs use it: in place, while another processor may handle
//! the other direction of the same connection.

use core::marker::PhantomData;
use core::ptr::{NonNull, addr_of_mut};

use super::{known, state};
use crate::record::FlowRecord;
use crate::rewrite::Translation;

/// A [`FlowRecord`] that lives in a map.
///
/// Each number is read and written by itself, once, at the place in the code that asks for it
/// (volatile). With a reference the compiler could go on using a number that the other processor has
/// changed. Each pair of numbers has one writer: the guest's frames write `guest_isn` and `guest_ts`,
/// the peer's write `wire_isn` and `wire_ts`. Then each adds its bits to `known` in one atomic step.
/// The one that finds both bits computes the offset. So two frames that cross cannot both expect the
/// other one to come later.
#[derive(Debug)]
pub struct FlowEntry<'a> {
    at: NonNull<FlowRecord>,
    borrowed: PhantomData<&'a FlowRecord>,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $get:ident $set:ident: $field:ident $kind:ty;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $get(&self) -> $kind {
            // SAFETY: `at` points to a live, aligned `FlowRecord` (see the constructors).
            unsafe { addr_of_mut!((*self.at.as_ptr()).$field).read_volatile() }
        }

        #[inline(always)]
        pub(super) fn $set(&self, value: $kind) {
            // SAFETY: as above; and it may be written to through this pointer.
            unsafe { addr_of_mut!((*self.at.as_ptr()).$field).write_volatile(value) }
        }
    )*};
}

impl<'a> FlowEntry<'a> {
    /// The entry at `flow`, which is the result of a map lookup; `None` if the lookup found nothing.
    ///
    /// # Safety
    /// `flow` is null, or points to an aligned [`FlowRecord`] that stays readable and writable for
    /// `'a`. All others access it through a [`FlowEntry`], or from the other side of a system call.
    #[inline(always)]
    pub unsafe fn from_ptr(flow: *mut FlowRecord) -> Option<Self> {
        NonNull::new(flow).map(|at| Self { at, borrowed: PhantomData })
    }

    /// The entry in `flow`.
    #[inline(always)]
    pub fn from_mut(flow: &'a mut FlowRecord) -> Self {
        Self { at: NonNull::from(flow), borrowed: PhantomData }
    }

    fields! {
        epoch set_epoch: epoch u32;
        state set_state: state u32;
        known set_known: known u64;
        guest_isn set_guest_isn: guest_isn u32;
        wire_isn set_wire_isn: wire_isn u32;
        guest_ts set_guest_ts: guest_ts u32;
        wire_ts set_wire_ts: wire_ts u32;
        seq_offset set_seq_offset: seq_offset u32;
        ts_offset set_ts_offset: ts_offset u32;
        peer_isn set_peer_isn: peer_isn u32;
        peer_early set_peer_early: peer_early u32;
        last_seen_ns set_last_seen_ns: last_seen_ns u64;
        to_guest_frames set_to_guest_frames: to_guest_frames u64;
        from_guest_frames set_from_guest_frames: from_guest_frames u64;
    }

    /// The base does not change while the entry lives.
    #[inline(always)]
    pub fn base(&self) -> Translation {
        // SAFETY: `at` points to a live, aligned `FlowRecord` (see the constructors).
        unsafe {
            Translation {
                seq: addr_of_mut!((*self.at.as_ptr()).base_seq_offset).read_volatile(),
                ts: addr_of_mut!((*self.at.as_ptr()).base_ts_offset).read_volatile(),
            }
        }
    }

    /// Adds bits to `known` and returns all bits. A processor that sees the bits also sees everything
    /// that was written before them.
    #[inline(always)]
    pub(super) fn add_known(&self, bits: u64) -> u64 {
        // SAFETY: `at` points to a live, aligned `FlowRecord`.
        bits | unsafe { fetch_or(addr_of_mut!((*self.at.as_ptr()).known), bits) }
    }

    /// Counts one translated frame. If two processors meet here, a count may be lost. It only informs
    /// the operator, and is not worth a locked access for every frame.
    #[inline(always)]
    pub(super) fn count(&self, to_guest: bool) {
        if to_guest {
            self.set_to_guest_frames(self.to_guest_frames().wrapping_add(1));
        } else {
            self.set_from_guest_frames(self.from_guest_frames().wrapping_add(1));
        }
    }

    /// Copies the whole entry, number by number.
    #[inline(always)]
    pub(super) fn copy_to(&self, record: &mut FlowRecord) {
        record.epoch = self.epoch();
        record.state = self.state();
        record.known = self.known();
        record.guest_isn = self.guest_isn();
        record.wire_isn = self.wire_isn();
        record.guest_ts = self.guest_ts();
        record.wire_ts = self.wire_ts();
        record.seq_offset = self.seq_offset();
        record.ts_offset = self.ts_offset();
        let base = self.base();
        record.base_seq_offset = base.seq;
        record.base_ts_offset = base.ts;
        record.peer_isn = self.peer_isn();
        record.peer_early = self.peer_early();
        record.last_seen_ns = self.last_seen_ns();
        record.to_guest_frames = self.to_guest_frames();
        record.from_guest_frames = self.from_guest_frames();
    }

    /// The translation of its frames; none if the offset is not known.
    #[inline(always)]
    pub(super) fn translation(&self, epoch: u32) -> Translation {
        if self.known() & known::OFFSET == 0 {
            Translation::default()
        } else if self.epoch() == epoch {
            Translation { seq: self.seq_offset(), ts: self.ts_offset() }
        } else {
            self.base()
        }
    }

    /// Brings an entry of an older epoch into this one. A checkpoint has made both guests equal since
    /// then: the numbers learnt before it are void, and both guests count as the base says.
    #[inline(always)]
    pub(super) fn rebase(&self, epoch: u32) {
        if self.epoch() == epoch {
            return;
        }
        if self.known() & known::OFFSET == 0 {
            self.set_known(known::IDENTITY);
        } else {
            let base = self.base();
            self.set_guest_isn(self.wire_isn().wrapping_sub(base.seq));
            self.set_guest_ts(self.wire_ts().wrapping_sub(base.ts));
            self.set_seq_offset(base.seq);
            self.set_ts_offset(base.ts);
        }
        self.set_epoch(epoch);
    }

    /// The guest's initial sequence number after a checkpoint, which copied the primary's.
    #[inline(always)]
    pub(super) fn isn_since_checkpoint(&self) -> u32 {
        self.wire_isn().wrapping_sub(self.base().seq)
    }

    /// From `REOPENING` to a connection in which both guests count alike, since a checkpoint.
    #[inline(always)]
    pub(super) fn equalize(&self, epoch: u32) {
        self.set_seq_offset(0);
        self.set_ts_offset(0);
        let confirmed = self.known() & known::CONFIRMED;
        self.set_known(known::OFFSET | known::IDENTITY | known::WIRE | confirmed);
        self.set_epoch(epoch);
        self.set_state(state::ESTABLISHED);
    }

    /// From `REOPENING` back to `CLOSED`: the new connection failed.
    #[inline(always)]
    pub(super) fn close_again(&self) {
        self.set_wire_isn(self.guest_isn().wrapping_add(self.seq_offset()));
        self.add_known(known::WIRE);
        self.set_state(state::CLOSED);
    }

    /// The peer wants to use the tuple again, and the guest has yet to answer.
    #[inline(always)]
    pub(super) fn is_claimed(&self) -> bool {
        let is = self.state();
        is == state::REOPENING || is == state::RESET && self.known() & known::PEER != 0
    }

    /// The connection is still being opened.
    #[inline(always)]
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state(), state::OPENING_PASSIVE | state::OPENING_ACTIVE)
    }
}

/// Adds bits to a number, in one step and with a full barrier, because another processor may add
/// some at the same time. Returns the old number.
///
/// # Safety
/// `at` points to a live, aligned number.
#[cfg(not(target_arch = "bpf"))]
unsafe fn fetch_or(at: *mut u64, bits: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};

    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(at) }.fetch_or(bits, Ordering::SeqCst)
}

/// The same in the kernel. The BPF machine has atomic operations, but Rust's target for it has none.
///
/// # Safety
/// `at` points to a live, aligned number.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn fetch_or(at: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!(
            "{value} = atomic_fetch_or((u64 *)({at} + 0), {value})",
            value = inout(reg) value,
            at = in(reg) at,
        );
    }
    value
}
