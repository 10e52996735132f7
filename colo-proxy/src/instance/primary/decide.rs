//! What the primary's half decides: the engine, the state of protection and the epochs, together.
//!
//! No I/O and no clock. The owner brings frames, events and time; what has to happen at once goes
//! through [`Hands`], and what may wait is left in [`Decisions::commands`] and
//! [`Decisions::messages`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::colo_frame::{Command, Event};
use crate::compare::{Engine, Output, Reason, Side};
use crate::config::{DigestLimits, Limits, OnDeath, PeerLimits};
use crate::control::Message;
use crate::datapath::Mode;
use crate::digest::Expander;
use crate::frame::Frame;
use crate::instance::cut::Cut;
use crate::instance::lanes::BATCH;
use crate::log_limit::LogLimit;
use crate::protection::{Action, Protection, State};

mod returned;
mod service;

/// Frames that leave in one turn: a checkpoint may let go of so many that other guests on the thread
/// would wait for tenths of a second.
const RELEASED_MAX: usize = if cfg!(test) { 2 } else { 4 * BATCH };

/// Where decisions are carried out.
pub(in crate::instance) trait Hands {
    /// Tells the kernel programs.
    fn set_mode(&mut self, mode: Mode);
    /// One batch of the guest's output that waits; `true` where more may be there.
    fn read_output(&mut self, into: &mut Vec<Frame>) -> bool;
    /// Lets a frame go.
    fn release(&mut self, frame: &Frame);
}

/// The parts of the way between the two daemons that can be up or down.
#[derive(Clone, Copy, Debug)]
pub(in crate::instance) enum Lane {
    Mirror,
    Secondary,
    Control,
}

/// What is decided, and on what grounds.
#[derive(Debug)]
pub(in crate::instance) struct Decisions {
    pub(in crate::instance) name: String,
    pub(in crate::instance) engine: Engine,
    pub(in crate::instance) out: Output,
    /// What may leave, and is for the next turn.
    releasing: VecDeque<Frame>,
    pub(in crate::instance) protection: Protection,
    pub(in crate::instance) cut: Cut,
    /// Makes frames of the digests that come in their place.
    pub(in crate::instance) expander: Expander,
    /// What it has made whole; empty between calls, and kept for its memory.
    expanded: Vec<Frame>,
    pub(in crate::instance) epoch: u64,
    /// Tells our epochs from those of an earlier daemon; random.
    session: u64,
    /// A checkpoint has begun and is not done yet.
    checkpoint_running: bool,
    /// Frames were lost between the hosts, and no checkpoint was asked for yet.
    is_loss_due: bool,
    /// That was so when the present checkpoint began.
    was_loss_due: bool,
    /// The expander had no room when it was looked at last.
    was_full: bool,
    /// The guest's output passes when this daemon dies.
    passes_on_death: bool,
    /// The secondary was told that it is not to take over, and has not said that it knows; later
    /// than then it is fenced.
    disclaiming: Option<Instant>,
    /// How long it may take for that.
    timeout: Duration,
    /// Frames that the output gate can hold.
    gate_queue_frames: u32,
    has_control: bool,
    mirror_up: bool,
    secondary_up: bool,
    /// The COLO-frame has not said that it has no pair.
    has_pair: bool,
    /// Whoever ran the guest is gone without a word, and the pair was protected then.
    may_be_dead: bool,
    /// Of the control lane; one that is not configured counts as up.
    pub(in crate::instance) control_up: bool,
    pub(in crate::instance) counts: Counts,
    request_log: LogLimit,
    failure_log: LogLimit,
    /// The secondary is to be fenced.
    pub(in crate::instance) is_fence_due: bool,
    /// For the COLO-frame.
    pub(in crate::instance) commands: VecDeque<Command>,
    /// For the peer.
    pub(in crate::instance) messages: VecDeque<Message>,
}

/// What is counted here.
#[derive(Debug, Default)]
pub(in crate::instance) struct Counts {
    pub(in crate::instance) released_unprotected: u64,
    /// Frames of the secondary that came while it was not the primary's equal.
    pub(in crate::instance) secondary_ignored: u64,
    pub(in crate::instance) checkpoints_ignored: u64,
    pub(in crate::instance) resyncs: u64,
}

impl Decisions {
    /// `has_control`: there is a control lane, on which epochs are told.
    pub(in crate::instance) fn new(
        name: String,
        engine: Engine,
        protection: Protection,
        session: u64,
        has_control: bool,
    ) -> Self {
        Self {
            name,
            engine,
            out: Output::default(),
            releasing: VecDeque::new(),
            protection,
            cut: Cut::default(),
            expander: Expander::new(DigestLimits::default()),
            expanded: Vec::new(),
            epoch: 0,
            session,
            checkpoint_running: false,
            is_loss_due: false,
            was_loss_due: false,
            was_full: false,
            passes_on_death: false,
            disclaiming: None,
            timeout: PeerLimits::default().timeout,
            gate_queue_frames: PeerLimits::default().gate_queue_frames,
            has_control,
            mirror_up: false,
            secondary_up: false,
            has_pair: true,
            may_be_dead: false,
            control_up: !has_control,
            counts: Counts::default(),
            request_log: LogLimit::default(),
            failure_log: LogLimit::default(),
            is_fence_due: false,
            commands: VecDeque::new(),
            messages: VecDeque::new(),
        }
    }

