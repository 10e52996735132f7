//! The order of a tuple's connections, where the guests are not in the same one.
//!
//! One tuple serves one connection after the other, and each guest sends its frames in order. So the
//! connections of the two guests are counterparts in that order. A SYN/ACK also names the SYN of the
//! peer that it answers, which is the same for both guests. Nothing of one connection counts for
//! another:
//!
//! * The secondary is ahead: its frames wait for the primary's SYN ([`ConnectionsAhead`]).
//! * The primary is ahead, and some of its frames are held in connections that it has left. The flow
//!   remembers these connections beside the present one, the oldest in front. The secondary's frames
//!   go to the oldest, until the secondary opens the next one or nothing is held of the oldest.
//!
//! [`ConnectionsAhead`]: super::ahead::ConnectionsAhead

use colo_proxy_common::decode::{Tcp, flag};

use super::difference_frame::ControlBit;
use super::opening::Opening;
use super::{FlowScope, SegmentClaim, TcpFlow};
use crate::compare::chain::ChainKey;
use crate::compare::classify::segment;
use crate::compare::divergence::Difference;
use crate::compare::reason::Reason;
use crate::compare::{Output, Side};
use crate::frame::Frame;

/// Connections of one tuple that the primary has left and of which frames are held.
const OLDER_MAX: usize = 16;

impl TcpFlow {
    /// Notes whether the guests are in the same connection.
    pub(super) fn note_apart(&mut self) {
        self.is_apart =
            self.rare.used().is_some_and(|rare| !(rare.ahead.is_empty() && rare.older.is_empty()));
    }

    /// A frame of the secondary, which is in another connection than the primary.
    #[cold]
    pub(super) fn on_secondary_apart(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
        tcp: &Tcp,
        out: &mut Output,
    ) {
        let is_of_older = self.on_secondary_of_older(scope, frame, tcp, out);
        let is_taken = match is_of_older {
            Some(is_taken) => is_taken,
            None if self.rare.ahead.is_empty() => self.on_secondary_here(scope, frame, tcp),
            None => self.wait_ahead(scope, frame, tcp),
        };
        if !is_taken {
            scope.ledger.stats.secondary_dropped.old_connection += 1;
        }
        if is_of_older.is_none() {
            self.release_ready(scope, out);
            self.acknowledge_in_part(scope, out);
        }
        self.note_apart();
    }

    // The primary is ahead.

    /// The primary opens another connection. Returns this one, if frames of it are held.
    pub(super) fn leave_connection(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
    ) -> Option<Self> {
        if self.account.is_empty() {
            return None;
        }
        // Held resets that answered segments without a connection wait for the secondary's resets,
        // whichever connection the guests open meanwhile.
        let has_left = self.anchored && !self.rare.ahead.is_empty();
        let is_one_too_many = self.rare.older.len() >= OLDER_MAX;
        if has_left || is_one_too_many {
            self.give_up(scope, frame);
            if is_one_too_many {
                // The secondary's SYN of this one must not pass for that of a later one.
                self.rare.ahead.cut_off();
            }
            return None;
        }
        let rare = &mut self.rare;
        let (ahead, older) = (std::mem::take(&mut rare.ahead), std::mem::take(&mut rare.older));
        let mut old = std::mem::take(self);
        (self.rare.ahead, self.rare.older) = (ahead, older);
        // The primary will send no more in it.
        let dropped = old.secondary.segments.drop_all(scope.ledger);
        scope.ledger.stats.secondary_dropped.old_connection += dropped;
        Some(old)
    }

    /// The secondary is in a later connection, or one guest is too far ahead. Only a checkpoint can
    /// release the held frames of this connection. `frame` shows the difference.
    fn give_up(&mut self, scope: &mut FlowScope<'_>, frame: &Frame) {
        let difference = Difference::new(Reason::TupleReuse, self.high - self.start);
        let held = self.queues.first().and_then(|key| scope.ledger.capture_held(key));
        let other = scope.ledger.capture(frame);
        scope.ledger.diverge(scope.name, difference.frames(held, Some(other)));
        scope.ledger.leave(Side::Primary, &mut self.account);
        self.queues.clear();
    }

    /// Hands a frame of the secondary to the connection that it is of; `None` where that is the
    /// present one.
    fn on_secondary_of_older(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
        tcp: &Tcp,
        out: &mut Output,
    ) -> Option<bool> {
        let is_reset = tcp.flags & flag::RST != 0;
        if is_reset && let Some(refused) = self.older_mut(0).filter(|old| !old.anchored) {
            refused.on_reset(scope, frame, tcp);
            refused.release_ready(scope, out);
            self.retire(scope, 0);
        }
        let at = usize::from(self.older_mut(0).is_some_and(|old| !old.anchored));
        if tcp.flags & flag::SYN != 0 && !is_reset {
            self.leave_older(scope, frame, &Opening::read(frame.ethernet(), tcp), at);
        }
        let old = self.older_mut(at)?;
        let is_taken = old.on_secondary_here(scope, frame, tcp);
        old.release_ready(scope, out);
        self.retire(scope, at);
        Some(is_taken)
    }

    fn older_mut(&mut self, at: usize) -> Option<&mut Self> {
        self.rare.older.get_mut(at)
    }

