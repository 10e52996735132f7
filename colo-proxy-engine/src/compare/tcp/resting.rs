//! A connection of which nothing is held or waits, in as little memory as it takes.
//!
//! Nearly all connections are at rest at any time. Both guests have sent the same, so most knowledge
//! about one guest follows from the other. [`Resting`] has the remaining facts. A connection with
//! further facts stays awake.

use colo_proxy_common::seq::Seq;

use super::headers::NotedHeaders;
use super::opening::Packed;
use super::space::SequenceSpace;
use super::windows::OfferedWindows;
use super::{RareState, TcpFlow};

/// All that there is to know of a connection at rest. The default is a connection of which nothing is
/// known.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(in crate::compare) struct Resting {
    start: i64,
    high: i64,
    ack: i64,
    /// Numbers at `high` and at `ack`.
    seq: u32,
    ack_seq: u32,
    /// Counted from `ack`: no window is larger.
    offered: u32,
    opening: Packed,
    theirs: Packed,
    previous_isn: u32,
    headers: [Option<NotedHeaders>; 2],
    windows: [u16; 2],
    /// Bits of [`is`].
    is: u8,
}

/// The contents of a [`Resting`], by bit.
mod is {
    pub(super) const ANCHORED: u8 = 1;
    pub(super) const PLACED: u8 = 2;
    pub(super) const ACKNOWLEDGED: u8 = 4;
    pub(super) const OFFERED: u8 = 8;
    pub(super) const ENDED: u8 = 16;
    pub(super) const REUSED: u8 = 32;
    /// By side.
    pub(super) const WINDOWS: [u8; 2] = [64, 128];
}

impl Resting {
    /// Something of its beginning, its middle and its end: of all the lines of memory it lies in.
    pub(in crate::compare) fn touch(&self) -> u64 {
        self.start as u64 ^ u64::from(self.previous_isn) ^ u64::from(self.is)
    }
}

impl TcpFlow {
    /// Puts the connection at rest into `resting`; `false` where that has no room for all of it. The
    /// rest of this state is then only what [`TcpFlow::wake`] sets.
    #[inline(always)]
    pub(in crate::compare) fn rest(&self, resting: &mut Resting) -> bool {
        if !(self.is_quiet() && self.is_agreed()) {
            return false;
        }
        let packed = (self.opening.pack(), self.secondary.opening.pack());
        let ack = self.ack.unwrap_or_default();
        let offered = self.offered.map_or(Ok(0), |offered| u32::try_from(offered - ack));
        let (Some(windows), (Some(opening), Some(theirs)), Ok(offered)) =
            (self.windows.at_rest(), packed, offered)
        else {
            return false;
        };
        let bits = [
            (self.anchored, is::ANCHORED),
            (self.seqs.is_some(), is::PLACED),
            (self.acks.is_some(), is::ACKNOWLEDGED),
            (self.offered.is_some(), is::OFFERED),
            (self.closed, is::ENDED),
            (self.previous_isn.is_some(), is::REUSED),
            (windows[0].is_some(), is::WINDOWS[0]),
            (windows[1].is_some(), is::WINDOWS[1]),
        ];
        *resting = Resting {
            start: self.start,
            high: self.high,
            seq: self.seqs.map_or(0, |seqs| seqs.seq(self.high).0),
            ack_seq: self.acks.map_or(0, |acks| acks.seq(ack).0),
            ack,
            offered,
            opening,
            theirs,
            previous_isn: self.previous_isn.map_or(0, |isn| isn.0),
            headers: [self.headers, self.secondary.headers],
            windows: windows.map(Option::unwrap_or_default),
            is: bits.iter().map(|(is_set, bit)| u8::from(*is_set) * bit).sum(),
        };
        #[cfg(test)]
        self.check(resting);
        true
    }

    /// Nothing of it is held or waits, and nothing out of the ordinary is remembered.
    #[inline]
    fn is_quiet(&self) -> bool {
        self.account.is_clear()
            && self.queues.is_empty()
            && self.secondary.segments.is_empty()
            && self.rare.used().is_none_or(RareState::is_empty)
            && self.urgent.is_none()
            && self.secondary.urgent.is_none()
    }

    /// Both guests have sent the same, and the facts about one follow from the other.
    #[inline(always)]
    fn is_agreed(&self) -> bool {
        let theirs = &self.secondary;
        let end = self.closed.then_some(self.high);
        let is_placed =
            |space: Option<SequenceSpace>, place: i64| space.is_none_or(|s| s.last() == place);
        self.low == self.start
            && self.verified.is(self.start, self.high)
            && self.produced.is(self.start, self.high)
            && is_placed(self.seqs, self.high)
            && self.acks.is_some() == self.ack.is_some()
            && is_placed(self.acks, self.ack.unwrap_or_default())
            && self.told == self.ack
            && theirs.ack == self.ack
            && self.edge == self.offered
            && [self.fin, self.matched_fin, theirs.fin] == [end; 3]
            && self.isn == self.opening.isn()
    }

    /// Makes this, which has been at rest or is new, the connection `resting`.
    pub(in crate::compare) fn wake(&mut self, resting: &Resting) {
        let is = |bit| resting.is & bit != 0;
        let Resting { start, high, .. } = *resting;
        let ack = is(is::ACKNOWLEDGED).then_some(resting.ack);
        let offered = is(is::OFFERED).then(|| resting.ack + i64::from(resting.offered));
        let end = is(is::ENDED).then_some(high);
        self.seqs = is(is::PLACED).then(|| SequenceSpace::new(Seq(resting.seq), high));
        self.acks = ack.map(|ack| SequenceSpace::new(Seq(resting.ack_seq), ack));
        self.anchored = is(is::ANCHORED);
        self.opening = resting.opening.openings();
        self.isn = self.opening.isn();
        self.verified.set(start, high);
        self.produced.set(start, high);
        (self.start, self.low, self.high) = (start, start, high);
        (self.ack, self.told, self.secondary.ack) = (ack, ack, ack);
        (self.offered, self.edge) = (offered, offered);
        (self.fin, self.matched_fin, self.secondary.fin) = (end, end, end);
        self.closed = end.is_some();
        [self.headers, self.secondary.headers] = resting.headers;
        self.secondary.opening = resting.theirs.openings();
        self.previous_isn = is(is::REUSED).then_some(Seq(resting.previous_isn));
        let [ours, theirs] = resting.windows;
        let window = |side: usize, window| is(is::WINDOWS[side]).then_some(window);
        self.windows = OfferedWindows::with([window(0, ours), window(1, theirs)]);
        self.rare.set_empty();
        self.queues.set_empty();
    }

    /// Every connection that any test lays to rest wakes up as what it was.
    #[cfg(test)]
    fn check(&self, resting: &Resting) {
        thread_local!(static WOKEN: std::cell::RefCell<TcpFlow> = std::cell::RefCell::default());
        let woken = WOKEN.with_borrow_mut(|woken| {
            woken.wake(resting);
            text_hash(woken)
        });
        assert!(woken == text_hash(self), "{resting:?} is not all of {self:?}");
    }
}

/// A hash of all that can be printed of a connection; it allocates nothing, for the tests that
/// count.
#[cfg(test)]
fn text_hash(flow: &TcpFlow) -> u64 {
    use std::fmt::Write as _;

    struct Hash(u64);
    impl std::fmt::Write for Hash {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for octet in text.bytes() {
                self.0 = (self.0 ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
            }
            Ok(())
        }
    }
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    write!(hash, "{flow:?}").expect("it takes everything");
    hash.0
}
