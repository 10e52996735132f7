//! Both ends of the lane against each other, against the engine without them, and against a peer
//! that sends anything.

#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::expander::Expander;
use super::sender::Digester;
use super::wire::{ReturnedRecord, ReturnedRecords};
use crate::compare::{Engine, Limits, Output, Side};
use crate::digest::DigestLimits;
use crate::frame::Frame;
use crate::record::RecordKind;

const VNET: usize = 12;

/// A segment of one of a few connections of the guest.
fn segment(connection: u16, seq: u32, ack: u32, payload: &[u8]) -> Frame {
    last_segment(connection, seq, ack, payload, false)
}

/// Likewise, perhaps the last one. Connections with an odd number are of IPv6.
fn last_segment(connection: u16, seq: u32, ack: u32, payload: &[u8], fin: bool) -> Frame {
    let mut octets = vec![0; VNET];
    let base = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ports = (80, 5000 + connection);
    let tcp = if connection % 2 == 1 {
        base.ipv6([1; 16], [2; 16], 64).tcp(ports.0, ports.1, seq, 60_000)
    } else {
        base.ipv4([10, 0, 0, 1], [10, 0, 0, 9], 64).tcp(ports.0, ports.1, seq, 60_000)
    };
    let tcp = if fin { tcp.ack(ack).fin() } else { tcp.ack(ack) };
    tcp.write(&mut octets, payload).expect("a Vec takes everything");
    Frame::new(octets.into(), VNET).expect("the header is there")
}

/// What both guests say, or one of them.
fn text(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 3) as u8 ^ (at / 700) as u8 ^ salt).collect()
}

/// Both ends, and the wire between them.
struct Pair {
    sender: Digester,
    receiver: ReturnedRecords,
    expander: Expander,
    sent: u64,
    now: Instant,
    /// Bytes of all records.
    carried: usize,
    out: Vec<Frame>,
}

impl Pair {
    fn new(limits: DigestLimits) -> Self {
        let mut sender = Digester::new(true, limits.bytes_max, Arc::default());
        let mut pair = Self {
            receiver: ReturnedRecords::default(),
            expander: Expander::new(limits),
            sent: 0,
            now: Instant::now(),
            carried: 0,
            out: Vec::new(),
            sender: Digester::new(true, limits.bytes_max, Arc::default()),
        };
        let record = sender.begin([9; 16]);
        pair.sender = sender;
        pair.returned(record);
        pair
    }

    fn returned(&mut self, (kind, octets): (RecordKind, Bytes)) {
        self.carried += octets.len();
        let returned = self.receiver.read(kind, octets).expect("it was just written");
        self.expander.on_returned(self.now, returned, &mut self.out);
    }

    fn secondary(&mut self, frame: &Frame) {
        let record = self.sender.digest(self.sent, frame);
        self.sent += 1;
        match record {
            Some(record) => self.returned(record),
            None => self.expander.on_returned(self.now, frame.clone().into(), &mut self.out),
        }
    }

    fn primary(&mut self, frame: &Frame) {
        self.expander.on_primary(frame);
        self.expander.settle(self.now, &mut self.out);
    }

    /// Lets the time pass, and answers what is asked.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.expander.on_timeout(self.now);
        self.answer();
    }

    fn answer(&mut self) {
        assert!(self.sender.want(&std::mem::take(&mut self.expander.questions)));
        while let Some(record) = self.sender.next_answer() {
            self.returned(record);
        }
    }

    fn out(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.out)
    }
}

fn pair() -> Pair {
    Pair::new(DigestLimits::default())
}

#[test]
fn what_the_primary_has_said_comes_back_byte_for_byte_however_it_was_cut() {
    let mut pair = pair();
    let all = text(20_000, 0);
    for (at, part) in (1000..).step_by(700).zip(all.chunks(700)) {
        pair.primary(&segment(0, at, 5, part));
    }
    for (at, part) in (1000..).step_by(1448).zip(all.chunks(1448)) {
        let frame = segment(0, at, 6, part);
        pair.secondary(&frame);
        assert_eq!(pair.out(), [frame]);
    }
    assert!(pair.expander.questions.is_empty());
    assert!(pair.carried * 20 < all.len(), "{} bytes for {}", pair.carried, all.len());
}