    /// The secondary sends `opening`: it leaves the connections before the one that this is of.
    fn leave_older(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
        opening: &Opening,
        at: usize,
    ) {
        while let Some(old) = self.older_mut(at) {
            let is_unopened = old.isn.is_some() && old.secondary.opening.is_empty();
            if old.is_own(opening)
                || is_unopened && !(old.answers_another(opening) && self.answers_later(opening, at))
            {
                return;
            }
            if let Some(old) = self.older_mut(at) {
                old.give_up(scope, frame);
            }
            self.retire(scope, at);
        }
    }

    /// A connection behind the older one `at` answers the same SYN of the peer as `opening`.
    fn answers_later(&self, opening: &Opening, at: usize) -> bool {
        let later = self.rare.older.iter().skip(at + 1).map(|old| &old.opening);
        later.chain([&self.opening]).any(|own| own.ack().is_some() && own.ack() == opening.ack)
    }

    /// Forgets the older connection `at`, if nothing is held of it any more.
    fn retire(&mut self, scope: &mut FlowScope<'_>, at: usize) {
        if self.older_mut(at).is_none_or(|old| !old.account.is_empty()) {
            return;
        }
        let mut old = self.rare.older.remove(at);
        let dropped = old.secondary.segments.drop_all(scope.ledger);
        scope.ledger.stats.secondary_dropped.old_connection += dropped;
        old.drop_witness(scope);
        // Its SYN may come again, and is not the next one's.
        let isn = old.secondary.opening.isn();
        match self.rare.older.get_mut(at) {
            Some(next) => next.previous_isn = isn.or(next.previous_isn),
            None => self.previous_isn = isn.or(self.previous_isn),
        }
    }

    /// The connection of which the frame `key` is held.
    pub(super) fn holder_of(&self, key: ChainKey) -> &Self {
        let older = self.rare.used().map_or(&[][..], |rare| &rare.older);
        older.iter().find(|old| old.queues.has(key)).unwrap_or(self)
    }

    // The secondary is ahead.

    /// Lets a frame of the secondary wait until the primary opens its connection. `false` where the
    /// frame belongs to the present connection or an older one.
    pub(super) fn wait_ahead(
        &mut self,
        scope: &mut FlowScope<'_>,
        frame: &Frame,
        tcp: &Tcp,
    ) -> bool {
        let is_first = self.rare.ahead.is_empty();
        let ahead = &mut self.rare.ahead;
        if ahead.is_cut_off() {
            scope.ledger.drop_at_limit();
            return true;
        }
        let start = tcp.payload_at as usize;
        let payload = start..start + tcp.payload_len as usize;
        if tcp.flags & flag::SYN != 0 {
            let opening = Opening::read(frame.ethernet(), tcp);
            let own = &self.secondary.opening;
            let is_of_newest = match ahead.newest() {
                Some(newest) => newest.belongs(&opening),
                None => !self.anchored && own.belongs(&opening),
            };
            let is_repeated = match ahead.newest() {
                Some(newest) => newest.like(&opening) == Some(opening),
                None => own.like(&opening) == Some(opening),
            };
            if !is_of_newest {
                if own.belongs(&opening) {
                    return false;
                }
                let connections_max = scope.ledger.limits.flow_connections_ahead_max;
                if ahead.open(opening, connections_max).is_err() {
                    scope.ledger.drop_at_limit();
                    self.note_apart();
                    return true;
                }
                if is_first {
                    self.keep_witness(scope, ControlBit::Opening, frame);
                }
            }
            if payload.is_empty() && (is_repeated || !is_of_newest) {
                self.is_apart = true;
                return true;
            }
        }
        self.rare.ahead.keep(scope.ledger, scope.flow, frame, payload);
        self.note_apart();
        true
    }

    /// The primary has opened the connection that the frames in front are of.
    pub(super) fn catch_up(&mut self, scope: &mut FlowScope<'_>) {
        while let Some(frame) = self.rare.ahead.take_frame(scope.ledger) {
            if let Some((_, tcp)) = segment(frame.ethernet())
                && !self.on_secondary_here(scope, &frame, &tcp)
            {
                scope.ledger.stats.secondary_dropped.old_connection += 1;
            }
        }
        self.note_apart();
    }

    /// The primary was met in the middle of a connection. The secondary may have sent an opening
    /// before: of this connection, or of the next.
    #[cold]
    pub(super) fn meet_in_middle(&mut self, scope: &mut FlowScope<'_>) {
        if let Some(opening) = self.secondary.opening.last() {
            if !self.was_met_behind(&opening) {
                let openings = std::mem::take(&mut self.secondary.opening);
                self.rare.ahead.begin_with(openings);
            } else if let Some(ack) = opening.ack {
                self.on_ack(scope, ack);
            }
        }
        self.catch_up(scope);
    }

    /// The primary goes on in its connection, so it will not answer the peer's SYN once more. Where
    /// the secondary has, that is of this connection too.
    #[cold]
    pub(super) fn join_answers(&mut self, scope: &mut FlowScope<'_>, segment: &SegmentClaim) {
        let is_of_stream = segment.opening.is_none() && segment.reset.is_none();
        if !is_of_stream || !self.rare.older.is_empty() {
            return;
        }
        while let Some(next) = self.rare.ahead.next()
            && next.ack().is_some()
            && next.ack() == self.secondary.opening.ack()
            && self.secondary_only_answers()
        {
            if let Some(openings) = self.rare.ahead.take_next() {
                self.secondary.opening = openings;
            }
            self.catch_up(scope);
        }
        self.note_apart();
    }
}
