//! The compare engine: decides which output of the primary guest may leave.
//!
//! # The rule
//!
//! A frame of the primary guest leaves only if
//! (a) the secondary guest has produced the same bytes at the same place of the same flow and has
//!     acknowledged at least as much as the frame acknowledges, or
//! (b) a checkpoint whose state was captured after the frame was produced has been completely
//!     received by the secondary, or
//! (c) protection is off.
//!
//! # The contract
//!
//! The engine does no I/O and has no clock: the caller hands in every frame with the time
//! ([`Engine::on_frame`]), calls [`Engine::on_timeout`] when [`Engine::poll_timeout`] says so, and
//! carries out the [`Output`]. No input of a guest makes the engine panic. [`Limits`] bound
//! everything. Where the guests agree and the buffers have grown, the engine allocates only for
//! packets in fragments.
//!
//! * The engine compares packets: it puts the fragments of one together first, and one frame may be
//!   many datagrams. The frames leave as they came.
//! * Frames come in the order in which each guest produced them. Numbers of the secondary are in
//!   the primary's space, except that its SYN and SYN/ACK may carry a number of its own.
//! * [`Engine::checkpoint_began`] takes the cut: call it while the primary guest is stopped and its
//!   output so far has been handed in. Output handed in later belongs to the new epoch, and earlier
//!   output of the secondary cannot vouch for it. So the engine holds it untouched until
//!   [`Engine::checkpoint_done`] or [`Engine::checkpoint_failed`].
//! * Secondary frames that were produced before a checkpoint must not be handed in after it; report
//!   them with [`Engine::dropped_stale`] instead.
//! * A request in [`Output::requests`] stays outstanding until `checkpoint_done` or
//!   `checkpoint_failed`; until then no other is raised.
//! * Where [`Engine::has_room`] is false, stop reading the primary's output: nothing held is ever
//!   dropped. Likewise [`Engine::has_room_for`] the secondary.

#![allow(
    clippy::inline_always,
    reason = "every frame goes through here: results of a hundred bytes are not to be moved"
)]

mod admission;
mod body;
mod chain;
mod classify;
mod content;
mod datagram;
mod divergence;
mod fragments;
mod hashing;
pub mod hex;
mod index;
mod ledger;
mod limits;
mod multiset;
mod packet;
mod policy;
mod reason;
mod reassembly;
mod requests;
mod stats;
mod summary;
mod table;
mod tcp;
mod timers;
mod waiting_bytes;
mod wheel;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Instant;

use colo_proxy_common::decode::Tcp;
use colo_proxy_common::record::FlowKey;

pub(crate) use self::classify::segment;
pub use self::content::{Content, DatagramContent, content};
pub use self::divergence::{Captured, Context, Divergence, FlowName, WaitsFor};
pub use self::limits::Limits;
pub use self::policy::Policy;
pub use self::reason::{Reason, ReasonCounts};
pub use self::stats::{
    Differences, Evicted, Fragments, Kinds, MalformedCounts, Released, SecondaryDropped, Stats,
    Traffic,
};

use self::body::DatagramBody;
use self::chain::ChainKey;
use self::classify::{ClassifiedFrame, FrameSubject, classify};
use self::datagram::DatagramFlow;
use self::ledger::{HeldKind, Ledger, ReleaseCause};
use self::packet::WholePacket;
use self::reassembly::Reassembly;
use self::table::{FlowKind, FlowTable};
use self::tcp::FlowScope;
pub(crate) use self::tcp::bare_acknowledgment;
use crate::frame::Frame;

/// Whose output a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest whose output the network receives.
    Primary,
    /// The copy of that guest on the other host.
    Secondary,
}

/// The work for the caller. Each call adds to it, so one buffer can serve many calls. The caller
/// takes or clears it.
#[derive(Debug, Default)]
pub struct Output {
    /// Frames to send, in this order, as they came in.
    pub release: Vec<Frame>,
    /// Frames of the engine's own making, to send after those: acknowledgments of what both guests
    /// have received, for a peer that would otherwise wait for the secondary for ever.
    pub acknowledgments: Vec<Frame>,
    /// A checkpoint to ask for now: one reason at most is added per call, and none while a request
    /// is outstanding. Reasons that come up meanwhile are counted in [`Stats::reasons`].
    pub requests: Vec<Reason>,
}

impl Output {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.release.clear();
        self.acknowledgments.clear();
        self.requests.clear();
    }

    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.release.is_empty() && self.acknowledgments.is_empty() && self.requests.is_empty()
    }
}