#[test]
fn a_digest_waits_for_the_primary_and_so_does_what_comes_behind_it_in_its_connection() {
    let mut pair = pair();
    let all = text(3000, 0);
    let frames = [
        segment(0, 0, 5, &all[..1500]),
        segment(0, 1500, 5, &all[1500..]),
        segment(0, 3000, 5, b"!"),
    ];
    for frame in &frames {
        pair.secondary(frame);
    }
    let acknowledgments = pair.out();
    assert_eq!(acknowledgments.len(), 1, "once, for all three acknowledge the same");
    let other = segment(1, 0, 5, b"of another connection");
    pair.secondary(&other);
    assert_eq!(pair.out(), [other]);
    pair.primary(&segment(0, 0, 5, &all[..2000]));
    assert_eq!(pair.out(), frames[..1]);
    pair.primary(&segment(0, 2000, 5, &all[2000..]));
    assert_eq!(pair.out(), frames[1..]);
    assert_eq!((pair.expander.stats.waiting, pair.expander.poll_timeout()), (0, None));
}

#[test]
fn what_a_frame_acknowledges_does_not_wait_with_it() {
    let mut pair = pair();
    let data = text(1000, 0);
    for (seq, ack) in [(0, 50), (1000, 60), (2000, 60)] {
        pair.secondary(&segment(0, seq, ack, &data));
        let out = pair.out();
        let acks: Vec<_> = out.iter().map(|frame| &frame.ethernet()[42..46]).collect();
        let expected: &[[u8; 4]] =
            [&[[0, 0, 0, 50]][..], &[[0, 0, 0, 60]], &[]][seq as usize / 1000];
        assert_eq!(acks, expected);
        assert!(out.iter().all(|frame| frame.ethernet().len() == 54), "{out:?}");
    }
}

#[test]
fn another_payload_is_asked_for_at_once_and_comes_whole() {
    let mut pair = pair();
    pair.primary(&segment(0, 0, 5, &text(1448, 0)));
    let frame = segment(0, 0, 5, &text(1448, 1));
    pair.secondary(&frame);
    assert_eq!(pair.expander.questions, [0]);
    pair.out();
    pair.answer();
    assert_eq!(pair.out(), [frame]);
    assert_eq!(pair.expander.stats.different, 1);
}

#[test]
fn a_primary_that_says_a_part_and_no_more_does_not_wait_for_long() {
    let mut pair = pair();
    let all = text(1448, 0);
    let frame = segment(0, 0, 5, &all);
    pair.secondary(&frame);
    pair.out();
    pair.primary(&segment(0, 0, 5, &all[..1000]));
    pair.pass(Duration::from_millis(1));
    assert_eq!(pair.out(), []);
    pair.pass(Duration::from_millis(1));
    assert_eq!(pair.out(), [frame]);
}

#[test]
fn a_primary_that_says_nothing_of_it_is_waited_for_a_little_longer() {
    let mut pair = pair();
    let frame = segment(0, 0, 5, &text(1448, 0));
    pair.secondary(&frame);
    pair.out();
    pair.pass(Duration::from_millis(49));
    assert_eq!(pair.out(), []);
    pair.pass(Duration::from_millis(1));
    assert_eq!(pair.out(), [frame]);
}

#[test]
fn questions_that_went_with_the_control_lane_are_asked_again_and_no_others() {
    let mut pair = pair();
    pair.secondary(&segment(0, 0, 5, &text(1448, 0)));
    pair.now += Duration::from_millis(50);
    pair.expander.on_timeout(pair.now);
    assert_eq!(std::mem::take(&mut pair.expander.questions), [0]);
    pair.now += Duration::from_secs(10);
    pair.expander.on_timeout(pair.now);
    assert!(pair.expander.questions.is_empty());
    pair.expander.ask_again();
    assert_eq!(std::mem::take(&mut pair.expander.questions), [0]);
    // Nothing says that it was heard but the answer, which is one.
    assert!(pair.sender.want(&[0, 0]));
    pair.answer();
    assert_eq!(pair.out().len(), 2, "what it acknowledges, and the frame");
    pair.expander.ask_again();
    assert!(pair.expander.questions.is_empty());
}