    /// Within other limits than those that nobody has changed.
    pub(in crate::instance) fn limited(mut self, limits: &Limits) -> Self {
        self.cut = Cut::new(limits.unsorted);
        self.expander = Expander::new(limits.digest);
        self.gate_queue_frames = limits.peer.gate_queue_frames;
        self.timeout = limits.peer.timeout;
        self
    }

    /// What becomes of the guest's output when this daemon dies.
    pub(in crate::instance) fn on_death(mut self, on_death: OnDeath) -> Self {
        self.passes_on_death = on_death == OnDeath::Pass;
        self
    }

    pub(in crate::instance) fn poll_timeout(&self) -> Option<Instant> {
        let digests = self.expander.poll_timeout();
        let all =
            [self.engine.poll_timeout(), self.protection.poll_timeout(), self.disclaiming, digests];
        all.into_iter().flatten().min()
    }

    pub(in crate::instance) fn on_timeout(&mut self, now: Instant, hands: &mut impl Hands) {
        self.engine.on_timeout(now, &mut self.out);
        self.expander.on_timeout(now);
        if self.disclaiming.is_some_and(|at| at <= now) {
            self.fence();
        }
        let action = self.protection.on_timeout(now);
        self.act(now, action, hands);
    }

    /// Guest output, in the order in which the guest sent it.
    pub(in crate::instance) fn on_output(
        &mut self,
        now: Instant,
        frames: &mut Vec<Frame>,
        hands: &mut impl Hands,
    ) {
        if self.protection.state() == State::Unprotected {
            if !self.protection.is_exposed()
                && frames.iter().any(|frame| self.engine.is_compared(frame))
            {
                self.protection.expose();
                hands.set_mode(Mode::Off);
            }
            self.counts.released_unprotected += frames.len() as u64;
            self.out.release.append(frames);
            return;
        }
        for frame in &*frames {
            self.expander.on_primary(frame);
        }
        self.compare_all(now, Side::Primary, frames);
        self.expander.settle(now, &mut self.expanded);
        self.compare_expanded(now);
    }

    /// Frames of either guest that wait for the other's.
    pub(in crate::instance) fn waiting(&self) -> u64 {
        let stats = self.engine.stats();
        stats.held.frames + stats.secondary_waiting.frames + self.expander.stats.waiting
    }

    /// Hands a batch to the engine; what has been read is taken, whether or not there is room.
    fn compare_all(&mut self, now: Instant, side: Side, frames: &mut Vec<Frame>) {
        let mut queue = VecDeque::from(std::mem::take(frames));
        self.engine.on_frames(now, side, &mut queue, &mut self.out);
        for frame in queue.drain(..) {
            self.engine.on_frame(now, side, frame, &mut self.out);
        }
        *frames = queue.into();
    }

    /// A lane was connected, or is gone.
    pub(in crate::instance) fn on_lane(
        &mut self,
        now: Instant,
        lane: Lane,
        up: bool,
        hands: &mut impl Hands,
    ) {
        match lane {
            Lane::Mirror => self.mirror_up = up,
            Lane::Secondary => {
                self.secondary_up = up;
                let stale = self.cut.on_connection() + self.expander.on_connection();
                self.engine.dropped_stale(stale);
                // The mark that is awaited has to count frames of this connection.
                self.ask_for_mark();
            }
            Lane::Control => {
                self.control_up = up;
                if up {
                    self.expander.ask_again();
                }
                if !up && self.disclaiming.is_some() {
                    self.fence();
                }
                self.tell_protection();
                self.ask_for_mark();
            }
        }
        self.on_pair(now, hands);
    }

    /// One of the things has changed that make the secondary one that can be compared with.
    fn on_pair(&mut self, now: Instant, hands: &mut impl Hands) {
        let up = self.mirror_up && self.secondary_up && self.control_up && self.has_pair;
        let action = self.protection.on_peer(now, up);
        self.act(now, action, hands);
        self.ask_for_loss(now);
    }

    /// Frames were lost between the hosts, or the way by which they came `is_cut`: what depends on
    /// them is not waited for.
    pub(in crate::instance) fn on_lane_loss(&mut self, now: Instant, frames: u64, is_cut: bool) {
        if frames > 0 || is_cut {
            self.is_loss_due = true;
            self.ask_for_loss(now);
        }
    }

