//! The compare engine: decides which output of the primary guest may leave.
//!
//! # The rule
//!
//! A frame of the primary guest leaves only if
//! (a) the secondary guest has produced the same octets at the same place of the same flow and has
//!     acknowledged at least as much as the frame acknowledges, or
//! (b) a checkpoint whose state was captured after the frame was produced has been completely
//!     received by the secondary, or
//! (c) protection is off.
//!
//! # The contract
//!
//! The engine does no I/O and has no clock: the caller hands in every frame with the time
//! ([`Engine::on_frame`]), calls [`Engine::on_timeout`] when [`Engine::poll_timeout`] says so, and
//! takes what there is to do from [`Output`]. Nothing panics, whatever the guests send, and
//! everything is bounded by [`Limits`]. Where the guests agree nothing is allocated, once the
//! buffers have grown.
//!
//! * Frames come in the order in which each guest produced them. Numbers of the secondary are in
//!   the primary's space, except that its SYN and SYN/ACK may carry a number of its own.
//! * [`Engine::checkpoint_began`] takes the cut: call it while the primary guest is stopped and its
//!   output so far has been handed in. Output handed in later is of the new epoch; it is held
//!   untouched until [`Engine::checkpoint_done`], because what the secondary sent before cannot
//!   vouch for it, or [`Engine::checkpoint_failed`].
//! * Secondary frames that were produced before a checkpoint must not be handed in after it; report
//!   them with [`Engine::dropped_stale`] instead.
//! * A request in [`Output::requests`] stays outstanding until `checkpoint_done` or
//!   `checkpoint_failed`; until then no other is raised.
//! * Where [`Engine::has_room`] is false, stop reading the primary's output: nothing held is ever
//!   dropped. Likewise [`Engine::has_room_for`] the secondary.

mod chain;
mod classify;
mod datagram;
mod divergence;
mod ledger;
mod limits;
mod octets;
mod reason;
mod requests;
mod stats;
mod summary;
mod table;
mod tcp;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Instant;

use colo_proxy_common::decode::Tcp;
use colo_proxy_common::record::FlowKey;

pub use self::divergence::{Captured, Context, Divergence, FlowName, WaitsFor};
pub use self::limits::Limits;
pub use self::reason::{Reason, ReasonCounts};
pub use self::stats::{
    Evicted, Kinds, MalformedCounts, Released, SecondaryDropped, Stats, Traffic,
};

use self::classify::{Body, Subject, classify};
use self::ledger::{Cause, Ledger, What};
use self::table::{Kind, Table};
use self::tcp::Scene;
use self::timers::Timers;
use crate::frame::Frame;

/// The rule asks for a comparison of `frame`; ARP and its like leave as they come.
pub fn is_compared(frame: &Frame) -> bool {
    !matches!(classify(frame).0, Subject::Uncompared(_))
}

/// What of a frame is compared, for a caller that has to know which frames are alike.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Tcp(FlowKey, Tcp),
    Datagram(DatagramContent<'a>),
}

/// Datagrams with the same content are the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DatagramContent<'a> {
    pub(crate) name: FlowKey,
    /// What lies before and behind the checksum.
    pub(crate) parts: [&'a [u8]; 2],
    pub(crate) fragment: Option<(u16, bool)>,
}

/// The content of `frame`; `None` where it is not compared.
pub(crate) fn content(frame: &Frame) -> Option<Content<'_>> {
    match classify(frame).0 {
        Subject::Uncompared(_) => None,
        Subject::Tcp(name, tcp) => Some(Content::Tcp(name, tcp)),
        Subject::Datagram(name, body) => {
            let octets = frame.ethernet().get(body.at as usize..body.end as usize);
            let octets = octets.unwrap_or_default();
            let checksum_at = body.checksum_at.map_or(octets.len(), |at| at as usize);
            let (before, from) = octets.split_at_checked(checksum_at).unwrap_or((octets, &[]));
            let behind = from.get(2..).unwrap_or_default();
            let parts = [before, behind];
            Some(Content::Datagram(DatagramContent { name, parts, fragment: body.fragment }))
        }
    }
}

