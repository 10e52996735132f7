//! Frames of the secondary that are before their time.
//!
//! Beside a real primary, a secondary never goes on with a connection that the primary has not
//! opened: its peer knows the primary's answer only. In captures the clocks of which are a little
//! apart it does. Such frames wait until the primary is there.

use std::collections::{HashMap, VecDeque};

use colo_proxy_common::record::FlowKey;

use super::clock::Origin;
use colo_proxy_engine::frame::Frame;

const FRAMES_MAX: usize = 65536;
const BYTES_MAX: usize = 64 << 20;

/// A frame as it was captured.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) at_ns: u64,
    pub(super) frame: Frame,
}

/// What waits, by connection.
#[derive(Debug, Default)]
pub(super) struct Early {
    flows: HashMap<FlowKey, VecDeque<Waiting>>,
    /// When the first of a connection came, in order; it may have been taken since.
    order: VecDeque<(u64, FlowKey)>,
    frames: usize,
    bytes: usize,
}

impl Early {
    /// Keeps a frame until [`Early::take`]; gives it back where there is no room.
    pub(super) fn keep(&mut self, name: &FlowKey, waiting: Waiting) -> Option<Waiting> {
        if self.frames >= FRAMES_MAX || self.bytes >= BYTES_MAX {
            return Some(waiting);
        }
        self.frames += 1;
        self.bytes += waiting.frame.len();
        let flow = self.flows.entry(*name).or_default();
        if flow.is_empty() {
            self.order.push_back((waiting.at_ns, *name));
        }
        flow.push_back(waiting);
        None
    }

    /// Gives what waits of a connection, in order.
    pub(super) fn take(&mut self, name: &FlowKey) -> VecDeque<Waiting> {
        let Some(waiting) = self.flows.remove(name) else { return VecDeque::new() };
        self.frames -= waiting.len();
        self.bytes -= waiting.iter().map(|waiting| waiting.frame.len()).sum::<usize>();
        waiting
    }

    /// Gives what waits of a connection since `until_ns` or before, if there is one.
    pub(super) fn take_overdue(&mut self, until_ns: u64) -> Option<VecDeque<Waiting>> {
        let (_, name) = self.order.pop_front_if(|(at_ns, _)| *at_ns <= until_ns)?;
        Some(self.take(&name))
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}
