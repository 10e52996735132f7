//! The frame behind a `__sk_buff`, read and changed through helpers, which cope with frames in
//! pieces, clones, and every state of the checksum.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::from_mut;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_loop, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use colo_proxy_common::checksum;
use colo_proxy_common::decode::{OPTIONS_MAX, Octets, OptionWalk};
use colo_proxy_common::rewrite::Edit;

/// `bpf_l4_csum_replace`: the number has four octets and is not part of the pseudo-header.
const FOUR_OCTETS: u64 = 4;

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

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: see above; the mark may be written.
        unsafe { (*self.skb).mark = mark }
    }
}

/// A frame of which the kernel may keep the outermost VLAN tag apart.
pub trait Tagged {
    /// That tag.
    fn outer_tag(&self) -> Option<u16>;
}

impl Tagged for SkBuff {
    #[inline(always)]
    fn outer_tag(&self) -> Option<u16> {
        // SAFETY: the kernel's context is valid for the run of the program.
        unsafe { ((*self.skb).vlan_present != 0).then(|| (*self.skb).vlan_tci as u16) }
    }
}

impl Octets for SkBuff {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the kernel's context is valid for the run of the program.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut octets = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes exactly N octets, or zeroes them and fails.
        unsafe {
            match bpf_skb_load_bytes(
                self.skb.cast(),
                at as u32,
                octets.as_mut_ptr().cast(),
                N as u32,
            ) {
                0 => Some(octets.assume_init()),
                _ => None,
            }
        }
    }

    #[inline(always)]
    fn read_into(&self, at: usize, len: usize, into: &mut [u8; OPTIONS_MAX]) -> bool {
        if len == 0 || len > OPTIONS_MAX {
            return false;
        }
        // SAFETY: `into` has room for `len` octets.
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

/// Takes `walk` to its end.
#[inline(always)]
pub fn walk_options(walk: &mut OptionWalk) {
    let step = option_step as extern "C" fn(u64, *mut OptionWalk) -> i64;
    // SAFETY: the helper calls `step` with `walk`, one call after the other, before it returns.
    unsafe { bpf_loop(OPTIONS_MAX as u32, step as *mut c_void, from_mut(walk).cast(), 0) };
}

/// One turn of `bpf_loop`; 1 ends it.
extern "C" fn option_step(_turn: u64, walk: *mut OptionWalk) -> i64 {
    // SAFETY: see `walk_options`, the only caller.
    if unsafe { &mut *walk }.step() { 0 } else { 1 }
}

impl Edit for SkBuff {
    #[inline(always)]
    fn replace(&mut self, at: usize, checksum_at: usize, old: u32, new: u32) -> bool {
        let (from, to) = checksum::place(old, new, (at ^ checksum_at) & 1 == 1);
        let octets = new.to_be_bytes();
        // SAFETY: helpers on the program's own frame; the octets are on the stack.
        unsafe {
            bpf_l4_csum_replace(
                self.skb.cast(),
                checksum_at as u32,
                u64::from(from.to_be()),
                u64::from(to.to_be()),
                FOUR_OCTETS,
            ) == 0
                // No flags: BPF_F_RECOMPUTE_CSUM would count the change twice in skb->csum.
                && bpf_skb_store_bytes(
                    self.skb.cast(),
                    at as u32,
                    octets.as_ptr().cast(),
                    octets.len() as u32,
                    0,
                ) == 0
        }
    }
}
