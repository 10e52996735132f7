//! The ledger: held frames and waiting pieces of all flows in order of arrival, and open requests.

mod record;

use std::ops::Range;
use std::time::Instant;

use super::body::DatagramBody;
use super::chain::{Chain, ChainEnds, ChainKey};
use super::divergence::DivergenceRing;
use super::limits::Limits;
use super::multiset::Multisets;
use super::packet::{HeldFragments, HeldTicket, WholePacket};
use super::reason::Reason;
use super::requests::Requests;
use super::stats::{SecondaryDropped, Stats};
use super::tcp::claim::SegmentClaim;
use super::waiting_bytes::{FrameBlocks, WaitingBytes};
use super::wheel::Wheel;
use super::{Output, Side};
use crate::frame::Frame;

/// A primary frame that may not leave yet.
#[derive(Debug)]
pub(super) struct HeldFrame {
    pub(super) frame: Frame,
    /// The fragments that leave in its place, where it is a copy made of them.
    pub(super) originals: Option<HeldFragments>,
    pub(super) since: Instant,
    /// Grows with every frame held: the order in which a flush releases.
    pub(super) arrival: u64,
    pub(super) kind: HeldKind,
}

impl From<HeldFrame> for WholePacket {
    fn from(HeldFrame { frame, originals, .. }: HeldFrame) -> Self {
        Self { frame, originals }
    }
}

/// The kind of a held frame: it decides who releases it.
#[derive(Clone, Copy, Debug)]
pub(super) enum HeldKind {
    /// Only a checkpoint releases it: no flow looks after it.
    Checkpoint,
    Segment(SegmentClaim),
    Datagram {
        body: DatagramBody,
        /// Datagrams in it that the secondary has not sent yet.
        missing: u32,
    },
    /// A fragment. It waits for the others of its packet, and then leaves with the packet.
    Fragment {
        packet: Option<HeldTicket>,
    },
}

/// A piece of secondary output that the primary has not produced yet.
#[derive(Debug)]
pub(super) struct WaitingPiece {
    pub(super) octets: WaitingBytes,
    pub(super) since: Instant,
    /// When its whole frame came.
    pub(super) arrived: Instant,
    /// Its flow in the table.
    pub(super) flow: ChainKey,
}

/// Why a frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReleaseCause {
    Compared,
    Checkpoint,
    Unprotected,
    Uncompared,
}

/// The frames and bytes that one flow has in the ledger on one side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlowAccount {
    frames: usize,
    bytes: usize,
    over: bool,
}

impl FlowAccount {
    pub(super) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// It equals a new one.
    #[inline]
    pub(super) fn is_clear(&self) -> bool {
        let Self { frames, bytes, over } = *self;
        frames == 0 && bytes == 0 && !over
    }
}

/// The state that all flows share.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) limits: Limits,
    pub(super) stats: Stats,
    pub(super) requests: Requests,
    pub(super) divergences: DivergenceRing,
    pub(super) blocks: FrameBlocks,
    /// Datagrams that the other side has not sent yet.
    pub(super) multisets: Multisets,
    /// When a flow wants to be looked at, one timer at most for each.
    pub(super) timers: Wheel<ChainKey>,
    /// Completed checkpoints. Everything that a flow remembers of the secondary belongs to one epoch.
    pub(super) epoch: u64,
    /// Frames that may leave once the frame in hand is dealt with: sorted by arrival then.
    pub(super) ready: Vec<(u64, ChainKey)>,
    /// Frames that got the thing that they needed, and may need another one.
    pub(super) settled: Vec<ChainKey>,
    /// Steps of loops that a guest can make longer.
    #[cfg(test)]
    pub(super) work: u64,
    held: Chain<HeldFrame>,
    held_ends: ChainEnds,
    waiting: Chain<WaitingPiece>,
    waiting_ends: ChainEnds,
    arrivals: u64,
    /// Flows over their own limit, by side.
    over: [usize; 2],
    /// The clock: the latest time that the caller named, and the first.
    now: Instant,
    start: Option<Instant>,
    now_ns: u64,
}

