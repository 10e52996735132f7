//! The kernel's translation of one guest, for the decisions of a secondary: the programs, and the gate
//! through which input goes to the guest.

use std::sync::Arc;

use colo_proxy_common::record::FlowKey;

use super::offsets;
use crate::config::GuestLimits;
use crate::datapath::{Datapath, FlowsByClass};
use crate::error_chain::chain;
use crate::gate::batch::drain_gate;
use crate::gate::{Gate, Written};
use crate::status::FlowTableReport;
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::InputPath;
use colo_proxy_engine::pair::ProgramMode;
use colo_proxy_engine::pair::backlog::{Backlog, BacklogRound};

/// Chunks that are written at once when input need not wait any more.
const LAST_CHUNKS: u32 = 4;

pub(crate) struct Translator {
    name: String,
    pub(crate) datapath: Datapath,
    pub(crate) gate: Arc<Gate>,
    /// Frames that may wait in it.
    queue_frames: u32,
    /// Input for a guest that was stopped, which has waited in the gate.
    pub(crate) backlog: Backlog,
    pub(crate) input_refused: u64,
    /// Frames were written to the guest since the last [`Self::take_has_written`].
    has_written: bool,
    /// Connections forgotten by the clock, and to make room.
    pub(crate) expired: FlowsByClass,
    pub(crate) evicted: FlowsByClass,
    pub(crate) checkpoints_wanted: u64,
}

impl Translator {
    pub(crate) fn new(
        name: String,
        datapath: Datapath,
        gate: Arc<Gate>,
        limits: &GuestLimits,
    ) -> Self {
        let queue_frames = limits.peer.gate_queue_frames;
        Self {
            name,
            datapath,
            gate,
            queue_frames,
            backlog: Backlog::new(queue_frames, limits.input),
            input_refused: 0,
            has_written: false,
            expired: FlowsByClass::default(),
            evicted: FlowsByClass::default(),
            checkpoints_wanted: 0,
        }
    }

    /// The table of connections, for `status`.
    pub(crate) fn report(&self) -> FlowTableReport {
        FlowTableReport {
            max: self.datapath.flows_max().into(),
            expired: self.expired,
            evicted: self.evicted,
            checkpoints_wanted: self.checkpoints_wanted,
        }
    }

    fn send_lane_input_to_gate(&mut self, holds: bool) {
        if let Err(error) = self.datapath.send_lane_input_to_gate(holds) {
            log::error!(
                "{}: the guest's input from the kernel lane keeps its path: {}",
                self.name,
                chain(&error)
            );
        }
    }

    /// Input of the kernel lane is in the gate, and has to stay there.
    pub(crate) fn keeps_input(&self) -> bool {
        self.datapath.settings().lane_input_to_gate != 0
    }

    /// Frames in the gate can be taken. Those for which the backlog has no room stay there. Beyond the
    /// gate's limit they are dropped and counted there.
    pub(crate) fn takes_from_gate(&self, takes_input: bool) -> bool {
        if self.keeps_input() { self.backlog.has_room() } else { takes_input }
    }

    /// Keeps all that the gate has by now.
    fn keep_waiting(&mut self) {
        drain_gate(&self.gate, self.queue_frames, |frame| self.backlog.push(frame));
    }

    /// Writes about as much as was read in a turn, unless the guest takes no input.
    pub(crate) fn replay_turn(&mut self, takes_input: bool) {
        if takes_input && self.backlog.is_replaying() {
            self.replay_some();
        }
    }

    /// Gives the guest some of the input that came while it was stopped.
    pub(crate) fn replay_some(&mut self) {
        for frame in &self.backlog.chunk() {
            self.input(frame);
        }
        if self.backlog.end_round() != Some(BacklogRound::Last) {
            return;
        }
        self.keep_waiting();
        self.send_lane_input_to_gate(false);
        // Input that came between the two.
        self.keep_waiting();
        // As a rule that is all of it, and hardly any frame overtakes it.
        for _ in 0..LAST_CHUNKS {
            for frame in &self.backlog.chunk() {
                self.input(frame);
            }
            if self.backlog.end_round() == Some(BacklogRound::Over) {
                return;
            }
        }
    }

    /// Gives the guest all of it, at the end.
    pub(crate) fn replay_rest(&mut self) {
        while self.backlog.is_replaying() {
            self.replay_some();
        }
    }

    /// Says whether frames were written to the guest since the last call.
    pub(crate) fn take_has_written(&mut self) -> bool {
        std::mem::take(&mut self.has_written)
    }

    /// Forgets connections that are over; the kernel evicts none by itself. `true` if only a checkpoint
    /// makes room without breaking a connection.
    pub(crate) fn age_flows(&mut self, mode: ProgramMode) -> bool {
        let aged = match self.datapath.age_flows(offsets::monotonic_ns()) {
            Ok(aged) => aged,
            Err(error) => {
                log::error!(
                    "{}: connections that are over stay in the table: {}",
                    self.name,
                    chain(&error)
                );
                return false;
            }
        };
        self.expired.add(&aged.expired);
        self.evicted.add(&aged.evicted);
        let is_wanted = aged.wants_checkpoint && mode == ProgramMode::Protected;
        self.checkpoints_wanted += u64::from(is_wanted);
        is_wanted
    }
}

impl InputPath for Translator {
    fn input(&mut self, frame: &Frame) {
        self.has_written = true;
        match self.gate.write_frame(frame) {
            Ok(Written::Sent) => {}
            Ok(Written::WouldBlock | Written::Malformed) | Err(_) => self.input_refused += 1,
        }
    }

    fn input_in_turn(&mut self, frame: &Frame) {
        if self.backlog.comes_before(frame) {
            self.backlog.push(frame.compact());
        } else {
            self.input(frame);
        }
    }

    fn knows(&self, key: &FlowKey) -> bool {
        self.datapath.knows(key)
    }

    fn lane_is_used(&self) -> bool {
        self.datapath.settings().lane_ifindex != 0
    }

    fn bump_epoch(&mut self) -> bool {
        let bumped = self.datapath.bump_epoch();
        if let Err(error) = &bumped {
            log::error!(
                "{}: the translation does not follow the checkpoint: {}",
                self.name,
                chain(error)
            );
        }
        bumped.is_ok()
    }

    fn restore_epoch(&mut self) {
        if let Err(error) = self.datapath.restore_epoch() {
            log::error!(
                "{}: the translation does not follow the failed checkpoint: {}",
                self.name,
                chain(&error)
            );
        }
    }

    fn stop_input(&mut self) {
        self.backlog.stop();
        if self.datapath.has_lane() {
            self.send_lane_input_to_gate(true);
        }
    }

    fn resume_input(&mut self) {
        if self.keeps_input() || !self.backlog.is_empty() {
            self.backlog.resume();
            // Mostly it is little.
            self.replay_some();
        }
    }
}
