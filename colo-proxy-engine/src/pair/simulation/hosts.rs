//! The two hosts: a guest, the kernel's part, and the daemon's decisions.

use std::collections::VecDeque;
use std::time::Instant;

use super::endpoint::Nature;
use super::machine::Station;
use super::plan::{RunPlan, RunSabotage};
use super::programs::{FrameFate, SimulatedPrograms};
use crate::frame::Frame;
use crate::pair::BATCH;
use crate::pair::ProgramMode;
use crate::pair::early_input::InputLimits;
use crate::pair::repeat::SharedRepeater;
use crate::pair::service_record::RecordKeeper;
use crate::pair::takeover::{Takeover, TakeoverDeciders};
use crate::pair::{InputPath, OutputPath};
use colo_proxy_common::segment::{Direction, tcp_segment};

/// A guest on a host.
#[derive(Debug)]
pub(super) struct HostedGuest {
    pub(super) machine: Station,
    pub(super) nature: Nature,
    pub(super) paused: bool,
    /// Frames in its TAP while it is paused.
    pub(super) backlog: VecDeque<Frame>,
    /// When it gets the last frame that is on its way. No later frame overtakes that one.
    pub(super) busy_until: u64,
}

impl HostedGuest {
    pub(super) fn new(machine: Station, nature: Nature) -> Self {
        Self { machine, nature, paused: false, backlog: VecDeque::new(), busy_until: 0 }
    }
}

#[derive(Debug)]
pub(super) struct PrimaryHost {
    pub(super) guest: HostedGuest,
    pub(super) kernel: GateKernel,
    /// `None` while the daemon is dead.
    pub(super) daemon: Option<crate::pair::Primary>,
    pub(super) is_alive: bool,
    pub(super) reads_at: Option<u64>,
}

/// The primary's kernel, as far as the daemon sees it.
#[derive(Debug)]
pub(super) struct GateKernel {
    pub(super) mode: ProgramMode,
    /// Captured output that is not read yet.
    pub(super) gate: VecDeque<Frame>,
    /// Frames that the daemon released.
    pub(super) released: Vec<Frame>,
    /// Output of the secondary in the socket of a front end.
    pub(super) returned: VecDeque<Frame>,
    pub(super) reads_returned_at: Option<u64>,
    /// Frames of that output which were dropped when a checkpoint was done.
    pub(super) dropped_returned: u64,
    sabotage: RunSabotage,
    has_control: bool,
}

impl GateKernel {
    pub(super) fn new(plan: &RunPlan) -> Self {
        Self {
            mode: ProgramMode::Protected,
            gate: VecDeque::new(),
            released: Vec::new(),
            returned: VecDeque::new(),
            reads_returned_at: None,
            dropped_returned: 0,
            sabotage: plan.sabotage,
            has_control: plan.has_control(),
        }
    }
}

impl OutputPath for GateKernel {
    /// QEMU's filters redirect in any mode.
    fn set_mode(&mut self, mode: ProgramMode) {
        if self.has_control {
            self.mode = mode;
        }
    }

    fn read_output(&mut self, into: &mut Vec<Frame>) -> bool {
        let count = self.gate.len().min(BATCH.saturating_sub(into.len()));
        into.extend(self.gate.drain(..count));
        !self.gate.is_empty()
    }

    fn release(&mut self, frame: &Frame) {
        self.released.push(frame.clone());
    }

    /// Only the owner of the guest's TAP sends acknowledgments that the engine has made.
    fn acknowledge(&mut self, frame: &Frame) {
        if self.has_control {
            self.released.push(frame.clone());
        }
    }

    /// With a control lane `returned` is always empty.
    fn drop_returned(&mut self) -> u64 {
        if self.sabotage == RunSabotage::StaleFrames {
            return 0;
        }
        let dropped = self.returned.drain(..).count() as u64;
        self.dropped_returned += dropped;
        dropped
    }
}

