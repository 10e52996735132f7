//! The primary's half: the engine, the state of protection and the epochs, together.
//!
//! The caller brings frames, events and time. Urgent decisions go through an [`OutputPath`]. The
//! others are left in queues, for [`Primary::next_command`] and [`Primary::next_message`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::cut::{EpochCut, UnsortedLimits};
use super::event::ColoFrameCommand;
use super::message::ControlMessage;
use super::protection::{Protection, ProtectionAction, ProtectionState, ProtectionTimer};
use super::{BATCH, Mode, ProgramMode};
use crate::compare::{Engine, Output, Reason};
use crate::digest::{DigestLimits, Expander};
use crate::frame::Frame;
use crate::log_limit::LogLimit;

mod checkpoint;
mod lanes;
mod output;
mod returned;
mod service;
#[cfg(test)]
mod tests;

pub use self::lanes::PeerLane;
use self::lanes::{ControlState, PeerLanes};
pub use self::output::Intake;
use self::output::Leaving;

/// The way of the guest's output: captured, and released.
pub trait OutputPath {
    /// Sets what the kernel programs do with the guest's frames.
    fn set_mode(&mut self, mode: ProgramMode);
    /// Appends one batch of the guest's output to `into`. `true` if more may be there now.
    fn read_output(&mut self, into: &mut Vec<Frame>) -> bool;
    /// Lets a frame of the guest leave.
    fn release(&mut self, frame: &Frame);
    /// Sends an acknowledgment that the engine has made. It says only what both guests have said.
    fn acknowledge(&mut self, frame: &Frame);
    /// The secondary's guest is the primary's copy from here on, so its frames that are not read yet
    /// are of the older epoch. A path without a control lane drops them here, and returns their
    /// number. With a control lane the cut tells which frames they are, and there is nothing to do.
    fn drop_returned(&mut self) -> u64 {
        0
    }
}

/// The pair, as the COLO-frame knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pairing {
    /// The COLO-frame has a pair, or says nothing about pairs.
    Paired,
    /// It has no pair.
    Alone,
    /// It went without a word while the pair was protected, so the guest may be dead.
    GuestMayBeDead,
}

/// The present checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checkpoint {
    None,
    /// It has begun and has not ended. `settles`: a reason of [`Primary::due`] that it makes up for.
    Running {
        settles: Option<Reason>,
    },
}

/// An order about `quorum` and `fence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOrder {
    /// Ask them.
    Ask,
    /// Withdraw the question, if the fence has not begun.
    Withdraw,
}

/// The limits of the primary's half.
#[derive(Clone, Copy, Debug)]
pub struct PrimaryLimits {
    /// Frames of the secondary whose epoch is not known yet.
    pub unsorted: UnsortedLimits,
    /// Frames that are kept for digests.
    pub digest: DigestLimits,
    /// Length of the queue from which the caller reads the guest's output, in frames.
    pub output_queue_frames: u32,
    /// How long the secondary may be gone.
    pub secondary_timeout: Duration,
    /// How long the secondary may take to answer that it will not take over.
    pub disclaim_timeout: Duration,
    /// The pause after which a record that could not be written is written again.
    pub record_pause: Duration,
    /// Frames that leave in one turn. A checkpoint may release so many that other guests on the
    /// thread would stand still for tenths of a second.
    pub released_per_turn: usize,
}

impl Default for PrimaryLimits {
    fn default() -> Self {
        Self {
            unsorted: UnsortedLimits::default(),
            digest: DigestLimits::default(),
            output_queue_frames: 10_000,
            secondary_timeout: Duration::from_secs(1),
            disclaim_timeout: Duration::from_secs(1),
            record_pause: Duration::from_secs(1),
            released_per_turn: 4 * BATCH,
        }
    }
}

impl PrimaryLimits {
    /// How long `timer` runs.
    fn wait(&self, timer: ProtectionTimer) -> Duration {
        match timer {
            ProtectionTimer::PeerLost => self.secondary_timeout,
            ProtectionTimer::Disclaim => self.disclaim_timeout,
            ProtectionTimer::Record => self.record_pause,
        }
    }
}