/// The primary repeats itself where it is, the secondary farther back than anything is kept.
#[test]
fn what_cannot_come_any_more_is_asked_for_at_once() {
    let mut pair = pair();
    pair.primary(&segment(0, 100_000, 5, &text(1448, 0)));
    let frame = segment(0, 50_000, 5, &text(1448, 0));
    pair.secondary(&frame);
    assert_eq!(pair.expander.questions, [0]);
    pair.out();
    pair.answer();
    assert_eq!(pair.out(), [frame]);
}

/// RFC 7413: a SYN may carry data.
#[test]
fn what_opens_or_resets_a_connection_goes_whole() {
    let mut pair = pair();
    for (syn, rst) in [(true, false), (false, true)] {
        let mut octets = vec![0; VNET];
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64);
        let mut tcp = builder.tcp(80, 5000, 0, 60_000);
        tcp = if syn { tcp.syn() } else { tcp };
        tcp = if rst { tcp.rst() } else { tcp };
        tcp.write(&mut octets, &text(300, 0)).expect("a Vec takes everything");
        let frame = Frame::new(octets.into(), VNET).expect("the header is there");
        pair.secondary(&frame);
        assert_eq!(pair.out(), [frame]);
    }
    assert!(!pair.expander.is_lost);
}

#[test]
fn places_go_on_through_the_wrap() {
    let mut pair = pair();
    let all = text(6000, 0);
    let start = u32::MAX - 2999;
    for (at, part) in (0..).step_by(1000).zip(all.chunks(1000)) {
        pair.primary(&segment(0, start.wrapping_add(at), 5, part));
    }
    for (at, part) in (0..).step_by(1500).zip(all.chunks(1500)) {
        let frame = segment(0, start.wrapping_add(at), 5, part);
        pair.secondary(&frame);
        assert_eq!(pair.out(), [frame]);
    }
}

#[test]
fn nobody_wants_more_than_there_can_be() {
    let mut sender = Digester::new(true, 1 << 20, Arc::default());
    assert!(sender.want(&(0..1 << 17).collect::<Vec<_>>()));
    assert!(!sender.want(&[u32::MAX]));
}

#[test]
fn what_the_secondary_does_not_have_any_more_is_lost_and_what_is_behind_it_is_not() {
    let mut pair = Pair::new(DigestLimits { bytes_max: 2000, ..DigestLimits::default() });
    let frames = [0, 1, 2].map(|n| segment(0, n * 1448, 5, &text(1448, n as u8)));
    for frame in &frames {
        pair.secondary(frame);
    }
    pair.out();
    pair.pass(Duration::from_millis(50));
    assert_eq!(pair.out(), frames[2..]);
    assert!(pair.expander.is_lost);
    assert_eq!((pair.expander.lost(), pair.expander.stats.waiting), (2, 0));
}

#[test]
fn an_epoch_that_is_over_takes_what_waits_with_it() {
    let mut pair = pair();
    pair.secondary(&segment(0, 0, 5, &text(1448, 0)));
    pair.secondary(&segment(0, 1448, 5, b"!"));
    pair.pass(Duration::from_millis(1));
    assert_eq!(pair.expander.drop_waiting(), 2);
    pair.out();
    pair.pass(Duration::from_secs(2));
    pair.primary(&segment(0, 0, 5, &text(1448, 0)));
    assert_eq!((pair.out(), pair.expander.poll_timeout()), (vec![], None));
}

#[test]
fn what_waits_is_bounded() {
    let limits = DigestLimits { frames_max: 10, ..DigestLimits::default() };
    let mut pair = Pair::new(limits);
    let data = text(300, 0);
    for n in 0..20 {
        assert!(pair.expander.has_room());
        pair.secondary(&segment(n, 0, 5, &data));
    }
    // The oldest were asked for before there was no room, and their answers find some.
    assert!(!pair.expander.has_room());
    assert_eq!(pair.expander.questions[..3], [0, 1, 2]);
    pair.answer();
    assert!(pair.expander.has_room());
}

