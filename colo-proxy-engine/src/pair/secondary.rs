//! The secondary's half: which input the guest gets, when it gets it again, and when the guest takes
//! over.
//!
//! The caller brings frames, events and time. Decisions go through an [`InputPath`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use super::early_input::{EarlyInput, InputLimits};
use super::message::ControlMessage;
use super::repeat::SharedRepeater;
use super::service_record::ServiceRecord;
use super::takeover::{Takeover, TakeoverAction, TakeoverTimer};
use super::{Mode, ProgramMode};
use crate::frame::Frame;
use colo_proxy_common::segment::{Direction, tcp_segment};

/// The way of the guest's input, through the programs that translate it.
pub trait InputPath {
    /// Sends a frame to the guest.
    fn input(&mut self, frame: &Frame);
    /// Sends a frame to the guest, behind the frames that are queued for it.
    fn input_in_turn(&mut self, frame: &Frame) {
        self.input(frame);
    }
    /// The programs know the connection's offset.
    fn knows(&self, key: &FlowKey) -> bool;
    /// The kernel lane carries the guest's output, so we do not see its acknowledgments.
    fn lane_is_used(&self) -> bool {
        false
    }
    /// Voids all offsets. `false` if that failed.
    fn bump_epoch(&mut self) -> bool;
    /// Makes the offsets valid again that were voided last.
    fn restore_epoch(&mut self);
    /// Queues input that would reach the guest without us.
    fn stop_input(&mut self) {}
    /// Lets that input reach the guest again, behind the queue.
    fn resume_input(&mut self) {}
}

/// The first report of the present checkpoint, of the two that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckpointReport {
    None,
    /// The COLO-frame on this host was first.
    ColoFrame,
    /// The primary was first.
    Primary,
}

/// Whether the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestState {
    Runs,
    /// A checkpoint has stopped it at this time, to give it the primary's state.
    Stopped(Instant),
}

/// The secondary's half of a pair.
#[derive(Debug)]
pub struct Secondary {
    name: String,
    program_mode: ProgramMode,
    /// When the guest takes over.
    takeover: Takeover,
    /// How long a break of the control lane may last.
    peer_timeout: Duration,
    /// When the timer of `takeover` ends.
    takeover_deadline: Option<Instant>,
    messages: VecDeque<ControlMessage>,
    /// The guest is to take over as soon as its state is known, and at this time at the latest.
    pending_takeover: Option<Instant>,
    /// Input that came before its connection's offset was known.
    pub early_input: EarlyInput,
    /// Input that is kept until the guest has acknowledged it.
    pub repeater: SharedRepeater,
    epoch: u64,
    /// The primary's session and epoch of the last checkpoint that copied state into the guest.
    copied_in: Option<(u64, u64)>,
    reported: CheckpointReport,
    guest: GuestState,
    /// The cut, if the primary does not know it yet: frames that had gone into the lane when the guest
    /// got the primary's state.
    cut: Option<u64>,
}

/// The cut to report to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutAnswer {
    /// None: there is no answer.
    None,
    /// This number of frames of the lane.
    Known(u64),
    /// All frames that have gone into the lane by now.
    Take,
}

/// The next step of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverStep {
    /// None: the guest has taken over.
    Done,
    /// None yet: a checkpoint has stopped the guest, which is silent meanwhile.
    Later,
    /// Put the guest on the network.
    Now,
}

/// How long a takeover waits for the end of the checkpoint that has stopped the guest.
const STOPPED_MAX: Duration = Duration::from_secs(2);

/// QEMU's event that the guest is stopped may come so late. Input that reached the TAP in this time
/// before the event may have found the guest stopped.
const HEARD_MAX: Duration = Duration::from_millis(2);

impl Secondary {
    /// The half of a daemon that has just started, whose programs do what `program_mode` says.
    pub fn new(
        name: String,
        program_mode: ProgramMode,
        takeover: Takeover,
        repeater: SharedRepeater,
        limits: InputLimits,
    ) -> Self {
        Self {
            name,
            program_mode,
            takeover: if program_mode == ProgramMode::FailedOver {
                takeover.serving()
            } else {
                takeover
            },
            peer_timeout: Duration::from_secs(1),
            takeover_deadline: None,
            messages: VecDeque::new(),
            pending_takeover: None,
            early_input: EarlyInput::new(limits),
            repeater,
            epoch: 0,
            copied_in: None,
            reported: CheckpointReport::None,
            guest: GuestState::Runs,
            cut: None,
        }
    }

