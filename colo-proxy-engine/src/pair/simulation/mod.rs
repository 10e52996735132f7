//! A deterministic simulation: a client, two guests, the decisions of both daemons and the links
//! between them in virtual time, with faults.
//!
//! What it runs is the daemons' own code: the engine ([`crate::compare`]), what both halves decide
//! ([`super::primary::decide`], [`super::secondary::decide`]), and the translation of the kernel
//! programs (`colo_proxy_common::flow` and `rewrite`). What it models is around that: TCP endpoints,
//! the LAN, the lanes, the maps, the COLO-frame.
//!
//! One seed is one run, octet for octet. A failure tells the seed and the last events; one run
//! again with `COLO_PROXY_SEED=n`, more of them with `COLO_PROXY_SIMULATIONS=n`.

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