#[test]
fn what_waits_is_bounded_in_bytes() {
    let mut pair = Pair::new(DigestLimits { bytes_max: 200_000, ..DigestLimits::default() });
    pair.secondary(&segment(0, 0, 5, &text(300, 0)));
    let mut sent = 0;
    while pair.expander.has_room() {
        // Of a frame with something behind its packet the digest says nothing.
        let mut octets = segment(0, 300 + sent * 1448, 5, &text(1448, 0)).bytes().to_vec();
        octets.push(0);
        pair.secondary(&Frame::new(octets.into(), VNET).expect("the header is there"));
        sent += 1;
    }
    assert!((100..300).contains(&sent), "{sent}");
    assert_eq!(pair.expander.drop_waiting(), u64::from(sent) + 1);
    assert!(pair.expander.has_room());
}

fn kept(pair: &Pair) -> u64 {
    pair.expander.report().expect("digests come").kept_bytes
}

#[test]
fn what_is_kept_of_the_primary_is_bounded() {
    let mut pair = Pair::new(DigestLimits { bytes_max: 100_000, ..DigestLimits::default() });
    let data = text(1448, 0);
    for n in 0..1000 {
        pair.primary(&segment(n % 7, u32::from(n) * 1448, 5, &data));
    }
    assert!((90_000..=100_000).contains(&kept(&pair)), "{}", kept(&pair));
}

#[test]
fn what_both_have_said_is_kept_for_as_long_as_it_may_be_repeated() {
    let mut pair = pair();
    let data = text(1448, 0);
    for n in 0..1000 {
        let frame = segment(0, n * 1448, 5, &data);
        pair.primary(&frame);
        pair.secondary(&frame);
    }
    assert!((500_000..600_000).contains(&kept(&pair)), "{}", kept(&pair));
    pair.out();
    let repeated = segment(0, 800 * 1448, 5, &data);
    pair.secondary(&repeated);
    assert_eq!(pair.out(), [repeated]);
}

#[test]
fn short_and_other_frames_go_whole() {
    let mut sender = Digester::new(true, 1 << 20, Arc::default());
    sender.begin([1; 16]);
    let mut udp = vec![0; VNET];
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 9], 64)
        .udp(80, 5000)
        .write(&mut udp, &text(1000, 0))
        .expect("a Vec takes everything");
    let udp = Frame::new(udp.into(), VNET).expect("the header is there");
    for frame in [segment(0, 0, 5, b""), segment(0, 0, 5, &text(255, 0)), udp] {
        assert_eq!(sender.digest(0, &frame), None);
    }
    assert!(sender.digest(0, &segment(0, 0, 5, &text(256, 0))).is_some());
}

#[test]
fn a_lane_without_headers_gets_none() {
    let mut sender = Digester::new(false, 1 << 20, Arc::default());
    let mut receiver = ReturnedRecords::default();
    sender.begin([1; 16]);
    let frame = segment(0, 0, 5, &text(256, 0));
    sender.digest(0, &frame).expect("it is long enough");
    assert!(sender.want(&[0, 0]));
    let (kind, octets) = sender.next_answer().expect("it was asked for");
    assert_eq!(sender.next_answer(), None, "once");
    let answer = ReturnedRecord::Answer { index: 0, frame: Some(frame.plain()) };
    assert_eq!(receiver.read(kind, octets), Some(answer));
}

/// What one of the guests does.
#[derive(Clone, Debug)]
enum Step {
    Primary(u16),
    Secondary(u16),
    Pass,
}

/// One guest's output in each connection, cut into segments.
#[derive(Clone, Debug)]
struct Guest {
    segments: Vec<VecDeque<Frame>>,
}

impl Guest {
    /// `cuts` says how long segments are; what is said differs from `different` on.
    fn new(cuts: &[usize], different: Option<usize>) -> Self {
        let segments = (0..2).map(|connection| {
            let mut all = text(9_000, connection as u8);
            if let Some(octet) = different.and_then(|at| all.get_mut(at)) {
                *octet ^= 0x40;
            }
            let (mut at, mut frames) = (0, VecDeque::new());
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(all.len());
                // Both have received as much by then.
                let ack = 5 + (end / 1000) as u32;
                let is_last = end == all.len();
                let part = &all[at..end];
                frames.push_back(last_segment(connection, at as u32, ack, part, is_last));
                if cut % 7 == 0 {
                    frames.extend(frames.back().cloned());
                }
                if cut % 11 == 0 {
                    frames.extend(frames.front().cloned());
                }
                at = end;
                if is_last {
                    break;
                }
            }
            frames
        });
        Self { segments: segments.collect() }
    }

    fn next(&mut self, connection: u16) -> Option<Frame> {
        self.segments[usize::from(connection)].pop_front()
    }
}

