//! What a guest sends on one flow of datagrams: the same ones whole, in fragments, or as a batch
//! that the device is to cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::cut::cut;
use super::model::Datagrams;
use super::packet::Link;
use super::random::Random;
use crate::frame::Frame;

/// A frame, and the packet that it is all or a part of.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) frame: Frame,
    packet: usize,
    /// How many frames the packet takes.
    pieces: usize,
    /// The datagrams that the packet is.
    payloads: Vec<Vec<u8>>,
}

/// What one guest's frames came to so far.
#[derive(Debug, Default)]
struct Progress {
    /// Frames of packets that are not complete.
    open: BTreeMap<usize, Vec<usize>>,
    /// Packets of which a checkpoint took a part.
    orphans: BTreeSet<usize>,
    /// Frames of those.
    orphaned: Vec<usize>,
}

/// A flow of datagrams, played by both guests.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) link: Link,
    pub(super) port: u16,
    model: Datagrams,
    pub(super) primary: VecDeque<Step>,
    pub(super) secondary: VecDeque<Step>,
    pub(super) deferred: Vec<(usize, Step)>,
    ours: Progress,
    theirs: Progress,
}

impl Progress {
    /// Frame `id` is there: the frames of its packet if that is complete now.
    fn take(&mut self, id: usize, step: &Step) -> Option<Vec<usize>> {
        if self.orphans.contains(&step.packet) {
            self.orphaned.push(id);
            return None;
        }
        let ids = self.open.entry(step.packet).or_default();
        ids.push(id);
        if ids.len() < step.pieces {
            return None;
        }
        self.open.remove(&step.packet)
    }

    /// A checkpoint: what is there of incomplete packets, the rest of which is still to come.
    fn cut(&mut self) -> Vec<usize> {
        let mut ids = std::mem::take(&mut self.orphaned);
        for (packet, frames) in std::mem::take(&mut self.open) {
            self.orphans.insert(packet);
            ids.extend(frames);
        }
        ids
    }
}

impl Flow {
    pub(super) fn new(random: &mut Random, number: usize) -> Self {
        let link = Link {
            ip_version: if random.chance(50) { 4 } else { 6 },
            vlan: [[0, 0], [5, 0], [5, 7]][random.below(3)],
            peer: 9,
        };
        let mut flow = Self {
            link,
            port: 2000 + number as u16,
            model: Datagrams::default(),
            primary: VecDeque::new(),
            secondary: VecDeque::new(),
            deferred: Vec::new(),
            ours: Progress::default(),
            theirs: Progress::default(),
        };
        let sends: Vec<_> = (0..random.below(20)).map(|_| send(random)).collect();
        flow.primary = flow.steps(random, &sends, 0);
        flow.secondary = flow.steps(random, &sends, 1000);
        flow
    }

    /// The frames of one guest, whose packets count from `id`.
    fn steps(&self, random: &mut Random, sends: &[Vec<Vec<u8>>], id: usize) -> VecDeque<Step> {
        let mut steps = Vec::new();
        let mut packet = id;
        for payloads in sends {
            let mut rest = &payloads[..];
            while !rest.is_empty() {
                let count = if random.chance(50) { 1 } else { 1 + random.below(rest.len()) };
                let (now, then) = rest.split_at(count);
                steps.extend(self.packet(random, packet, now));
                packet += 1;
                rest = then;
            }
        }
        for _ in 0..random.below(4) {
            if steps.len() >= 2 {
                let at = random.below(steps.len() - 1);
                steps.swap(at, at + 1);
            }
        }
        steps.into()
    }

