//! Pieces of the secondary's stream that the primary has not produced yet.

use std::collections::VecDeque;

use crate::compare::chain::ChainKey;
use crate::compare::ledger::{FlowAccount, Ledger};
use crate::compare::shrink;

/// A piece `start..end` of the stream, whose bytes the ledger keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamPiece {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) key: ChainKey,
}

/// Disjoint pieces in ascending order.
#[derive(Debug, Default)]
pub(super) struct StreamPieces {
    list: VecDeque<StreamPiece>,
    pub(super) account: FlowAccount,
}

impl StreamPieces {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.account.is_clear()
    }

    /// Adds a piece that overlaps none that is here.
    pub(super) fn insert(&mut self, piece: StreamPiece) {
        if self.list.back().is_none_or(|last| last.end <= piece.start) {
            self.list.push_back(piece);
        } else {
            let at = self.list.partition_point(|other| other.start < piece.start);
            self.list.insert(at, piece);
        }
    }

    /// The first part of `start..end` that no piece holds.
    #[inline]
    pub(super) fn gap(&self, start: i64, end: i64) -> Option<(i64, i64)> {
        if self.list.back().is_none_or(|last| last.end <= start) {
            return (start < end).then_some((start, end));
        }
        let mut from = start;
        let mut at = self.list.partition_point(|piece| piece.end <= start);
        while let Some(piece) = self.list.get(at) {
            if piece.start > from || from >= end {
                break;
            }
            from = piece.end;
            at += 1;
        }
        let to = self.list.get(at).map_or(end, |piece| piece.start.min(end));
        (from < to).then_some((from, to))
    }

    /// The first piece that reaches into `start..end`.
    #[inline]
    pub(super) fn overlapping(&self, start: i64, end: i64) -> Option<StreamPiece> {
        // Nearly always the first one.
        let first = self.list.front()?;
        let piece = if first.end > start {
            first
        } else {
            self.list.get(self.list.partition_point(|piece| piece.end <= start))?
        };
        (start < end && piece.start < end).then_some(*piece)
    }

    /// Takes `from..to` out of `piece`, which holds it: both guests have produced it now.
    pub(super) fn cut(&mut self, ledger: &mut Ledger, piece: StreamPiece, from: i64, to: i64) {
        if from >= to {
            return;
        }
        // Nearly always the first one.
        let at = match self.list.front() {
            Some(first) if first.start < piece.start => {
                self.list.partition_point(|other| other.start < piece.start)
            }
            _ => 0,
        };
        if from > piece.start && to < piece.end {
            let tail = ledger.split(&mut self.account, piece.key, (to - piece.start) as usize);
            if let Some(key) = tail {
                self.list.insert(at + 1, StreamPiece { start: to, end: piece.end, key });
            }
        }
        let (start, end) = if from > piece.start { (piece.start, from) } else { (to, piece.end) };
        if start >= end {
            if at == 0 {
                self.list.pop_front();
            } else {
                self.list.remove(at);
            }
            ledger.forget(&mut self.account, piece.key);
            shrink(&mut self.list);
            return;
        }
        let skip = (start - piece.start) as usize;
        ledger.trim(piece.key, skip, (end - start) as usize);
        if let Some(rest) = self.list.get_mut(at) {
            *rest = StreamPiece { start, end, key: piece.key };
        }
    }

    /// The piece whose bytes are kept under `key`. Searches all: for a difference, not for a frame.
    pub(super) fn find(&self, key: ChainKey) -> Option<StreamPiece> {
        self.list.iter().find(|piece| piece.key == key).copied()
    }

    /// Drops the pieces that end at `place` or before it. Returns their number.
    pub(super) fn drop_before(&mut self, ledger: &mut Ledger, place: i64) -> u64 {
        let mut dropped = 0;
        while let Some(piece) = self.list.pop_front_if(|piece| piece.end <= place) {
            ledger.forget(&mut self.account, piece.key);
            dropped += 1;
        }
        shrink(&mut self.list);
        dropped
    }

    /// Drops every piece. Returns their number.
    pub(super) fn drop_all(&mut self, ledger: &mut Ledger) -> u64 {
        let mut dropped = 0;
        while let Some(piece) = self.list.pop_front() {
            ledger.forget(&mut self.account, piece.key);
            dropped += 1;
        }
        shrink(&mut self.list);
        dropped
    }

    /// The ledger dropped everything: only the list is left to clear.
    pub(super) fn reset(&mut self) {
        self.list.clear();
        self.account = FlowAccount::default();
        shrink(&mut self.list);
    }
}
