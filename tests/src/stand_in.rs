//! A stand-in for QEMU: holds the guest's TAP as QEMU holds it, and moves frames between it and a
//! TAP in the guest's namespace, whose network stack is the guest's.
//!
//! It is a process of its own (`stand-in`), so that a guest can die of `kill -9`. It takes
//! [`command`]s as JSON lines on stdin, reports on stdout, and ends when stdin does.
//!
//! Two namespaces of one kernel choose sequence numbers by one secret and one clock, and two real
//! guests do not. So the secondary's stand-in [shifts](shift) those of its guest. This, the
//! [checksum](sum) check and the parser are written independently of colo-proxy, to be a check.

pub mod command;
pub mod inject;
pub mod packet;
pub mod pump;
pub mod shift;
pub mod sum;
pub mod tap;
