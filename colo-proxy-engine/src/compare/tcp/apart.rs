//! Guests that are not in the same connection of a tuple.
//!
//! A tuple is used by one connection after the other, and each guest sends its frames in order. So
//! the connections of the two guests are counterparts in that order; a SYN/ACK also says which SYN
//! of the peer it answers, which is the same for both. Nothing of one connection counts for another:
//!
//! * The secondary is ahead: its frames wait for the primary's SYN ([`Ahead`]).
//! * The primary is ahead: the connections in which its frames are held are kept beside the present
//!   one, the oldest in front. The secondary's frames go to the oldest, until the secondary opens the
//!   next one, or nothing is held of it any more.
//!
//! [`Ahead`]: super::ahead::Ahead

use colo_proxy_common::decode::{Tcp, flag};
use colo_proxy_common::seq::Seq;

use super::opening::Opening;
use super::shown::Mark;
use super::{Scene, Segment, TcpFlow};
use crate::compare::chain::Key;
use crate::compare::classify::segment;
use crate::compare::divergence::Difference;
use crate::compare::reason::Reason;
use crate::compare::{Output, Side};
use crate::frame::Frame;

/// Connections of one tuple of which frames are held beside those of the present one.
const OLDER_MAX: usize = 16;

impl TcpFlow {
    /// Notes whether the guests are in the same connection.
    pub(super) fn note_apart(&mut self) {
        self.is_apart = self
            .unusual
            .used()
            .is_some_and(|unusual| !(unusual.ahead.is_empty() && unusual.older.is_empty()));
    }

    /// A frame of the secondary, which is in another connection than the primary.
    #[cold]
    pub(super) fn on_secondary_apart(
        &mut self,
        scene: &mut Scene<'_>,
        frame: &Frame,
        tcp: &Tcp,
        out: &mut Output,
    ) {
        let is_of_older = self.on_secondary_of_older(scene, frame, tcp, out);
        let is_taken = match is_of_older {
            Some(is_taken) => is_taken,
            None if self.unusual.ahead.is_empty() => self.on_secondary_here(scene, frame, tcp),
            None => self.wait_ahead(scene, frame, tcp),
        };
        if !is_taken {
            scene.ledger.stats.secondary_dropped.old_connection += 1;
        }
        if is_of_older.is_none() {
            self.release_ready(scene, out);
            self.acknowledge_in_part(scene, out);
        }
        self.note_apart();
    }

    // The primary is ahead.

    /// The primary opens another connection: says what becomes of this one, in which frames may be
    /// held.
    pub(super) fn leave_connection(
        &mut self,
        scene: &mut Scene<'_>,
        frame: &Frame,
    ) -> Option<Self> {
        if self.account.is_empty() {
            return None;
        }
        // Resets that answered segments for which there was no connection wait for their like
        // whatever the guests do then.
        let has_left = self.anchored && !self.unusual.ahead.is_empty();
        let is_one_too_many = self.unusual.older.len() >= OLDER_MAX;
        if has_left || is_one_too_many {
            self.give_up(scene, frame);
            if is_one_too_many {
                // The secondary's SYN of this one must not pass for that of a later one.
                self.unusual.ahead.cut_off();
            }
            return None;
        }
        let unusual = &mut self.unusual;
        let (ahead, older) =
            (std::mem::take(&mut unusual.ahead), std::mem::take(&mut unusual.older));
        let mut old = std::mem::take(self);
        (self.unusual.ahead, self.unusual.older) = (ahead, older);
        // Nothing of it is to come from the primary.
        let dropped = old.secondary.segments.drop_all(scene.ledger);
        scene.ledger.stats.secondary_dropped.old_connection += dropped;
        Some(old)
    }

    /// The secondary is in a later connection, or one guest is too far ahead: what is held of this
    /// one waits for a checkpoint. `frame` shows it.
    fn give_up(&mut self, scene: &mut Scene<'_>, frame: &Frame) {
        let difference = Difference::new(Reason::TupleReuse, self.high - self.start);
        let held = self.queues.first().and_then(|key| scene.ledger.capture_held(key));
        let other = scene.ledger.capture(frame);
        scene.ledger.diverge(scene.name, difference.frames(held, Some(other)));
        scene.ledger.leave(Side::Primary, &mut self.account);
        self.queues.clear();
    }

    /// Hands a frame of the secondary to the connection that it is of; `None` where that is the
    /// present one.
    fn on_secondary_of_older(
        &mut self,
        scene: &mut Scene<'_>,
        frame: &Frame,
        tcp: &Tcp,
        out: &mut Output,
    ) -> Option<bool> {
        let is_reset = tcp.flags & flag::RST != 0;
        if is_reset && let Some(refused) = self.older_mut(0).filter(|old| !old.anchored) {
            refused.on_reset(scene, frame, tcp);
            refused.release_ready(scene, out);
            self.retire(scene, 0);
        }
        let at = usize::from(self.older_mut(0).is_some_and(|old| !old.anchored));
        if tcp.flags & flag::SYN != 0 && !is_reset {
            self.leave_older(scene, frame, &Opening::read(frame.ethernet(), tcp), at);
        }
        let old = self.older_mut(at)?;
        let is_taken = old.on_secondary_here(scene, frame, tcp);
        old.release_ready(scene, out);
        self.retire(scene, at);
        Some(is_taken)
    }

