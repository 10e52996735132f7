//! The output rule, written down as plainly as can be: nothing is optimised, nothing is shared with
//! the engine. It knows streams and places, not packets.

/// What a TCP segment of either guest claims, in places of its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) ack: Option<usize>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// The place that it points to as urgent.
    pub(super) urgent: Option<usize>,
}

/// One connection: what the secondary has said, and what the primary has.
#[derive(Debug)]
pub(super) struct Connection {
    /// What the primary sends.
    pub(super) stream: Vec<u8>,
    /// What the secondary has produced, place by place.
    produced: Vec<Option<u8>>,
    /// Places that the primary has put out, and those that a checkpoint covers.
    put_out: Vec<bool>,
    covered: Vec<bool>,
    said: Said,
    primary: Said,
    held: Vec<(usize, Claim)>,
}

/// What one guest has said that is no data.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    bits: ControlBits,
    ack: Option<usize>,
    urgent: Option<usize>,
    /// It has said more than a reset.
    started: bool,
}

/// A set of SYN, FIN and RST.
#[derive(Clone, Copy, Debug, Default)]
struct ControlBits(u8);

impl ControlBits {
    const SYN: Self = Self(1);
    const FIN: Self = Self(2);
    const RST: Self = Self(4);

    fn of(claim: &Claim) -> Self {
        [(claim.syn, Self::SYN), (claim.fin, Self::FIN), (claim.rst, Self::RST)]
            .into_iter()
            .filter(|(is_set, _)| *is_set)
            .fold(Self::default(), |set, (_, bit)| set.and(bit))
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn contains(self, other: Self) -> bool {
        self.and(other).0 == self.0
    }
}

impl Said {
    fn note(&mut self, claim: &Claim) {
        self.bits = self.bits.and(ControlBits::of(claim));
        self.ack = self.ack.max(claim.ack);
        self.urgent = self.urgent.max(claim.urgent);
        self.started |= !claim.rst;
    }
}

impl Connection {
    pub(super) fn new(stream: Vec<u8>) -> Self {
        Self {
            produced: vec![None; stream.len()],
            put_out: vec![false; stream.len()],
            covered: vec![false; stream.len()],
            stream,
            said: Said::default(),
            primary: Said::default(),
            held: Vec::new(),
        }
    }

    /// The rule, part (a).
    fn may_leave(&self, claim: &Claim) -> bool {
        (claim.start..claim.end)
            .all(|place| self.covered[place] || self.produced[place] == Some(self.stream[place]))
            && self.said.bits.contains(ControlBits::of(claim))
            && claim.urgent.is_none_or(|place| self.said.urgent.is_some_and(|said| said >= place))
            && claim.ack.is_none_or(|ack| self.said.ack.is_some_and(|said| said >= ack))
    }

    /// The primary sends frame `id`.
    pub(super) fn primary(&mut self, id: usize, claim: Claim) -> Vec<usize> {
        self.primary.note(&claim);
        self.put_out[claim.start..claim.end].fill(true);
        self.held.push((id, claim));
        self.leave()
    }

    /// The secondary sends `octets` for the places of `claim`.
    pub(super) fn secondary(&mut self, claim: &Claim, octets: &[u8]) -> Vec<usize> {
        self.said.note(claim);
        for (place, octet) in (claim.start..claim.end).zip(octets) {
            self.produced[place] = Some(*octet);
        }
        self.leave()
    }

    /// Frames that may leave now, in order of arrival.
    fn leave(&mut self) -> Vec<usize> {
        let held = std::mem::take(&mut self.held);
        let (go, stay): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|(_, claim)| self.may_leave(claim));
        self.held = stay;
        go.into_iter().map(|(id, _)| id).collect()
    }

    /// The rule, part (b): the secondary is what the primary was at the cut.
    pub(super) fn checkpoint(&mut self) -> Vec<usize> {
        self.produced.fill(None);
        self.covered.copy_from_slice(&self.put_out);
        self.said = self.primary;
        self.held.drain(..).map(|(id, _)| id).collect()
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn has_started(&self) -> bool {
        self.primary.started
    }

    pub(super) fn primary_said_fin(&self) -> bool {
        self.primary.bits.contains(ControlBits::FIN)
    }

    pub(super) fn primary_ack(&self) -> usize {
        self.primary.ack.unwrap_or_default()
    }
}

/// One flow of datagrams.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    held: Vec<Packet>,
    unmatched: Vec<Vec<u8>>,
}

/// What the primary sent at once: its frames, and each datagram with whether the secondary sent
/// the same.
#[derive(Debug)]
struct Packet {
    ids: Vec<usize>,
    payloads: Vec<(Vec<u8>, bool)>,
}

impl Datagrams {
    pub(super) fn primary(&mut self, ids: &[usize], payloads: &[Vec<u8>]) -> Vec<usize> {
        let mut packet = Packet { ids: ids.to_vec(), payloads: Vec::new() };
        for payload in payloads {
            let found = self.unmatched.iter().position(|other| other == payload);
            if let Some(at) = found {
                self.unmatched.remove(at);
            }
            packet.payloads.push((payload.clone(), found.is_some()));
        }
        self.held.push(packet);
        self.leave()
    }

    pub(super) fn secondary(&mut self, payload: &[u8]) -> Vec<usize> {
        let mut held = self.held.iter_mut().flat_map(|packet| &mut packet.payloads);
        match held.find(|(own, matched)| !matched && own == payload) {
            Some((_, matched)) => *matched = true,
            None => self.unmatched.push(payload.to_vec()),
        }
        self.leave()
    }

    fn leave(&mut self) -> Vec<usize> {
        let is_matched = |packet: &&Packet| packet.payloads.iter().all(|(_, matched)| *matched);
        let ready = self.held.iter().take_while(is_matched).count();
        self.held.drain(..ready).flat_map(|packet| packet.ids).collect()
    }

    pub(super) fn checkpoint(&mut self) -> Vec<usize> {
        self.unmatched.clear();
        self.held.drain(..).flat_map(|packet| packet.ids).collect()
    }
}
