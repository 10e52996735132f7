//! The two daemons: their input, and how their decisions are carried out.

use std::ops::Range;

use super::colo::CheckpointProgress;
use super::plan::{DaemonWire, RunSabotage, Site};
use super::programs::FrameFate;
use super::wire::{Body, TalkEnd, read};
use super::world::{PairWorld, WireCargo, WorldEvent, brief};
use crate::compare::{Engine, Limits};
use crate::digest::ReturnedRecord;
use crate::frame::Frame;
use crate::pair::OnSecondaryLost;
use crate::pair::ProgramMode;
use crate::pair::event::ColoFrameCommand;
use crate::pair::message::ControlMessage;
use crate::pair::primary::Intake;
use crate::pair::protection::{LeftGuest, LossPolicy, Protection};
use crate::pair::secondary::CutAnswer;
use crate::pair::service_message::ServiceMessage;
use crate::pair::service_record::RecordKeeper;
use colo_proxy_common::segment::Direction;

/// Time until a daemon reads frames that are there.
const WAKE_US: Range<u64> = 1..150;

impl PairWorld {
    // The primary.

    /// Starts the daemon anew. It knows nothing about an earlier one.
    pub(super) fn start_primary_daemon(&mut self) {
        if !self.primary.is_alive || self.primary.daemon.is_some() {
            return;
        }
        let limits = Limits {
            frames_max: self.plan.frames_max,
            // Nearly every flow rests between two frames.
            awake_flows_max: 2,
            ..Limits::default()
        };
        let engine = Engine::new(limits, self.random.next());
        let policy = LossPolicy { on_lost: OnSecondaryLost::Release, fences: false, covers: true };
        // The daemon finds this in the programs that the last one left pinned.
        let left = LeftGuest::Lives { was_off: self.primary.kernel.mode == ProgramMode::Off };
        let protection = Protection::new(policy, RecordKeeper::in_memory(), left);
        let now = self.instant();
        let session = self.random.next();
        self.primary.kernel.mode = ProgramMode::Protected;
        let has_control = self.plan.has_control();
        let name = "simulated".into();
        self.primary.daemon =
            Some(crate::pair::Primary::new(now, name, engine, protection, session, has_control));
        self.start_front_end();
    }

    /// The primary guest puts out a frame.
    pub(super) fn primary_output(&mut self, frame: Frame) {
        if self.primary.kernel.mode == ProgramMode::Off {
            self.oracle.on_unprotected();
            return self.send_on_lan(&frame, WorldEvent::AtClient);
        }
        if self.primary.daemon.is_none() {
            return;
        }
        if self.plan.sabotage == RunSabotage::ReleaseAll {
            self.primary.kernel.released.push(frame);
            return self.settle_primary();
        }
        self.primary.kernel.gate.push_back(frame);
        self.wake_primary();
    }

    fn wake_primary(&mut self) {
        if self.primary.reads_at.is_none_or(|at| at < self.now) {
            let time = self.now + self.random.within(WAKE_US);
            self.primary.reads_at = Some(time);
            self.at(time, WorldEvent::ReadOutput(Site::Primary));
        }
    }

    pub(super) fn read_primary_output(&mut self) {
        self.primary.reads_at = None;
        if !self.plan.has_control() {
            return self.read_primary_socket();
        }
        let now = self.instant();
        let Some(daemon) = &mut self.primary.daemon else { return };
        if !daemon.engine().has_room() {
            return;
        }
        let kernel = &mut self.primary.kernel;
        let mut frames = Vec::new();
        crate::pair::OutputPath::read_output(kernel, &mut frames);
        daemon.on_output(now, Intake::All(&mut frames), kernel);
        self.settle_primary();
    }

    pub(super) fn on_returned(&mut self, returned: ReturnedRecord) {
        let returned = match returned {
            ReturnedRecord::Whole(frame) => self.deceived(frame).into(),
            other => other,
        };
        let now = self.instant();
        if let Some(daemon) = &mut self.primary.daemon {
            daemon.on_secondary(now, vec![returned]);
        }
        self.settle_primary();
    }

    /// Deceives the primary: the frame acknowledges more than the secondary did.
    pub(super) fn deceived(&self, frame: Frame) -> Frame {
        if self.plan.sabotage != RunSabotage::Acknowledgments {
            return frame;
        }
        let Some(Body::Tcp(mut segment)) = read(&frame) else { return frame };
        let connections = &self.primary.guest.machine.connections;
        if let Some(own) = connections.get(&segment.tuple)
            && let Some(irs) = own.endpoint.irs.filter(|_| segment.ack.is_some())
        {
            segment.ack = Some(irs.wrapping_add(own.endpoint.rcvd as u32));
        }
        self.plan.net.frame(TalkEnd::Guest, &Body::Tcp(segment))
    }