    /// The same half at its start. A break of the control lane may last for `peer_timeout`.
    #[must_use]
    pub fn started(mut self, now: Instant, peer_timeout: Duration) -> Self {
        self.peer_timeout = peer_timeout;
        self.settle(now);
        self
    }

    /// The decision about a takeover.
    pub fn takeover(&self) -> &Takeover {
        &self.takeover
    }

    /// Gives the decision about a takeover an event. The owner then carries out
    /// [`Self::next_takeover_action`].
    pub fn decide(&mut self, now: Instant, event: impl FnOnce(&mut Takeover)) {
        event(&mut self.takeover);
        self.settle(now);
    }

    /// The next step of a takeover.
    pub fn next_takeover_action(&mut self) -> Option<TakeoverAction> {
        self.takeover.next_action()
    }

    /// The record to write now, once. The owner answers with [`Takeover::on_recorded`].
    pub fn next_record(&mut self) -> Option<ServiceRecord> {
        self.takeover.next_record()
    }

    /// The next message for the primary.
    pub fn next_message(&mut self) -> Option<ControlMessage> {
        self.messages.pop_front()
    }

    /// Sets the timer of the decision, and queues messages for the primary.
    fn settle(&mut self, now: Instant) {
        self.takeover_deadline = self.takeover.timer().map(|timer| match timer {
            TakeoverTimer::Now => now,
            TakeoverTimer::Timeout => self.takeover_deadline.unwrap_or(now + self.peer_timeout),
        });
        while let Some(message) = self.takeover.next_message() {
            self.messages.push_back(message.into());
        }
    }

    /// The guest's present epoch, by the primary's number.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How the guest stands, in the word that `status` shows.
    pub fn mode(&self) -> Mode {
        match self.program_mode {
            ProgramMode::FailedOver => Mode::Serving,
            ProgramMode::Protected => self.takeover.mode(),
            ProgramMode::Off => Mode::Unguarded,
        }
    }

