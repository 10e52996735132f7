//! The primary's end: makes the secondary's frames from their digests and the primary's bytes.
//!
//! Frames of a connection are given out in the order in which they came. A digest without its bytes stops
//! its own connection, except for acknowledgments, which are given out at once.

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

/// How long a digest waits for bytes of which the primary has said nothing yet. No frame of the primary
/// waits for these bytes, but one may wait for a frame behind them.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long it waits if the primary has said a part of them. The primary's frame waits for the whole
/// digest, and its guest may say nothing more before the peer has that frame.
const PATIENCE_FOR_REST: Duration = Duration::from_millis(2);

/// The counters of the expander.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpanderStats {
    /// Digests that came.
    pub digests: u64,
    /// Digests that became frames.
    pub expanded: u64,
    /// Digests that differ from the primary's bytes.
    pub different: u64,
    /// Frames that were asked for.
    pub asked: u64,
    /// Frames that the secondary did not have any more.
    pub gone: u64,
    /// Digests whose headers are no segment.
    pub malformed: u64,
    /// Frames that wait now, for their bytes or behind a digest.
    pub waiting: u64,
}

/// A frame that waits, or waits for one that does.
#[derive(Debug)]
struct WaitingFrame {
    number: u64,
    /// Bytes in memory.
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
    /// It waits for bytes.
    Unsaid,
    /// It waits for the rest of them.
    PartlySaid,
    /// It waits for the frame or for bytes.
    Asked,
    /// It waits for the frame, because the bytes differ.
    Different,
}

/// A connection in which a frame waits.
#[derive(Debug, Default)]
struct WaitingFlow {
    queue: VecDeque<WaitingFrame>,
    /// The last acknowledgment that was given out ahead of its frame.
    acknowledged: Option<Seq>,
    /// A SYN or a reset waits, so later frames may be of the next connection.
    ends: bool,
}

/// Expands the digests of one lane.
#[derive(Debug)]
pub struct Expander {
    /// `None`: only whole frames come.
    key: Option<DigestKey>,
    limits: DigestLimits,
    produced: ProducedOutput,
    flows: HashMap<FlowKey, WaitingFlow, foldhash::fast::RandomState>,
    numbers: u64,
    waiting_bytes: usize,
    /// When to ask for a frame that was not asked for yet.
    timers: BTreeMap<(Instant, u64), FlowKey>,
    /// Frames that were asked for, by their index.
    asked: HashMap<u32, (FlowKey, u64), foldhash::fast::RandomState>,
    /// Connections in which something waits and the primary has said more.
    touched: HashSet<FlowKey, foldhash::fast::RandomState>,
    /// Frames to ask for, by their place in the connection from 0. The caller empties it.
    pub questions: Vec<u32>,
    /// A frame is lost for good, and only a checkpoint helps. The caller resets it.
    pub is_lost: bool,
    /// The counters.
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

    /// The connection and the header; `None` if the head is not exactly the headers of a segment.
    fn segment(&self) -> Option<(FlowKey, Tcp)> {
        let headless = self.headless();
        let (name, tcp) = segment(&headless)?;
        let is_whole = tcp.payload_at as usize == headless.head.len()
            && tcp.payload_len as usize == self.payload_len;
        (is_whole && tcp.flags & (flag::SYN | flag::RST) == 0).then_some((name, tcp))
    }
}

impl Expander {
    /// An expander for a lane that is not connected yet.
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

    /// The lane was connected, or is gone. Waiting digests cannot be expanded any more. Returns how many
    /// frames were dropped.
    pub fn on_connection(&mut self) -> u64 {
        self.key = None;
        self.produced.clear();
        self.drop_waiting()
    }

    /// Drops the waiting frames, because their epoch is over. Returns how many they were.
    pub fn drop_waiting(&mut self) -> u64 {
        self.flows.clear();
        self.timers.clear();
        self.asked.clear();
        self.touched.clear();
        self.questions.clear();
        self.waiting_bytes = 0;
        std::mem::take(&mut self.stats.waiting)
    }

    /// There is room for more. While answers are awaited there is twice the room, because they come by
    /// the same lane as the records that are to stay out.
    pub fn has_room(&self) -> bool {
        !self.is_filled(if self.asked.is_empty() { 1 } else { 2 })
    }

    /// As much waits as `times` the limits.
    fn is_filled(&self, times: usize) -> bool {
        self.stats.waiting >= (self.limits.frames_max * times) as u64
            || self.waiting_bytes >= self.limits.bytes_max * times
    }

    /// The control lane is up again, and questions may be lost: asks them once more.
    pub fn ask_again(&mut self) {
        self.questions.extend(self.asked.keys());
    }

    /// Frames that are lost for good.
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

    /// The primary's guest has sent `frame`; see [`Expander::settle`].
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

    /// Appends the frames that the primary's last frames have completed.
    pub fn settle(&mut self, now: Instant, out: &mut Vec<Frame>) {
        if self.touched.is_empty() {
            return;
        }
        for name in std::mem::take(&mut self.touched) {
            self.go_on(now, &name, out);
        }
    }

    /// A record came by the lane. Appends the frames that can be compared now.
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

    /// If many frames wait, asks for one, so that answers come before there is no room for them.
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
        // It was asked for twice, or was expanded meanwhile, or its epoch is over.
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

    /// Asks for the frames that have waited long enough.
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

    /// Gives out the frames that no longer wait in the connection `name`.
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

    /// The first frame of `name` goes on waiting, because of `found`.
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

    /// The digest of the first frame of `name` became `frame`.
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

    /// A part of the first frame's bytes is there, so the rest is awaited for a shorter time.
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

    /// Looks for the bytes of a digest.
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

/// The primary's bytes in the place of a digest.
#[derive(Debug)]
enum Lookup {
    /// They have the digest, and this is the secondary's frame.
    Frame(Frame),
    /// They have another digest.
    Different,
    /// They are not there.
    Missing(MissingPart),
}

impl WaitingFlow {
    fn position(&self, number: u64) -> Option<usize> {
        self.queue.binary_search_by_key(&number, |waiting| waiting.number).ok()
    }

    /// Gives out the acknowledgment of `frame` ahead of it. The primary's frames may wait for that, and a
    /// guest may acknowledge at any time.
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

/// The place behind the last byte of a segment's data.
fn end_of(tcp: &Tcp) -> Seq {
    let opens = u32::from(tcp.flags & flag::SYN != 0);
    Seq(tcp.seq).plus(opens + tcp.payload_len)
}
