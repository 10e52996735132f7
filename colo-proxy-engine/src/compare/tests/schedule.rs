//! One random schedule: what both guests send, in what order, and what the model says to it.

use std::time::Duration;

use colo_proxy_common::decode::flag;

use super::emission::Flow;
use super::model::Connection;
use super::packet::Tcp;
use super::random::Random;
use super::rig::Rig;
use super::tuple::{Causality, Tuple};
use crate::compare::{Divergence, Reason, Side};
use crate::frame::Frame;

/// How the engine's input is made wrong without the model's knowledge, to see that it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    Nothing,
    /// A byte of the secondary differs.
    Octet,
    /// The secondary acknowledges more than it did.
    Ack,
    /// The secondary's FIN never comes.
    Fin,
    /// The secondary points less far.
    Urgent,
    /// The engine misses a checkpoint.
    Checkpoint,
    /// The SYN of the secondary's later connections never comes.
    Syn,
    /// It comes before the last frame of the connection before.
    Order,
}

pub(super) struct Run {
    random: Random,
    rig: Rig,
    sabotage: Sabotage,
    is_free: bool,
    tuples: Vec<Tuple>,
    flows: Vec<Flow>,
    /// Every primary frame, by number.
    frames: Vec<Frame>,
    underway: bool,
    /// Tuple, connection, place of the byte that the secondary has wrong.
    flipped: Option<(usize, usize, usize)>,
    /// Tuple, connection, place of the byte that the secondary never sends.
    missing: Option<(usize, usize, usize)>,
    /// Flow of datagrams, place in the datagram, and the byte that the secondary has wrong.
    flipped_datagram: Option<(usize, usize, u8)>,
    requests: Vec<Reason>,
}

impl Run {
    pub(super) fn new(seed: u64, sabotage: Sabotage, flip: bool) -> Self {
        Self::with(seed, sabotage, Causality::Kept, flip)
    }

    /// Either guest may be ahead by all that it says.
    pub(super) fn free(seed: u64, sabotage: Sabotage, flip: bool) -> Self {
        Self::with(seed, sabotage, Causality::None, flip)
    }

    /// The same, with a byte that the secondary never sends.
    pub(super) fn free_with_a_gap(seed: u64) -> Self {
        let mut run = Self::free(seed, Sabotage::Nothing, true);
        run.missing = run.flipped.take().filter(|(tuple, number, place)| {
            // The SYN is to come.
            *place >= run.tuples[*tuple].plans[*number].early
        });
        run
    }

    fn with(seed: u64, sabotage: Sabotage, causality: Causality, flip: bool) -> Self {
        let mut random = Random(seed);
        let tuples = (0..=random.below(3)).map(|n| Tuple::new(&mut random, n, causality));
        let tuples: Vec<_> = tuples.collect();
        let flows = (0..random.below(3)).map(|n| Flow::new(&mut random, n)).collect();
        let mut run = Self {
            rig: Rig::new(),
            random,
            sabotage,
            is_free: causality == Causality::None,
            tuples,
            flows,
            frames: Vec::new(),
            underway: false,
            flipped: None,
            missing: None,
            flipped_datagram: None,
            requests: Vec::new(),
        };
        if flip {
            run.flip();
        }
        if sabotage == Sabotage::Order {
            for tuple in &mut run.tuples {
                tuple.open_too_early();
            }
        }
        run
    }

    /// Datagrams alone. The secondary gets a byte of one wrong.
    pub(super) fn of_datagrams(seed: u64) -> Self {
        let mut run = Self::new(seed, Sabotage::Nothing, false);
        run.tuples.clear();
        run.flows.push(Flow::new(&mut run.random, 7));
        let which = run.random.below(run.flows.len());
        let flipped = run.flows[which].flip(&mut run.random);
        run.flipped_datagram = flipped.map(|(place, octet)| (which, place, octet));
        run
    }

    /// Chooses the byte that the secondary gets wrong.
    fn flip(&mut self) {
        let tuple = self.random.below(self.tuples.len());
        let number = self.random.below(self.tuples[tuple].plans.len());
        let len = self.tuples[tuple].plans[number].stream.len();
        if len > 0 {
            self.flipped = Some((tuple, number, self.random.below(len)));
        }
    }

