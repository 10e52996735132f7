//! Frames of both guests, each side in its order, in every interleaving of the two sides.

use std::time::Duration;

use super::packet::{Tcp, tcp};
use super::rig::Rig;
use crate::compare::Side;
use crate::frame::Frame;

/// A guest's frames in order, and those of its equal.
pub(super) struct Pair {
    pub(super) primary: Vec<Tcp>,
    pub(super) secondary: Vec<Tcp>,
}

impl Pair {
    /// Both guests send the same, with the same numbers.
    pub(super) fn equal(frames: &[Tcp]) -> Self {
        let secondary = frames.iter().map(|frame| frame.clone().salt(5)).collect();
        Self { primary: frames.to_vec(), secondary }
    }

    /// The numbers of the secondary's SYN and SYN/ACK are its own.
    pub(super) fn with_own_numbers(mut self) -> Self {
        for frame in self.secondary.iter_mut().filter(|frame| frame.is_opening()) {
            frame.seq = frame.seq.wrapping_add(0x5555_5555);
        }
        self
    }

    /// Plays one interleaving: bit `n` of `order` says who is next.
    pub(super) fn play(&self, order: &[Side]) -> Result<Rig, String> {
        let mut rig = Rig::new();
        let (mut ours, mut theirs) = (self.primary.iter(), self.secondary.iter());
        let mut left = Vec::new();
        for (at, side) in order.iter().enumerate() {
            let next = if *side == Side::Primary { ours.next() } else { theirs.next() };
            let frame = next.expect("the order has as many").build();
            let (released, requests) = rig.frame(*side, &frame);
            left.extend(released);
            if !requests.is_empty() {
                return Err(format!("at {at}: {requests:?}"));
            }
            let sent = self.secondary.len() - theirs.len();
            self.check(&left, sent).map_err(|wrong| format!("at {at}: {wrong}"))?;
        }
        if left.len() < self.primary.len() {
            return Err(format!("{} of {} left", left.len(), self.primary.len()));
        }
        let later = rig.wait(Duration::from_mins(1)).1;
        let stats = rig.engine.stats();
        if !later.is_empty() || stats.secondary_waiting.frames + stats.held.frames > 0 {
            return Err(format!("in the end: {later:?}, {:?}", stats.secondary_waiting));
        }
        Ok(rig)
    }

    /// Whatever has left and says more than an acknowledgment, the secondary had sent by then.
    fn check(&self, left: &[Frame], sent: usize) -> Result<(), String> {
        let (sent, unsent) = self.primary.split_at(sent);
        let is_new = |frame: &&Tcp| {
            let is_repeated = sent.iter().any(|other| other.seq == frame.seq && other.is_opening());
            !(frame.is_opening() && is_repeated) && (frame.flags != 0 || !frame.payload.is_empty())
        };
        match unsent.iter().filter(is_new).find(|frame| left.contains(&frame.build())) {
            Some(frame) => Err(format!("{frame:?} left too early")),
            None => Ok(()),
        }
    }

    /// Nothing but a checkpoint releases the first `count` frames of the primary, and it is asked for.
    #[track_caller]
    pub(super) fn never_releases_the_first(&self, count: usize) {
        let first: Vec<Frame> = self.primary[..count].iter().map(Tcp::build).collect();
        for order in interleavings(self.primary.len(), self.secondary.len()) {
            let mut rig = Rig::new();
            let (mut ours, mut theirs) = (self.primary.iter(), self.secondary.iter());
            let mut asked = Vec::new();
            for side in &order {
                let next = if *side == Side::Primary { ours.next() } else { theirs.next() };
                let (left, requests) = rig.frame(*side, &next.expect("as many").build());
                let early = left.iter().find(|frame| first.contains(frame));
                assert_eq!(early, None, "{} {:?}", letters(&order), self.secondary);
                asked.extend(requests);
            }
            asked.extend(rig.wait(Duration::from_secs(4)).1);
            assert_eq!(asked.len(), 1, "{} {:?}", letters(&order), self.secondary);
            let covered = rig.checkpoint().0;
            assert!(first.iter().all(|frame| covered.contains(frame)), "{}", letters(&order));
        }
    }

    /// Every interleaving that there is.
    #[track_caller]
    pub(super) fn needs_no_checkpoint(&self) {
        let wrong = interleavings(self.primary.len(), self.secondary.len())
            .into_iter()
            .find_map(|order| self.play(&order).err().map(|wrong| (letters(&order), wrong)));
        assert_eq!(wrong, None);
    }
}

pub(super) fn letters(order: &[Side]) -> String {
    order.iter().map(|side| if *side == Side::Primary { 'P' } else { 'S' }).collect()
}

/// All orders of `ours` frames of the primary and `theirs` of the secondary.
pub(super) fn interleavings(ours: usize, theirs: usize) -> Vec<Vec<Side>> {
    if ours + theirs == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (side, ours, theirs) in [
        (Side::Primary, ours.checked_sub(1), Some(theirs)),
        (Side::Secondary, Some(ours), theirs.checked_sub(1)),
    ] {
        let Some((ours, theirs)) = ours.zip(theirs) else { continue };
        for mut order in interleavings(ours, theirs) {
            order.push(side);
            all.push(order);
        }
    }
    all
}

/// A server's connection: the peer's number is `peer`, and it acknowledges `early` bytes of a SYN.
pub(super) fn served(isn: u32, peer: u32, early: u32) -> Vec<Tcp> {
    let ack = peer + 1 + early;
    vec![tcp(isn).syn().ack(ack), tcp(isn + 1).ack(ack).data(b"x"), tcp(isn + 2).ack(ack)]
}

pub(super) fn fin(isn: u32, peer: u32) -> Vec<Tcp> {
    vec![
        tcp(isn).syn().ack(peer + 1),
        tcp(isn + 1).ack(peer + 4).data(b"bye").fin(),
        tcp(isn + 5).ack(peer + 5),
    ]
}

pub(super) fn rst(isn: u32, peer: u32) -> Vec<Tcp> {
    vec![
        tcp(isn).syn().ack(peer + 1),
        tcp(isn + 1).ack(peer + 4).data(b"no"),
        tcp(isn + 3).ack(peer + 4).rst(),
    ]
}

pub(super) fn opened(isn: u32, peer: u32) -> Vec<Tcp> {
    vec![tcp(isn).syn(), tcp(isn + 1).ack(peer + 1).data(b"get"), tcp(isn + 4).ack(peer + 9).fin()]
}
