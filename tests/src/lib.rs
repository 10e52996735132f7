//! The lab of colo-proxy: a client, a switch and two hosts in network namespaces. Stand-in guests
//! hold real TAPs, a service runs in the guests, and the client checks every byte.
//!
//! ```text
//!   client ── lan (switch) ──┬── hosta: up0 ─ br0 ─ tap0 ═ stand-in ═ guesta: eth0, lab-service
//!                            └── hostb: up0 ─ br0 ─ tap0 ═ stand-in ═ guestb: eth0, lab-service
//!                                hosta: repl0 ── repl0 :hostb
//! ```
//!
//! [`network`] builds it, [`guest`] starts a guest, [`daemon`] starts `colo-proxy` beside it, and
//! [`client`] is the load. All of it disappears with its [`network::Lab`], also on a panic or a
//! signal ([`cleanup`]).

pub use colo_lab_attribute::lab_test;

pub mod bench;
pub mod cleanup;
pub mod client;
pub mod colo_compare;
pub mod colo_frame;
pub mod counters;
pub mod daemon;
pub mod demo;
pub mod guest;
pub mod harness;
pub mod link;
pub mod namespace;
pub mod network;
pub mod pair;
pub mod phrases;
pub mod process;
pub mod protocol;
pub mod qemu;
pub mod qmp;

pub mod service;
pub mod stand_in;