    /// Plays everything; an error says what went wrong.
    pub(super) fn play(&mut self, with_checkpoints: bool) -> Result<(), String> {
        // How often the primary is served first: who lags is part of the schedule.
        let mut lead = 50;
        let mut idle = 0;
        while idle < 1000 {
            self.rig.now += Duration::from_micros(10);
            if self.random.chance(3) {
                // Where nobody waits, one guest alone for a while.
                let leads = if self.is_free { &[0, 10, 50, 90, 100][..] } else { &[10, 50, 90] };
                lead = leads[self.random.below(leads.len())];
            }
            // Not at the end: what the last one cut in two is to be left over.
            if with_checkpoints && idle < 5 && self.random.chance(2) {
                self.checkpoint()?;
            }
            let moved = match self.random.below(10) {
                0 if idle == 0 => self.uncompared()?,
                1..4 => self.datagram(lead)?,
                _ => self.segment(lead)?,
            };
            idle = if moved { 0 } else { idle + 1 };
        }
        if self.underway {
            self.done()?;
            return self.play(false);
        }
        self.finish()
    }

    /// What there is of packets that never are complete is compared on its own after a while.
    fn finish(&mut self) -> Result<(), String> {
        let (released, requests) = self.rig.wait(Duration::from_millis(1500));
        self.requests.extend(requests);
        let id = |frame: &Frame| self.frames.iter().position(|own| own == frame);
        let mut released: Vec<_> = released.iter().filter_map(id).collect();
        released.sort_unstable();
        let mut expected: Vec<_> = self.flows.iter_mut().flat_map(Flow::orphaned).collect();
        expected.sort_unstable();
        // Of equal frames, the first is found for all.
        expected = expected.iter().filter_map(|at| id(&self.frames[*at])).collect();
        expected.sort_unstable();
        if released == expected {
            return Ok(());
        }
        Err(format!("in the end: the rule allows {expected:?}, the engine released {released:?}"))
    }

    fn segment(&mut self, lead: usize) -> Result<bool, String> {
        if self.tuples.is_empty() {
            return Ok(false);
        }
        let which = self.random.below(self.tuples.len());
        if self.random.chance(lead) { self.primary(which) } else { self.secondary(which) }
    }

    fn primary(&mut self, which: usize) -> Result<bool, String> {
        let tuple = &mut self.tuples[which];
        let Some((number, claim)) = tuple.next_primary(&mut self.random) else { return Ok(false) };
        let octets = tuple.plans[number].stream[claim.start..claim.end].to_vec();
        let frame = tuple.packet(number, &claim, &octets).build();
        let id = self.frames.len();
        self.frames.push(frame.clone());
        let got = self.rig.frame(Side::Primary, &frame);
        let tuple = &mut self.tuples[which];
        if claim.syn {
            tuple.syns.push((id, number));
        }
        let expected = if self.underway {
            tuple.deferred.push((id, number, claim));
            Vec::new()
        } else {
            tuple.connections[number].primary(id, claim)
        };
        self.check(got, &expected, &format!("primary {which}.{number} {claim:?}"))?;
        Ok(true)
    }

    fn secondary(&mut self, which: usize) -> Result<bool, String> {
        let flipped = self.flipped.filter(|(tuple, ..)| *tuple == which);
        let tuple = &mut self.tuples[which];
        let Some((number, claim)) = tuple.next_secondary() else { return Ok(false) };
        if self.missing.is_some_and(|(tuple, of, place)| {
            (tuple, of) == (which, number) && (claim.start..claim.end).contains(&place)
        }) {
            return Ok(true);
        }
        let mut octets = tuple.plans[number].stream[claim.start..claim.end].to_vec();
        if let Some((_, _, place)) = flipped.filter(|(_, flipped, _)| *flipped == number)
            && (claim.start..claim.end).contains(&place)
        {
            octets[place - claim.start] ^= 0x20;
        }
        let mut packet = tuple.packet(number, &claim, &octets).salt(self.random.next() as u8 % 100);
        if claim.syn {
            // A number of its own, the same for repetitions.
            packet.seq = tuple.own_isn.wrapping_add(number as u32 * 77_777);
        }
        if self.sabotage == Sabotage::Syn && claim.syn && number > 0 {
            return Ok(true);
        }
        self.sabotage(&mut packet);
        let got = self.rig.frame(Side::Secondary, &packet.build());
        let expected = self.tuples[which].connections[number].secondary(&claim, &octets);
        self.check(got, &expected, &format!("secondary {which}.{number} {claim:?}"))?;
        Ok(true)
    }

    fn sabotage(&mut self, packet: &mut Tcp) {
        match self.sabotage {
            Sabotage::Octet => {
                if let Some(octet) = packet.payload.first_mut() {
                    *octet ^= 1;
                }
            }
            Sabotage::Ack => packet.ack = packet.ack.map(|ack| ack.wrapping_add(100)),
            Sabotage::Fin => packet.flags &= !flag::FIN,
            Sabotage::Urgent => packet.urgent = packet.urgent.saturating_sub(1),
            Sabotage::Nothing | Sabotage::Checkpoint | Sabotage::Syn | Sabotage::Order => {}
        }
    }

