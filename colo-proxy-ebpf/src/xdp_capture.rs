//! `AF_XDP` capture at the guest's TAP on the secondary host: guest output goes to the socket of its
//! queue before the kernel makes a packet of it.
//!
//! A frame without a socket passes unchanged: the guest has enabled its queue later, or the daemon has
//! died. [`colo_from_guest`] behind this program then sends it to the output gate, or drops it.
//!
//! [`colo_from_guest`]: crate::secondary::colo_from_guest

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::XskMap;
use aya_ebpf::helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use colo_proxy_common::checksum::ChecksumDifference;
use colo_proxy_common::decode::{FrameBytes, Malformed, OPTIONS_MAX, OptionWalk};
use colo_proxy_common::record::mode;
use colo_proxy_common::rewrite::Edit;
use colo_proxy_common::segment::Direction;

use crate::access::{in_sight, walk_options};
use crate::maps::{count, settings_if_any};
use crate::parsed::{Parsed, TranslatedFrame, parse};
use crate::translate::{TranslationFate, translate};

/// Receive queues that can have a socket. Each socket takes 16 MiB.
const QUEUES_MAX: usize = 16;

/// The socket of each receive queue.
#[btf_map(name = "xsks")]
static SOCKETS: XskMap<QUEUES_MAX> = XskMap::new();

/// Runs before ingress of the guest's TAP. In native mode it does not see the frames that the daemon
/// releases there.
#[xdp(frags)]
pub fn colo_xdp_capture(ctx: XdpContext) -> u32 {
    let Some(settings) = settings_if_any() else { return XDP_PASS };
    let queue = ctx.rx_queue_index();
    if settings.mode != mode::PROTECTED || SOCKETS.get(queue).is_none() {
        return XDP_PASS;
    }
    match translate(&mut XdpFrame(ctx.ctx), settings.epoch, false, Direction::FromGuest) {
        TranslationFate::Go => {
            count(|c| &mut c.captured);
            // The socket may have just gone. The frame is translated, and must not reach a wire.
            match SOCKETS.redirect(queue, u64::from(XDP_DROP)) {
                Ok(action) | Err(action) => action,
            }
        }
        TranslationFate::Park | TranslationFate::Drop => XDP_DROP,
    }
}

/// One frame, in one piece or several.
struct XdpFrame(*mut xdp_md);

impl TranslatedFrame for XdpFrame {
    #[inline(always)]
    fn parse(&self, direction: Direction, into: &mut Parsed) -> Result<bool, Malformed> {
        // The kernel has not moved a tag out of the frame yet.
        parse(self, None, direction, into)
    }

    #[inline(always)]
    fn edit(&mut self) -> impl Edit {
        Self(self.0)
    }
}

impl FrameBytes for XdpFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: a helper on the program's own frame.
        unsafe { bpf_xdp_get_buff_len(self.0) as usize }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes exactly N bytes if it succeeds.
        unsafe {
            match bpf_xdp_load_bytes(self.0, at as u32, bytes.as_mut_ptr().cast(), N as u32) {
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
        unsafe { bpf_xdp_load_bytes(self.0, at as u32, into.as_mut_ptr().cast(), len as u32) == 0 }
    }

    #[inline(always)]
    fn finish(walk: &mut OptionWalk) {
        walk_options(walk);
    }
}

impl Edit for XdpFrame {
    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, mut bytes: [u8; N]) -> bool {
        let len = N as u32;
        // SAFETY: a helper on the program's own frame; the bytes are on the stack.
        unsafe { bpf_xdp_store_bytes(self.0, at as u32, bytes.as_mut_ptr().cast(), len) == 0 }
    }

    /// Leaves the checksum as it is. XDP does not know whether it is partial or complete, and the
    /// frame is only compared.
    #[inline(always)]
    fn adjust(&mut self, _at: usize, _difference: ChecksumDifference) -> bool {
        true
    }
}