#[derive(Debug)]
pub(super) struct SecondaryHost {
    pub(super) guest: HostedGuest,
    pub(super) kernel: SecondaryKernel,
    pub(super) daemon: Option<crate::pair::Secondary>,
    pub(super) reads_at: Option<u64>,
    /// Input that the daemon does not read while its guest is stopped.
    pub(super) delayed: VecDeque<Frame>,
}

/// The secondary's kernel, as far as the daemon sees it.
#[derive(Debug)]
pub(super) struct SecondaryKernel {
    pub(super) now: u64,
    pub(super) programs: SimulatedPrograms,
    /// Input on its way to the guest.
    pub(super) to_guest: Vec<Frame>,
    /// Input that the programs sent back, because its offset is not known.
    pub(super) early_input: VecDeque<Frame>,
    /// Captured output that is not read yet.
    pub(super) gate: VecDeque<Frame>,
    /// Input that is put aside, so that the order in which it is written does not depend on a hash.
    pub(super) collected: Option<Vec<Frame>>,
    pub(super) keeps_offsets: bool,
}

impl SecondaryKernel {
    /// Input that the daemon writes, or that comes from the LAN after a failover.
    pub(super) fn write(&mut self, frame: &Frame) {
        match self.programs.translate(self.now, frame, Direction::ToGuest) {
            FrameFate::Go(frame) => self.to_guest.push(frame),
            FrameFate::Hold => self.early_input.push_back(frame.clone()),
            FrameFate::Drop => {}
        }
    }

    /// Writes the input that was put aside. Each connection keeps its order.
    pub(super) fn write_collected(&mut self) {
        let mut frames = self.collected.take().unwrap_or_default();
        frames.sort_by_key(|frame| {
            let key = tcp_segment(frame.ethernet(), Direction::ToGuest).map(|(key, _)| key);
            key.map(|key| (key.guest_port, key.peer_port))
        });
        for frame in &frames {
            self.write(frame);
        }
    }
}

impl InputPath for SecondaryKernel {
    fn input(&mut self, frame: &Frame) {
        match &mut self.collected {
            Some(frames) => frames.push(frame.clone()),
            None => self.write(frame),
        }
    }

    fn knows(&self, key: &colo_proxy_common::record::FlowKey) -> bool {
        self.programs.knows(key)
    }

    fn bump_epoch(&mut self) -> bool {
        if !self.keeps_offsets {
            self.programs.bump_epoch();
        }
        true
    }

    fn restore_epoch(&mut self) {
        if !self.keeps_offsets {
            self.programs.restore_epoch();
        }
    }
}

impl SecondaryHost {
    pub(super) fn new(guest: HostedGuest, keeps_offsets: bool) -> Self {
        let kernel = SecondaryKernel {
            now: 0,
            programs: SimulatedPrograms::new(),
            to_guest: Vec::new(),
            early_input: VecDeque::new(),
            gate: VecDeque::new(),
            collected: None,
            keeps_offsets,
        };
        let delayed = VecDeque::new();
        let mut secondary = Self { guest, kernel, daemon: None, reads_at: None, delayed };
        secondary.start();
        secondary
    }

    /// When its daemon has something to do.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        let daemon = self.daemon.as_ref()?;
        let repeat = daemon.repeater.lock().poll_timeout().filter(|_| !daemon.is_stopped());
        [daemon.early_input.poll_timeout(), repeat].into_iter().flatten().min()
    }

    /// Starts the daemon, which finds the pinned programs of an earlier one.
    pub(super) fn start(&mut self) {
        let mode = self.kernel.programs.mode;
        let takeover = Takeover::new(TakeoverDeciders::default(), RecordKeeper::in_memory(), true);
        let (repeater, limits) = (SharedRepeater::default(), InputLimits::default());
        let name = "simulated".into();
        self.daemon = Some(crate::pair::Secondary::new(name, mode, takeover, repeater, limits));
    }
}
