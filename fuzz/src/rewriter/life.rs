//! One tuple and its entry in the three maps, under segments of both sides in any order, checkpoints
//! and a failover.

use colo_proxy_common::decode::{Timestamps, flag};
use colo_proxy_common::flow::{
    Change, Entry, Now, Segment, Step, Verdict, from_guest, known, state, to_guest,
};
use colo_proxy_common::record::Flow;

use crate::choices::Choices;

/// Each octet of the flags that a guest may send, and then any.
const FLAGS: [u8; 8] = [
    flag::SYN,
    flag::SYN | flag::ACK,
    flag::ACK,
    flag::ACK | flag::PSH,
    flag::FIN | flag::ACK,
    flag::RST,
    flag::RST | flag::ACK,
    0,
];

/// The entry of one tuple in the maps, as the programs keep it.
#[derive(Debug)]
struct World {
    now: Now,
    half_open: Option<Flow>,
    unconfirmed: Option<Flow>,
    flows: Option<Flow>,
    /// The map has no room for another entry.
    flows_full: bool,
}

pub(super) fn run(choices: &mut Choices<'_>) {
    let now = Now { failed_over: false, epoch: choices.number32(), ns: 1 };
    let mut world =
        World { now, half_open: None, unconfirmed: None, flows: None, flows_full: false };
    while !choices.is_over() {
        match choices.octet() {
            0..8 => world.now.epoch = world.now.epoch.wrapping_add(1),
            8 => world.now.failed_over = true,
            9 => world.flows_full ^= true,
            // The daemon ages entries, and a flood pushes out what is half open.
            10 => world.half_open = None,
            11 => world.flows = None,
            12 => world.unconfirmed = None,
            13 => world.import(choices),
            kind => world.segment(kind & 1 == 0, &any_segment(choices)),
        }
    }
}

/// Few numbers, so that they meet, and now and then any.
fn any_segment(choices: &mut Choices<'_>) -> Segment {
    let kind = choices.octet();
    let mut number = || match choices.octet() {
        255 => choices.number32(),
        few => u32::from(few % 8).wrapping_sub(2),
    };
    let (seq, ack) = (number(), number());
    let timestamps = (kind & 8 != 0).then(|| Timestamps { value: number(), echo: number(), at: 0 });
    let flags = if kind & 0xf0 == 0xf0 { choices.octet() } else { FLAGS[usize::from(kind % 8)] };
    Segment { flags, seq, ack, payload_len: u32::from(kind >> 4), timestamps }
}

impl World {
    fn segment(&mut self, is_of_peer: bool, segment: &Segment) {
        self.now.ns += 1;
        let (now, before) = (self.now, self.entry().copied());
        let mut record = Flow::default();
        let entries = [&mut self.flows, &mut self.unconfirmed, &mut self.half_open];
        let entry = entries.into_iter().find_map(Option::as_mut).map(Entry::from_mut);
        let step = if is_of_peer {
            to_guest(&now, segment, entry, &mut record)
        } else {
            from_guest(&now, segment, entry, &mut record)
        };
        self.apply(step, record);
        self.is_possible(step, is_of_peer);
        if step.release_held {
            let held = known::HELD;
            assert!(
                !is_of_peer || record.known & held != 0,
                "the peer's number releases only what was out of place"
            );
            assert_ne!(record, Flow::default(), "an event tells of something");
        }
        if let Some(before) = before {
            self.is_stable(step, &before, is_of_peer, segment);
        }
    }

    fn apply(&mut self, step: Step, mut record: Flow) {
        let had_room = !self.flows_full || self.flows.is_some();
        if step.change != Change::Keep {
            (self.half_open, self.unconfirmed, self.flows) = (None, None, None);
        }
        match step.change {
            Change::Keep | Change::Forget => {}
            Change::Open => self.half_open = Some(record),
            Change::Establish if record.known & known::CONFIRMED != 0 && had_room => {
                self.flows = Some(record);
            }
            Change::Establish => {
                record.known &= !known::CONFIRMED;
                self.unconfirmed = Some(record);
            }
        }
    }

    /// A connection that an earlier pair has translated.
    fn import(&mut self, choices: &mut Choices<'_>) {
        let (seq, ts) = (choices.number32(), choices.number32());
        let state = state::ESTABLISHED + u32::from(choices.octet()) % 5;
        (self.half_open, self.unconfirmed) = (None, None);
        self.flows = Some(Flow {
            epoch: self.now.epoch,
            state,
            known: known::OFFSET | known::CONFIRMED,
            seq_offset: seq,
            ts_offset: ts,
            base_seq_offset: seq,
            base_ts_offset: ts,
            ..Flow::default()
        });
    }

    fn entry(&self) -> Option<&Flow> {
        let entries = [&self.flows, &self.unconfirmed, &self.half_open];
        entries.into_iter().find_map(Option::as_ref)
    }

    /// Whatever came: the entry is one that the programs know, and the verdict follows from it.
    fn is_possible(&self, step: Step, is_of_peer: bool) {
        if let Some(entry) = self.entry() {
            assert!(
                (state::OPENING_PASSIVE..=state::REOPENING).contains(&entry.state),
                "{entry:?}"
            );
            assert_eq!(entry.known & !(2 * known::CONFIRMED - 1), 0, "{entry:?}");
        }
        match step.verdict {
            Verdict::Translate(translation) => {
                assert!(!translation.is_identity(), "nothing to translate is a pass");
                let Some(entry) = self.entry() else {
                    return assert!(step.change != Change::Forget, "translated without an entry");
                };
                assert_eq!(translation, entry.translation(self.now.epoch), "{entry:?}");
                assert!(entry.known & known::OFFSET != 0, "{entry:?}");
            }
            Verdict::Hold => {
                assert!(is_of_peer && !self.now.failed_over, "nobody is there to hold it");
            }
            Verdict::Drop | Verdict::Pass => {}
        }
    }

    /// ARCHITECTURE.md: a SYN or a RST of the peer, forged or not, changes no translation of an
    /// established connection, and takes no entry from it. The guest's own answer does.
    fn is_stable(&self, step: Step, before: &Flow, is_of_peer: bool, segment: &Segment) {
        let is_live = matches!(before.state, state::ESTABLISHED..=state::FIN_PEER);
        let is_disturbing = segment.flags & (flag::SYN | flag::RST) != 0;
        if !(is_of_peer && is_live && is_disturbing) {
            return;
        }
        assert_eq!(step.change, Change::Keep, "{segment:?} on {before:?}");
        let Some(entry) = self.entry() else { return };
        assert_eq!(
            (entry.seq_offset, entry.ts_offset, entry.epoch),
            (before.seq_offset, before.ts_offset, before.epoch),
            "{segment:?} on {before:?}"
        );
    }
}
