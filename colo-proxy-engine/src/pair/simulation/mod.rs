//! A deterministic simulation: a client, two guests, the decisions of both daemons and the lanes
//! between them in virtual time, with faults.
//!
//! It runs the daemons' own code: the engine ([`crate::compare`]), both halves ([`super::Primary`],
//! [`super::Secondary`]), and the translation of the kernel programs (`colo_proxy_common::flow` and
//! `rewrite`). It models the rest: TCP endpoints, the LAN, the lanes, the maps and the COLO-frame. In
//! [`front_end`] the primary's half stands between QEMU's sockets.
//!
//! One seed is one run, byte for byte. A failure prints the seed and the last events.
//! `COLO_PROXY_SEED=n` repeats one run, and `COLO_PROXY_SIMULATIONS=n` runs more of them.
#![expect(
    clippy::disallowed_methods,
    reason = "the start of virtual time, and the seed that the operator names"
)]

mod app;
mod colo;
mod daemons;
mod digests;
mod endpoint;
mod faults;
mod front_end;
mod hosts;
mod machine;
mod network;
mod oracle;
mod plan;
mod programs;
mod random;
mod tests;
mod wire;
mod world;
