//! One tuple and its entry in the two maps, under segments of both sides in any order, checkpoints
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

/// The entry of one tuple in both maps, as the programs keep it.
#[derive(Debug)]
struct World {
    now: Now,
    half_open: Option<Flow>,
    flows: Option<Flow>,
    /// The map has no room for another entry.
    flows_full: bool,
}

pub(super) fn run(choices: &mut Choices<'_>) {
    let now = Now { failed_over: false, epoch: choices.number32(), ns: 1 };
    let mut world = World { now, half_open: None, flows: None, flows_full: false };
    while !choices.is_over() {
        match choices.octet() {
            0..8 => world.now.epoch = world.now.epoch.wrapping_add(1),
            8 => world.now.failed_over = true,
            9 => world.flows_full ^= true,
            // The daemon ages entries, and a flood pushes out what is half open.
            10 => world.half_open = None,
            11 => world.flows = None,
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
        let entry = self.flows.as_mut().or(self.half_open.as_mut()).map(Entry::from_mut);
        let step = if is_of_peer {
            to_guest(&now, segment, entry, &mut record)
        } else {
            from_guest(&now, segment, entry, &mut record)
        };
        self.apply(step, record);
        self.is_possible(step, is_of_peer);
        if step.release_held {
            assert!(!is_of_peer, "only the guest's own number releases what waits for it");
            assert_ne!(record, Flow::default(), "an event tells of something");
        }
        if let Some(before) = before {
            self.is_stable(step, &before, is_of_peer, segment);
        }
    }

    fn apply(&mut self, step: Step, record: Flow) {
        match step.change {
            Change::Keep => {}
            Change::Open => (self.half_open, self.flows) = (Some(record), None),
            Change::Establish if self.flows_full && self.flows.is_none() => {
                self.half_open = Some(record);
            }
            Change::Establish => (self.half_open, self.flows) = (None, Some(record)),
            Change::Forget => (self.half_open, self.flows) = (None, None),
        }
    }

    fn entry(&self) -> Option<&Flow> {
        self.flows.as_ref().or(self.half_open.as_ref())
    }

    /// Whatever came: the entry is one that the programs know, and the verdict follows from it.
    fn is_possible(&self, step: Step, is_of_peer: bool) {
        if let Some(entry) = self.entry() {
            assert!(
                (state::OPENING_PASSIVE..=state::REOPENING).contains(&entry.state),
                "{entry:?}"
            );
            assert_eq!(entry.known & !(2 * known::IDENTITY - 1), 0, "{entry:?}");
        }
        match step.verdict {
            Verdict::Translate(translation) => {
                assert!(!translation.is_identity(), "nothing to translate is a pass");
                let Some(entry) = self.entry() else {
                    return assert!(step.change != Change::Forget, "translated without an entry");
                };
                let offsets = (entry.seq_offset, entry.ts_offset);
                assert_eq!((translation.seq, translation.ts), offsets, "{entry:?}");
                assert!(entry.known & known::OFFSET != 0 && entry.epoch == self.now.epoch);
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
