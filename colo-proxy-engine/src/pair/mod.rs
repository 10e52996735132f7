//! The decisions of both halves of a pair.
//!
//! [`Primary`] and [`Secondary`] are the two halves. Each gets frames, events and the time, and decides.
//! Urgent decisions are calls of a trait that the caller implements ([`OutputPath`], [`InputPath`]). The
//! others are left in queues that the caller empties.

pub mod backlog;
pub mod cut;
pub mod early_input;
pub mod event;
pub mod message;
pub mod primary;
pub mod protection;
pub mod repeat;
pub mod secondary;
pub mod service_message;
pub mod service_record;
#[cfg(test)]
mod simulation;
pub mod takeover;
mod words;

pub use self::primary::{OutputPath, Primary, PrimaryLimits};
pub use self::secondary::{InputPath, Secondary};
pub use self::words::{Mode, OnDeath, OnSecondaryLost, ProgramMode, Role};

/// Frames that are handled in one turn, before other guests of the thread have theirs.
pub const BATCH: usize = 64;
