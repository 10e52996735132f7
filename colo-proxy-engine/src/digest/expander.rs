//! The primary's end: makes the secondary's frames of their digests and the primary's octets.
//!
//! No I/O and no clock. Frames of a connection are given out in the order in which they came; what
//! waits for octets holds up its own connection, but for what its frames acknowledge.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use colo_proxy_common::decode::{FrameBytes, OPTIONS_MAX, Tcp, flag};
use colo_proxy_common::record::FlowKey;
use colo_proxy_common::seq::Seq;

use super::key::DigestKey;
use super::produced::{MissingPart, ProducedOutput};
use super::report::ExpanderReport;
use super::wire::{DigestedSegment, ReturnedRecord};
use crate::compare::{bare_acknowledgment, segment};
use crate::digest::DigestLimits;
use crate::frame::Frame;

/// How long a digest waits for octets of which the primary has said nothing yet. Nothing of the
/// primary's waits for these octets, but something may for what comes behind them.
const PATIENCE: Duration = Duration::from_millis(50);
/// Likewise where it has said a part of them: its frame waits for the whole digest, and may be all
/// that it can say before the peer has it.
const PATIENCE_FOR_REST: Duration = Duration::from_millis(2);

/// What became of digests.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpanderStats {
    pub digests: u64,
    pub expanded: u64,
    /// Those that the primary's octets do not have.
    pub different: u64,
    /// Frames that were asked for.
    pub asked: u64,
    /// Frames that the secondary did not have any more.
    pub gone: u64,
    /// Digests of what is no segment.
    pub malformed: u64,
    /// Frames that wait now.
    pub waiting: u64,
}

/// A frame that waits, or waits for one that does.
#[derive(Debug)]
struct WaitingFrame {
    number: u64,
    /// FrameBytes that it keeps.
    bytes: usize,
    what: WaitingRecord,
}

#[derive(Debug)]
enum WaitingRecord {
    Whole(Frame),
    Digest { digested: DigestedSegment, tcp: Tcp, due: Instant, state: DigestState },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DigestState {
    /// For octets.
    Unsaid,
    /// For the rest of them.
    PartlySaid,
    /// For the frame, or for octets.
    Asked,
    /// For the frame: the octets will not do.
    Different,
}

/// A connection in which a frame waits.
#[derive(Debug, Default)]
struct WaitingFlow {
    queue: VecDeque<WaitingFrame>,
    /// The last acknowledgment that was given out ahead of its frame.
    acknowledged: Option<Seq>,
    /// A SYN or a reset waits: what comes behind it may be of the next connection.
    ends: bool,
}

/// The state of one lane.
#[derive(Debug)]
pub struct Expander {
    /// `None`: nothing but whole frames comes.
    key: Option<DigestKey>,
    limits: DigestLimits,
    produced: ProducedOutput,
    flows: HashMap<FlowKey, WaitingFlow, foldhash::fast::RandomState>,
    numbers: u64,
    waiting_bytes: usize,
    /// When to ask for a frame, of those that were not asked for.
    timers: BTreeMap<(Instant, u64), FlowKey>,
    /// By index: whose frames were asked for.
    asked: HashMap<u32, (FlowKey, u64), foldhash::fast::RandomState>,
    /// Connections in which something waits and the primary has said more.
    touched: HashSet<FlowKey, foldhash::fast::RandomState>,
    /// Frames to ask for, by their index.
    pub questions: Vec<u32>,
    /// What a frame said is lost for good: only a checkpoint helps.
    pub is_lost: bool,
    pub stats: ExpanderStats,
}

/// A frame of which only the head is there.
struct Headless<'a> {
    head: &'a [u8],
    len: usize,
}

impl FrameBytes for Headless<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.head.read(at)
    }

    fn read_into(&self, at: usize, len: usize, into: &mut [u8; OPTIONS_MAX]) -> bool {
        self.head.read_into(at, len, into)
    }
}

impl DigestedSegment {
    fn headless(&self) -> Headless<'_> {
        let head = self.head.get(self.vnet_len..).unwrap_or_default();
        Headless { head, len: head.len() + self.payload_len }
    }

    /// The connection and the header; `None` where the headers are not all that goes before the
    /// payload.
    fn segment(&self) -> Option<(FlowKey, Tcp)> {
        let headless = self.headless();
        let (name, tcp) = segment(&headless)?;
        let is_whole = tcp.payload_at as usize == headless.head.len()
            && tcp.payload_len as usize == self.payload_len;
        (is_whole && tcp.flags & (flag::SYN | flag::RST) == 0).then_some((name, tcp))
    }
}

