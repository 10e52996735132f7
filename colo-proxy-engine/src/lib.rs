//! What decides in colo-proxy, without I/O and without a clock.
//!
//! The rooms, in the direction in which a frame goes through them: [`record`] (the framing of the
//! lanes between the hosts) and [`frame`], [`digest`] (digests in the place of the secondary's
//! frames), [`compare`] (the engine that decides which output of the primary guest may leave), and
//! [`pair`], the decisions of both halves of a pair: epochs, protection and takeover.
//!
//! The caller owns time, buffers, sockets and threads: it passes `now`, hands in frames and events,
//! and carries out what it is given back. So everything here runs in a test in virtual time.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod compare;
pub mod digest;
pub mod frame;
pub mod log_limit;
pub mod pair;
pub mod record;