    /// `payloads` as one packet, in one frame or several.
    fn packet(&self, random: &mut Random, packet: usize, payloads: &[Vec<u8>]) -> Vec<Step> {
        let checksum = random.next() as u16;
        let frame = self.link.udp((self.port, 53), &payloads.concat(), checksum);
        let mut frames = vec![frame];
        if payloads.len() > 1 {
            let mut octets = frames[0].bytes().to_vec();
            octets[1] = 5;
            octets[4..6].copy_from_slice(&(payloads[0].len() as u16).to_le_bytes());
            frames[0] = Frame::new(octets.into(), 12).expect("longer than its header");
        } else if payloads[0].len() > 64 && random.chance(60) {
            let mut at: Vec<_> = (0..=random.below(4)).map(|_| 8 + random.below(8) * 8).collect();
            at.sort_unstable();
            at.dedup();
            // Unique between the flows, which have the addresses in common.
            let id = packet * 8 + usize::from(self.port - 2000);
            frames = cut(&frames[0], id as u32, &at);
            let turn = random.below(frames.len());
            frames.rotate_left(turn);
        }
        let pieces = frames.len();
        let step = |frame| Step { frame, packet, pieces, payloads: payloads.to_vec() };
        frames.into_iter().map(step).collect()
    }

    /// The primary sends frame `id`: what may leave.
    pub(super) fn on_primary(&mut self, id: usize, step: &Step) -> Vec<usize> {
        let Some(mut ids) = self.ours.take(id, step) else { return Vec::new() };
        ids.sort_unstable();
        self.model.primary(&ids, &step.payloads)
    }

    pub(super) fn on_secondary(&mut self, step: &Step) -> Vec<usize> {
        if self.theirs.take(0, step).is_none() {
            return Vec::new();
        }
        step.payloads.iter().flat_map(|payload| self.model.secondary(payload)).collect()
    }

    /// A checkpoint: what it releases. The secondary is now what the primary was at the cut, so of
    /// a packet of which the primary had sent a part it sends the very rest.
    pub(super) fn checkpoint(&mut self, random: &mut Random) -> Vec<usize> {
        let mut released = self.ours.cut();
        released.extend(self.model.checkpoint());
        self.theirs = Progress::default();
        self.theirs.orphans.clone_from(&self.ours.orphans);
        let rest: Vec<Step> =
            self.deferred.iter().map(|(_, step)| step).chain(&self.primary).cloned().collect();
        let mut planned = BTreeSet::new();
        self.secondary.clear();
        for step in rest {
            if self.ours.orphans.contains(&step.packet) {
                self.secondary.push_back(step);
            } else if planned.insert(step.packet) {
                for (n, payload) in step.payloads.iter().enumerate() {
                    let packet = 1000 * (n + 1) + step.packet;
                    let steps = self.packet(random, packet, std::slice::from_ref(payload));
                    self.secondary.extend(steps);
                }
            }
        }
        released
    }

    /// Frames of packets that never are complete, which are compared on their own in the end.
    pub(super) fn orphaned(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.ours.orphaned)
    }

    /// Changes a byte of the secondary's: says where in its datagram, and what it was.
    pub(super) fn flip(&mut self, random: &mut Random) -> Option<(usize, u8)> {
        // Of a frame that is all of its packet, and needs no padding.
        let is_fit = |step: &&mut Step| step.pieces == 1 && step.frame.ethernet().len() > 60;
        let mut fit: Vec<_> = self.secondary.iter_mut().filter(is_fit).collect();
        let at = random.below(fit.len().max(1));
        let step = fit.get_mut(at)?;
        let total: usize = step.payloads.iter().map(Vec::len).sum();
        let place = random.below(total);
        let mut octets = step.frame.bytes().to_vec();
        let in_frame = octets.len() - total + place;
        let was = octets[in_frame];
        // No payload has this bit.
        octets[in_frame] ^= 0x80;
        step.frame = Frame::new(octets.into(), 12).expect("longer than its header");
        let size = step.payloads[0].len();
        step.payloads[place / size][place % size] ^= 0x80;
        Some((place % size, was))
    }
}

/// Datagrams sent at once: of one length, but for the last. Few different ones, so that some are
/// equal.
fn send(random: &mut Random) -> Vec<Vec<u8>> {
    let len = if random.chance(50) { 1 + random.below(3) } else { 60 + random.below(3) * 200 };
    let mut payloads: Vec<_> =
        (0..=random.below(4)).map(|_| vec![random.below(6) as u8; len]).collect();
    if let Some(last) = payloads.last_mut() {
        last.truncate(len - random.below(len.min(2)));
    }
    payloads
}