/// Whose output a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Primary,
    Secondary,
}

/// What the caller is to do. It is added to, so that one buffer can serve many calls; the caller
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
    pub fn clear(&mut self) {
        self.release.clear();
        self.acknowledgments.clear();
        self.requests.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.release.is_empty() && self.acknowledgments.is_empty() && self.requests.is_empty()
    }
}

/// The comparison of one pair of guests.
#[derive(Debug)]
pub struct Engine {
    table: Table,
    ledger: Ledger,
    timers: Timers,
    /// Primary frames of after the cut, while a checkpoint is made.
    deferred: VecDeque<Frame>,
}

impl Engine {
    /// An engine without flows. `seed` must not be known to the guests: it keeps them from choosing
    /// flows that collide in the table.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            table: Table::new(seed),
            ledger: Ledger::new(limits),
            timers: Timers::default(),
            deferred: VecDeque::new(),
        }
    }

    /// Takes a frame that the guest of `side` put out.
    pub fn on_frame(&mut self, now: Instant, side: Side, frame: Frame, out: &mut Output) {
        self.ledger.set_now(now);
        self.resume_deferred(out);
        let (subject, malformed) = classify(&frame);
        let stats = &mut self.ledger.stats;
        match side {
            Side::Primary => stats.primary.add(frame.len()),
            Side::Secondary => stats.secondary.add(frame.len()),
        }
        if let Some(malformed) = malformed {
            stats.malformed.add(malformed);
        }
        match (subject, side) {
            (Subject::Uncompared(kind), Side::Primary) => {
                stats.uncompared.add(kind);
                self.ledger.pass(frame, Cause::Uncompared, out);
            }
            (Subject::Uncompared(kind), Side::Secondary) => {
                stats.secondary_dropped.uncompared.add(kind);
            }
            (_, Side::Primary) if self.ledger.requests.is_underway() => self.defer(frame),
            (subject, side) => self.compare(side, &subject, frame, out),
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
        self.ledger.requests.began();
    }

    /// The secondary has received the state at the cut: everything up to it is released in order of
    /// arrival, and what the secondary sent before is void.
    pub fn checkpoint_done(&mut self, now: Instant, out: &mut Output) {
        self.ledger.set_now(now);
        self.ledger.stats.checkpoints += 1;
        self.ledger.requests.done();
        self.timers.clear();
        self.ledger.flush(Cause::Checkpoint, out);
        self.resume_deferred(out);
        self.raise(out);
    }

    /// The checkpoint came to nothing: what was due still is, and may be asked for again after
    /// [`Limits::request_retry`]. Output of after the cut is compared with the next call.
    pub fn checkpoint_failed(&mut self, now: Instant) {
        self.ledger.set_now(now);
        self.ledger.stats.checkpoints_failed += 1;
        let retry = self.ledger.limits.request_retry;
        self.ledger.requests.failed(now, retry);
        if !self.has_room() {
            self.ledger.ask(Reason::Limit);
        }
    }

    /// Protection is off: everything held leaves, and nothing is known of the secondary any more.
    pub fn release_all(&mut self, now: Instant, out: &mut Output) {
        self.ledger.set_now(now);
        self.ledger.requests.done();
        self.timers.clear();
        self.ledger.flush(Cause::Unprotected, out);
        while let Some(frame) = self.deferred.pop_front() {
            self.ledger.stats.held.sub(frame.len());
            self.ledger.pass(frame, Cause::Unprotected, out);
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

    pub fn stats(&self) -> &Stats {
        &self.ledger.stats
    }

    /// Checkpoints, and times that protection was turned off.
    pub fn epoch(&self) -> u64 {
        self.ledger.epoch
    }

    /// The last divergences, oldest first.
    pub fn divergences(&self) -> impl Iterator<Item = &Divergence> {
        self.ledger.divergences.iter()
    }

    fn compare(&mut self, side: Side, subject: &Subject, frame: Frame, out: &mut Output) {
        match subject {
            Subject::Tcp(name, tcp) => self.compare_tcp(side, name, tcp, frame, out),
            Subject::Datagram(name, body) => self.compare_datagram(side, name, *body, frame, out),
            Subject::Uncompared(_) => {}
        }
    }

    fn compare_tcp(
        &mut self,
        side: Side,
        name: &FlowKey,
        tcp: &Tcp,
        frame: Frame,
        out: &mut Output,
    ) {
        let key = self.table.find(name, &mut self.ledger, || Kind::Tcp(Box::default()));
        let Some(key) = key else { return self.overflow(side, frame) };
        let Some(flow) = self.table.get_mut(key) else { return };
        let Kind::Tcp(state) = &mut flow.kind else { return };
        let mut scene = Scene { ledger: &mut self.ledger, name, flow: key };
        match side {
            Side::Primary => state.on_primary(&mut scene, frame, tcp, out),
            Side::Secondary => state.on_secondary(&mut scene, &frame, tcp, out),
        }
        self.table.settle(key);
    }

    fn compare_datagram(
        &mut self,
        side: Side,
        name: &FlowKey,
        body: Body,
        frame: Frame,
        out: &mut Output,
    ) {
        let new = || Kind::Datagram(datagram::DatagramFlow::default());
        let Some(key) = self.table.find(name, &mut self.ledger, new) else {
            return self.overflow(side, frame);
        };
        let Some(flow) = self.table.get_mut(key) else { return };
        let Kind::Datagram(state) = &mut flow.kind else { return };
        match side {
            Side::Primary => state.on_primary(&mut self.ledger, frame, body, out),
            Side::Secondary => state.on_secondary(&mut self.ledger, key, &frame, body, out),
        }
        state.check_count(&mut self.ledger, name);
        if let Some(at) = state.start_timer(&self.ledger) {
            self.timers.push(at, key);
        }
    }

    /// No flow can be remembered: the frame waits for a checkpoint.
    fn overflow(&mut self, side: Side, frame: Frame) {
        match side {
            Side::Primary => {
                self.ledger.stats.overflowed += 1;
                self.ledger.hold(frame, What::Checkpoint);
                self.ledger.ask(Reason::FlowTableFull);
            }
            Side::Secondary => self.ledger.stats.secondary_dropped.no_flow += 1,
        }
    }

    /// Puts a frame of after the cut aside.
    fn defer(&mut self, frame: Frame) {
        self.ledger.stats.held.add(frame.len());
        self.deferred.push_back(frame);
    }

    /// Takes the frames of after the cut as if they came now, unless they have to wait still.
    fn resume_deferred(&mut self, out: &mut Output) {
        if self.deferred.is_empty() || self.ledger.requests.is_underway() {
            return;
        }
        while let Some(frame) = self.deferred.pop_front() {
            self.ledger.stats.held.sub(frame.len());
            let (subject, _) = classify(&frame);
            self.compare(Side::Primary, &subject, frame, out);
        }
    }

    fn raise(&mut self, out: &mut Output) {
        let now = self.ledger.now();
        if let Some(reason) = self.ledger.requests.raise(now, &mut self.ledger.stats) {
            out.requests.push(reason);
        }
    }
}

/// Gives the memory of a queue that ran empty back, if it is much: a flow that was busy once must
/// not keep it for ever. That many entries were pushed before, so it costs next to nothing each.
fn shrink<T>(queue: &mut VecDeque<T>) {
    const CAPACITY_KEPT: usize = 256;
    if queue.is_empty() && queue.capacity() > CAPACITY_KEPT {
        queue.shrink_to(CAPACITY_KEPT / 4);
    }
}
