//! The comparison of two captures: would these guests have needed checkpoints?
//!
//! It is the engine of the daemon, with a clock that runs as the captures say. It is pure: packets go
//! in, and a [`DiffReport`] comes out. The caller reads the files three times from the start:
//!
//! 1. A [`CaptureSurvey`] of each says when it was taken and which stations are in it. So
//!    [`ComparedGuest::find`] can say whose output is compared.
//! 2. [`Connections`] learns the initial sequence numbers of each guest, and [`Alignment`] the
//!    distance of the clocks.
//! 3. A [`Comparison`] takes the packets of both in the order of time ([`merge`]).
//!
//! The memory is bounded for captures of any length.
//!
//! # Stand-ins
//!
//! * For the kernel programs that translate the secondary's numbers: both guests' SYN or SYN/ACK
//!   are in the captures, so the offset is known before its first use. If both captures began in the
//!   middle of a connection, its offset is 0, as after a checkpoint.
//! * For a checkpoint: both guests stand still for [`ComparisonOptions::checkpoint`], so every later
//!   packet comes later by as much. A checkpoint does not make captured guests equal. A difference
//!   that exists only because one guest was a little ahead at that moment is put right
//!   ([`in_flight`]). Other differences stay, so the count of checkpoints is an upper bound.
//! * For the end of a capture: the other guest may have answered later, so a missing answer is
//!   undecided, and no divergence.

mod alignment;
mod answer;
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

pub use self::alignment::{Alignment, AlignmentKind};
pub use self::answer::{ComparedDivergence, DiffAnswer};
pub use self::comparison::{Comparison, ComparisonOptions};
pub use self::connections::Connections;
pub use self::guest::{ComparedGuest, GuestAddress, GuestError};
pub use self::merge::merge;
pub use self::nothing::NothingCompared;
pub use self::report::{CaptureReport, DiffReport, DivergenceRecord, FramePlace, UndecidedCounts};
pub use self::survey::{CaptureSurvey, MacAddress};
