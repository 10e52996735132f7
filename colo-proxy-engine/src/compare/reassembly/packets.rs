//! The incomplete packets of one guest, within limits.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use super::assembly::{AddedFragment, PacketAssembly};
use super::{FragmentOutcome, FragmentPiece, WholeFragments};
use crate::compare::chain::{Chain, ChainEnds, ChainKey};
use crate::compare::hashing::{HashState, state};
use crate::compare::limits::Limits;
use crate::compare::stats::Fragments;

/// Memory of a fragment beside its bytes, in bytes.
const PIECE_COST: usize = 256;

/// One packet: tags, addresses and, of IPv4, the protocol (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PacketKey {
    flow: FlowKey,
    id: u32,
}

/// The source of fragments, as their headers state it: VLAN tags and address.
type Source = ([u16; 2], [u8; 16]);

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FragmentUsage {
    pub(super) packets: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
struct PacketEntry {
    key: PacketKey,
    assembly: PacketAssembly,
}

/// The packets of one guest that are not complete.
#[derive(Debug)]
pub(super) struct IncompletePackets {
    index: HashMap<PacketKey, ChainKey, HashState>,
    entries: Chain<PacketEntry>,
    /// In order of their first fragment.
    young: ChainEnds,
    /// Those whose fragments are compared on their own, in order of when that began.
    alone: ChainEnds,
    usage: FragmentUsage,
    sources: HashMap<Source, FragmentUsage, HashState>,
    serial: u64,
}

impl PacketKey {
    fn new(piece: &FragmentPiece) -> Self {
        let mut flow = piece.name;
        if flow.ip_version == 6 {
            // Only that of the first fragment says what the packet is.
            flow.protocol = 0;
        }
        Self { flow, id: piece.fragment.id }
    }

    fn source(&self) -> Source {
        (self.flow.vlan, self.flow.guest_addr)
    }
}

impl IncompletePackets {
    pub(super) fn new(seed: u64) -> Self {
        let state = || state(seed);
        Self {
            index: HashMap::with_hasher(state()),
            entries: Chain::default(),
            young: ChainEnds::default(),
            alone: ChainEnds::default(),
            usage: FragmentUsage::default(),
            sources: HashMap::with_hasher(state()),
            serial: 0,
        }
    }

    pub(super) fn usage(&self) -> FragmentUsage {
        self.usage
    }

    pub(super) fn add(
        &mut self,
        now: Instant,
        mut piece: FragmentPiece,
        limits: &Limits,
        stats: &mut Fragments,
    ) -> FragmentOutcome {
        self.serial += 1;
        piece.serial = self.serial;
        let name = PacketKey::new(&piece);
        let known = self.index.get(&name).copied();
        if !self.has_room(&name, known.is_none(), cost(&piece), limits) {
            stats.limit += 1;
            let mut pieces = known.map(|key| self.give_up(now, key)).unwrap_or_default();
            pieces.push(piece);
            return FragmentOutcome::Alone(pieces);
        }
        let key = known.unwrap_or_else(|| self.open(name, now));
        self.put(now, key, piece, stats)
    }

    /// Puts `piece` into its packet.
    fn put(
        &mut self,
        now: Instant,
        key: ChainKey,
        piece: FragmentPiece,
        stats: &mut Fragments,
    ) -> FragmentOutcome {
        let Some(entry) = self.entries.get_mut(key) else {
            return FragmentOutcome::Alone(vec![piece]);
        };
        let were_alone = entry.assembly.is_alone();
        let added = entry.assembly.add(&piece);
        if added.is_kept() {
            let name = entry.key;
            entry.assembly.bytes += cost(&piece);
            self.charge(&name, cost(&piece));
        }
        stats.repeated += u64::from(added == AddedFragment::Repeats);
        stats.contradictory += u64::from(added == AddedFragment::Contradicts);
        match added {
            AddedFragment::Complete => {
                stats.reassembled += 1;
                let whole = self.remove(key).map(|entry| entry.assembly.into_whole());
                FragmentOutcome::Whole(WholeFragments { were_alone, ..whole.unwrap_or_default() })
            }
            AddedFragment::Contradicts => {
                let mut pieces = self.give_up(now, key);
                pieces.push(piece);
                FragmentOutcome::Alone(pieces)
            }
            _ if were_alone => FragmentOutcome::Alone(vec![piece]),
            _ => FragmentOutcome::Kept,
        }
    }

    pub(super) fn next_timeout(&self, limits: &Limits) -> Option<Instant> {
        let due = |ends: ChainEnds, after: Duration| self.since(ends)?.1.checked_add(after);
        let due =
            [due(self.young, limits.fragment_timeout), due(self.alone, limits.compare_timeout)];
        due.into_iter().flatten().min()
    }

    /// The front of a list, and since when it is in it.
    fn since(&self, ends: ChainEnds) -> Option<(ChainKey, Instant)> {
        let key = ends.front()?;
        Some((key, self.entries.get(key)?.assembly.since))
    }

    /// The fragments of the oldest packet, if it is too old: in order of arrival.
    pub(super) fn pop_due(&mut self, now: Instant, limits: &Limits) -> Option<Vec<FragmentPiece>> {
        let is_due = |since: Instant, after| now.saturating_duration_since(since) >= after;
        while let Some((key, since)) = self.since(self.alone)
            && is_due(since, limits.compare_timeout)
        {
            self.remove(key);
        }
        let (key, since) = self.since(self.young)?;
        if !is_due(since, limits.fragment_timeout) {
            return None;
        }
        self.entries.move_back(&mut self.young, &mut self.alone, key);
        Some(self.entries.get_mut(key)?.assembly.leave_alone(now))
    }

    /// The packet cannot be put together: its fragments, as far as they were kept for that, and
    /// all that are still to come are on their own.
    fn give_up(&mut self, now: Instant, key: ChainKey) -> Vec<FragmentPiece> {
        let Some(entry) = self.entries.get_mut(key) else { return Vec::new() };
        let was_alone = entry.assembly.is_alone();
        let (name, bytes) = (entry.key, entry.assembly.bytes);
        let pieces = entry.assembly.give_up(now);
        if was_alone {
            self.entries.requeue(&mut self.alone, key);
        } else {
            self.entries.move_back(&mut self.young, &mut self.alone, key);
        }
        self.discharge(&name, 0, bytes);
        pieces
    }

    /// Forgets everything. Returns how many fragments were not on their own.
    pub(super) fn clear(&mut self) -> u64 {
        let mut dropped = 0;
        while let Some(entry) = self.entries.pop_front(&mut self.young) {
            dropped += entry.assembly.into_whole().into_arrivals().len() as u64;
        }
        self.entries.clear();
        self.alone = ChainEnds::default();
        self.index.clear();
        self.sources.clear();
        self.usage = FragmentUsage::default();
        dropped
    }

    // Limits.

    fn has_room(&mut self, name: &PacketKey, is_new: bool, cost: usize, limits: &Limits) -> bool {
        if is_new && self.usage.packets >= limits.fragment_packets_max {
            // One that is only remembered for the case that more of it comes.
            let Some(oldest) = self.alone.front() else { return false };
            self.remove(oldest);
        }
        let source = self.sources.get(&name.source()).copied().unwrap_or_default();
        let packets = source.packets + usize::from(is_new);
        packets <= limits.fragment_source_packets_max
            && self.usage.bytes + cost <= limits.fragment_bytes_max
            && source.bytes + cost <= limits.fragment_source_bytes_max
    }

    fn open(&mut self, name: PacketKey, now: Instant) -> ChainKey {
        let entry = PacketEntry { key: name, assembly: PacketAssembly::new(now) };
        let key = self.entries.push_back(&mut self.young, entry);
        self.index.insert(name, key);
        self.usage.packets += 1;
        self.sources.entry(name.source()).or_default().packets += 1;
        key
    }

    fn remove(&mut self, key: ChainKey) -> Option<PacketEntry> {
        let is_alone = self.entries.get(key)?.assembly.is_alone();
        let ends = if is_alone { &mut self.alone } else { &mut self.young };
        let entry = self.entries.remove(ends, key)?;
        self.index.remove(&entry.key);
        self.discharge(&entry.key, 1, entry.assembly.bytes);
        Some(entry)
    }

    fn charge(&mut self, name: &PacketKey, bytes: usize) {
        self.usage.bytes += bytes;
        self.sources.entry(name.source()).or_default().bytes += bytes;
    }

    fn discharge(&mut self, name: &PacketKey, packets: usize, bytes: usize) {
        self.usage.packets = self.usage.packets.saturating_sub(packets);
        self.usage.bytes = self.usage.bytes.saturating_sub(bytes);
        let source = name.source();
        let Some(usage) = self.sources.get_mut(&source) else { return };
        usage.packets = usage.packets.saturating_sub(packets);
        usage.bytes = usage.bytes.saturating_sub(bytes);
        if usage.packets == 0 {
            self.sources.remove(&source);
        }
    }
}

fn cost(piece: &FragmentPiece) -> usize {
    piece.frame.len() + PIECE_COST
}
