//! The kernel programs of colo-proxy.
//!
//! One module per family: [`primary`] and [`secondary`] for the guest's TAP on either host,
//! [`filter`] and [`rewriter`] for the filters that stand alone on one, [`gate`] for the TAPs of the
//! daemon, [`xdp_capture`] for `AF_XDP`, [`lane`] for the tunnel between the hosts; [`translate`] is what
//! those have in common. The decisions are in `colo-proxy-common`, where they are tested; here are the
//! maps, the clock and the frame.
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
    // Nothing here panics; the verifier would refuse the loop otherwise.
    loop {}
}
