//! The primary's half: the engine, the state of protection and the epochs, together.
//!
//! The caller brings frames, events and time. Urgent decisions go through an [`OutputPath`]. The
//! others are left in queues, for [`Primary::next_command`] and [`Primary::next_message`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::cut::{EpochCut, UnsortedLimits};
use super::event::ColoFrameCommand;
use super::message::ControlMessage;
use super::protection::{Protection, ProtectionAction, ProtectionState};
use super::{BATCH, Mode, OnDeath, ProgramMode};
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
    /// It has begun and has not ended. `settles_loss`: a loss between the hosts was its reason, or
    /// one of them.
    Running {
        settles_loss: bool,
    },
}

/// The fence, which keeps the secondary from taking over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    None,
    /// The secondary was asked not to take over. If it has not answered by this time, it is fenced.
    Disclaiming(Instant),
    /// The caller is to run the fence.
    Due,
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
    /// How long the secondary may take to answer that it will not take over.
    pub disclaim_timeout: Duration,
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
            disclaim_timeout: Duration::from_secs(1),
            released_per_turn: 4 * BATCH,
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
    /// Frames were lost between the hosts, and no checkpoint was requested for them yet.
    is_loss_due: bool,
    /// The expander had no room at the last look.
    was_full: bool,
    /// The guest's output passes when this daemon dies.
    passes_on_death: bool,
    lanes: PeerLanes,
    pairing: Pairing,
    fence: Fence,
    counts: PrimaryCounts,
    request_log: LogLimit,
    failure_log: LogLimit,
    stray_log: LogLimit,
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
        name: String,
        engine: Engine,
        protection: Protection,
        session: u64,
        has_control: bool,
    ) -> Self {
        let control = if has_control { ControlState::Down } else { ControlState::Absent };
        Self {
            name,
            limits: PrimaryLimits::default(),
            engine,
            out: Output::default(),
            releasing: VecDeque::new(),
            protection,
            cut: EpochCut::default(),
            expander: Expander::new(DigestLimits::default()),
            comparing: Vec::new(),
            epoch: 0,
            session,
            checkpoint: Checkpoint::None,
            is_loss_due: false,
            was_full: false,
            passes_on_death: false,
            lanes: PeerLanes { mirror_up: false, secondary_up: false, control },
            pairing: Pairing::Paired,
            fence: Fence::None,
            counts: PrimaryCounts::default(),
            request_log: LogLimit::default(),
            failure_log: LogLimit::default(),
            stray_log: LogLimit::default(),
            commands: VecDeque::new(),
            messages: VecDeque::new(),
        }
    }

    /// The same half with limits other than the default ones.
    #[must_use]
    pub fn limited(mut self, limits: PrimaryLimits) -> Self {
        self.cut = EpochCut::new(limits.unsorted);
        self.expander = Expander::new(limits.digest);
        self.limits = limits;
        self
    }

    /// The same half with a rule for the guest's output when this daemon dies.
    #[must_use]
    pub fn on_death(mut self, on_death: OnDeath) -> Self {
        self.passes_on_death = on_death == OnDeath::Pass;
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
        let disclaiming = match self.fence {
            Fence::Disclaiming(until) => Some(until),
            Fence::None | Fence::Due => None,
        };
        let others = [self.protection.poll_timeout(), disclaiming, self.expander.poll_timeout()];
        others.into_iter().chain([self.engine.poll_timeout()]).flatten().min()
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant, path: &mut impl OutputPath) {
        self.engine.on_timeout(now, &mut self.out);
        self.expander.on_timeout(now);
        if matches!(self.fence, Fence::Disclaiming(until) if until <= now) {
            self.order_fence();
        }
        let action = self.protection.on_timeout(now);
        self.act(now, action, path);
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

    fn act(&mut self, now: Instant, action: Option<ProtectionAction>, path: &mut impl OutputPath) {
        let Some(action) = action else { return };
        let description = self.protection.description();
        if matches!(action, ProtectionAction::Unprotect | ProtectionAction::Join) {
            self.abandon_checkpoint(now);
        }
        if action != ProtectionAction::Fence {
            self.tell_protection();
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
            // A secondary whose daemon lives need not be fenced: its daemon obeys.
            ProtectionAction::Fence if self.lanes.control == ControlState::Up => {
                self.fence = Fence::Disclaiming(now + self.limits.disclaim_timeout);
                self.messages.push_back(ControlMessage::Protection { protected: false });
            }
            ProtectionAction::Fence => self.order_fence(),
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
