//! One tuple and its entry in the three maps, with segments of both sides in any order,
//! checkpoints, a failover, and an import from an earlier pair.

use colo_proxy::offsets::{FlowState, Offset};
use colo_proxy_common::decode::{Timestamps, flag, protocol};
use colo_proxy_common::flow::{
    FlowChange, FlowContext, FlowEntry, FlowSegment, FlowStep, FlowVerdict, from_guest, known,
    state, to_guest,
};
use colo_proxy_common::record::{FlowKey, FlowRecord};

use crate::choices::Choices;

/// Each combination of flags that a guest may send, and then any byte.
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
    now: FlowContext,
    half_open: Option<FlowRecord>,
    unconfirmed: Option<FlowRecord>,
    flows: Option<FlowRecord>,
    /// The map has no room for another entry.
    flows_full: bool,
}

pub(super) fn run(choices: &mut Choices<'_>) {
    let now = FlowContext { failed_over: false, epoch: choices.number32(), ns: 1 };
    let mut world =
        World { now, half_open: None, unconfirmed: None, flows: None, flows_full: false };
    while !choices.is_over() {
        match choices.octet() {
            0..7 => world.now.epoch = world.now.epoch.wrapping_add(1),
            7 => world.import(choices),
            8 => world.now.failed_over = true,
            9 => world.flows_full ^= true,
            // The daemon ages entries, and a flood pushes out half-open ones.
            10 => world.half_open = None,
            11 => world.flows = None,
            12 => world.unconfirmed = None,
            kind => world.segment(kind & 1 == 0, &any_segment(choices)),
        }
    }
}

/// Few numbers, so that they meet, and sometimes any number.
fn any_segment(choices: &mut Choices<'_>) -> FlowSegment {
    let kind = choices.octet();
    let mut number = || match choices.octet() {
        255 => choices.number32(),
        few => u32::from(few % 8).wrapping_sub(2),
    };
    let (seq, ack) = (number(), number());
    let timestamps = (kind & 8 != 0).then(|| Timestamps { value: number(), echo: number(), at: 0 });
    let flags = if kind & 0xf0 == 0xf0 { choices.octet() } else { FLAGS[usize::from(kind % 8)] };
    FlowSegment { flags, seq, ack, payload_len: u32::from(kind >> 4), timestamps }
}

impl World {
    fn segment(&mut self, is_of_peer: bool, segment: &FlowSegment) {
        self.now.ns += 1;
        let (now, before) = (self.now, self.entry().copied());
        let mut record = FlowRecord::default();
        let entries = [&mut self.flows, &mut self.unconfirmed, &mut self.half_open];
        let entry = entries.into_iter().find_map(Option::as_mut).map(FlowEntry::from_mut);
        let step = if is_of_peer {
            to_guest(&now, segment, entry, &mut record)
        } else {
            from_guest(&now, segment, entry, &mut record)
        };
        self.apply(step, record);
        self.is_possible(step, is_of_peer);
        if step.frees_parked {
            assert_ne!(record, FlowRecord::default(), "an event tells of something");
            assert!(!is_of_peer || record.known & known::PARKED != 0, "nothing was out of place");
        }
        if let Some(before) = before {
            self.is_stable(step, &before, is_of_peer, segment);
        }
    }

    fn apply(&mut self, step: FlowStep, mut record: FlowRecord) {
        if step.change == FlowChange::Keep {
            return;
        }
        // A full map accepts an entry that was in it before.
        let is_full = self.flows_full && self.flows.is_none();
        (self.half_open, self.unconfirmed, self.flows) = (None, None, None);
        match step.change {
            FlowChange::Keep | FlowChange::Forget => {}
            FlowChange::Open => self.half_open = Some(record),
            FlowChange::Establish if record.known & known::CONFIRMED != 0 && !is_full => {
                self.flows = Some(record);
            }
            FlowChange::Establish => {
                record.known &= !known::CONFIRMED;
                self.unconfirmed = Some(record);
            }
        }
    }

    /// A connection of an earlier pair. Its entry has the old pair's offset in every epoch.
    fn import(&mut self, choices: &mut Choices<'_>) {
        let (seq, ts) = (choices.number32(), choices.number32());
        let state =
            choices.one_of(&[FlowState::Established, FlowState::FinPeer, FlowState::Closed]);
        let key = FlowKey { protocol: protocol::TCP, ..FlowKey::default() };
        let offset = Offset { key, state, seq, ts };
        let flow = offset.flow(self.now.epoch, self.now.ns);
        let again = Offset::of(&key, &flow, self.now.epoch);
        assert_eq!(again, (seq != 0 || ts != 0).then_some(offset));
        (self.half_open, self.unconfirmed, self.flows) = (None, None, Some(flow));
    }

    fn entry(&self) -> Option<&FlowRecord> {
        self.flows.as_ref().or(self.unconfirmed.as_ref()).or(self.half_open.as_ref())
    }

    /// After any segments, the entry is one that the programs know, and the verdict follows from
    /// it.
    fn is_possible(&self, step: FlowStep, is_of_peer: bool) {
        if let Some(entry) = self.entry() {
            assert!(
                (state::OPENING_PASSIVE..=state::REOPENING).contains(&entry.state),
                "{entry:?}"
            );
            assert_eq!(entry.known & !(2 * known::CONFIRMED - 1), 0, "{entry:?}");
        }
        match step.verdict {
            FlowVerdict::Translate(translation) => {
                assert!(!translation.is_identity(), "nothing to translate is a pass");
                let Some(entry) = self.entry() else {
                    return assert!(
                        step.change != FlowChange::Forget,
                        "translated without an entry"
                    );
                };
                assert_eq!(translation, entry.translation(self.now.epoch), "{entry:?}");
            }
            FlowVerdict::Park => {
                assert!(is_of_peer && !self.now.failed_over, "nobody is there to hold it");
            }
            FlowVerdict::Drop | FlowVerdict::Pass => {}
        }
    }

    /// ARCHITECTURE.md: a SYN or a RST of the peer, forged or not, changes no translation of an
    /// established connection, and takes no entry from it. The guest's own answer does.
    fn is_stable(
        &self,
        step: FlowStep,
        before: &FlowRecord,
        is_of_peer: bool,
        segment: &FlowSegment,
    ) {
        let is_live = matches!(before.state, state::ESTABLISHED..=state::FIN_PEER);
        let is_disturbing = segment.flags & (flag::SYN | flag::RST) != 0;
        if !(is_of_peer && is_live && is_disturbing) {
            return;
        }
        assert_eq!(step.change, FlowChange::Keep, "{segment:?} on {before:?}");
        let epoch = self.now.epoch;
        let after = self.entry().map(|entry| entry.translation(epoch));
        assert_eq!(after, Some(before.translation(epoch)), "{segment:?} on {before:?}");
    }
}
