//! The kernel's translation of one guest, for the decisions of a secondary: the programs, and the
//! gate by way of which input goes to the guest.

use std::sync::Arc;

use colo_proxy_common::record::FlowKey;

use super::offsets;
use super::secondary::decide::Hands;
use super::wiring::drain_gate;
use crate::datapath::{Datapath, Mode, PerClass};
use crate::error_chain::chain;
use crate::frame::Frame;
use crate::gate::{Gate, Written};

/// Frames taken from the input gate in one go, after a checkpoint.
const HELD_MAX: u32 = 1 << 14;

pub(crate) struct Translator {
    name: String,
    pub(crate) datapath: Datapath,
    pub(crate) gate: Arc<Gate>,
    pub(crate) input_refused: u64,
    /// Connections forgotten by the clock, and to make room.
    pub(crate) expired: PerClass,
    pub(crate) evicted: PerClass,
    pub(crate) checkpoints_wanted: u64,
}

impl Translator {
    pub(crate) fn new(name: String, datapath: Datapath, gate: Arc<Gate>) -> Self {
        Self {
            name,
            datapath,
            gate,
            input_refused: 0,
            expired: PerClass::default(),
            evicted: PerClass::default(),
            checkpoints_wanted: 0,
        }
    }

    fn hold_lane_input(&mut self, holds: bool) {
        if let Err(error) = self.datapath.hold_lane_input(holds) {
            log::error!("{}: {}", self.name, chain(&error));
        }
    }

    /// Forgets connections that are over; the kernel evicts none by itself. `true` where only a
    /// checkpoint makes room without breaking one.
    pub(crate) fn age_flows(&mut self, mode: Mode) -> bool {
        let aged = match self.datapath.age_flows(offsets::monotonic_ns()) {
            Ok(aged) => aged,
            Err(error) => {
                log::error!("{}: {}", self.name, chain(&error));
                return false;
            }
        };
        self.expired.add(&aged.expired);
        self.evicted.add(&aged.evicted);
        let is_wanted = aged.wants_checkpoint && mode == Mode::Protected;
        self.checkpoints_wanted += u64::from(is_wanted);
        is_wanted
    }
}

impl Hands for Translator {
    fn input(&mut self, frame: &Frame) {
        match self.gate.write_frame(frame) {
            Ok(Written::Sent) => {}
            Ok(Written::WouldBlock | Written::Malformed) | Err(_) => self.input_refused += 1,
        }
    }

    fn knows(&self, key: &FlowKey) -> bool {
        self.datapath.knows(key)
    }

    fn bump_epoch(&mut self) -> bool {
        let bumped = self.datapath.bump_epoch();
        if let Err(error) = &bumped {
            log::error!("{}: {}", self.name, chain(error));
        }
        bumped.is_ok()
    }

    fn restore_epoch(&mut self) {
        if let Err(error) = self.datapath.restore_epoch() {
            log::error!("{}: {}", self.name, chain(&error));
        }
    }

    fn stop_input(&mut self) {
        if self.datapath.has_lane() {
            self.hold_lane_input(true);
        }
    }

    fn resume_input(&mut self) -> Vec<Frame> {
        if self.datapath.settings().lane_holds == 0 {
            return Vec::new();
        }
        let mut waiting = Vec::new();
        drain_gate(&self.gate, HELD_MAX, |frame| waiting.push(frame));
        self.hold_lane_input(false);
        // What came between the two.
        drain_gate(&self.gate, HELD_MAX, |frame| waiting.push(frame));
        waiting
    }
}
