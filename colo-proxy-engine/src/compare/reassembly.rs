//! Packets that come in fragments, put together for comparison.
//!
//! Two guests split the same packet in different places and give it different ids, so fragments
//! alone tell little. Whole packets are compared like any other. The fragments themselves leave.
//!
//! A packet that stays incomplete for [`Limits::fragment_timeout`], or whose fragments contradict
//! each other, is compared fragment by fragment: two guests that send the same part of a packet
//! agree all the same. An incomplete one is remembered for a while longer. If the rest comes after
//! all, and no fragment was matched on its own meanwhile, it is a whole packet again: the other
//! guest's may have been complete in time.

mod assembly;
mod copy;
mod packets;

use std::time::Instant;

use colo_proxy_common::record::FlowKey;

pub(super) use self::copy::whole;
use self::packets::IncompletePackets;
use super::Side;
use super::classify::Fragment;
use super::limits::Limits;
use super::packet::HeldTicket;
use super::stats::Fragments;
use crate::frame::Frame;

/// A fragment in hand.
#[derive(Clone, Debug)]
pub(super) struct FragmentPiece {
    pub(super) fragment: Fragment,
    pub(super) frame: Frame,
    /// The flow in which it is compared if it stays alone.
    pub(super) name: FlowKey,
    /// The held frame in the ledger, if it is a primary's.
    pub(super) ticket: Option<HeldTicket>,
    /// Grows with every fragment of its guest.
    pub(super) serial: u64,
}

/// The state of a fragment after it was added to its packet.
#[derive(Debug)]
pub(super) enum FragmentOutcome {
    /// More of its packet is to come.
    Kept,
    /// These are to be compared on their own.
    Alone(Vec<FragmentPiece>),
    /// Its packet is complete.
    Whole(WholeFragments),
}

/// All fragments of a packet.
#[derive(Debug, Default)]
pub(super) struct WholeFragments {
    /// By place, without repetitions.
    pub(super) pieces: Vec<FragmentPiece>,
    pub(super) repeated: Vec<FragmentPiece>,
    /// All but the last to come were given out to be compared on their own.
    pub(super) were_alone: bool,
}

/// The incomplete packets of both guests.
#[derive(Debug)]
pub(super) struct Reassembly {
    primary: IncompletePackets,
    secondary: IncompletePackets,
}

impl FragmentPiece {
    /// Its bytes in the packet.
    fn payload(&self) -> &[u8] {
        self.fragment.payload(self.frame.ethernet())
    }
}

impl WholeFragments {
    /// Every fragment in order of arrival.
    pub(super) fn into_arrivals(self) -> Vec<FragmentPiece> {
        let mut all = self.pieces;
        all.extend(self.repeated);
        all.sort_unstable_by_key(|piece| piece.serial);
        all
    }
}

impl Reassembly {
    pub(super) fn new(seed: u64) -> Self {
        Self { primary: IncompletePackets::new(seed), secondary: IncompletePackets::new(seed) }
    }

    fn of(&mut self, side: Side) -> &mut IncompletePackets {
        match side {
            Side::Primary => &mut self.primary,
            Side::Secondary => &mut self.secondary,
        }
    }

    /// Takes a fragment of the guest of `side`.
    pub(super) fn add(
        &mut self,
        now: Instant,
        side: Side,
        piece: FragmentPiece,
        limits: &Limits,
        stats: &mut Fragments,
    ) -> FragmentOutcome {
        let outcome = self.of(side).add(now, piece, limits, stats);
        self.gauge(stats);
        outcome
    }

    /// When [`Self::pop_due`] next has something.
    pub(super) fn next_timeout(&self, limits: &Limits) -> Option<Instant> {
        let due = [&self.primary, &self.secondary].map(|packets| packets.next_timeout(limits));
        due.into_iter().flatten().min()
    }

    /// The fragments of a packet that stayed incomplete for too long.
    pub(super) fn pop_due(
        &mut self,
        now: Instant,
        limits: &Limits,
        stats: &mut Fragments,
    ) -> Option<(Side, Vec<FragmentPiece>)> {
        let due = [Side::Primary, Side::Secondary].into_iter().find_map(|side| {
            let pieces = self.of(side).pop_due(now, limits)?;
            Some((side, pieces))
        });
        stats.timed_out += u64::from(due.is_some());
        self.gauge(stats);
        due
    }

    /// A checkpoint was made, or protection turned off. Returns the number of fragments of the
    /// secondary that are dropped. The ledger has released those of the primary.
    pub(super) fn clear(&mut self, stats: &mut Fragments) -> u64 {
        let dropped = self.secondary.clear();
        self.primary.clear();
        self.gauge(stats);
        dropped
    }

    fn gauge(&self, stats: &mut Fragments) {
        let both = [self.primary.usage(), self.secondary.usage()];
        stats.incomplete_packets = both.iter().map(|usage| usage.packets as u64).sum();
        stats.incomplete_bytes = both.iter().map(|usage| usage.bytes as u64).sum();
    }
}