    fn older_mut(&mut self, at: usize) -> Option<&mut Self> {
        self.unusual.older.get_mut(at)
    }

    /// The secondary sends `opening`: it leaves the connections before the one that this is of.
    fn leave_older(&mut self, scene: &mut Scene<'_>, frame: &Frame, opening: &Opening, at: usize) {
        while let Some(old) = self.older_mut(at) {
            let is_unopened = old.isn.is_some() && old.secondary.opening.is_empty();
            if old.is_own(opening)
                || is_unopened && !(old.answers_another(opening) && self.answers_later(opening, at))
            {
                return;
            }
            if let Some(old) = self.older_mut(at) {
                old.give_up(scene, frame);
            }
            self.retire(scene, at);
        }
    }

    /// A connection behind the older one `at` answers the same SYN of the peer as `opening`.
    fn answers_later(&self, opening: &Opening, at: usize) -> bool {
        let later = self.unusual.older.iter().skip(at + 1).map(|old| &old.opening);
        later.chain([&self.opening]).any(|own| own.ack().is_some() && own.ack() == opening.ack)
    }

    /// Forgets the older connection `at`, if nothing is held of it any more.
    fn retire(&mut self, scene: &mut Scene<'_>, at: usize) {
        if self.older_mut(at).is_none_or(|old| !old.account.is_empty()) {
            return;
        }
        let mut old = self.unusual.older.remove(at);
        let dropped = old.secondary.segments.drop_all(scene.ledger);
        scene.ledger.stats.secondary_dropped.old_connection += dropped;
        old.drop_witness(scene);
        // Its SYN may come again, and is not the next one's.
        let isn = old.secondary.opening.isn();
        match self.unusual.older.get_mut(at) {
            Some(next) => next.previous_isn = isn.or(next.previous_isn),
            None => self.previous_isn = isn.or(self.previous_isn),
        }
    }

    /// The connection of which the frame `key` is held.
    pub(super) fn holder_of(&self, key: Key) -> &Self {
        let older = self.unusual.used().map_or(&[][..], |unusual| &unusual.older);
        older.iter().find(|old| old.queues.has(key)).unwrap_or(self)
    }

    // The secondary is ahead.

    /// Keeps a frame of the secondary until the primary opens its connection; `false` where it is of
    /// the present one or an older one.
    pub(super) fn wait_ahead(&mut self, scene: &mut Scene<'_>, frame: &Frame, tcp: &Tcp) -> bool {
        let is_first = self.unusual.ahead.is_empty();
        let ahead = &mut self.unusual.ahead;
        if ahead.is_cut_off() {
            scene.ledger.stats.secondary_dropped.limit += 1;
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
                if ahead.open(opening).is_err() {
                    scene.ledger.stats.secondary_dropped.limit += 1;
                    scene.ledger.ask(Reason::Limit);
                }
                if is_first {
                    self.keep_witness(scene, Mark::Opening, frame);
                }
            }
            if payload.is_empty() && (is_repeated || !is_of_newest) {
                self.is_apart = true;
                return true;
            }
        }
        self.unusual.ahead.keep(scene.ledger, scene.flow, frame, payload);
        self.note_apart();
        true
    }

    /// The primary has opened the connection that the frames in front are of.
    pub(super) fn catch_up(&mut self, scene: &mut Scene<'_>) {
        while let Some(frame) = self.unusual.ahead.take_frame(scene.ledger) {
            if let Some((_, tcp)) = segment(frame.ethernet())
                && !self.on_secondary_here(scene, &frame, &tcp)
            {
                scene.ledger.stats.secondary_dropped.old_connection += 1;
            }
        }
        self.note_apart();
    }

    /// The primary was met in the middle of a connection: the secondary has sent a SYN of that one,
    /// or of the next.
    #[cold]
    pub(super) fn meet_in_middle(&mut self, scene: &mut Scene<'_>, ack: Option<Seq>) {
        let theirs = self.secondary.opening.ack();
        // What a SYN/ACK acknowledges comes before all that is acknowledged later.
        let is_of_next = theirs.zip(ack).is_some_and(|(theirs, ack)| ack.since(theirs) < 0);
        if is_of_next {
            let openings = std::mem::take(&mut self.secondary.opening);
            self.unusual.ahead.begin_with(openings);
        }
        self.catch_up(scene);
    }

    /// The primary goes on in its connection, so it will not answer the peer's SYN once more. Where
    /// the secondary has, that is of this connection too.
    #[cold]
    pub(super) fn join_answers(&mut self, scene: &mut Scene<'_>, segment: &Segment) {
        let is_of_stream = segment.opening.is_none() && segment.reset.is_none();
        if !is_of_stream || !self.unusual.older.is_empty() {
            return;
        }
        while let Some(next) = self.unusual.ahead.next()
            && next.ack().is_some()
            && next.ack() == self.secondary.opening.ack()
            && self.secondary_only_answers()
        {
            if let Some(openings) = self.unusual.ahead.take_next() {
                self.secondary.opening = openings;
            }
            self.catch_up(scene);
        }
        self.note_apart();
    }
}