    /// The way by which frames came is gone with the peer: what was under way is asked for when that is
    /// back.
    pub(in crate::instance) fn on_lane_gone(&mut self) {
        self.is_loss_due = true;
    }

    /// A loss that is heard of while a checkpoint is made may be of after its cut, and one that is heard
    /// of while the pair waits for its peer is not made good by that peer.
    fn ask_for_loss(&mut self, now: Instant) {
        let may = self.protection.state() == State::Protected && !self.checkpoint_running;
        if may && std::mem::take(&mut self.is_loss_due) {
            self.engine.request_checkpoint(now, Reason::LaneLoss, &mut self.out);
        }
    }

    /// The secondary asks for a checkpoint; a pair that is not protected makes one anyway, or none.
    pub(in crate::instance) fn on_checkpoint_wanted(&mut self, now: Instant) {
        if self.protection.state() == State::Protected {
            self.engine.request_checkpoint(now, Reason::SecondaryFlows, &mut self.out);
        }
    }

    pub(in crate::instance) fn on_frame_event(
        &mut self,
        now: Instant,
        event: &Event,
        hands: &mut impl Hands,
    ) {
        match event {
            Event::CheckpointBegan => {
                // What the guest sent before it was paused belongs to the epoch that ends here.
                self.drain_output(now, hands);
                self.engine.checkpoint_began(now);
                self.checkpoint_running = true;
                self.was_loss_due = std::mem::take(&mut self.is_loss_due);
                // The secondary's guest goes on before we hear that the checkpoint is done, so what
                // comes from here on may be of either epoch. Where an earlier mark is still to come
                // it is unsorted already.
                if self.has_control && self.cut.awaited().is_none() {
                    self.cut.wait_for(self.epoch + 1);
                }
            }
            // Nothing says which output its state covers.
            Event::CheckpointDone { .. } if !self.checkpoint_running => {
                self.counts.checkpoints_ignored += 1;
                log::warn!("{}: a checkpoint is done that had not begun; ignored", self.name);
            }
            Event::CheckpointDone { state_copied, covers } => {
                self.on_checkpoint_done(now, *state_copied, *covers, hands);
            }
            Event::CheckpointFailed { reason } => {
                if let Some(more) = self.failure_log.admit(now) {
                    let name = &self.name;
                    log::warn!("{name}: the COLO-frame made no checkpoint: {reason}{more}");
                }
                self.checkpoint_running = false;
                self.engine.checkpoint_failed(now);
                self.is_loss_due |= std::mem::take(&mut self.was_loss_due);
                self.ask_for_loss(now);
                self.compare_unsorted(now, self.epoch + 1);
            }
            Event::Failover => self.end_protection(now, hands),
            Event::PairReady => {
                log::info!("{}: the COLO-frame has a pair", self.name);
                self.has_pair = true;
                self.protection.on_pair();
                self.on_pair(now, hands);
            }
            Event::PairLost { reason } | Event::Gone { reason } => {
                log::warn!("{}: the COLO-frame has no pair: {reason}", self.name);
                self.may_be_dead = matches!(event, Event::Gone { .. })
                    && self.protection.state() == State::Protected;
                // Whatever comes back needs a checkpoint before its output counts.
                self.has_pair = false;
                self.protection.expose();
                if self.protection.state() == State::Unprotected {
                    // A checkpoint may have stopped the guest, and nothing else would start it again.
                    self.commands.push_back(Command::PeerLost { instance: self.name.clone() });
                }
                self.on_pair(now, hands);
            }
            Event::Alone { reason } => {
                log::info!("{}: {reason}", self.name);
                self.has_pair = false;
                let action = self.protection.on_alone();
                self.act(now, action, hands);
            }
        }
    }

    fn on_checkpoint_done(
        &mut self,
        now: Instant,
        state_copied: bool,
        covers: bool,
        hands: &mut impl Hands,
    ) {
        self.checkpoint_running = false;
        self.epoch += 1;
        if state_copied && self.has_control {
            if self.cut.awaited() != Some(self.epoch) {
                let stale = self.cut.wait_for(self.epoch);
                self.engine.dropped_stale(stale);
            }
            self.ask_for_mark();
        }
        let stale = self.expander.drop_waiting();
        self.engine.dropped_stale(stale);
        if !covers {
            self.engine.start_over(now, &mut self.out);
            self.engine.request_checkpoint(now, Reason::Resync, &mut self.out);
            return;
        }
        self.engine.checkpoint_done(now, &mut self.out);
        let action = self.protection.on_checkpoint_done();
        if !state_copied {
            self.compare_unsorted(now, self.epoch);
        }
        self.act(now, action, hands);
        self.ask_for_loss(now);
    }

