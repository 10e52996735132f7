//! Frames of the secondary in connections that the primary has not opened yet.
//!
//! They cannot be placed: a stream is placed by the primary's SYN. So the frames wait as they came,
//! in the ledger and within its limits, behind the SYN of their connection. When the primary sends
//! its SYN, they are taken as if they came then.

use std::collections::VecDeque;

use super::opening::{Opening, Openings};
use crate::compare::chain::ChainKey;
use crate::compare::ledger::{FlowAccount, Ledger};
use crate::compare::shrink;
use crate::frame::Frame;

#[derive(Debug)]
enum AheadEntry {
    /// A connection begins.
    Opening(Openings),
    /// The ledger keeps the frame.
    Frame(ChainKey),
}

/// The waiting openings and frames, in the order in which they came. Frames in front of the first
/// opening belong to the connection whose opening the flow itself has.
#[derive(Debug, Default)]
pub(super) struct ConnectionsAhead {
    entries: VecDeque<AheadEntry>,
    openings: usize,
    account: FlowAccount,
    /// One connection was too many. The frames that follow belong to it or to a later one. They are
    /// dropped until the next checkpoint, and each asks for that.
    is_cut_off: bool,
}

/// The connection is one more than the limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyConnections;

impl ConnectionsAhead {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.account.is_clear() && !self.is_cut_off
    }

    /// Nothing that comes from now on is of a connection that is known.
    pub(super) fn cut_off(&mut self) {
        self.is_cut_off = true;
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// The opening of the connection that the secondary is in.
    pub(super) fn newest(&self) -> Option<&Openings> {
        self.entries.iter().rev().find_map(|entry| match entry {
            AheadEntry::Opening(openings) => Some(openings),
            AheadEntry::Frame(_) => None,
        })
    }

    /// The opening of the next connection, if no frame waits before it.
    pub(super) fn next(&self) -> Option<&Openings> {
        match self.entries.front()? {
            AheadEntry::Opening(openings) => Some(openings),
            AheadEntry::Frame(_) => None,
        }
    }

    /// The secondary opens a connection, if it is not ahead by `connections_max` already.
    pub(super) fn open(
        &mut self,
        opening: Opening,
        connections_max: usize,
    ) -> Result<(), TooManyConnections> {
        if self.openings >= connections_max {
            self.cut_off();
            return Err(TooManyConnections);
        }
        self.openings += 1;
        let mut openings = Openings::default();
        openings.set(opening);
        self.entries.push_back(AheadEntry::Opening(openings));
        Ok(())
    }

    /// The frames in front are of a connection of their own, with these `openings`.
    pub(super) fn begin_with(&mut self, openings: Openings) {
        self.openings += 1;
        self.entries.push_front(AheadEntry::Opening(openings));
    }

    /// Lets `frame` wait for the connection that was opened last, if the limits allow. Its data is
    /// `payload`.
    pub(super) fn keep(
        &mut self,
        ledger: &mut Ledger,
        flow: ChainKey,
        frame: &Frame,
        payload: std::ops::Range<usize>,
    ) {
        if let Some(key) = ledger.wait(flow, &mut self.account, frame, payload) {
            self.entries.push_back(AheadEntry::Frame(key));
        }
    }

    /// Takes the first opening that may be the counterpart of the primary's. Drops the frames of the
    /// connections before it: the primary has passed these connections over.
    pub(super) fn take_opening(&mut self, ledger: &mut Ledger, opening: &Opening) -> Openings {
        while let Some(entry) = self.entries.pop_front() {
            match entry {
                AheadEntry::Opening(openings) => {
                    self.openings -= 1;
                    if openings.may_answer(opening) {
                        return openings;
                    }
                }
                AheadEntry::Frame(key) => ledger.forget(&mut self.account, key),
            }
            ledger.stats.secondary_dropped.old_connection += 1;
        }
        Openings::default()
    }

    /// Takes the opening in front.
    pub(super) fn take_next(&mut self) -> Option<Openings> {
        let openings = *self.next()?;
        self.entries.pop_front();
        self.openings -= 1;
        Some(openings)
    }

    /// Takes the frame in front, if it is not of the next connection.
    pub(super) fn take_frame(&mut self, ledger: &mut Ledger) -> Option<Frame> {
        let Some(AheadEntry::Frame(key)) = self.entries.front() else { return None };
        let key = *key;
        self.entries.pop_front();
        shrink(&mut self.entries);
        ledger.take_waiting(&mut self.account, key)
    }

    /// Drops everything. Returns the number of frames.
    pub(super) fn drop_all(&mut self, ledger: &mut Ledger) -> u64 {
        let mut dropped = 0;
        for entry in self.entries.drain(..) {
            if let AheadEntry::Frame(key) = entry {
                ledger.forget(&mut self.account, key);
                dropped += 1;
            }
        }
        *self = Self::default();
        dropped
    }
}
