//! The comparison of two captures: would these guests have needed checkpoints?
//!
//! The same engine as in the daemon, driven by a clock that runs as the captures say. Pure: packets
//! go in, a [`Report`] comes out; the caller reads the files, three times from the start:
//!
//! 1. a [`Survey`] of each tells when it was taken and who is in it, so that [`Guest::find`] can
//!    say whose output is to be compared;
//! 2. [`Connections`] learns which initial sequence numbers each guest chose, and [`Alignment`]
//!    how far the clocks are apart;
//! 3. a [`Comparison`] takes the packets of both in order of time ([`merge`]).
//!
//! However long the captures are, what is remembered is bounded.
//!
//! # What stands in for what
//!
//! * For the kernel programs that translate the secondary's numbers: both guests' SYN or SYN/ACK
//!   are in the captures, so the offset is known before its first use. A connection that both
//!   captures met in its middle has the offset 0, as after a checkpoint.
//! * For a checkpoint: both guests stand still for [`Options::checkpoint`], so everything captured
//!   later comes later by as much. Captured guests do not become equal by it. What only differs
//!   because one guest was a little ahead at that moment is put right ([`in_flight`]); what really
//!   differs goes on to differ, so the count of checkpoints is an upper bound.
//! * For the end of a capture: what the other guest may have answered later is undecided, and not
//!   a divergence.

mod alignment;
mod clock;
mod comparison;
mod connections;
mod early;
mod guest;
mod in_flight;
mod merge;
mod nothing;
mod report;
mod survey;
mod text;
mod translation;

#[cfg(test)]
mod tests;

pub use self::alignment::{Align, Alignment};
pub use self::comparison::{Comparison, Options};
pub use self::connections::Connections;
pub use self::guest::{Address, Guest, GuestError};
pub use self::merge::merge;
pub use self::nothing::NothingCompared;
pub use self::report::{CaptureReport, DivergenceRecord, Place, Report};
pub use self::survey::{Mac, Survey};