/// A checkpoint that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Outstanding {
    /// The reason of the request.
    pub reason: Reason,
    /// When, on the caller's clock.
    #[serde(skip)]
    pub since: Instant,
    /// The same, in milliseconds since the engine saw its first frame.
    pub since_ms: u64,
    /// Everything that it will settle, `reason` included, and how often each came up.
    pub reasons: ReasonCounts,
}

/// The comparison of one pair of guests.
#[derive(Debug)]
pub struct Engine {
    table: FlowTable,
    ledger: Ledger,
    reassembly: Reassembly,
    /// Primary frames that came after the cut, while a checkpoint is made.
    deferred: VecDeque<Frame>,
    /// How many of those came before the present cut: the previous checkpoint failed.
    deferred_before_cut: usize,
    /// The next frames of a batch, classified.
    ahead: Vec<ClassifiedFrame>,
}

/// Frames of a batch that are classified before the first of them is compared.
const AHEAD_MAX: usize = 32;

impl Engine {
    /// An engine without flows. `seed` must not be known to the guests: it keeps them from choosing
    /// flows that collide in the table.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            table: FlowTable::new(seed, limits.awake_flows_max),
            ledger: Ledger::new(limits, seed),
            reassembly: Reassembly::new(seed),
            deferred: VecDeque::new(),
            deferred_before_cut: 0,
            ahead: Vec::new(),
        }
    }

    /// Takes a frame that the guest of `side` put out.
    pub fn on_frame(&mut self, now: Instant, side: Side, frame: Frame, out: &mut Output) {
        self.ledger.set_now(now);
        let mut seen = ClassifiedFrame::default();
        seen.look_at(&frame);
        self.take(side, frame, &seen, out);
    }

    /// Takes `frames` from the front while there is room for those of `side`. The result is that of
    /// [`Engine::on_frame`] for each. It is faster with many flows: it fetches the memory of the
    /// next ones all at once, and no frame has to wait for it.
    pub fn on_frames(
        &mut self,
        now: Instant,
        side: Side,
        frames: &mut VecDeque<Frame>,
        out: &mut Output,
    ) {
        self.ledger.set_now(now);
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.resize_with(AHEAD_MAX, ClassifiedFrame::default);
        while !frames.is_empty() && self.has_room_for(side) {
            for (seen, frame) in ahead.iter_mut().zip(frames.iter()) {
                seen.look_at(frame);
            }
            let count = frames.len().min(AHEAD_MAX);
            let seen = ahead.get_mut(..count).unwrap_or_default();
            self.table.fetch(seen);
            for seen in seen {
                if !self.has_room_for(side) {
                    break;
                }
                let Some(frame) = frames.pop_front() else { break };
                self.take(side, frame, seen, out);
            }
        }
        self.ahead = ahead;
    }

    #[inline(always)]
    fn take(&mut self, side: Side, frame: Frame, seen: &ClassifiedFrame, out: &mut Output) {
        self.resume_deferred(out);
        let ClassifiedFrame { subject, malformed, place, .. } = seen;
        self.table.expect(*place);
        let malformed = *malformed;
        let stats = &mut self.ledger.stats;
        match side {
            Side::Primary => stats.primary.add(frame.len()),
            Side::Secondary => stats.secondary.add(frame.len()),
        }
        if let Some(malformed) = malformed {
            stats.malformed.add(malformed);
        }
        let policy = self.policy(subject, malformed);
        let is_underway = self.ledger.requests.is_underway();
        if side == Side::Primary && policy != Policy::Release && is_underway {
            self.defer(frame);
        } else {
            self.admit(side, (subject, policy), frame.into(), out);
        }
        self.raise(out);
    }

    /// Asks for a checkpoint for a reason that the engine does not see.
    pub fn request_checkpoint(&mut self, now: Instant, reason: Reason, out: &mut Output) {
        self.ledger.set_now(now);
        self.ledger.ask(reason);
        self.raise(out);
    }

    /// Takes the cut: every frame held now belongs to the old epoch.
    pub fn checkpoint_began(&mut self, now: Instant) {
        self.ledger.set_now(now);
        self.deferred_before_cut = self.deferred.len();
        self.ledger.requests.began();
    }

    /// The secondary has received the state at the cut. Everything up to the cut leaves in order of
    /// arrival, and earlier output of the secondary is void.
    pub fn checkpoint_done(&mut self, now: Instant, out: &mut Output) {
        self.ledger.set_now(now);
        self.ledger.stats.checkpoints += 1;
        // Their flows have to know of them before they are covered.
        let before_cut = std::mem::take(&mut self.deferred_before_cut);
        self.compare_deferred(before_cut, out);
        self.ledger.requests.done();
        self.ledger.flush(ReleaseCause::Checkpoint, out);
        let dropped = self.reassembly.clear(&mut self.ledger.stats.fragments);
        self.ledger.stats.secondary_dropped.stale += dropped;
        self.resume_deferred(out);
        self.raise(out);
    }

    /// The checkpoint failed. Its reasons remain, and the engine may ask again after
    /// [`Limits::request_retry`]. The next call compares the output that came after the cut.
    pub fn checkpoint_failed(&mut self, now: Instant) {
        self.ledger.set_now(now);
        self.ledger.stats.checkpoints_failed += 1;
        let retry = self.ledger.limits.request_retry;
        self.ledger.requests.failed(now, retry);
        if !self.has_room() {
            self.ledger.ask(Reason::Limit);
        }
    }

    /// The secondary has another state, and nobody knows which output of the primary that state
    /// contains. Nothing that the secondary has sent counts any more. All held frames stay held.
    pub fn start_over(&mut self, now: Instant, out: &mut Output) {
        let released = self.ledger.stats.released;
        let mut held = Output::default();
        self.release_all(now, &mut held);
        self.ledger.stats.released = released;
        for frame in held.release {
            let (subject, malformed) = classify(&frame);
            let policy = self.policy(&subject, malformed);
            self.admit(Side::Primary, (&subject, policy), frame.into(), out);
        }
    }

    /// Protection is off: everything held leaves, and nothing is known of the secondary any more.
    pub fn release_all(&mut self, now: Instant, out: &mut Output) {
        self.ledger.set_now(now);
        self.ledger.requests.done();
        self.ledger.flush(ReleaseCause::Unprotected, out);
        let dropped = self.reassembly.clear(&mut self.ledger.stats.fragments);
        self.ledger.stats.secondary_dropped.unprotected += dropped;
        while let Some(frame) = self.deferred.pop_front() {
            self.ledger.stats.held.sub(frame.len());
            self.ledger.pass(frame, ReleaseCause::Unprotected, out);
        }
        self.table.clear(&mut self.ledger);
    }

    /// `false`: stop reading the primary's output until there is room. A checkpoint was asked for.
    pub fn has_room(&self) -> bool {
        self.ledger.has_room(Side::Primary)
    }

    /// `false`: stop reading the output of `side` until there is room. Secondary output beyond
    /// twice the limit is dropped and counted, at the cost of a checkpoint.
    pub fn has_room_for(&self, side: Side) -> bool {
        self.ledger.has_room(side)
    }

    /// Counts secondary frames that the caller dropped because they are of an older epoch.
    pub fn dropped_stale(&mut self, frames: u64) {
        self.ledger.stats.secondary_dropped.stale += frames;
    }

    /// The counters, and how much is held and waits now.
    pub fn stats(&self) -> &Stats {
        &self.ledger.stats
    }

    /// The checkpoint that was asked for and has neither been done nor failed. `None` also while a
    /// checkpoint is made that nobody asked for.
    pub fn outstanding(&self) -> Option<Outstanding> {
        let (reason, since, reasons) = self.ledger.requests.outstanding()?;
        let since_ms = self.ledger.ms_since_start(since);
        Some(Outstanding { reason, since, since_ms, reasons })
    }

    /// Checkpoints, and times that protection was turned off.
    pub fn epoch(&self) -> u64 {
        self.ledger.epoch
    }

    /// The last divergences, oldest first.
    pub fn divergences(&self) -> impl Iterator<Item = &Divergence> {
        self.ledger.divergences.iter()
    }

    #[inline(always)]
    fn compare(
        &mut self,
        side: Side,
        subject: &FrameSubject,
        packet: WholePacket,
        out: &mut Output,
    ) {
        match subject {
            FrameSubject::Tcp(name, tcp) => self.compare_tcp(side, name, tcp, packet, out),
            FrameSubject::Datagram(name, body) => {
                self.compare_datagram(side, name, *body, packet, out);
            }
            FrameSubject::Fragment(name, fragment) => {
                self.on_fragment(side, (*name, *fragment), packet.frame, out);
            }
            FrameSubject::Uncompared(_) => {}
        }
    }

    fn compare_tcp(
        &mut self,
        side: Side,
        name: &FlowKey,
        tcp: &Tcp,
        packet: WholePacket,
        out: &mut Output,
    ) {
        let found = self.table.find(name, &mut self.ledger, || FlowKind::AtRest);
        let Some((key, flow)) = found else { return self.overflow(side, name, packet) };
        let FlowKind::Tcp(state) = &mut flow.kind else { return };
        let mut scope = FlowScope { ledger: &mut self.ledger, name, flow: key };
        match side {
            Side::Primary => state.on_primary(&mut scope, packet, tcp, out),
            Side::Secondary => state.on_secondary(&mut scope, &packet.frame, tcp, out),
        }
        // A frame that may leave must not be left to the next flow.
        debug_assert!(self.ledger.ready.is_empty(), "frames are ready and have not left");
        let timer = state.timer(&self.ledger);
        let is_settled = flow.is_settled();
        if let Some(at) = timer {
            self.table.start_timer(key, at, &mut self.ledger);
        }
        if !is_settled {
            self.table.settle(key);
        }
    }

    fn compare_datagram(
        &mut self,
        side: Side,
        name: &FlowKey,
        body: DatagramBody,
        packet: WholePacket,
        out: &mut Output,
    ) {
        let mut packet = Some(packet);
        self.with_datagrams(name, |state, ledger, flow| match (side, packet.take()) {
            (Side::Primary, Some(packet)) => state.on_primary(ledger, flow, packet, body, out),
            (Side::Secondary, Some(packet)) => {
                state.on_secondary(ledger, flow, &packet.frame, body, out);
            }
            (_, None) => {}
        });
        if let Some(packet) = packet {
            self.overflow(side, name, packet);
        }
    }

    /// Does `work` on the flow `name`, unless none can be remembered.
    fn with_datagrams(
        &mut self,
        name: &FlowKey,
        work: impl FnOnce(&mut DatagramFlow, &mut Ledger, ChainKey),
    ) -> Option<()> {
        let (key, flow) = self.table.find(name, &mut self.ledger, || FlowKind::Silent)?;
        let FlowKind::Datagram(state) = &mut flow.kind else { return None };
        work(state, &mut self.ledger, key);
        state.check_count(&mut self.ledger, name);
        if let Some(at) = state.start_timer(&self.ledger) {
            self.table.start_timer(key, at, &mut self.ledger);
        }
        Some(())
    }

    /// No flow can be remembered: the packet waits for a checkpoint.
    fn overflow(&mut self, side: Side, name: &FlowKey, packet: WholePacket) {
        match side {
            Side::Primary => {
                self.ledger.hold(packet, HeldKind::Checkpoint);
                self.overflowed(name);
            }
            Side::Secondary => self.ledger.stats.secondary_dropped.no_flow += 1,
        }
    }

    fn overflowed(&mut self, name: &FlowKey) {
        self.table.refuse(name, self.ledger.epoch);
        self.ledger.stats.overflowed += 1;
        self.ledger.ask(Reason::FlowTableFull);
    }

    /// Puts a frame aside that came after the cut.
    fn defer(&mut self, frame: Frame) {
        self.ledger.stats.held.add(frame.len());
        self.deferred.push_back(frame);
    }

    /// Takes the frames that came after the cut as if they came now, unless the checkpoint is still
    /// being made.
    #[inline]
    fn resume_deferred(&mut self, out: &mut Output) {
        if self.deferred.is_empty() || self.ledger.requests.is_underway() {
            return;
        }
        self.compare_deferred(self.deferred.len(), out);
    }

    fn compare_deferred(&mut self, frames: usize, out: &mut Output) {
        for _ in 0..frames {
            let Some(frame) = self.deferred.pop_front() else { return };
            self.ledger.stats.held.sub(frame.len());
            let (subject, malformed) = classify(&frame);
            let policy = self.policy(&subject, malformed);
            self.admit(Side::Primary, (&subject, policy), frame.into(), out);
        }
    }

    fn raise(&mut self, out: &mut Output) {
        let now = self.ledger.now();
        if let Some(reason) = self.ledger.requests.raise(now, &mut self.ledger.stats) {
            out.requests.push(reason);
        }
    }
}

/// Frees the memory of a queue that ran empty, if it is much: a flow that was busy once must not
/// keep it for ever. As many entries were pushed before, so the cost for each is next to nothing.
fn shrink<T>(queue: &mut VecDeque<T>) {
    const CAPACITY_KEPT: usize = 256;
    if queue.is_empty() && queue.capacity() > CAPACITY_KEPT {
        queue.shrink_to(CAPACITY_KEPT / 4);
    }
}