    /// Why the guest stands as [`Self::mode`] says.
    pub fn reason(&self) -> &'static str {
        match self.program_mode {
            ProgramMode::FailedOver => "this guest has taken over, and answers the network",
            ProgramMode::Protected if self.is_takeover_pending() => {
                "this guest takes over as soon as the checkpoint has ended that has stopped it"
            }
            ProgramMode::Protected => self.takeover.reason(),
            ProgramMode::Off => "the programs let the guest's frames pass",
        }
    }

    /// What the programs do with the guest's frames.
    pub fn program_mode(&self) -> ProgramMode {
        self.program_mode
    }

    /// The guest answers the network.
    pub fn has_taken_over(&self) -> bool {
        self.program_mode == ProgramMode::FailedOver
    }

    /// The guest has not taken over and is not about to.
    pub fn waits_for_primary(&self) -> bool {
        self.program_mode == ProgramMode::Protected && self.pending_takeover.is_none()
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let all = [self.early_input.poll_timeout(), self.takeover_deadline, self.pending_takeover];
        all.into_iter().flatten().min()
    }

    /// Time has passed. `true`: a takeover that waited for the end of a checkpoint waits no longer.
    pub fn on_timeout(&mut self, now: Instant, path: &mut impl InputPath) -> bool {
        self.early_input.on_timeout(now);
        if self.takeover_deadline.is_some_and(|at| at <= now) {
            self.takeover_deadline = None;
            self.decide(now, Takeover::on_timer);
        }
        if self.pending_takeover.is_none_or(|at| at > now) {
            return false;
        }
        log::warn!(
            "{}: QEMU does not report the end of a checkpoint, and a takeover waits for it; the \
             guest takes over with its state from before the checkpoint",
            self.name
        );
        self.on_not_copied(path);
        self.take_pending_takeover()
    }

    /// The guest is to take over.
    pub fn take_over(&mut self, now: Instant) -> TakeoverStep {
        if self.has_taken_over() {
            TakeoverStep::Done
        } else if self.is_stopped() {
            self.pending_takeover.get_or_insert(now + STOPPED_MAX);
            TakeoverStep::Later
        } else {
            TakeoverStep::Now
        }
    }

    /// A takeover waits for the end of a checkpoint.
    pub fn is_takeover_pending(&self) -> bool {
        self.pending_takeover.is_some()
    }

    /// A takeover had to wait for the guest's state, which is known now.
    pub fn take_pending_takeover(&mut self) -> bool {
        self.pending_takeover.take().is_some()
    }

    /// Input of the primary guest, in the order in which it came there.
    pub fn on_mirror(&mut self, now: Instant, frames: &[Frame], path: &mut impl InputPath) {
        let is_kept = !path.lane_is_used();
        for frame in frames {
            path.input_in_turn(frame);
            if is_kept {
                self.repeater.lock().on_input(now, frame, |key| path.knows(key));
            }
        }
    }

    /// The kernel lane is used from here on. The guest's acknowledgments do not reach us, so no input is
    /// kept for it.
    pub fn on_lane_used(&mut self) {
        self.repeater.lock().clear();
    }

    /// Writes input again that the guest has lost.
    pub fn repeat_input(&mut self, now: Instant, path: &mut impl InputPath) {
        if self.is_stopped() {
            return;
        }
        let mut lost = Vec::new();
        self.repeater.lock().on_timeout(now, &mut lost);
        for frame in &lost {
            path.input(frame);
        }
    }

    /// Takes early input, and all input behind it on its connection: parks it, or writes it if its offset
    /// has become known.
    pub fn on_early_input(
        &mut self,
        now: Instant,
        frames: &mut Vec<Frame>,
        path: &mut impl InputPath,
    ) {
        for frame in frames.drain(..) {
            let key = tcp_segment(frame.ethernet(), Direction::ToGuest).map(|(key, _)| key);
            // The event about its offset may have come before the frame. A frame without a connection
            // was parked only until the guest resumes.
            if !self.is_stopped() && key.is_none_or(|key| path.knows(&key)) {
                path.input(&frame);
            } else {
                self.early_input.push(now, key, frame);
            }
        }
    }

    /// The offset of a connection became known, so its parked input may go to the guest.
    pub fn on_offset(&mut self, key: &FlowKey, path: &mut impl InputPath) {
        if self.is_stopped() {
            return;
        }
        for frame in self.early_input.take(key) {
            path.input(&frame);
        }
    }

    /// Writes all parked input, because it no longer depends on offsets.
    pub fn replay_all(&mut self, path: &mut impl InputPath) {
        for frame in &self.early_input.take_all() {
            path.input(frame);
        }
        path.resume_input();
    }

    /// The COLO-frame on this host has stopped the guest, to give it the primary's state. Offsets are
    /// void from here on, so that they are when the guest resumes. Until its state is known
    /// ([`Self::is_stopped`]), no input may go to it that would change the offsets. `true` if the owner
    /// is to take the cut here and report it with [`Self::on_cut`].
    pub fn on_stopped(&mut self, now: Instant, path: &mut impl InputPath) -> bool {
        if self.has_taken_over() || self.is_stopped() {
            return false;
        }
        path.stop_input();
        if !path.bump_epoch() {
            path.resume_input();
            return false;
        }
        self.guest = GuestState::Stopped(now);
        if self.reported == CheckpointReport::Primary {
            self.reported = CheckpointReport::None;
        }
        true
    }

    /// The owner has taken the cut: `sent` frames had gone into the lane.
    pub fn on_cut(&mut self, sent: u64) {
        self.cut = Some(sent);
    }

    /// The lane was connected anew, so all its frames belong to the new epoch.
    pub fn on_output_connection(&mut self) {
        self.cut = self.cut.map(|_| 0);
    }

    /// The checkpoint failed, and the guest resumes with its own state.
    pub fn on_not_copied(&mut self, path: &mut impl InputPath) {
        if self.take_stopped().is_some() {
            path.restore_epoch();
            self.cut = None;
            self.replay_all(path);
        }
    }

    /// The guest is stopped, and nobody knows yet with which state it will resume. Its input is parked.
    pub fn is_stopped(&self) -> bool {
        matches!(self.guest, GuestState::Stopped(_))
    }

    /// The guest resumes. Returns when it was stopped.
    fn take_stopped(&mut self) -> Option<Instant> {
        match std::mem::replace(&mut self.guest, GuestState::Runs) {
            GuestState::Stopped(since) => Some(since),
            GuestState::Runs => None,
        }
    }

    /// Forgets the report of `whom`. `true` if there was one.
    fn take_reported(&mut self, whom: CheckpointReport) -> bool {
        let was = self.reported == whom;
        if was {
            self.reported = CheckpointReport::None;
        }
        was
    }

    /// The COLO-frame on this host reports that the guest is the primary's copy. The primary will
    /// report it too, on the control lane. But it may die before that, and the guest's connections must
    /// not depend on it. `true` if the owner is to take the cut.
    pub fn on_state_copied(&mut self, now: Instant, path: &mut impl InputPath) -> bool {
        if self.has_taken_over() || self.take_reported(CheckpointReport::Primary) {
            return false;
        }
        if let Some(stopped) = self.take_stopped() {
            self.reported = CheckpointReport::ColoFrame;
            self.forget_input(now, Some(stopped), path);
            return false;
        }
        let has_begun = self.begin_epoch(now, path);
        self.reported =
            if has_begun { CheckpointReport::ColoFrame } else { CheckpointReport::None };
        has_begun
    }

    /// The primary reports the checkpoint `(session, epoch)`: the guest's numbers are the network's now.
    pub fn on_epoch(
        &mut self,
        now: Instant,
        (session, epoch): (u64, u64),
        path: &mut impl InputPath,
    ) -> CutAnswer {
        if self.has_taken_over() {
            return CutAnswer::None;
        }
        // After the lanes were gone the primary repeats itself, and only needs the cut.
        if self.copied_in != Some((session, epoch)) {
            if !self.take_reported(CheckpointReport::ColoFrame) && !self.is_copied_by(now, path) {
                return CutAnswer::None;
            }
            self.copied_in = Some((session, epoch));
            self.epoch = epoch;
        }
        // If the guest is stopped, the cut is that of a later checkpoint, which is still being made.
        let is_stopped = self.is_stopped();
        match self.cut.take_if(|_| !is_stopped) {
            Some(sent) => CutAnswer::Known(sent),
            None => CutAnswer::Take,
        }
    }

    /// The primary has reported a checkpoint before the COLO-frame of this host. `false` if the offsets
    /// cannot be voided.
    fn is_copied_by(&mut self, now: Instant, path: &mut impl InputPath) -> bool {
        match self.take_stopped() {
            Some(stopped) => {
                self.reported = CheckpointReport::Primary;
                self.forget_input(now, Some(stopped), path);
                true
            }
            None => self.begin_epoch(now, path),
        }
    }

    /// The guest's numbers are the network's, and its state contains its earlier input.
    fn begin_epoch(&mut self, now: Instant, path: &mut impl InputPath) -> bool {
        // The cut is taken after this. Frames in between count as old, which is safe.
        if !path.bump_epoch() {
            return false;
        }
        self.forget_input(now, None, path);
        true
    }

    /// Forgets input that the guest got before it was stopped, because it is in the guest's state. Input
    /// that came just before QEMU's event was translated for the old state, so it is written again.
    fn forget_input(&mut self, now: Instant, stopped: Option<Instant>, path: &mut impl InputPath) {
        let kept = self.repeater.lock().take_all();
        if let Some(from) = stopped.map(|at| at.checked_sub(HEARD_MAX).unwrap_or(at)) {
            for (_, frame) in kept.into_iter().filter(|(at, _)| *at >= from) {
                path.input(&frame);
                self.repeater.lock().on_input(now, &frame, |_| true);
            }
        }
        self.replay_all(path);
    }

    /// The guest is on the network, and gets its input from there.
    pub fn on_taken_over(&mut self) {
        self.program_mode = ProgramMode::FailedOver;
        self.repeater.lock().clear();
    }

    /// The guest is off the network again, because the primary's host serves by an operator's word.
    pub fn on_stepped_down(&mut self) {
        self.program_mode = ProgramMode::Protected;
    }
}

#[cfg(test)]
mod tests;
