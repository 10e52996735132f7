//! The secondary's kernel programs and their maps, in plain Rust.
//!
//! The code that the programs run (`colo_proxy_common::flow`, `rewrite`, `decode`) decides about each
//! connection and frame. Only the maps and the ways between interfaces are modelled.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use colo_proxy_common::decode::{decode, decode_tcp, decode_tcp_options, protocol};
use colo_proxy_common::flow::{
    self, FlowChange, FlowContext, FlowEntry, FlowVerdict, known, state,
};
use colo_proxy_common::record::{FlowKey, FlowRecord};
use colo_proxy_common::rewrite;
use colo_proxy_common::segment::{Direction, tcp_segment};

use crate::frame::Frame;
use crate::pair::ProgramMode;

/// Connections in the map that is never evicted, and in those that forget the oldest.
const FLOWS_MAX: usize = 1024;
const LRU_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct SimulatedPrograms {
    pub(super) mode: ProgramMode,
    /// The guests have numbers of their own.
    pub(super) translates: bool,
    epoch: u32,
    flows: HashMap<FlowKey, FlowRecord>,
    unconfirmed: Lru,
    half_open: Lru,
    /// Offsets that became known.
    pub(super) events: VecDeque<FlowKey>,
}

/// A map that forgets the entry that was not used for longest. The last one used is at the end.
#[derive(Debug, Default)]
struct Lru(VecDeque<(FlowKey, FlowRecord)>);

impl Lru {
    fn get_mut(&mut self, key: &FlowKey) -> Option<&mut FlowRecord> {
        let at = self.0.iter().position(|(other, _)| other == key)?;
        let used = self.0.remove(at)?;
        self.0.push_back(used);
        self.0.back_mut().map(|(_, flow)| flow)
    }

    fn insert(&mut self, key: FlowKey, flow: FlowRecord) {
        self.remove(&key);
        self.0.push_back((key, flow));
        if self.0.len() > LRU_MAX {
            self.0.pop_front();
        }
    }

    fn remove(&mut self, key: &FlowKey) {
        self.0.retain(|(other, _)| other != key);
    }
}

/// The decision about a frame.
#[derive(Debug)]
pub(super) enum FrameFate {
    Go(Frame),
    Hold,
    Drop,
}

impl SimulatedPrograms {
    pub(super) fn new() -> Self {
        Self {
            mode: ProgramMode::Protected,
            translates: true,
            epoch: 0,
            flows: HashMap::new(),
            unconfirmed: Lru::default(),
            half_open: Lru::default(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn bump_epoch(&mut self) {
        self.epoch += 1;
    }

    pub(super) fn restore_epoch(&mut self) {
        self.epoch -= 1;
    }

    pub(super) fn knows(&self, key: &FlowKey) -> bool {
        let lru = self.unconfirmed.0.iter().chain(&self.half_open.0);
        let mut all = self.flows.iter().chain(lru.map(|(key, flow)| (key, flow)));
        all.any(|(other, flow)| {
            other == key && flow.known & known::OFFSET != 0 && flow.state != state::REOPENING
        })
    }

    /// Forgets every connection.
    pub(super) fn forget_all(&mut self) {
        self.flows.clear();
        (self.unconfirmed, self.half_open) = (Lru::default(), Lru::default());
    }

    /// The same as `translate` of the programs.
    pub(super) fn translate(
        &mut self,
        now_us: u64,
        frame: &Frame,
        direction: Direction,
    ) -> FrameFate {
        let is_segment = tcp_segment(frame.ethernet(), direction).filter(|_| self.translates);
        let Some((key, tcp)) = is_segment else {
            return FrameFate::Go(frame.clone());
        };
        let options = decode_tcp_options::<[u8]>(frame.ethernet(), &tcp);
        let now = FlowContext {
            failed_over: self.mode == ProgramMode::FailedOver,
            epoch: self.epoch,
            ns: now_us * 1000,
        };
        let seen = flow::FlowSegment::new(&tcp, options.timestamps);
        let mut record = FlowRecord::default();
        let entry = self.find(&key);
        let step = match direction {
            Direction::ToGuest => flow::to_guest(&now, &seen, entry, &mut record),
            Direction::FromGuest => flow::from_guest(&now, &seen, entry, &mut record),
        };
        self.apply(key, step.change, record);
        if step.frees_parked {
            self.events.push_back(key);
        }
        match step.verdict {
            FlowVerdict::Pass => FrameFate::Go(frame.clone()),
            FlowVerdict::Park => FrameFate::Hold,
            FlowVerdict::Drop => FrameFate::Drop,
            FlowVerdict::Translate(translation) => rewritten(frame, direction, translation),
        }
    }

    fn find(&mut self, key: &FlowKey) -> Option<FlowEntry<'_>> {
        let found = self.flows.get_mut(key).or_else(|| self.unconfirmed.get_mut(key));
        found.or_else(|| self.half_open.get_mut(key)).map(FlowEntry::from_mut)
    }

    fn apply(&mut self, key: FlowKey, change: FlowChange, mut record: FlowRecord) {
        if change == FlowChange::Keep {
            return;
        }
        let is_known = self.flows.remove(&key).is_some();
        self.unconfirmed.remove(&key);
        self.half_open.remove(&key);
        match change {
            FlowChange::Keep | FlowChange::Forget => {}
            FlowChange::Open => self.half_open.insert(key, record),
            FlowChange::Establish if record.known & known::CONFIRMED == 0 => {
                self.unconfirmed.insert(key, record);
            }
            FlowChange::Establish if is_known || self.flows.len() < FLOWS_MAX => {
                self.flows.insert(key, record);
            }
            FlowChange::Establish => {
                record.known &= !known::CONFIRMED;
                self.unconfirmed.insert(key, record);
            }
        }
    }
}

fn rewritten(frame: &Frame, direction: Direction, translation: rewrite::Translation) -> FrameFate {
    let vnet_len = frame.vnet().len();
    let mut octets = frame.bytes().to_vec();
    let ethernet = &mut octets[vnet_len..];
    let Some(ip) = decode::<[u8]>(ethernet, None).ok().and_then(|packet| packet.ip) else {
        return FrameFate::Drop;
    };
    debug_assert_eq!(ip.protocol, protocol::TCP);
    let Ok(tcp) = decode_tcp::<[u8]>(ethernet, &ip) else { return FrameFate::Drop };
    let options = decode_tcp_options::<[u8]>(ethernet, &tcp);
    let done = match direction {
        Direction::ToGuest => rewrite::to_guest(ethernet, &tcp, &options, translation),
        Direction::FromGuest => rewrite::from_guest(ethernet, &tcp, &options, translation),
    };
    match Frame::new(Bytes::from(octets), vnet_len).filter(|_| done) {
        Some(frame) => FrameFate::Go(frame),
        None => FrameFate::Drop,
    }
}
