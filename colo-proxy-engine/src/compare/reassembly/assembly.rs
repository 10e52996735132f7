//! One packet and its fragments.

use std::time::Instant;

use super::{FragmentPiece, WholeFragments};

/// The largest payload that an IP header can announce.
const PAYLOAD_MAX: u32 = 65535;
/// Fragments of one packet. At the smallest size that IPv4 must take (RFC 791: 68 bytes with the
/// header) the largest packet has 1366; beyond this nobody is sending packets.
const PIECES_MAX: usize = 2048;

/// The effect of a fragment on its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddedFragment {
    /// More is missing.
    Incomplete,
    /// Nothing is.
    Complete,
    /// The very same came before.
    Repeats,
    /// It overlaps another one, or lies where none can: these make no packet (RFC 5722,
    /// RFC 8200 section 4.5).
    Contradicts,
    /// The packet was given up before.
    TooLate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AssemblyState {
    Young,
    /// Too old: its fragments are compared on their own, unless all are there after all.
    Aged,
    GivenUp,
}

#[derive(Debug)]
pub(super) struct PacketAssembly {
    /// When its first fragment came; then, when its fragments were left on their own.
    pub(super) since: Instant,
    /// Its memory in bytes.
    pub(super) bytes: usize,
    state: AssemblyState,
    /// By place.
    pieces: Vec<FragmentPiece>,
    repeated: Vec<FragmentPiece>,
    /// Bytes of payload, and how many of them are here.
    total: Option<u32>,
    have: u32,
}

impl AddedFragment {
    /// The fragment is remembered.
    pub(super) fn is_kept(self) -> bool {
        matches!(self, Self::Incomplete | Self::Complete | Self::Repeats)
    }
}

impl PacketAssembly {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
            state: AssemblyState::Young,
            pieces: Vec::new(),
            repeated: Vec::new(),
            total: None,
            have: 0,
        }
    }

    /// Its fragments are compared on their own.
    pub(super) fn is_alone(&self) -> bool {
        self.state != AssemblyState::Young
    }

    pub(super) fn add(&mut self, piece: &FragmentPiece) -> AddedFragment {
        if self.state == AssemblyState::GivenUp {
            return AddedFragment::TooLate;
        }
        let at = self.pieces.partition_point(|p| p.fragment.offset < piece.fragment.offset);
        if self.pieces.get(at).is_some_and(|other| is_same(other, piece)) {
            if self.repeated.len() >= PIECES_MAX {
                return AddedFragment::Contradicts;
            }
            self.repeated.push(piece.clone());
            return AddedFragment::Repeats;
        }
        if !self.fits(at, piece) {
            return AddedFragment::Contradicts;
        }
        let (offset, reach) = (u32::from(piece.fragment.offset), piece.fragment.reach());
        if !piece.fragment.more {
            self.total = Some(reach);
        }
        self.have += reach - offset;
        self.pieces.insert(at, piece.clone());
        // Nothing overlaps and nothing lies beyond the end, so as many bytes are all of them.
        if self.total == Some(self.have) {
            AddedFragment::Complete
        } else {
            AddedFragment::Incomplete
        }
    }

    /// `piece` can stand at `at`, between those that are here.
    fn fits(&self, at: usize, piece: &FragmentPiece) -> bool {
        let (offset, reach) = (u32::from(piece.fragment.offset), piece.fragment.reach());
        let len = reach - offset;
        // All but the last end at a multiple of eight bytes.
        let is_sound = len > 0 && reach <= PAYLOAD_MAX && (!piece.fragment.more || len % 8 == 0);
        let before = at.checked_sub(1).and_then(|at| self.pieces.get(at));
        let behind = self.pieces.get(at);
        // The end, if it is known, is the last piece's; a second end would be another.
        let is_before_the_end = match (self.total, piece.fragment.more) {
            (None, true) => true,
            (None, false) => behind.is_none(),
            (Some(total), more) => more && reach <= total,
        };
        is_sound
            && is_before_the_end
            && self.pieces.len() < PIECES_MAX
            && before.is_none_or(|before| before.fragment.reach() <= offset)
            && behind.is_none_or(|behind| reach <= u32::from(behind.fragment.offset))
    }

    /// It took too long: its fragments in order of arrival.
    pub(super) fn leave_alone(&mut self, now: Instant) -> Vec<FragmentPiece> {
        self.state = AssemblyState::Aged;
        self.since = now;
        let (pieces, repeated) = (self.pieces.clone(), self.repeated.clone());
        WholeFragments { pieces, repeated, were_alone: false }.into_arrivals()
    }

    /// Likewise returns the fragments that were not on their own before. Takes no more.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<FragmentPiece> {
        let was_alone = self.is_alone();
        self.state = AssemblyState::GivenUp;
        self.since = now;
        self.bytes = 0;
        let whole = WholeFragments {
            pieces: std::mem::take(&mut self.pieces),
            repeated: std::mem::take(&mut self.repeated),
            were_alone: was_alone,
        };
        if was_alone { Vec::new() } else { whole.into_arrivals() }
    }

    pub(super) fn into_whole(self) -> WholeFragments {
        let Self { pieces, repeated, .. } = self;
        WholeFragments { pieces, repeated, were_alone: false }
    }
}

/// The very same fragment.
fn is_same(a: &FragmentPiece, b: &FragmentPiece) -> bool {
    a.fragment.offset == b.fragment.offset
        && a.fragment.more == b.fragment.more
        && a.payload() == b.payload()
}