    /// The COLO-frame has a pair, or says nothing of pairs.
    pub(in crate::instance) fn has_pair(&self) -> bool {
        self.has_pair
    }

    /// Takes what the kernel has queued by now, and no more: a guest that goes on sending must not
    /// keep us here.
    fn drain_output(&mut self, now: Instant, hands: &mut impl Hands) {
        let mut frames = Vec::with_capacity(BATCH);
        for _ in 0..=self.gate_queue_frames as usize / BATCH {
            let more = hands.read_output(&mut frames);
            self.on_output(now, &mut frames, hands);
            if self.protection.state() == State::Unprotected {
                self.release(hands);
            }
            if !more {
                return;
            }
        }
    }

    fn act(&mut self, now: Instant, action: Option<Action>, hands: &mut impl Hands) {
        let Some(action) = action else { return };
        let state = self.protection.state();
        if !matches!(action, Action::Announce | Action::Fence)
            && std::mem::take(&mut self.checkpoint_running)
        {
            // A checkpoint of before covers nothing that is held from here on.
            self.compare_unsorted(now, self.epoch + 1);
        }
        if action != Action::Fence {
            self.tell_protection();
        }
        match action {
            Action::Announce => log::info!("{}: {}", self.name, state.description()),
            Action::Unprotect => {
                log::warn!("{}: {}", self.name, state.description());
                if self.engine.stats().held.frames > 0 {
                    self.protection.expose();
                }
                if self.protection.is_exposed() {
                    self.release_everything(now, hands);
                }
                self.commands.push_back(Command::PeerLost { instance: self.name.clone() });
            }
            // A secondary whose daemon lives need not be fenced: it does what it is told.
            Action::Fence if self.has_control && self.control_up => {
                self.disclaiming = Some(now + self.timeout);
                self.messages.push_back(Message::Protection { protected: false });
            }
            Action::Fence => self.fence(),
            Action::Resync => {
                log::info!("{}: {}", self.name, state.description());
                hands.set_mode(Mode::Protected);
                self.counts.resyncs += 1;
                // Of before it was known that the secondary is not equal.
                self.counts.secondary_ignored += self.expander.drop_waiting();
                self.engine.start_over(now, &mut self.out);
                self.engine.request_checkpoint(now, Reason::Resync, &mut self.out);
            }
        }
    }

    /// Rule (c), in the order in which the guest sent it: what is held, then what is queued.
    pub(in crate::instance) fn release_everything(&mut self, now: Instant, hands: &mut impl Hands) {
        hands.set_mode(Mode::Off);
        self.counts.secondary_ignored += self.expander.drop_waiting();
        self.engine.release_all(now, &mut self.out);
        self.drain_output(now, hands);
    }

    /// Lets go all that may leave.
    pub(in crate::instance) fn release(&mut self, hands: &mut impl Hands) {
        let Output { release, acknowledgments, .. } = &mut self.out;
        let all = self.releasing.drain(..).chain(release.drain(..));
        all.chain(acknowledgments.drain(..)).for_each(|frame| hands.release(&frame));
    }

    /// Lets go of it what one turn has room for, in the same order. What an unprotected guest still has
    /// here goes at once: the rest of its output takes the short way.
    pub(in crate::instance) fn release_some(&mut self, hands: &mut impl Hands) {
        let waiting =
            self.releasing.len() + self.out.release.len() + self.out.acknowledgments.len();
        if waiting <= RELEASED_MAX || self.protection.state() == State::Unprotected {
            return self.release(hands);
        }
        self.releasing.extend(self.out.release.drain(..));
        self.releasing.extend(self.out.acknowledgments.drain(..));
        self.releasing.drain(..RELEASED_MAX).for_each(|frame| hands.release(&frame));
        if self.releasing.len() <= RELEASED_MAX {
            self.releasing.shrink_to(2 * RELEASED_MAX);
        }
    }

    /// Some is left for the next turn. It counts as released, and is in no limit: a turn lets more go
    /// than comes in.
    pub(in crate::instance) fn is_releasing(&self) -> bool {
        !self.releasing.is_empty()
    }

    /// Makes commands of what the engine asked for, and messages of what the expander did.
    pub(in crate::instance) fn collect_requests(&mut self, now: Instant) {
        self.ask_for_frames(now);
        if self.out.requests.is_empty() {
            return;
        }
        let reasons: Vec<String> =
            self.out.requests.drain(..).map(|reason| reason.to_string()).collect();
        // The guest decides how often this is: see `status` for the count.
        if let Some(more) = self.request_log.admit(now) {
            let name = &self.name;
            log::info!("{name}: asking for a checkpoint: {reasons:?}{more}");
        }
        self.commands.push_back(Command::RequestCheckpoint {
            instance: self.name.clone(),
            epoch: self.epoch,
            reasons,
        });
    }
}

#[cfg(test)]
mod tests;