/// What an engine has come to: frames that left, differences, and what is held still.
fn verdict(engine: &Engine, released: &[Frame]) -> (Vec<Vec<u8>>, u64, u64) {
    let mut released: Vec<_> = released.iter().map(|frame| frame.bytes().to_vec()).collect();
    released.sort();
    (released, engine.stats().divergences, engine.stats().held.frames)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2u16).prop_map(Step::Primary),
        4 => (0..2u16).prop_map(Step::Secondary),
        1 => Just(Step::Pass),
    ]
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..300usize, 300..2000usize, Just(1448)], 1..5)
}

proptest! {
    /// The engine comes to the same verdict with digests as with frames, whatever the guests say, how
    /// they cut it and who is ahead.
    #[test]
    fn the_verdict_is_that_of_the_frames(
        ours in cuts(),
        theirs in cuts(),
        different in prop_oneof![2 => Just(None), 1 => (0..9_000usize).prop_map(Some)],
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let now = Instant::now();
        let (mut primary, mut secondary) = (Guest::new(&ours, None), Guest::new(&theirs, different));
        let mut pair = pair();
        let mut engines = [(); 2].map(|()| (Engine::new(Limits::default(), 1), Output::default()));
        let rest = (0..2u16).flat_map(|n| [Step::Primary(n), Step::Secondary(n)]);
        let rest: Vec<_> = (0..9_000).flat_map(|_| rest.clone()).collect();
        for step in steps.into_iter().chain(rest) {
            let mut give = |engine: usize, side, frame| {
                let (engine, out) = &mut engines[engine];
                engine.on_frame(now, side, frame, out);
            };
            match step {
                Step::Primary(connection) => {
                    let Some(frame) = primary.next(connection) else { continue };
                    give(0, Side::Primary, frame.clone());
                    give(1, Side::Primary, frame.clone());
                    pair.primary(&frame);
                }
                Step::Secondary(connection) => {
                    let Some(frame) = secondary.next(connection) else { continue };
                    give(0, Side::Secondary, frame.clone());
                    pair.secondary(&frame);
                }
                Step::Pass => pair.pass(Duration::from_millis(30)),
            }
            pair.answer();
            for frame in pair.out() {
                give(1, Side::Secondary, frame);
            }
        }
        pair.pass(Duration::from_millis(50));
        let (engine, out) = &mut engines[1];
        for frame in pair.out() {
            engine.on_frame(now, Side::Secondary, frame, out);
        }
        prop_assert_eq!(pair.expander.stats.waiting, 0);
        let [direct, expanded] = engines.map(|(engine, out)| verdict(&engine, &out.release));
        prop_assert_eq!(direct, expanded);
    }

    /// A peer may send anything: it is refused or waits within the limits.
    #[test]
    fn records_of_a_stranger_do_no_harm(
        records in prop::collection::vec((1..4u8, prop::collection::vec(any::<u8>(), 0..120)), 0..60),
    ) {
        let mut pair = pair();
        for (kind, octets) in records {
            let kind = [RecordKind::Answer, RecordKind::Digest, RecordKind::Key][usize::from(kind) - 1];
            if let Some(returned) = pair.receiver.read(kind, octets.into()) {
                pair.expander.on_returned(pair.now, returned, &mut pair.out);
            }
        }
        pair.pass(Duration::from_secs(1));
    }

    /// Likewise where they are nearly right.
    #[test]
    fn records_that_were_altered_do_no_harm(
        alterations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut pair = pair();
        pair.primary(&segment(0, 0, 5, &text(1448, 0)));
        let record = pair.sender.digest(0, &segment(0, 0, 5, &text(1448, 0)));
        let (kind, octets) = record.expect("it is long enough");
        let mut octets = octets.to_vec();
        for (at, value) in &alterations {
            let at = at.index(octets.len());
            octets[at] = *value;
        }
        if let Some(returned) = pair.receiver.read(kind, octets.into()) {
            pair.expander.on_returned(pair.now, returned, &mut pair.out);
        }
        pair.pass(Duration::from_secs(1));
        for frame in pair.out() {
            prop_assert!(frame.len() <= crate::frame::FRAME_MAX);
        }
    }
}
