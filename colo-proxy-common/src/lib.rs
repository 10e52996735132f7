//! What the kernel programs and the daemon of colo-proxy share.
//!
//! The same code runs in the eBPF programs, in the userspace engines and in the tests: the packet
//! decoder ([`decode`]), TCP sequence arithmetic ([`seq`]), incremental checksums ([`checksum`]),
//! the rewriting of TCP numbers ([`rewrite`]), the life of a translated connection ([`flow`]), the
//! records that live in maps ([`record`]), those of stand-alone filters ([`filter`]), and the tags of
//! the kernel lane ([`lane`]).
//!
//! Everything here is total: no input, however malformed, makes it panic.
#![cfg_attr(not(test), no_std)]
#![allow(
    clippy::inline_always,
    reason = "the kernel's programs: its verifier follows values into a function only where it is \
              inlined, and its stack has 512 octets"
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