impl Expander {
    pub fn new(limits: DigestLimits) -> Self {
        Self {
            key: None,
            limits,
            produced: ProducedOutput::new(limits.bytes_max),
            flows: HashMap::default(),
            numbers: 0,
            waiting_bytes: 0,
            timers: BTreeMap::new(),
            asked: HashMap::default(),
            touched: HashSet::default(),
            questions: Vec::new(),
            is_lost: false,
            stats: ExpanderStats::default(),
        }
    }

    /// The lane was connected, or is gone; nothing that waits can be told any more. Returns how
    /// many frames that were.
    pub fn on_connection(&mut self) -> u64 {
        self.key = None;
        self.produced.clear();
        self.drop_waiting()
    }

    /// What waits is of an epoch that is over. Returns how many frames that were.
    pub fn drop_waiting(&mut self) -> u64 {
        self.flows.clear();
        self.timers.clear();
        self.asked.clear();
        self.touched.clear();
        self.questions.clear();
        self.waiting_bytes = 0;
        std::mem::take(&mut self.stats.waiting)
    }

    /// More can be taken. What was asked for comes by the same lane as what is to be held off, so that is
    /// given room as well.
    pub fn has_room(&self) -> bool {
        !self.is_filled(if self.asked.is_empty() { 1 } else { 2 })
    }

    /// So many times as much waits as may.
    fn is_filled(&self, times: usize) -> bool {
        self.stats.waiting >= (self.limits.frames_max * times) as u64
            || self.waiting_bytes >= self.limits.bytes_max * times
    }

    /// The control lane is there again: it may have taken questions with it.
    pub fn ask_again(&mut self) {
        self.questions.extend(self.asked.keys());
    }

    /// Frames of which it is not known what they said.
    pub fn lost(&self) -> u64 {
        self.stats.gone + self.stats.malformed
    }

    /// For `status`; `None` where no digests come.
    pub fn report(&self) -> Option<ExpanderReport> {
        let stats = &self.stats;
        self.key.as_ref()?;
        Some(ExpanderReport {
            digests: stats.digests,
            expanded_frames: stats.expanded,
            different: stats.different,
            asked_frames: stats.asked,
            gone_frames: stats.gone,
            malformed: stats.malformed,
            waiting_frames: stats.waiting,
            kept_bytes: self.produced.bytes() as u64,
        })
    }

    /// The primary's guest has put out `frame`; see [`Expander::settle`].
    pub fn on_primary(&mut self, frame: &Frame) {
        if self.key.is_none() {
            return;
        }
        let Some((name, tcp)) = segment(frame.ethernet()) else { return };
        self.produced.add(&name, &tcp, frame);
        if self.flows.contains_key(&name) {
            self.touched.insert(name);
        }
    }

    /// Gives out what the primary's last frames have made whole.
    pub fn settle(&mut self, now: Instant, out: &mut Vec<Frame>) {
        if self.touched.is_empty() {
            return;
        }
        for name in std::mem::take(&mut self.touched) {
            self.go_on(now, &name, out);
        }
    }

    /// Something came by the lane; gives out what can be compared.
    pub fn on_returned(&mut self, now: Instant, returned: ReturnedRecord, out: &mut Vec<Frame>) {
        match returned {
            ReturnedRecord::Whole(frame) => self.on_whole(frame, out),
            ReturnedRecord::Digest { digested, .. } => self.on_digest(now, digested, out),
            ReturnedRecord::Answer { index, frame } => self.on_answer(now, index, frame, out),
            ReturnedRecord::Key(key) => self.key = Some(key),
        }
    }

    fn on_whole(&mut self, frame: Frame, out: &mut Vec<Frame>) {
        if self.key.is_none() {
            return out.push(frame);
        }
        let Some((name, tcp)) = segment(frame.ethernet()) else { return out.push(frame) };
        let Some(flow) = self.flows.get_mut(&name) else {
            self.produced.on_said(&name, end_of(&tcp));
            return out.push(frame);
        };
        flow.acknowledge_ahead(&frame, &tcp, frame.ethernet(), out);
        self.numbers += 1;
        let (number, bytes) = (self.numbers, size_of::<WaitingFrame>() + frame.len());
        flow.queue.push_back(WaitingFrame { number, bytes, what: WaitingRecord::Whole(frame) });
        self.note_waiting(bytes);
    }

    /// One more frame waits.
    fn note_waiting(&mut self, bytes: usize) {
        self.stats.waiting += 1;
        self.waiting_bytes += bytes;
    }

    /// Where many wait, answers have to come before there is no room for them.
    fn relieve(&mut self) {
        let many = self.limits.frames_max as u64 / 2;
        if self.stats.waiting >= many || self.waiting_bytes >= self.limits.bytes_max / 2 {
            self.ask_oldest();
        }
    }

