//! The secondary's kernel programs and their maps, in plain Rust.
//!
//! What becomes of a connection and of a frame is decided by the code that the programs run
//! (`colo_proxy_common::flow`, `rewrite`, `decode`); only the maps and the ways between interfaces
//! are modelled.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use colo_proxy_common::decode::{decode, decode_tcp, decode_tcp_options, protocol};
use colo_proxy_common::flow::{self, Change, Entry, Now, Verdict};
use colo_proxy_common::record::{Flow, FlowKey};
use colo_proxy_common::rewrite;

use crate::datapath::Mode;
use crate::frame::Frame;
use crate::instance::segment::{Direction, segment};

/// Connections in the map that is never evicted, and in the one that forgets the oldest.
const FLOWS_MAX: usize = 1024;
const HALF_OPEN_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Programs {
    pub(super) mode: Mode,
    epoch: u32,
    pub(super) flows: HashMap<FlowKey, Flow>,
    /// The last one used is at the end.
    half_open: VecDeque<(FlowKey, Flow)>,
    /// Offsets that became known.
    pub(super) events: VecDeque<FlowKey>,
}

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Fate {
    Go(Frame),
    Hold,
    Drop,
}

impl Programs {
    pub(super) fn new() -> Self {
        Self {
            mode: Mode::Protected,
            epoch: 0,
            flows: HashMap::new(),
            half_open: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn bump_epoch(&mut self) {
        self.epoch += 1;
    }

    pub(super) fn knows(&self, key: &FlowKey) -> bool {
        self.flows.contains_key(key)
    }

    /// Forgets every connection.
    pub(super) fn forget_all(&mut self) {
        self.flows.clear();
        self.half_open.clear();
    }

    /// What `translate` of the programs does.
    pub(super) fn translate(&mut self, now_us: u64, frame: &Frame, direction: Direction) -> Fate {
        let Some((key, tcp)) = segment(frame.ethernet(), direction) else {
            return Fate::Go(frame.clone());
        };
        let options = decode_tcp_options::<[u8]>(frame.ethernet(), &tcp);
        let now = Now {
            failed_over: self.mode == Mode::FailedOver,
            epoch: self.epoch,
            ns: now_us * 1000,
        };
        let seen = flow::Segment::new(&tcp, options.timestamps);
        let mut record = Flow::default();
        let entry = self.find(&key);
        let step = match direction {
            Direction::ToGuest => flow::to_guest(&now, &seen, entry, &mut record),
            Direction::FromGuest => flow::from_guest(&now, &seen, entry, &mut record),
        };
        self.apply(key, step.change, record);
        if step.release_held {
            self.events.push_back(key);
        }
        match step.verdict {
            Verdict::Pass => Fate::Go(frame.clone()),
            Verdict::Hold => Fate::Hold,
            Verdict::Drop => Fate::Drop,
            Verdict::Translate(translation) => rewritten(frame, direction, translation),
        }
    }

    fn find(&mut self, key: &FlowKey) -> Option<Entry<'_>> {
        if self.flows.contains_key(key) {
            return self.flows.get_mut(key).map(Entry::from_mut);
        }
        let at = self.half_open.iter().position(|(other, _)| other == key)?;
        let used = self.half_open.remove(at)?;
        self.half_open.push_back(used);
        self.half_open.back_mut().map(|(_, flow)| Entry::from_mut(flow))
    }

    fn apply(&mut self, key: FlowKey, change: Change, record: Flow) {
        if change == Change::Keep {
            return;
        }
        self.half_open.retain(|(other, _)| *other != key);
        if change == Change::Establish && (self.knows(&key) || self.flows.len() < FLOWS_MAX) {
            self.flows.insert(key, record);
            return;
        }
        if change != Change::Establish {
            self.flows.remove(&key);
        }
        if change != Change::Forget {
            self.half_open.push_back((key, record));
            if self.half_open.len() > HALF_OPEN_MAX {
                self.half_open.pop_front();
            }
        }
    }
}

fn rewritten(frame: &Frame, direction: Direction, translation: rewrite::Translation) -> Fate {
    let vnet_len = frame.vnet().len();
    let mut octets = frame.bytes().to_vec();
    let ethernet = &mut octets[vnet_len..];
    let Some(ip) = decode::<[u8]>(ethernet, None).ok().and_then(|packet| packet.ip) else {
        return Fate::Drop;
    };
    debug_assert_eq!(ip.protocol, protocol::TCP);
    let Ok(tcp) = decode_tcp::<[u8]>(ethernet, &ip) else { return Fate::Drop };
    let options = decode_tcp_options::<[u8]>(ethernet, &tcp);
    let done = match direction {
        Direction::ToGuest => rewrite::to_guest(ethernet, &tcp, &options, translation),
        Direction::FromGuest => rewrite::from_guest(ethernet, &tcp, &options, translation),
    };
    match Frame::new(Bytes::from(octets), vnet_len).filter(|_| done) {
        Some(frame) => Fate::Go(frame),
        None => Fate::Drop,
    }
}