    fn datagram(&mut self, lead: usize) -> Result<bool, String> {
        if self.flows.is_empty() {
            return Ok(false);
        }
        let which = self.random.below(self.flows.len());
        let is_primary = self.random.chance(lead);
        let flow = &mut self.flows[which];
        let queue = if is_primary { &mut flow.primary } else { &mut flow.secondary };
        let Some(step) = queue.pop_front() else { return Ok(false) };
        let side = if is_primary { Side::Primary } else { Side::Secondary };
        let id = self.frames.len();
        let got = self.rig.frame(side, &step.frame);
        let flow = &mut self.flows[which];
        let expected = match side {
            Side::Primary => {
                self.frames.push(step.frame.clone());
                if self.underway {
                    flow.deferred.push((id, step));
                    Vec::new()
                } else {
                    flow.on_primary(id, &step)
                }
            }
            Side::Secondary => flow.on_secondary(&step),
        };
        self.check(got, &expected, &format!("datagram {side:?} {which}"))?;
        Ok(true)
    }

    /// ARP, from either guest. It does not count as movement, or the run would never end.
    fn uncompared(&mut self) -> Result<bool, String> {
        let mut octets = vec![0; 42];
        octets[12..14].copy_from_slice(&[8, 6]);
        let frame = Frame::new(octets.into(), 0).expect("no header");
        let id = self.frames.len();
        self.frames.push(frame.clone());
        let got = self.rig.frame(Side::Primary, &frame);
        self.check(got, &[id], "arp of the primary")?;
        let got = self.rig.frame(Side::Secondary, &frame);
        self.check(got, &[], "arp of the secondary")?;
        Ok(false)
    }

    /// The next step of a checkpoint: its beginning, its end, or its failure.
    fn checkpoint(&mut self) -> Result<(), String> {
        if !self.underway {
            self.rig.began();
            self.underway = true;
            return Ok(());
        }
        if self.random.chance(75) {
            return self.done();
        }
        self.rig.failed();
        self.underway = false;
        let got = self.rig.wait(Duration::ZERO);
        let expected = self.resume();
        self.check(got, &expected, "checkpoint failed")
    }

    fn done(&mut self) -> Result<(), String> {
        let got = if self.sabotage == Sabotage::Checkpoint {
            self.rig.failed();
            self.rig.wait(Duration::ZERO)
        } else {
            self.rig.done()
        };
        self.underway = false;
        let mut expected = Vec::new();
        for tuple in &mut self.tuples {
            tuple.restart_secondary(&mut self.random);
            expected.extend(tuple.connections.iter_mut().flat_map(Connection::checkpoint));
        }
        for flow in &mut self.flows {
            expected.extend(flow.checkpoint(&mut self.random));
        }
        // Everything held leaves in the order in which it came.
        expected.sort_unstable();
        expected.extend(self.resume());
        self.check(got, &expected, "checkpoint done")
    }

    /// The frames of after the cut, in the order in which they came.
    fn resume(&mut self) -> Vec<usize> {
        let mut all: Vec<(usize, usize)> = Vec::new();
        for (which, tuple) in self.tuples.iter().enumerate() {
            all.extend(tuple.deferred.iter().map(|(id, ..)| (*id, which)));
        }
        let tuples = self.tuples.len();
        for (which, flow) in self.flows.iter().enumerate() {
            all.extend(flow.deferred.iter().map(|(id, _)| (*id, tuples + which)));
        }
        all.sort_unstable();
        let mut expected = Vec::new();
        for (_, which) in all {
            if let Some(tuple) = self.tuples.get_mut(which) {
                let (id, number, claim) = tuple.deferred.remove(0);
                expected.extend(tuple.connections[number].primary(id, claim));
            } else {
                let flow = &mut self.flows[which - tuples];
                let (id, step) = flow.deferred.remove(0);
                expected.extend(flow.on_primary(id, &step));
            }
        }
        expected
    }

    /// The engine did what the model says, in the same order and with the very same buffers.
    fn check(
        &mut self,
        (released, requests): (Vec<Frame>, Vec<Reason>),
        expected: &[usize],
        what: &str,
    ) -> Result<(), String> {
        self.requests.extend(requests);
        let same = released.len() == expected.len()
            && released.iter().zip(expected).all(|(frame, id)| {
                let own = &self.frames[*id];
                own == frame && own.bytes().as_ptr() == frame.bytes().as_ptr()
            });
        for tuple in &mut self.tuples {
            let left = tuple.syns.iter().filter(|(id, _)| expected.contains(id));
            for (_, number) in left.copied().collect::<Vec<_>>() {
                tuple.answered[number] = true;
            }
        }
        if same {
            return Ok(());
        }
        let ids: Vec<_> =
            released.iter().map(|frame| self.frames.iter().position(|own| own == frame)).collect();
        Err(format!("{what}: the rule allows {expected:?}, the engine released {ids:?}"))
    }