impl Ledger {
    #[expect(
        clippy::disallowed_methods,
        reason = "an `Instant` has no other constructor; the caller's first time replaces it"
    )]
    pub(super) fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            stats: Stats::default(),
            requests: Requests::default(),
            divergences: DivergenceRing::default(),
            blocks: FrameBlocks::default(),
            multisets: Multisets::new(seed),
            timers: Wheel::default(),
            epoch: 0,
            ready: Vec::new(),
            settled: Vec::new(),
            #[cfg(test)]
            work: 0,
            held: Chain::default(),
            held_ends: ChainEnds::default(),
            waiting: Chain::default(),
            waiting_ends: ChainEnds::default(),
            arrivals: 0,
            over: [0; 2],
            // Replaced by the first time that the caller names; the engine has no clock.
            now: Instant::now(),
            start: None,
            now_ns: 0,
        }
    }

    /// Takes the caller's time; time that runs backwards stands still.
    #[inline]
    pub(super) fn set_now(&mut self, now: Instant) {
        if self.start.is_some() && now <= self.now {
            return;
        }
        self.now = if self.start.is_some() { self.now.max(now) } else { now };
        let start = *self.start.get_or_insert(now);
        self.now_ns = self.now.saturating_duration_since(start).as_nanos() as u64;
    }

    #[inline]
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// The same, in nanoseconds since the first time that the caller named.
    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Something that came at `since` has waited for the compare timeout.
    pub(super) fn is_overdue(&self, since: Instant) -> bool {
        self.now.saturating_duration_since(since) >= self.limits.compare_timeout
    }

    pub(super) fn ask(&mut self, reason: Reason) {
        self.requests.ask(reason, &mut self.stats);
    }

    /// Counts a step of a loop that a guest can make longer, for the tests of its bounds.
    #[cfg_attr(not(test), allow(clippy::unused_self, reason = "only tests count"))]
    pub(super) fn count_work(&mut self) {
        #[cfg(test)]
        {
            self.work += 1;
        }
    }

    // Primary frames.

    /// Holds `packet`; the caller remembers the key.
    pub(super) fn hold(&mut self, packet: impl Into<WholePacket>, kind: HeldKind) -> ChainKey {
        let WholePacket { frame, originals } = packet.into();
        if originals.is_none() {
            self.stats.held.add(frame.len());
        }
        self.arrivals += 1;
        let held = HeldFrame { frame, originals, since: self.now, arrival: self.arrivals, kind };
        let is_in_fragments = held.originals.is_some();
        let key = self.held.push_back(&mut self.held_ends, held);
        if is_in_fragments {
            self.mark_originals(key);
        }
        self.ask_if_full();
        key
    }

    /// Notes which packet the fragments of `key` are held for.
    #[cold]
    fn mark_originals(&mut self, key: ChainKey) {
        let Some((packet, held)) = self.ticket(key).zip(self.held.get_mut(key)) else { return };
        let Some(originals) = held.originals.take() else { return };
        for ticket in &originals {
            if let Some(original) = self.held_for(*ticket) {
                original.kind = HeldKind::Fragment { packet: Some(packet) };
            }
        }
        if let Some(held) = self.held.get_mut(key) {
            held.originals = Some(originals);
        }
    }

    /// Only a checkpoint makes room where the secondary does not.
    #[inline]
    pub(super) fn ask_if_full(&mut self) {
        if self.is_full(Side::Primary) {
            self.ask(Reason::Limit);
        }
    }

    #[inline]
    pub(super) fn held(&self, key: ChainKey) -> Option<&HeldFrame> {
        self.held.get(key)
    }

    #[inline]
    pub(super) fn held_mut(&mut self, key: ChainKey) -> Option<&mut HeldFrame> {
        self.held.get_mut(key)
    }

    /// The held frame of `ticket`, if it is still there.
    pub(super) fn held_for(&mut self, ticket: HeldTicket) -> Option<&mut HeldFrame> {
        self.held.get_mut(ticket.key).filter(|held| held.arrival == ticket.arrival)
    }

    /// Something to find the frame `key` by even when it may have left.
    #[inline]
    pub(super) fn ticket(&self, key: ChainKey) -> Option<HeldTicket> {
        self.held.get(key).map(|held| HeldTicket { key, arrival: held.arrival })
    }

    pub(super) fn oldest_held(&self) -> Option<&HeldFrame> {
        self.held.get(self.held_ends.front()?)
    }

    /// Takes the frame that leaves first in a flush, or the packet of which it is a fragment.
    pub(super) fn oldest_held_with_key(&self) -> Option<(ChainKey, &HeldFrame)> {
        let key = self.held_ends.front()?;
        let held = self.held.get(key)?;
        if let HeldKind::Fragment { packet: Some(packet) } = held.kind
            && let Some(whole) = self.held.get(packet.key).filter(|w| w.arrival == packet.arrival)
        {
            return Some((packet.key, whole));
        }
        Some((key, held))
    }

    /// Releases a packet that was held.
    pub(super) fn release(&mut self, key: ChainKey, cause: ReleaseCause, out: &mut Output) {
        if let Some(held) = self.take(key) {
            self.pass(held, cause, out);
        }
    }

    /// Takes a packet out that is to be released.
    #[inline]
    pub(super) fn take(&mut self, key: ChainKey) -> Option<HeldFrame> {
        let held = self.held.remove(&mut self.held_ends, key)?;
        if held.originals.is_none() {
            self.stats.held.sub(held.frame.len());
        }
        Some(held)
    }

    /// Releases a packet that is not held, or no more; its fragments are.
    #[inline]
    pub(super) fn pass(
        &mut self,
        packet: impl Into<WholePacket>,
        cause: ReleaseCause,
        out: &mut Output,
    ) {
        let WholePacket { frame, originals } = packet.into();
        match originals {
            None => self.send(frame, cause, out),
            Some(originals) => self.pass_originals(originals, cause, out),
        }
    }

    #[cold]
    fn pass_originals(&mut self, originals: HeldFragments, cause: ReleaseCause, out: &mut Output) {
        for ticket in originals {
            if self.held_for(ticket).is_some() {
                self.release(ticket.key, cause, out);
            }
        }
    }

    #[inline]
    fn send(&mut self, frame: Frame, cause: ReleaseCause, out: &mut Output) {
        let len = frame.len();
        let released = &mut self.stats.released;
        match cause {
            ReleaseCause::Compared => released.compared.add(len),
            ReleaseCause::Checkpoint => released.checkpoint.add(len),
            ReleaseCause::Unprotected => released.unprotected.add(len),
            ReleaseCause::Uncompared => released.uncompared.add(len),
        }
        out.release.push(frame);
    }

    /// Releases all held frames in order of arrival. Drops the waiting pieces of the secondary.
    pub(super) fn flush(&mut self, cause: ReleaseCause, out: &mut Output) {
        while let Some(held) = self.held.pop_front(&mut self.held_ends) {
            // Of a packet in fragments those are here too, each in its place.
            if held.originals.is_none() {
                self.stats.held.sub(held.frame.len());
                self.send(held.frame, cause, out);
            }
        }
        self.multisets.clear(cause == ReleaseCause::Checkpoint);
        let dropped = match cause {
            ReleaseCause::Unprotected => |d: &mut SecondaryDropped| d.unprotected += 1,
            _ => |d: &mut SecondaryDropped| d.stale += 1,
        };
        while let Some(waiting) = self.waiting.pop_front(&mut self.waiting_ends) {
            self.drop_waiting(waiting);
            dropped(&mut self.stats.secondary_dropped);
        }
        self.over = [0; 2];
        self.ready.clear();
        self.timers.clear();
        self.epoch += 1;
    }

    // Pieces of secondary output.

    /// Lets the bytes `range` of an Ethernet frame of the secondary wait until the primary sends the
    /// same. `None` where the limits forbid it: the drop is counted, and a checkpoint asked for. The
    /// whole frame stays in memory, so all of it counts.
    pub(super) fn wait(
        &mut self,
        flow: ChainKey,
        account: &mut FlowAccount,
        frame: &Frame,
        range: Range<usize>,
    ) -> Option<ChainKey> {
        if !self.may_wait(*account) {
            return None;
        }
        let octets = self.blocks.keep(frame, range);
        Some(self.queue(flow, account, octets, self.now))
    }

    /// Likewise `range` of a frame that is many datagrams: it is kept behind the headers, without
    /// the others.
    pub(super) fn wait_part(
        &mut self,
        flow: ChainKey,
        account: &mut FlowAccount,
        (frame, head_len): (&Frame, usize),
        range: Range<usize>,
    ) -> Option<ChainKey> {
        if !self.may_wait(*account) {
            return None;
        }
        let octets = self.blocks.keep_part(frame, head_len, range);
        Some(self.queue(flow, account, octets, self.now))
    }

    fn may_wait(&mut self, account: FlowAccount) -> bool {
        let is_beyond = self.is_beyond_twice(account);
        if is_beyond {
            self.drop_at_limit();
        }
        !is_beyond
    }

    /// Counts a frame of the secondary for which a limit leaves no room. Only a checkpoint replaces
    /// it. Every one asks: the request before it may have failed.
    pub(super) fn drop_at_limit(&mut self) {
        self.stats.secondary_dropped.limit += 1;
        self.ask(Reason::Limit);
    }

    fn queue(
        &mut self,
        flow: ChainKey,
        account: &mut FlowAccount,
        octets: WaitingBytes,
        arrived: Instant,
    ) -> ChainKey {
        let len = octets.frame().len();
        self.charge(Side::Secondary, account, len);
        self.stats.secondary_waiting.add(len);
        let waiting = WaitingPiece { octets, since: self.now, arrived, flow };
        self.waiting.push_back(&mut self.waiting_ends, waiting)
    }

    #[inline]
    pub(super) fn waiting(&self, key: ChainKey) -> Option<&WaitingPiece> {
        self.waiting.get(key)
    }

    pub(super) fn oldest_waiting(&self) -> Option<&WaitingPiece> {
        Some(self.oldest_waiting_with_key()?.1)
    }

    pub(super) fn oldest_waiting_with_key(&self) -> Option<(ChainKey, &WaitingPiece)> {
        let key = self.waiting_ends.front()?;
        Some((key, self.waiting.get(key)?))
    }

    /// Drops a piece that waited: it was matched, or nothing can match it any more.
    pub(super) fn forget(&mut self, account: &mut FlowAccount, key: ChainKey) {
        if let Some(waiting) = self.waiting.remove(&mut self.waiting_ends, key) {
            self.discharge(Side::Secondary, account, waiting.octets.frame().len());
            self.drop_waiting(waiting);
        }
    }

    /// Takes the frame of a piece that waited.
    pub(super) fn take_waiting(
        &mut self,
        account: &mut FlowAccount,
        key: ChainKey,
    ) -> Option<Frame> {
        let frame = self.waiting.get(key)?.octets.to_frame();
        self.forget(account, key);
        frame
    }

    /// Lets a piece wait for as long again.
    pub(super) fn postpone(&mut self, key: ChainKey) {
        let now = self.now;
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.since = now;
            self.waiting.requeue(&mut self.waiting_ends, key);
        }
    }

    fn drop_waiting(&mut self, waiting: WaitingPiece) {
        self.stats.secondary_waiting.sub(waiting.octets.frame().len());
        self.blocks.give_back(waiting.octets);
    }

    /// Shortens a piece to `len` bytes from `at` on.
    pub(super) fn trim(&mut self, key: ChainKey, at: usize, len: usize) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.octets.trim(at, len);
        }
    }

    /// Makes the bytes of `key` from `at` on a piece of its own, if the limits allow. Its place in
    /// the order is behind: its timer is late, never early.
    pub(super) fn split(
        &mut self,
        account: &mut FlowAccount,
        key: ChainKey,
        at: usize,
    ) -> Option<ChainKey> {
        // A primary that repeats every other byte would have every frame kept many times.
        if !self.may_wait(*account) {
            return None;
        }
        let whole = self.waiting.get(key)?;
        let (flow, arrived) = (whole.flow, whole.arrived);
        let octets = self.blocks.tail(&whole.octets, at);
        Some(self.queue(flow, account, octets, arrived))
    }

    // Limits.

    /// Adds a frame to the account of a flow.
    #[inline]
    pub(super) fn charge(&mut self, side: Side, account: &mut FlowAccount, bytes: usize) {
        account.frames += 1;
        account.bytes += bytes;
        self.weigh(side, account);
        if account.over && side == Side::Primary {
            self.ask(Reason::Limit);
        }
    }

    /// Takes a frame off the account of a flow.
    #[inline]
    pub(super) fn discharge(&mut self, side: Side, account: &mut FlowAccount, bytes: usize) {
        account.frames = account.frames.saturating_sub(1);
        account.bytes = account.bytes.saturating_sub(bytes);
        self.weigh(side, account);
    }

    /// The frames stay held, but their flow does not answer for them any more.
    pub(super) fn leave(&mut self, side: Side, account: &mut FlowAccount) {
        account.frames = 0;
        account.bytes = 0;
        self.weigh(side, account);
    }

    #[inline]
    fn weigh(&mut self, side: Side, account: &mut FlowAccount) {
        let over = account.frames >= self.limits.flow_frames_max
            || account.bytes >= self.limits.flow_bytes_max;
        if over != account.over {
            account.over = over;
            if let Some(flows) = self.over.get_mut(side as usize) {
                *flows = if over { *flows + 1 } else { flows.saturating_sub(1) };
            }
        }
    }

    /// More output of `side` can be taken.
    #[inline]
    pub(super) fn has_room(&self, side: Side) -> bool {
        !self.is_full(side) && self.over.get(side as usize) == Some(&0)
    }

    /// The limits of all flows together are reached.
    #[inline]
    fn is_full(&self, side: Side) -> bool {
        let (total, datagrams) = match side {
            Side::Primary => (self.stats.held, self.multisets.primary.len()),
            // Each is a piece of its own.
            Side::Secondary => (self.stats.secondary_waiting, 0),
        };
        total.frames.max(datagrams as u64) >= self.limits.frames_max as u64
            || total.bytes >= self.limits.bytes_max as u64
    }

    fn is_beyond_twice(&self, account: FlowAccount) -> bool {
        let (total, limits) = (self.stats.secondary_waiting, &self.limits);
        total.frames / 2 >= limits.frames_max as u64
            || total.bytes / 2 >= limits.bytes_max as u64
            || account.frames / 2 >= limits.flow_frames_max
            || account.bytes / 2 >= limits.flow_bytes_max
    }
}
