//! The frame behind a `__sk_buff`. Its headers nearly always lie in one piece with the start of the
//! frame; then they are read and changed in place. Otherwise helpers do it.

use core::arch::asm;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::from_mut;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_loop, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use colo_proxy_common::checksum::ChecksumDifference;
use colo_proxy_common::decode::{FrameBytes, Malformed, OPTIONS_MAX, OptionWalk};
use colo_proxy_common::rewrite::Edit;
use colo_proxy_common::segment::Direction;

use crate::parsed::{Parsed, TranslatedFrame, parse};

/// `bpf_l4_csum_replace` gets a difference, and not one of the pseudo-header. So a partial checksum
/// stays as it is, and so does a complete sum beside the frame.
const BY_DIFFERENCE: u64 = 0;
/// Headers beyond this are read through helpers. The verifier wants to see a bound for each access.
const IN_PLACE_MAX: usize = 0x3fff;

/// IEEE 802.1Q.
const VLAN_TAG: u32 = 4;

/// One frame.
pub struct SkBuff {
    skb: *mut __sk_buff,
}

impl SkBuff {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: the kernel's context is valid for the run of the program.
        unsafe { (*self.skb).mark }
    }

    /// Bytes on a wire, before segmentation.
    #[inline(always)]
    pub fn wire_len(&self) -> u32 {
        // SAFETY: the kernel's context is valid for the run of the program.
        let (len, has_tag) = unsafe { ((*self.skb).len, (*self.skb).vlan_present != 0) };
        // The kernel has the outermost tag beside the frame, and inserts it on the way out.
        if has_tag { len + VLAN_TAG } else { len }
    }

    /// Bytes of payload in each segment of a GSO frame; 0 for any other frame.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: see above.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: see above; the mark may be written.
        unsafe { (*self.skb).mark = mark }
    }
}

impl TranslatedFrame for SkBuff {
    /// If the start of the frame does not suffice, whatever the reason, the whole frame is read.
    #[inline(always)]
    fn parse(&self, direction: Direction, into: &mut Parsed) -> Result<bool, Malformed> {
        let tag = self.outer_tag();
        parse(&Start(self), tag, direction, into).or_else(|_| parse(self, tag, direction, into))
    }

    #[inline(always)]
    fn edit(&mut self) -> impl Edit {
        Whole(self)
    }
}

impl FrameBytes for SkBuff {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the kernel's context is valid for the run of the program.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes exactly N bytes, or zeroes them and fails.
        unsafe {
            match bpf_skb_load_bytes(
                self.skb.cast(),
                at as u32,
                bytes.as_mut_ptr().cast(),
                N as u32,
            ) {
                0 => Some(bytes.assume_init()),
                _ => None,
            }
        }
    }

    #[inline(always)]
    fn read_into(&self, at: usize, len: usize, into: &mut [u8; OPTIONS_MAX]) -> bool {
        let len = in_sight(len);
        if len == 0 || len > OPTIONS_MAX {
            return false;
        }
        // SAFETY: `into` has room for `len` bytes.
        unsafe {
            bpf_skb_load_bytes(self.skb.cast(), at as u32, into.as_mut_ptr().cast(), len as u32)
                == 0
        }
    }

    #[inline(always)]
    fn finish(walk: &mut OptionWalk) {
        walk_options(walk);
    }
}

impl SkBuff {
    /// The outermost VLAN tag, if the kernel has it beside the frame.
    #[inline(always)]
    pub fn outer_tag(&self) -> Option<u16> {
        // SAFETY: the kernel's context is valid for the run of the program.
        unsafe { ((*self.skb).vlan_present != 0).then(|| (*self.skb).vlan_tci as u16) }
    }

    /// The address of the `len` bytes at `at`, if they lie in one piece with the start of the frame.
    /// Valid until the next helper that changes the frame.
    #[inline(always)]
    fn in_place(&self, at: usize, len: usize) -> Option<*mut u8> {
        let offset: usize;
        // SAFETY: a move. The compiler may have `at` in several registers. It has to compare the one
        // that is added below, because the verifier knows no bound of the others.
        unsafe {
            asm!(
                "{offset} = {at}",
                offset = lateout(reg) offset,
                at = in(reg) at,
                options(pure, nomem, nostack),
            );
        }
        if offset > IN_PLACE_MAX {
            return None;
        }
        // SAFETY: the kernel's context is valid for the run of the program.
        let (data, end) = unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) };
        let mut place = data;
        // SAFETY: an addition. The compiler must not add `len` to `offset` first: the verifier would
        // take the two sums for unrelated pointers.
        unsafe {
            asm!(
                "{place} += {offset}",
                place = inout(reg) place,
                offset = in(reg) offset,
                options(pure, nomem, nostack),
            );
        }
        (place + len <= end).then_some(place as *mut u8)
    }
}