    pub(super) fn on_epoch_done(&mut self, epoch: u64, sent: u64) {
        let sent = if self.plan.sabotage == RunSabotage::StaleFrames { 0 } else { sent };
        let now = self.instant();
        if let Some(daemon) = &mut self.primary.daemon {
            daemon.on_epoch_done(now, epoch, sent);
        }
        self.settle_primary();
    }

    pub(super) fn on_service_message(&mut self, message: &ControlMessage) {
        let now = self.instant();
        if let (Some(daemon), Some(message)) =
            (&mut self.primary.daemon, ServiceMessage::of(message))
        {
            daemon.on_service_message(now, message, &mut self.primary.kernel);
        }
        self.settle_primary();
    }

    /// Carries out what the primary's daemon has decided.
    pub(super) fn settle_primary(&mut self) {
        let now = self.instant();
        let (mut is_protected, mut has_more) = (true, false);
        if let Some(daemon) = &mut self.primary.daemon {
            daemon.release_some(&mut self.primary.kernel);
            has_more = daemon.is_releasing();
            daemon.collect_requests(now);
            is_protected = !daemon.protection().is_unprotected();
            let commands: Vec<ColoFrameCommand> =
                std::iter::from_fn(|| daemon.next_command()).collect();
            let messages: Vec<ControlMessage> =
                std::iter::from_fn(|| daemon.next_message()).collect();
            for command in commands {
                if let ColoFrameCommand::RequestCheckpoint { reasons, .. } = command {
                    self.say(|| format!("a checkpoint is asked for: {reasons:?}"));
                    self.requests += 1;
                    self.after(100..5_000, WorldEvent::Checkpoint(CheckpointProgress::Asked));
                }
            }
            for message in messages {
                self.send_by(DaemonWire::Control, Site::Secondary, WireCargo::ToSecondary(message));
            }
        }
        for frame in std::mem::take(&mut self.primary.kernel.released) {
            self.say(|| format!("released: {}", brief(&frame)));
            if is_protected {
                let (primary, secondary) = (&self.primary.guest, &self.secondary.guest);
                self.oracle.on_release(&frame, &primary.machine, &secondary.machine);
            } else {
                self.oracle.on_unprotected();
            }
            self.send_on_lan(&frame, WorldEvent::AtClient);
        }
        if has_more {
            self.after(1..50, WorldEvent::Releases);
        }
        let has_room = self.primary.daemon.as_ref().is_some_and(|d| d.engine().has_room());
        if has_room && !self.primary.kernel.gate.is_empty() {
            self.wake_primary();
        }
        self.read_sockets_again();
    }

    // The secondary.

    pub(super) fn start_secondary_daemon(&mut self) {
        if self.secondary.daemon.is_none() {
            self.secondary.start();
        }
    }

    /// The secondary guest puts out a frame.
    pub(super) fn secondary_output(&mut self, frame: &Frame) {
        let programs = &mut self.secondary.kernel.programs;
        let fate = programs.translate(self.now, frame, Direction::FromGuest);
        if let FrameFate::Go(frame) = fate {
            if self.has_failed_over {
                self.send_on_lan(&frame, WorldEvent::AtClient);
            } else if self.secondary.daemon.is_some() {
                self.secondary.kernel.gate.push_back(frame);
                if self.plan.has_control() {
                    self.wake_secondary();
                } else {
                    self.read_secondary_output();
                }
            }
        }
        self.settle_secondary();
    }

    fn wake_secondary(&mut self) {
        if self.secondary.reads_at.is_none_or(|at| at < self.now) {
            let time = self.now + self.random.within(WAKE_US);
            self.secondary.reads_at = Some(time);
            self.at(time, WorldEvent::ReadOutput(Site::Secondary));
        }
    }

    /// Captured output goes into the lane, or nowhere.
    pub(super) fn read_secondary_output(&mut self) {
        self.secondary.reads_at = None;
        if self.secondary.daemon.is_none() || self.has_failed_over {
            return;
        }
        let now = self.instant();
        for frame in std::mem::take(&mut self.secondary.kernel.gate) {
            if let Some(daemon) = self.secondary.daemon.as_ref().filter(|_| self.output.is_up) {
                daemon.repeater.lock().on_output(now, &frame);
            }
            self.send_back(frame);
        }
    }