    fn on_digest(&mut self, now: Instant, digested: DigestedSegment, out: &mut Vec<Frame>) {
        self.stats.digests += 1;
        let Some((name, tcp)) = digested.segment() else {
            self.stats.malformed += 1;
            self.is_lost = true;
            return;
        };
        let is_first = !self.flows.contains_key(&name);
        let found = is_first.then(|| self.find(&name, &tcp, &digested));
        if let Some(Lookup::Frame(frame)) = found {
            return self.give(&name, &tcp, frame, out);
        }
        self.numbers += 1;
        let number = self.numbers;
        let due = now + PATIENCE;
        self.timers.insert((due, number), name);
        let bytes = size_of::<WaitingFrame>() + digested.head.len();
        self.note_waiting(bytes);
        let flow = self.flows.entry(name).or_default();
        if let Some(head) = Frame::new(digested.head.clone(), digested.vnet_len) {
            flow.acknowledge_ahead(&head, &tcp, &digested.headless(), out);
        }
        let what = WaitingRecord::Digest { digested, tcp, due, state: DigestState::Unsaid };
        flow.queue.push_back(WaitingFrame { number, bytes, what });
        if let Some(found) = found {
            self.wait_on(now, &name, &found);
        }
        self.relieve();
    }

    fn on_answer(&mut self, now: Instant, index: u32, frame: Option<Frame>, out: &mut Vec<Frame>) {
        // It was asked for twice, or became known meanwhile, or its epoch is over.
        let Some((name, number)) = self.asked.remove(&index) else { return };
        let Some(flow) = self.flows.get_mut(&name) else { return };
        let Some(at) = flow.position(number) else { return };
        if let Some(frame) = frame {
            if let Some(waiting) = flow.queue.get_mut(at) {
                let bytes = size_of::<WaitingFrame>() + frame.len();
                self.waiting_bytes = self.waiting_bytes + bytes - waiting.bytes;
                (waiting.bytes, waiting.what) = (bytes, WaitingRecord::Whole(frame));
            }
        } else {
            if let Some(waiting) = flow.queue.remove(at) {
                self.waiting_bytes -= waiting.bytes;
                self.stats.waiting -= 1;
            }
            self.stats.gone += 1;
            self.is_lost = true;
        }
        self.go_on(now, &name, out);
    }

    /// When [`Expander::on_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// Asks for what has waited long enough.
    pub fn on_timeout(&mut self, now: Instant) {
        while self.poll_timeout().is_some_and(|due| due <= now) {
            self.ask_oldest();
        }
    }

    /// Asks for the frame that is due first.
    fn ask_oldest(&mut self) {
        let Some(((_, number), name)) = self.timers.pop_first() else { return };
        if let Some(at) = self.flows.get(&name).and_then(|flow| flow.position(number)) {
            self.ask(&name, at, DigestState::Asked);
        }
    }

    /// Asks for the frame in place `at` of the queue of `name`, unless it was asked for.
    fn ask(&mut self, name: &FlowKey, at: usize, becomes: DigestState) {
        let waiting = self.flows.get_mut(name).and_then(|flow| flow.queue.get_mut(at));
        let Some(WaitingFrame {
            number,
            what: WaitingRecord::Digest { digested, due, state, .. },
            ..
        }) = waiting
        else {
            return;
        };
        self.timers.remove(&(*due, *number));
        let was = std::mem::replace(state, becomes);
        if matches!(was, DigestState::Unsaid | DigestState::PartlySaid) {
            self.asked.insert(digested.index, (*name, *number));
            self.questions.push(digested.index);
            self.stats.asked += 1;
        }
    }

    /// Gives out what does not wait any more in the connection `name`.
    fn go_on(&mut self, now: Instant, name: &FlowKey, out: &mut Vec<Frame>) {
        loop {
            let front = self.flows.get(name).and_then(|flow| flow.queue.front());
            match front.map(|waiting| &waiting.what) {
                None => break,
                Some(WaitingRecord::Whole(_)) => {}
                Some(WaitingRecord::Digest { state: DigestState::Different, .. }) => return,
                Some(WaitingRecord::Digest { digested, tcp, .. }) => {
                    let index = digested.index;
                    match self.find(name, tcp, digested) {
                        Lookup::Frame(frame) => self.replace_front(name, index, frame),
                        found => return self.wait_on(now, name, &found),
                    }
                }
            }
            self.give_front(name, out);
        }
        self.flows.remove(name);
    }