/// The primary's half of a pair.
#[derive(Debug)]
pub struct Primary {
    name: String,
    limits: PrimaryLimits,
    /// Compares the output of the two guests.
    engine: Engine,
    out: Output,
    /// Frames that may leave, and do so in the next turns.
    releasing: VecDeque<Leaving>,
    /// Whether the guest is protected.
    protection: Protection,
    /// When the timers of `protection` end that run.
    deadlines: [Option<Instant>; ProtectionTimer::ALL.len()],
    started: Instant,
    cut: EpochCut,
    /// Makes frames from the digests that come in their place.
    expander: Expander,
    /// Frames of the secondary that are about to be compared. It is empty between calls, and is a
    /// field for the sake of its memory.
    comparing: Vec<Frame>,
    epoch: u64,
    /// A random number that tells our epochs from those of an earlier daemon.
    session: u64,
    checkpoint: Checkpoint,
    /// Frames were lost between the hosts, or the guest was reset, and no checkpoint was requested for
    /// that yet.
    due: Option<Reason>,
    /// The expander had no room at the last look.
    was_full: bool,
    lanes: PeerLanes,
    pairing: Pairing,
    fence_orders: VecDeque<FenceOrder>,
    counts: PrimaryCounts,
    request_log: LogLimit,
    failure_log: LogLimit,
    stray_log: LogLimit,
    reset_log: LogLimit,
    commands: VecDeque<ColoFrameCommand>,
    messages: VecDeque<ControlMessage>,
}

/// The counters of the primary's half.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrimaryCounts {
    /// Frames of the guest that left while it was unprotected.
    pub released_unprotected: u64,
    /// Frames of the secondary that came while it was not the primary's equal.
    pub secondary_ignored: u64,
    /// Frames of the guest that came after the secondary had taken over.
    pub dropped_taken_over: u64,
    /// Frames of the guest that nobody compares, and that came while the secondary could take over and was
    /// not there.
    pub dropped_peer_lost: u64,
    /// Reports of a checkpoint as done that had not begun.
    pub checkpoints_ignored: u64,
    /// Checkpoints that were done.
    pub checkpoints_done: u64,
    /// Times that a secondary came that was not equal.
    pub resyncs: u64,
}

impl Primary {
    /// The half of a daemon that has just started. `session` is random. `has_control`: a control lane
    /// is configured, on which the two daemons agree about epochs.
    pub fn new(
        now: Instant,
        name: String,
        engine: Engine,
        protection: Protection,
        session: u64,
        has_control: bool,
    ) -> Self {
        let control = if has_control { ControlState::Down } else { ControlState::Absent };
        let mut primary = Self {
            name,
            limits: PrimaryLimits::default(),
            engine,
            out: Output::default(),
            releasing: VecDeque::new(),
            protection,
            deadlines: [None; ProtectionTimer::ALL.len()],
            started: now,
            cut: EpochCut::default(),
            expander: Expander::new(DigestLimits::default()),
            comparing: Vec::new(),
            epoch: 0,
            session,
            checkpoint: Checkpoint::None,
            due: None,
            was_full: false,
            lanes: PeerLanes { mirror_up: false, secondary_up: false, control },
            pairing: Pairing::Paired,
            fence_orders: VecDeque::new(),
            counts: PrimaryCounts::default(),
            request_log: LogLimit::default(),
            failure_log: LogLimit::default(),
            stray_log: LogLimit::default(),
            reset_log: LogLimit::default(),
            commands: VecDeque::new(),
            messages: VecDeque::new(),
        };
        primary.set_timers(now);
        primary
    }

    /// The same half with limits other than the default ones.
    #[must_use]
    pub fn limited(mut self, limits: PrimaryLimits) -> Self {
        self.cut = EpochCut::new(limits.unsorted);
        self.expander = Expander::new(limits.digest);
        self.limits = limits;
        self.deadlines = [None; ProtectionTimer::ALL.len()];
        self.set_timers(self.started);
        self
    }

    /// The number of the present epoch: checkpoints that were done since the daemon started.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The counters.
    pub fn counts(&self) -> PrimaryCounts {
        self.counts
    }

    /// The engine, for its room, its counters and its divergences.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The state of protection.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// The expander, for its counters.
    pub fn expander(&self) -> &Expander {
        &self.expander
    }

    /// The caller has dropped `frames` of the secondary, because they were of an older epoch.
    pub fn dropped_stale(&mut self, frames: u64) {
        self.engine.dropped_stale(frames);
    }

    /// How the guest stands, in the word that `status` shows.
    pub fn mode(&self) -> Mode {
        self.protection.mode()
    }

    /// The COLO-frame has a pair, or says nothing about pairs.
    pub fn has_pair(&self) -> bool {
        self.pairing == Pairing::Paired
    }

    /// The next command for the COLO-frame.
    pub fn next_command(&mut self) -> Option<ColoFrameCommand> {
        self.commands.pop_front()
    }

    /// The next message for the peer.
    pub fn next_message(&mut self) -> Option<ControlMessage> {
        self.messages.pop_front()
    }

    /// Queues a message for the peer behind the messages that are there.
    pub fn queue_message(&mut self, message: ControlMessage) {
        self.messages.push_back(message);
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = self.running_timers().map(|(_, at)| at);
        let others = [self.expander.poll_timeout(), self.engine.poll_timeout()];
        timers.chain(others.into_iter().flatten()).min()
    }

