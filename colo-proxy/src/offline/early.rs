//! Frames of the secondary that come too early.
//!
//! In a running pair a secondary never continues a connection that the primary has not opened,
//! because the peer knows only the primary's answer. In captures with clocks that are a little apart
//! it does. Such frames wait until the primary has opened the connection.

use std::collections::{HashMap, VecDeque};

use colo_proxy_common::record::FlowKey;

use super::clock::FrameOrigin;
use colo_proxy_engine::frame::Frame;

const FRAMES_MAX: usize = 65536;
const BYTES_MAX: usize = 64 << 20;

/// A frame as it was captured.
#[derive(Debug)]
pub(super) struct EarlyFrame {
    pub(super) origin: FrameOrigin,
    pub(super) at_ns: u64,
    pub(super) frame: Frame,
}

/// The frames that wait, by connection.
#[derive(Debug, Default)]
pub(super) struct EarlyFrames {
    flows: HashMap<FlowKey, VecDeque<EarlyFrame>>,
    /// When the first frame of a connection came, in order. The frame may have been taken since.
    order: VecDeque<(u64, FlowKey)>,
    frames: usize,
    bytes: usize,
}

impl EarlyFrames {
    /// Lets a frame wait until [`EarlyFrames::take`]; gives it back if there is no room.
    pub(super) fn add(&mut self, name: &FlowKey, waiting: EarlyFrame) -> Option<EarlyFrame> {
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

    /// Gives the waiting frames of a connection, in order.
    pub(super) fn take(&mut self, name: &FlowKey) -> VecDeque<EarlyFrame> {
        let Some(waiting) = self.flows.remove(name) else { return VecDeque::new() };
        self.frames -= waiting.len();
        self.bytes -= waiting.iter().map(|waiting| waiting.frame.len()).sum::<usize>();
        waiting
    }

    /// Gives the waiting frames of a connection whose first one came at `until_ns` or earlier, if there
    /// is one.
    pub(super) fn take_overdue(&mut self, until_ns: u64) -> Option<VecDeque<EarlyFrame>> {
        let (_, name) = self.order.pop_front_if(|(at_ns, _)| *at_ns <= until_ns)?;
        Some(self.take(&name))
    }

    /// No frame waits.
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}