    /// The first frame of `name` waits on, for what its digest was `found` to be.
    fn wait_on(&mut self, now: Instant, name: &FlowKey, found: &Lookup) {
        match found {
            Lookup::Different => {
                self.stats.different += 1;
                self.ask(name, 0, DigestState::Different);
            }
            Lookup::Missing(MissingPart::Forever) => self.ask(name, 0, DigestState::Different),
            Lookup::Missing(MissingPart::Rest) => self.hurry(now, name),
            Lookup::Missing(MissingPart::All) | Lookup::Frame(_) => {}
        }
    }

    /// The first frame of `name`, which has a digest, is `frame`.
    fn replace_front(&mut self, name: &FlowKey, index: u32, frame: Frame) {
        let front = self.flows.get_mut(name).and_then(|flow| flow.queue.front_mut());
        if let Some(WaitingFrame { number, what, .. }) = front {
            if let WaitingRecord::Digest { due, .. } = what {
                self.timers.remove(&(*due, *number));
            }
            *what = WaitingRecord::Whole(frame);
        }
        self.asked.remove(&index);
        self.stats.expanded += 1;
    }

    fn give_front(&mut self, name: &FlowKey, out: &mut Vec<Frame>) {
        let Some(flow) = self.flows.get_mut(name) else { return };
        if let Some(WaitingFrame { what: WaitingRecord::Whole(frame), bytes, .. }) =
            flow.queue.pop_front()
        {
            self.stats.waiting -= 1;
            self.waiting_bytes -= bytes;
            if let Some((name, tcp)) = segment(frame.ethernet()) {
                self.produced.on_said(&name, end_of(&tcp));
            }
            out.push(frame);
        }
    }

    fn give(&mut self, name: &FlowKey, tcp: &Tcp, frame: Frame, out: &mut Vec<Frame>) {
        self.stats.expanded += 1;
        self.produced.on_said(name, end_of(tcp));
        out.push(frame);
    }

    /// A part of what the first frame of `name` says is there.
    fn hurry(&mut self, now: Instant, name: &FlowKey) {
        let front = self.flows.get_mut(name).and_then(|flow| flow.queue.front_mut());
        let Some(WaitingFrame { number, what: WaitingRecord::Digest { due, state, .. }, .. }) =
            front
        else {
            return;
        };
        if *state != DigestState::Unsaid {
            return;
        }
        *state = DigestState::PartlySaid;
        let soon = now + PATIENCE_FOR_REST;
        if soon < *due {
            self.timers.remove(&(*due, *number));
            *due = soon;
            self.timers.insert((soon, *number), *name);
        }
    }

    /// Looks for the octets of a digest.
    fn find(&self, name: &FlowKey, tcp: &Tcp, digested: &DigestedSegment) -> Lookup {
        let Some(key) = &self.key else { return Lookup::Missing(MissingPart::All) };
        let (seq, len, head) = (Seq(tcp.seq), digested.payload_len, &digested.head);
        let octets = match self.produced.octets(name, seq, len, head) {
            Ok(octets) => octets,
            Err(missing) => return Lookup::Missing(missing),
        };
        if key.digest(octets.get(head.len()..).unwrap_or_default()) != digested.digest {
            return Lookup::Different;
        }
        Frame::new(Bytes::from(octets), digested.vnet_len).map_or(Lookup::Different, Lookup::Frame)
    }
}

/// What the primary's octets say of a digest.
#[derive(Debug)]
enum Lookup {
    /// They have it: this is the secondary's frame.
    Frame(Frame),
    /// They have another one.
    Different,
    /// They are not there.
    Missing(MissingPart),
}

impl WaitingFlow {
    fn position(&self, number: u64) -> Option<usize> {
        self.queue.binary_search_by_key(&number, |waiting| waiting.number).ok()
    }

    /// Gives out what `frame` acknowledges before the rest of it: the primary's frames may wait for
    /// that, and a guest may acknowledge at any time.
    fn acknowledge_ahead(
        &mut self,
        frame: &Frame,
        tcp: &Tcp,
        octets: &(impl FrameBytes + ?Sized),
        out: &mut Vec<Frame>,
    ) {
        let ack = Seq(tcp.ack);
        self.ends |= tcp.flags & (flag::SYN | flag::RST) != 0;
        if self.ends
            || tcp.flags & flag::ACK == 0
            || self.acknowledged.is_some_and(|known| ack.since(known) <= 0)
        {
            return;
        }
        if let Some(bare) = bare_acknowledgment(frame, octets, ack, tcp.window) {
            self.acknowledged = Some(ack);
            out.push(bare);
        }
    }
}

/// One past the last octet of a segment's data.
fn end_of(tcp: &Tcp) -> Seq {
    let opens = u32::from(tcp.flags & flag::SYN != 0);
    Seq(tcp.seq).plus(opens + tcp.payload_len)
}