    /// The secondary has a byte wrong.
    pub(super) fn is_flipped(&self) -> bool {
        self.flipped_datagram.is_some()
    }

    /// Packets put together, packets that never were complete, and batches.
    pub(super) fn found(&self) -> [u64; 3] {
        let fragments = self.rig.engine.stats().fragments;
        let batches = self.frames.iter().filter(|frame| frame.udp_segment_size().is_some());
        [fragments.reassembled, fragments.timed_out, batches.count() as u64]
    }

    /// Connections in it.
    pub(super) fn streams(&self) -> usize {
        self.tuples.iter().map(|tuple| tuple.plans.len()).sum()
    }

    /// With equal guests nothing is left, and nothing was asked for.
    pub(super) fn is_clean(&self) -> Result<(), String> {
        let stats = self.rig.engine.stats();
        if !self.requests.is_empty() || stats.reasons.total() != 0 {
            return Err(format!("asked for {:?}", self.requests));
        }
        if stats.held.frames != 0 || stats.held.bytes != 0 {
            return Err(format!("still held: {:?}", stats.held));
        }
        let all_sent = self.tuples.iter().all(|tuple| tuple.primary.is_empty());
        all_sent.then_some(()).ok_or_else(|| "the schedule got stuck".to_owned())
    }

    /// Exactly the flipped byte of a datagram was named, once, and one checkpoint asked for.
    pub(super) fn is_datagram_named(&mut self) -> Result<(), String> {
        let found: Vec<_> = self.rig.engine.divergences().cloned().collect();
        let Some((which, place, octet)) = self.flipped_datagram else { return self.is_clean() };
        let [divergence] = &found[..] else { return Err(format!("divergences: {found:?}")) };
        let named = divergence.reason == Reason::Datagram
            && divergence.flow.guest_port == self.flows[which].port
            && divergence.stream_offset == 8 + place as i64
            && divergence.primary_byte == Some(octet)
            && divergence.secondary_byte == Some(octet ^ 0x80);
        if !named || self.requests != [Reason::Datagram] {
            return Err(format!("{divergence:?}, asked for {:?}", self.requests));
        }
        // Everything that was held leaves with a checkpoint.
        let held = self.rig.engine.stats().held.frames as usize;
        let released = self.rig.checkpoint().0.len();
        (held > 0 && held == released).then_some(()).ok_or_else(|| format!("{held} held"))
    }

    /// The flipped byte was named first, and one checkpoint asked for. What the guests leave behind
    /// because of it may be named as well.
    pub(super) fn is_found(&self) -> Result<(), String> {
        let Some((tuple, number, place)) = self.flipped else { return self.is_clean() };
        let Some(divergence) = self.rig.engine.divergences().next() else {
            return Err("nothing was found".to_owned());
        };
        self.is_octet(divergence, (tuple, number, place))
    }

    /// The byte that never came was waited for, and one checkpoint asked for.
    pub(super) fn is_missed(&mut self) -> Result<(), String> {
        if self.missing.is_none() {
            return self.is_clean();
        }
        let (released, requests) = self.rig.wait(Duration::from_secs(4));
        self.requests.extend(requests);
        if !released.is_empty() || self.requests.len() != 1 {
            return Err(format!("{} left, asked for {:?}", released.len(), self.requests));
        }
        Ok(())
    }

    /// Exactly the flipped byte was named, once, and one checkpoint asked for.
    pub(super) fn is_named(&self) -> Result<(), String> {
        let found: Vec<_> = self.rig.engine.divergences().collect();
        let Some((tuple, number, place)) = self.flipped else { return self.is_clean() };
        // Behind a connection that is stuck, the next one never starts.
        if number > self.tuples[tuple].at {
            return Err("the schedule got stuck before the octet".to_owned());
        }
        let [divergence] = found[..] else { return Err(format!("divergences: {found:?}")) };
        self.is_octet(divergence, (tuple, number, place))
    }

    fn is_octet(
        &self,
        divergence: &Divergence,
        (tuple, number, place): (usize, usize, usize),
    ) -> Result<(), String> {
        let plan = &self.tuples[tuple].plans[number];
        let octet = plan.stream[place];
        let named = divergence.reason == Reason::Payload
            && divergence.flow.guest_port == self.tuples[tuple].port
            && divergence.primary_byte == Some(octet)
            && divergence.secondary_byte == Some(octet ^ 0x20)
            && (!plan.has_syn || divergence.stream_offset == place as i64);
        if !named || self.requests != [Reason::Payload] {
            return Err(format!("{divergence:?}, asked for {:?}", self.requests));
        }
        Ok(())
    }
}