    fn running_timers(&self) -> impl Iterator<Item = (ProtectionTimer, Instant)> {
        let timers = ProtectionTimer::ALL.into_iter().zip(self.deadlines);
        let running = timers.filter(|(timer, _)| self.protection.runs(*timer));
        running.filter_map(|(timer, at)| Some((timer, at?)))
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant, path: &mut impl OutputPath) {
        self.engine.on_timeout(now, &mut self.out);
        self.expander.on_timeout(now);
        let ended: Vec<_> = self.running_timers().filter(|(_, at)| *at <= now).collect();
        for (timer, _) in ended {
            self.stop_timer(timer);
            self.protection.on_timer(timer);
            self.act(now, path);
        }
    }

    fn stop_timer(&mut self, ended: ProtectionTimer) {
        for (timer, deadline) in ProtectionTimer::ALL.into_iter().zip(&mut self.deadlines) {
            if timer == ended {
                *deadline = None;
            }
        }
    }

    /// Starts the timers that are to run, and stops the others.
    fn set_timers(&mut self, now: Instant) {
        for (timer, deadline) in ProtectionTimer::ALL.into_iter().zip(&mut self.deadlines) {
            let runs = self.protection.runs(timer);
            *deadline = runs.then(|| deadline.unwrap_or(now + self.limits.wait(timer)));
        }
    }

    fn is_protected(&self) -> bool {
        self.protection.state() == ProtectionState::Protected
    }

    /// The secondary asks for a checkpoint. A pair that is not protected makes one anyway, or none.
    pub fn on_checkpoint_wanted(&mut self, now: Instant) {
        if self.is_protected() {
            self.engine.request_checkpoint(now, Reason::SecondaryFlows, &mut self.out);
        }
    }

    /// Frames of either guest whose counterpart of the other guest is missing.
    pub fn waiting(&self) -> u64 {
        let stats = self.engine.stats();
        stats.held.frames + stats.secondary_waiting.frames + self.expander.stats.waiting
    }

    /// Carries out what protection has decided.
    fn act(&mut self, now: Instant, path: &mut impl OutputPath) {
        while let Some(action) = self.protection.next_action() {
            self.carry_out(now, action, path);
        }
        while let Some(message) = self.protection.next_message() {
            self.messages.push_back(message.into());
        }
        self.set_timers(now);
    }

    fn carry_out(&mut self, now: Instant, action: ProtectionAction, path: &mut impl OutputPath) {
        let description = self.protection.description();
        if matches!(action, ProtectionAction::Unprotect | ProtectionAction::Join) {
            self.abandon_checkpoint(now);
        }
        match action {
            ProtectionAction::Announce => log::info!("{}: {description}", self.name),
            ProtectionAction::Unprotect => {
                log::warn!("{}: {description}", self.name);
                if self.engine.stats().held.frames > 0 {
                    self.protection.expose();
                }
                if self.protection.is_exposed() {
                    self.release_everything(now, path);
                }
                self.command_peer_lost();
            }
            ProtectionAction::Fence => {
                log::warn!(
                    "{}: the secondary is lost and may take over; quorum and fence are asked before \
                     this guest goes on alone",
                    self.name
                );
                self.fence_orders.push_back(FenceOrder::Ask);
            }
            ProtectionAction::WithdrawFence => self.fence_orders.push_back(FenceOrder::Withdraw),
            ProtectionAction::Silence => self.be_silent(path),
            ProtectionAction::Join => {
                log::info!("{}: {description}", self.name);
                path.set_mode(ProgramMode::Protected);
                self.counts.resyncs += 1;
                // Its frames came before we knew that the secondary is not equal.
                self.counts.secondary_ignored += self.expander.drop_waiting();
                self.engine.start_over(now, &mut self.out);
                self.engine.request_checkpoint(now, Reason::Resync, &mut self.out);
            }
        }
    }

    fn command_peer_lost(&mut self) {
        self.commands.push_back(ColoFrameCommand::PeerLost { instance: self.name.clone() });
    }

    /// Turns the engine's requests into commands, and the expander's questions into messages.
    pub fn collect_requests(&mut self, now: Instant) {
        self.ask_for_frames(now);
        if self.protection.is_taken_over() {
            // The secondary must not get the state of a guest that no longer serves.
            self.out.requests.clear();
        }
        if self.out.requests.is_empty() {
            return;
        }
        let reasons: Vec<String> =
            self.out.requests.drain(..).map(|reason| reason.to_string()).collect();
        // The guest decides how often this happens. `status` has the counts.
        if let Some(more) = self.request_log.admit(now) {
            let name = &self.name;
            log::info!("{name}: requesting a checkpoint: {}{more}", reasons.join(", "));
        }
        self.commands.push_back(ColoFrameCommand::RequestCheckpoint {
            instance: self.name.clone(),
            epoch: self.epoch,
            reasons,
        });
    }
}
