//! The lanes between the two hosts: frames that come from the peer ([`incoming`]), frames that go to it
//! ([`outgoing`]), and the messages of the two daemons ([`control`]).
//!
//! Each lane is a task of its own that connects again and again, and never stands in the way of
//! another: frames that go out are queued within a limit, and a peer that does not read for its timeout
//! is disconnected, so that it cannot stop the guest. A peer that reads too slowly is disconnected if
//! the owner asks for that ([`outgoing::OutgoingRequest::Break`]).

pub(crate) mod control;
pub(crate) mod incoming;
pub mod io;
pub(crate) mod outgoing;
pub(crate) mod stats;
#[cfg(test)]
mod tests;

pub(crate) use self::incoming::spawn_incoming;
pub(crate) use self::outgoing::{Outgoing, OutgoingRequest, spawn_outgoing};
pub(crate) use self::stats::{LaneStats, LaneStatus};
use colo_proxy_engine::frame::Frame;

/// Batches that may wait between a lane and its reader; TCP holds the peer back beyond that.
const WAITING_BATCHES: usize = 8;

/// What a lane tells its owner, in the order in which it happened.
#[derive(Debug)]
pub(crate) enum LaneEvent<T = Frame> {
    Up,
    Frames(Vec<T>),
    Down,
}
