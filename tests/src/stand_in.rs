//! A stand-in for QEMU. It holds the guest's TAP as QEMU does. It moves frames between this TAP and
//! another in the guest's namespace, whose network stack is the guest's.
//!
//! It is a process of its own (`stand-in`), so that a guest can die by `kill -9`. It reads
//! [`command`]s as JSON lines on stdin, reports on stdout, and ends when stdin ends.
//!
//! Two namespaces of one kernel choose sequence numbers by one secret and one clock. Two real
//! guests do not. So the secondary's stand-in [shifts](shift) the numbers of its guest. The shift,
//! the [checksum](sum) check and the parser share no code with colo-proxy, so that they are a check
//! of it.

pub mod command;
pub mod inject;
pub mod packet;
pub mod pump;
pub mod shift;
pub mod sum;
pub mod tap;