/// The `N` bytes at `from`, four at a time. The compiler does not know their alignment and would read
/// them one by one. The kernel allows more if the machine does.
///
/// # Safety
/// The bytes can be read.
#[inline(always)]
unsafe fn load<const N: usize>(from: *const u8) -> [u8; N] {
    let mut bytes = [0; N];
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for (i, word) in words.iter_mut().enumerate() {
        let number: u64;
        // SAFETY: the caller's.
        unsafe {
            asm!(
                "{number} = *(u32 *)({from} + 0)",
                number = lateout(reg) number,
                from = in(reg) from.add(4 * i),
                options(pure, readonly, nostack),
            );
        }
        *word = (number as u32).to_ne_bytes();
    }
    for (i, byte) in rest.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *byte = unsafe { from.add(N / 4 * 4 + i).read() };
    }
    bytes
}

/// Writes `bytes` to `to`, four at a time as in [`load`].
///
/// # Safety
/// The place can be written to.
#[inline(always)]
unsafe fn store<const N: usize>(to: *mut u8, bytes: &[u8; N]) {
    let (words, rest) = bytes.as_chunks::<4>();
    for (i, word) in words.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            asm!(
                "*(u32 *)({to} + 0) = {number}",
                number = in(reg) u64::from(u32::from_ne_bytes(*word)),
                to = in(reg) to.add(4 * i),
                options(nostack),
            );
        }
    }
    for (i, byte) in rest.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { to.add(N / 4 * 4 + i).write(*byte) };
    }
}

/// The start of the same frame, which lies in one piece. It has the headers of nearly every frame.
struct Start<'a>(&'a SkBuff);

impl FrameBytes for Start<'_> {
    const FOLLOWS_EXTENSIONS: bool = false;

    #[inline(always)]
    fn len(&self) -> usize {
        FrameBytes::len(self.0)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: the bytes are there.
        self.0.in_place(at, N).map(|place| unsafe { load(place) })
    }

    #[inline(always)]
    fn read_into(&self, at: usize, len: usize, into: &mut [u8; OPTIONS_MAX]) -> bool {
        self.0.read_into(at, len, into)
    }

    #[inline(always)]
    fn finish(walk: &mut OptionWalk) {
        walk_options(walk);
    }
}

/// The whole of the same frame. Its start is read and written in place, the rest by helpers. The
/// verifier can follow this only if it does not know the distances: it would check the program once
/// for each of them.
struct Whole<'a>(&'a mut SkBuff);

impl FrameBytes for Whole<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        FrameBytes::len(self.0)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        Start(self.0).read(at).or_else(|| self.0.read(at))
    }

    #[inline(always)]
    fn read_into(&self, at: usize, len: usize, into: &mut [u8; OPTIONS_MAX]) -> bool {
        self.0.read_into(at, len, into)
    }
}

impl Edit for Whole<'_> {
    /// The verifier gives a program that writes in place a prologue. If the frame has clones, the
    /// prologue copies its start. If there is no memory for the copy, the kernel drops the frame before
    /// our first instruction, and no counter of ours shows it. The same happens to a frame that the
    /// kernel cannot even receive. A helper for each number would need the same memory, and ten times
    /// as long for every frame. A program that clones a frame itself (`bpf_clone_redirect`) also gets
    /// a start of its own, so the clone keeps its numbers.
    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        if let Some(place) = self.0.in_place(at, N) {
            // SAFETY: the bytes are there.
            unsafe { store(place, &bytes) };
            return true;
        }
        let len = N as u32;
        // SAFETY: a helper on the program's own frame; the bytes are on the stack. No flags:
        // BPF_F_RECOMPUTE_CSUM would count the change twice in skb->csum.
        unsafe {
            bpf_skb_store_bytes(self.0.skb.cast(), at as u32, bytes.as_ptr().cast(), len, 0) == 0
        }
    }

    #[inline(always)]
    fn adjust(&mut self, at: usize, difference: ChecksumDifference) -> bool {
        // The kernel's sum is over words in the machine's byte order.
        let difference = difference.folded().to_be();
        // SAFETY: a helper on the program's own frame.
        unsafe {
            bpf_l4_csum_replace(
                self.0.skb.cast(),
                at as u32,
                0,
                u64::from(difference),
                BY_DIFFERENCE,
            ) == 0
        }
    }
}

/// Hides a length of options from the compiler. Otherwise the compiler removes a comparison
/// that it does not need, but the verifier does.
#[inline(always)]
pub fn in_sight(len: usize) -> usize {
    let mut len = len;
    // SAFETY: an operation that changes no possible length.
    unsafe { asm!("{len} &= 63", len = inout(reg) len, options(pure, nomem, nostack)) };
    len
}

/// Takes `walk` to its end.
#[inline(always)]
pub fn walk_options(walk: &mut OptionWalk) {
    let step = option_step as extern "C" fn(u64, *mut OptionWalk) -> i64;
    // SAFETY: before it returns, the helper calls `step` with `walk`, one call after the other.
    unsafe { bpf_loop(OPTIONS_MAX as u32, step as *mut c_void, from_mut(walk).cast(), 0) };
}

/// One turn of `bpf_loop`; 1 ends it.
extern "C" fn option_step(_turn: u64, walk: *mut OptionWalk) -> i64 {
    // SAFETY: see `walk_options`, the only caller.
    if unsafe { &mut *walk }.step() { 0 } else { 1 }
}
