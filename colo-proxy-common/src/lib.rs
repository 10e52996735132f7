//! The code that the kernel programs and the daemon of colo-proxy share.
//!
//! The same code runs in the eBPF programs, in the userspace engines and in the tests:
//!
//! * [`decode`]: the packet decoder
//! * [`segment`]: a frame as a TCP segment, and its connection
//! * [`seq`]: the arithmetic of TCP sequence numbers
//! * [`checksum`]: checksums that follow a change
//! * [`rewrite`]: the rewriting of TCP numbers
//! * [`flow`]: the life of a translated connection
//! * [`record`]: the records in the maps
//! * [`filter`]: the records of stand-alone filters
//! * [`lane`]: the tags of the kernel lane
//!
//! Everything here is total: no input makes it panic, however malformed.
#![cfg_attr(not(test), no_std)]
#![allow(
    clippy::inline_always,
    reason = "the kernel's verifier follows values into a function only where it is inlined, and a \
              program's stack has 512 bytes"
)]
// The kernel programs are built with a compiler that allows it (see `cargo xtask build-ebpf`).
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod checksum;
pub mod decode;
pub mod filter;
pub mod flow;
pub mod lane;
pub mod record;
pub mod rewrite;
pub mod segment;
pub mod seq;
