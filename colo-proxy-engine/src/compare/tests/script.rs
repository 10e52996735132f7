//! What a guest sends on one connection: the same stream in whatever pieces, again and in disorder.

use super::model::Claim;
use super::random::Random;

/// A connection to be played by both guests.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) stream: Vec<u8>,
    /// The peer's bytes. All are acknowledged in the end.
    pub(super) peer_len: usize,
    /// Without one the connection is met in its middle.
    pub(super) has_syn: bool,
    pub(super) ending: Ending,
    pub(super) isn: u32,
    pub(super) peer_isn: u32,
    /// Bytes that come with the SYN or SYN/ACK.
    pub(super) early: usize,
    /// Places pointed to as urgent, in ascending order; the last is not before the stream's end.
    pub(super) urgent: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Open,
    Fin,
    Rst,
}

impl Plan {
    pub(super) fn random(random: &mut Random, has_syn: bool) -> Self {
        let len = match random.below(100) {
            0 => 70_000 + random.below(70_000),
            1..10 => 0,
            _ => random.below(1500),
        };
        // Close to the wrap as often as not.
        let mut isn = || match random.below(2) {
            0 => 0u32.wrapping_sub(random.below(1000) as u32),
            _ => random.next() as u32,
        };
        let (isn, peer_isn) = (isn(), isn());
        let ending = match random.below(4) {
            0 => Ending::Open,
            1 => Ending::Rst,
            _ => Ending::Fin,
        };
        let mut urgent: Vec<usize> = Vec::new();
        if random.chance(50) {
            urgent.extend((0..random.below(4)).map(|_| random.below(len + 1)));
            urgent.sort_unstable();
            urgent.push(len + random.below(3));
        }
        Self {
            urgent,
            early: if random.chance(30) { random.below(len.min(1400) + 1) } else { 0 },
            stream: random.octets(len),
            peer_len: random.below(5000),
            has_syn,
            ending,
            isn,
            peer_isn,
        }
    }

    /// All that a guest sends from `start` of the stream on, having acknowledged `acked`.
    pub(super) fn script(
        &self,
        random: &mut Random,
        start: usize,
        acked: usize,
        syn: bool,
        fin: bool,
    ) -> Vec<Claim> {
        let mut claims = self.data(random, start);
        if fin && self.ending == Ending::Fin {
            let at = self.stream.len();
            match claims.iter_mut().find(|claim| claim.end == at && random.chance(50)) {
                Some(last) => last.fin = true,
                None => claims.push(Claim { start: at, end: at, fin: true, ..Claim::default() }),
            }
        }
        self.point(random, &mut claims);
        repeat(random, &mut claims);
        disorder(random, &mut claims);
        let mut claims = self.acknowledge(random, claims, acked);
        if syn && self.has_syn {
            let ack = self.peer_isn.is_multiple_of(2).then_some(0);
            claims.insert(0, Claim { syn: true, ack, end: self.early, ..Claim::default() });
        }
        let all = Some(self.peer_len);
        let end = self.stream.len();
        let urgent = self.urgent.last().copied();
        claims.push(Claim { start: end, end, ack: all, urgent, ..Claim::default() });
        if self.ending == Ending::Rst {
            claims.push(Claim { start: end, end, ack: all, rst: true, ..Claim::default() });
        }
        claims
    }

    /// The stream from `start` on in pieces: tiny ones, segments, or what segmentation offload
    /// takes.
    fn data(&self, random: &mut Random, start: usize) -> Vec<Claim> {
        let mut claims = Vec::new();
        let most = match random.below(3) {
            0 => 40,
            1 => 1448,
            _ => 65000,
        };
        // A long stream in tiny pieces would only take long.
        let most = if self.stream.len() > 10_000 { most.max(1448) } else { most };
        let mut at = start;
        while at < self.stream.len() {
            let end = (at + 1 + random.below(most)).min(self.stream.len());
            claims.push(Claim { start: at, end, ..Claim::default() });
            at = end;
        }
        claims
    }

    /// Segments that point to what is urgent, which may lie in them or far ahead.
    fn point(&self, random: &mut Random, claims: &mut [Claim]) {
        for claim in claims {
            if let Some(place) = self.urgent.get(random.below(self.urgent.len() + 1))
                && (claim.start..claim.start + 65536).contains(place)
            {
                claim.urgent = Some(*place);
            }
        }
    }

    /// Acknowledgments that grow up to all of the peer's, some of them on their own.
    fn acknowledge(&self, random: &mut Random, claims: Vec<Claim>, acked: usize) -> Vec<Claim> {
        let mut acked = acked.min(self.peer_len);
        let mut all = Vec::new();
        for mut claim in claims {
            if random.chance(30) {
                acked += random.below(self.peer_len - acked + 1);
            }
            claim.ack = Some(acked);
            if random.chance(20) {
                let at = claim.end.max(claim.start);
                let more = acked + random.below(self.peer_len - acked + 1);
                all.push(Claim { start: at, end: at, ack: Some(more), ..Claim::default() });
                acked = more;
                claim.ack = Some(if random.chance(50) { more } else { claim.ack.unwrap_or(0) });
            }
            all.push(claim);
        }
        all
    }
}

/// Retransmissions: of a segment, or of several as one.
fn repeat(random: &mut Random, claims: &mut Vec<Claim>) {
    for _ in 0..random.below(4) {
        if claims.is_empty() {
            return;
        }
        let first = random.below(claims.len());
        let last = (first + random.below(3)).min(claims.len() - 1);
        let (start, end) = (claims[first].start, claims[last].end);
        if start >= end || end - start > 65000 {
            continue;
        }
        let fin = claims[last].fin && claims[last].end == end;
        let at = last + 1 + random.below(claims.len() - last);
        claims.insert(at, Claim { start, end, fin, ..Claim::default() });
    }
}

/// Loss and reordering: a segment reaches us later than it was due.
fn disorder(random: &mut Random, claims: &mut [Claim]) {
    for _ in 0..random.below(4) {
        if claims.len() < 2 {
            return;
        }
        let from = random.below(claims.len() - 1);
        let to = (from + 1 + random.below(4)).min(claims.len() - 1);
        claims[from..=to].rotate_left(1);
    }
}
