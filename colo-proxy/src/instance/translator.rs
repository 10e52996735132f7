//! The kernel's translation of one guest, for the decisions of a secondary: the programs, and the
//! gate by way of which input goes to the guest.

use std::sync::Arc;

use colo_proxy_common::record::FlowKey;

use super::offsets;
use super::secondary::decide::Hands;
use super::wiring::drain_gate;
use crate::config::PeerLimits;
use crate::datapath::{Datapath, Mode, PerClass};
use crate::error_chain::chain;
use crate::frame::Frame;
use crate::gate::{Gate, Written};

pub(crate) struct Translator {
    name: String,
    pub(crate) datapath: Datapath,
    pub(crate) gate: Arc<Gate>,
    /// Frames that may wait in it.
    queue_frames: u32,
    pub(crate) input_refused: u64,
    /// Connections forgotten by the clock, and to make room.
    pub(crate) expired: PerClass,
    pub(crate) evicted: PerClass,
    pub(crate) checkpoints_wanted: u64,
}

impl Translator {
    pub(crate) fn new(
        name: String,
        datapath: Datapath,
        gate: Arc<Gate>,
        limits: &PeerLimits,
    ) -> Self {
        Self {
            name,
            datapath,
            gate,
            queue_frames: limits.gate_queue_frames,
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

    /// All that the input gate has by now.
    fn take_waiting(&self) -> Vec<Frame> {
        let mut waiting = Vec::new();
        drain_gate(&self.gate, self.queue_frames, |frame| waiting.push(frame));
        waiting
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

    fn resume_input(&mut self) {
        if self.datapath.settings().lane_holds == 0 {
            return;
        }
        // While the many that have waited are written, those behind them go on waiting. What comes
        // back, because its offset is not known, is of the second round as well.
        for frame in &self.take_waiting() {
            self.input(frame);
        }
        let mut waiting = self.take_waiting();
        self.hold_lane_input(false);
        // What came between the two.
        waiting.append(&mut self.take_waiting());
        for frame in &waiting {
            self.input(frame);
        }
    }
}
