//! The lanes between the two hosts: frames from the peer ([`incoming`]), frames to the peer
//! ([`outgoing`]), and the messages of the two daemons ([`control`]).
//!
//! Each lane is a task of its own, which connects again after each loss. No lane blocks another one.
//! Frames to the peer are queued within a limit. A peer that reads nothing until its timeout is
//! disconnected, so that it cannot stop the guest. A peer that reads too slowly is disconnected if the
//! owner requests that ([`outgoing::OutgoingRequest::Break`]).

pub(crate) mod control;
pub(crate) mod incoming;
pub mod io;
mod limits;
pub(crate) mod outgoing;
pub(crate) mod stats;
#[cfg(test)]
mod tests;

pub(crate) use self::incoming::spawn_incoming;
pub use self::limits::PeerLimits;
pub(crate) use self::outgoing::{Outgoing, OutgoingRequest, spawn_outgoing};
pub(crate) use self::stats::{LaneStats, LaneStatus};
use colo_proxy_engine::frame::Frame;

/// Batches that may be queued between a lane and its owner. Beyond that, TCP slows the peer down.
const QUEUED_BATCHES_MAX: usize = 8;

/// An event of a lane for its owner. They come in the order in which they happened.
#[derive(Debug)]
pub(crate) enum LaneEvent<T = Frame> {
    Up,
    Frames(Vec<T>),
    Down,
}
