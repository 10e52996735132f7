//! The kernel programs of colo-proxy.
//!
//! Each family of programs has a module:
//!
//! * the guest's TAP on either host: [`primary`], [`secondary`]
//! * the filters that stand alone on a TAP: [`filter`], [`rewriter`]
//! * the daemon's TAPs: [`gate`]
//! * `AF_XDP`: [`xdp_capture`]
//! * the tunnel between the hosts: [`lane`]
//!
//! They share [`translate`]. The decisions are in `colo-proxy-common`, where they are tested. The maps,
//! the clock and the frame are here.
#![no_std]
#![no_main]
// The kernel programs are built with a compiler that allows it (see `cargo xtask build-ebpf`).
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod access;
mod filter;
mod gate;
mod lane;
mod maps;
mod parsed;
mod primary;
mod rewriter;
mod secondary;
mod speakers;
mod translate;
mod verdict;
mod xdp_capture;

/// Most helpers are for programs under the GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No code here panics. If some did, the verifier would refuse this loop.
    loop {}
}