    pub(super) fn on_mirrored(&mut self, frame: Frame) {
        if self.has_failed_over {
            return;
        }
        self.secondary.kernel.now = self.now;
        let now = self.instant();
        if self.secondary.daemon.as_ref().is_some_and(crate::pair::Secondary::is_stopped) {
            return self.secondary.delayed.push_back(frame);
        }
        if let Some(daemon) = &mut self.secondary.daemon {
            daemon.on_mirror(now, &[frame], &mut self.secondary.kernel);
        }
        self.settle_secondary();
    }

    /// Input that was not read while the guest was stopped.
    pub(super) fn take_delayed_input(&mut self) {
        for frame in std::mem::take(&mut self.secondary.delayed) {
            self.on_mirrored(frame);
        }
        self.settle_secondary();
    }

    pub(super) fn read_early_input(&mut self) {
        let now = self.instant();
        self.secondary.kernel.now = self.now;
        let told_first = self.random.chance(500);
        let kernel = &mut self.secondary.kernel;
        let Some(daemon) = &mut self.secondary.daemon else { return };
        let mut held: Vec<Frame> = kernel.early_input.drain(..).collect();
        if !told_first {
            daemon.on_early_input(now, &mut held, kernel);
        }
        while let Some(key) = kernel.programs.events.pop_front() {
            daemon.on_offset(&key, kernel);
        }
        daemon.on_early_input(now, &mut held, kernel);
        self.settle_secondary();
    }

    pub(super) fn on_daemon_timer(&mut self, at: Site) {
        let now = self.instant();
        if at == Site::Primary {
            if let Some(daemon) = &mut self.primary.daemon {
                daemon.on_timeout(now, &mut self.primary.kernel);
            }
            return self.settle_primary();
        }
        let kernel = &mut self.secondary.kernel;
        kernel.now = self.now;
        let Some(daemon) = &mut self.secondary.daemon else { return };
        daemon.early_input.on_timeout(now);
        if daemon.repeater.lock().poll_timeout().is_some_and(|at| at <= now) {
            kernel.collected = Some(Vec::new());
            daemon.repeat_input(now, kernel);
            kernel.write_collected();
        }
        self.settle_secondary();
    }

    pub(super) fn on_message_to_secondary(&mut self, message: &ControlMessage) {
        if let ControlMessage::FramesWanted { frames } = message {
            return self.on_frames_wanted(frames);
        }
        if let Some(message) = ServiceMessage::of(message) {
            return self.on_notice(message);
        }
        let ControlMessage::Epoch { session, epoch } = *message else { return };
        self.secondary.kernel.now = self.now;
        let now = self.instant();
        let Some(daemon) = &mut self.secondary.daemon else { return };
        self.secondary.kernel.collected = Some(Vec::new());
        let mark = daemon.on_epoch(now, (session, epoch), &mut self.secondary.kernel);
        self.secondary.kernel.write_collected();
        self.take_delayed_input();
        let sent = match mark {
            CutAnswer::None => return,
            CutAnswer::Known(sent) => sent,
            CutAnswer::Take => {
                self.read_secondary_output();
                self.output.sent
            }
        };
        let message = ControlMessage::EpochDone { epoch, sent, lane_epoch: None };
        self.send_by(DaemonWire::Control, Site::Primary, WireCargo::ToPrimary(message));
    }

    fn on_notice(&mut self, message: ServiceMessage) {
        let now = self.instant();
        let Some(daemon) = &mut self.secondary.daemon else { return };
        daemon.decide(now, |takeover| takeover.on_message(message));
        let answers: Vec<_> = std::iter::from_fn(|| daemon.next_message()).collect();
        for answer in answers {
            self.send_by(DaemonWire::Control, Site::Primary, WireCargo::ToPrimary(answer));
        }
    }

    /// Carries out what the secondary's daemon and programs have decided.
    pub(super) fn settle_secondary(&mut self) {
        for frame in std::mem::take(&mut self.secondary.kernel.to_guest) {
            self.give(Site::Secondary, frame);
        }
        let kernel = &self.secondary.kernel;
        if !kernel.early_input.is_empty() || !kernel.programs.events.is_empty() {
            self.after(WAKE_US, WorldEvent::ReadEarlyInput);
        }
    }
}
