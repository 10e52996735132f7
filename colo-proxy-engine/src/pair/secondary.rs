//! What the secondary's half decides: which input the guest gets, when it gets it again, and when the
//! guest takes over.
//!
//! The caller brings frames, events and time; what has to happen goes through an [`InputPath`].

use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use super::early_input::{EarlyInput, InputLimits};
use super::repeat::SharedRepeater;
use super::takeover::{Takeover, TakeoverAction};
use super::{Mode, ProgramMode};
use crate::frame::Frame;
use colo_proxy_common::segment::{Direction, tcp_segment};

/// The way that the guest's input takes, by way of the programs that translate it.
pub trait InputPath {
    /// Sends a frame to the guest.
    fn input(&mut self, frame: &Frame);
    /// The same, behind what waits for the guest and has come before.
    fn input_in_turn(&mut self, frame: &Frame) {
        self.input(frame);
    }
    /// The programs know the connection's offset.
    fn knows(&self, key: &FlowKey) -> bool;
    /// The guest's output goes past us, and its acknowledgments with it.
    fn lane_is_used(&self) -> bool {
        false
    }
    /// Makes the offsets of before void; `false` where that failed.
    fn bump_epoch(&mut self) -> bool;
    /// Makes those that were voided last valid again.
    fn restore_epoch(&mut self);
    /// Lets input wait that would reach the guest without our doing.
    fn stop_input(&mut self) {}
    /// Lets it come again, behind what has waited.
    fn resume_input(&mut self) {}
}

/// Who has reported the present checkpoint, of the two that will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reported {
    ByNobody,
    /// The COLO-frame on this host has, before the primary.
    ByColoFrame,
    /// The primary has, before the COLO-frame on this host.
    ByPrimary,
}

/// Whether the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestState {
    Runs,
    /// It is stopped since then, to be given the primary's state.
    Stopped(Instant),
}

/// The secondary's half of a pair.
#[derive(Debug)]
pub struct Secondary {
    name: String,
    program_mode: ProgramMode,
    /// When the guest takes over by itself.
    pub takeover: Takeover,
    /// The guest is to take over as soon as it is known with which state it goes on, and not later
    /// than then.
    pending_takeover: Option<Instant>,
    /// Input that came before its connection's offset was known.
    pub early_input: EarlyInput,
    /// Input that is kept until the guest has acknowledged it.
    pub repeater: SharedRepeater,
    epoch: u64,
    /// The primary's session and epoch of the last checkpoint that copied state into the guest.
    copied_in: Option<(u64, u64)>,
    reported: Reported,
    guest: GuestState,
    /// The cut: frames that had gone into the lane when the guest got the primary's state, if the
    /// primary has not been told.
    cut: Option<u64>,
}

/// Where the primary is to be told that the epoch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutAnswer {
    /// Nowhere: there is no answer.
    None,
    /// Behind so many frames of the lane.
    Known(u64),
    /// Behind all frames that have gone into the lane by now.
    Take,
}

/// What a takeover has to do with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverStep {
    /// Nothing: it has taken over.
    Done,
    /// Nothing yet: a checkpoint has stopped the guest, which says nothing meanwhile.
    Later,
    /// Put it on the network.
    Now,
}

/// How long a takeover waits for QEMU to say how the checkpoint ended that has stopped the guest.
const STOPPED_MAX: Duration = Duration::from_secs(2);

/// Input that reached the guest's TAP so long before we heard that the guest had been stopped may
/// have found it stopped.
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
            takeover,
            pending_takeover: None,
            early_input: EarlyInput::new(limits),
            repeater,
            epoch: 0,
            copied_in: None,
            reported: Reported::ByNobody,
            guest: GuestState::Runs,
            cut: None,
        }
    }

    /// The primary's number of the epoch in which the guest is.
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

    /// What the programs do with the guest's frames.
    pub fn program_mode(&self) -> ProgramMode {
        self.program_mode
    }

    /// The guest answers the network.
    pub fn has_taken_over(&self) -> bool {
        self.program_mode == ProgramMode::FailedOver
    }

    /// The guest has not taken over, nor is it about to.
    pub fn waits_for_primary(&self) -> bool {
        self.program_mode == ProgramMode::Protected && self.pending_takeover.is_none()
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let takeover = self.takeover.poll_timeout().filter(|_| self.waits_for_primary());
        let all = [self.early_input.poll_timeout(), takeover, self.pending_takeover];
        all.into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn on_timeout(
        &mut self,
        now: Instant,
        path: &mut impl InputPath,
    ) -> Option<TakeoverAction> {
        self.early_input.on_timeout(now);
        if self.pending_takeover.is_some_and(|at| at <= now) {
            log::warn!(
                "{}: QEMU does not say how its checkpoint ended; taking over with the state that the \
                 guest had before it",
                self.name
            );
            self.on_not_copied(path);
            return self.take_pending_takeover();
        }
        if self.waits_for_primary() { self.takeover.on_timeout(now) } else { None }
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

    /// The takeover that had to wait, now that it is known with which state the guest goes on.
    pub fn take_pending_takeover(&mut self) -> Option<TakeoverAction> {
        self.pending_takeover.take().map(|_| TakeoverAction::TakeOver)
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

    /// We do not hear any more what the guest acknowledges, so nothing is kept for it.
    pub fn on_lane_used(&mut self) {
        self.repeater.lock().clear();
    }

    /// What the guest has lost.
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

    /// Frames that came too early are kept; so is everything behind them on their connection.
    pub fn on_held(&mut self, now: Instant, frames: &mut Vec<Frame>, path: &mut impl InputPath) {
        for frame in frames.drain(..) {
            let key = tcp_segment(frame.ethernet(), Direction::ToGuest).map(|(key, _)| key);
            // The event that told of its offset may have come before it; and what is not TCP has only
            // waited for the guest to go on.
            if !self.is_stopped() && key.is_none_or(|key| path.knows(&key)) {
                path.input(&frame);
            } else {
                self.early_input.push(now, key, frame);
            }
        }
    }

    /// The offset of a connection became known: what was held for it may go to the guest now.
    pub fn on_offset(&mut self, key: &FlowKey, path: &mut impl InputPath) {
        if self.is_stopped() {
            return;
        }
        for frame in self.early_input.take(key) {
            path.input(&frame);
        }
    }

    /// Offsets do not matter any more to what is held.
    pub fn replay_all(&mut self, path: &mut impl InputPath) {
        for frame in &self.early_input.take_all() {
            path.input(frame);
        }
        path.resume_input();
    }

    /// The COLO-frame on this host has stopped the guest, to give it the primary's state. Its numbers
    /// are those of that state from here on, so that they are when it goes on; until it is known
    /// that it does ([`Self::is_stopped`]), nothing may go to it that would change what is known of
    /// its connections. `true` where the owner is to take a mark ([`Self::on_marked`]): what has been
    /// captured by now is of before.
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
        if self.reported == Reported::ByPrimary {
            self.reported = Reported::ByNobody;
        }
        true
    }

    /// So many frames had gone into the lane.
    pub fn on_cut(&mut self, sent: u64) {
        self.cut = Some(sent);
    }

    /// The lane was connected anew: all that goes into it is of after the last checkpoint.
    pub fn on_output_connection(&mut self) {
        self.cut = self.cut.map(|_| 0);
    }

    /// The guest goes on as it was: the state has not come.
    pub fn on_not_copied(&mut self, path: &mut impl InputPath) {
        if self.take_stopped().is_some() {
            path.restore_epoch();
            self.cut = None;
            self.replay_all(path);
        }
    }

    /// The guest is stopped, and nobody knows yet with which state it will go on: input has to wait.
    pub fn is_stopped(&self) -> bool {
        matches!(self.guest, GuestState::Stopped(_))
    }

    /// The guest goes on; says since when it was stopped.
    fn take_stopped(&mut self) -> Option<Instant> {
        match std::mem::replace(&mut self.guest, GuestState::Runs) {
            GuestState::Stopped(since) => Some(since),
            GuestState::Runs => None,
        }
    }

    /// Forgets that the checkpoint was reported by `whom`; says whether it was.
    fn take_reported(&mut self, whom: Reported) -> bool {
        let was = self.reported == whom;
        if was {
            self.reported = Reported::ByNobody;
        }
        was
    }

    /// The COLO-frame on this host says that the guest is the primary's copy from here on. The
    /// primary will say so too, on the control lane; but it may die before that, and the guest's
    /// connections must not depend on it. `true` where the owner is to take a mark.
    pub fn on_state_copied(&mut self, now: Instant, path: &mut impl InputPath) -> bool {
        if self.has_taken_over() || self.take_reported(Reported::ByPrimary) {
            return false;
        }
        if let Some(stopped) = self.take_stopped() {
            self.reported = Reported::ByColoFrame;
            self.forget_input(now, Some(stopped), path);
            return false;
        }
        let has_begun = self.begin_epoch(now, path);
        self.reported = if has_begun { Reported::ByColoFrame } else { Reported::ByNobody };
        has_begun
    }

    /// A checkpoint was made, of which the primary speaks as `(session, epoch)`: the guest's
    /// numbers are the network's now.
    pub fn on_epoch(
        &mut self,
        now: Instant,
        (session, epoch): (u64, u64),
        path: &mut impl InputPath,
    ) -> CutAnswer {
        if self.has_taken_over() {
            return CutAnswer::None;
        }
        // Told again where the lanes were gone meanwhile: then only the mark is wanted.
        if self.copied_in != Some((session, epoch)) {
            if !self.take_reported(Reported::ByColoFrame) && !self.is_copied_by(now, path) {
                return CutAnswer::None;
            }
            self.copied_in = Some((session, epoch));
            self.epoch = epoch;
        }
        // Of a guest that is stopped it is the mark of a checkpoint that is still being made.
        let is_stopped = self.is_stopped();
        match self.cut.take_if(|_| !is_stopped) {
            Some(sent) => CutAnswer::Known(sent),
            None => CutAnswer::Take,
        }
    }

    /// The primary has told of a checkpoint before the COLO-frame of this host.
    fn is_copied_by(&mut self, now: Instant, path: &mut impl InputPath) -> bool {
        match self.take_stopped() {
            Some(stopped) => {
                self.reported = Reported::ByPrimary;
                self.forget_input(now, Some(stopped), path);
                true
            }
            None => self.begin_epoch(now, path),
        }
    }

    /// The guest's numbers are the network's, and what it got before is in the state that it has.
    fn begin_epoch(&mut self, now: Instant, path: &mut impl InputPath) -> bool {
        // The mark comes after: what is translated in between counts as old, which is safe.
        if !path.bump_epoch() {
            return false;
        }
        self.forget_input(now, None, path);
        true
    }

    /// What the guest got before it was stopped is in its state; but what came just before we heard
    /// of that was translated for the state that it had.
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
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "a test makes the clock that its subject is given"
    )]

    use super::*;
    use crate::pair::takeover::TakeoverDeciders;

    #[derive(Debug, Default)]
    struct Kernel {
        epochs: u32,
        inputs: u32,
        uses_lane: bool,
    }

    impl InputPath for Kernel {
        fn input(&mut self, _frame: &Frame) {
            self.inputs += 1;
        }

        fn knows(&self, _key: &FlowKey) -> bool {
            true
        }

        fn lane_is_used(&self) -> bool {
            self.uses_lane
        }

        fn bump_epoch(&mut self) -> bool {
            self.epochs += 1;
            true
        }

        fn restore_epoch(&mut self) {
            self.epochs -= 1;
        }
    }

    fn start() -> (Secondary, Kernel) {
        let takeover = Takeover::new(TakeoverDeciders::default(), Duration::from_secs(1));
        let repeater = SharedRepeater::default();
        let limits = InputLimits::default();
        let name = "tap0".into();
        let secondary = Secondary::new(name, ProgramMode::Protected, takeover, repeater, limits);
        (secondary, Kernel::default())
    }

    #[test]
    fn a_checkpoint_that_both_tell_of_is_one_epoch() {
        let (mut secondary, mut kernel) = start();
        let now = Instant::now();
        assert!(secondary.on_state_copied(now, &mut kernel));
        assert_eq!(kernel.epochs, 1, "before the primary has said anything");
        secondary.on_cut(7);
        let epoch = secondary.on_epoch(now, (7, 1), &mut kernel);
        assert_eq!(epoch, CutAnswer::Known(7), "what had been sent then");
        let again = secondary.on_epoch(now, (7, 1), &mut kernel);
        assert_eq!(again, CutAnswer::Take, "and again after a lane was lost");
        assert_eq!(kernel.epochs, 1);
    }

    #[test]
    fn one_that_only_the_primary_tells_of_is_one_too() {
        let (mut secondary, mut kernel) = start();
        let now = Instant::now();
        secondary.on_state_copied(now, &mut kernel);
        secondary.on_epoch(now, (7, 1), &mut kernel);
        assert_eq!(secondary.on_epoch(now, (7, 2), &mut kernel), CutAnswer::Take);
        assert_eq!((kernel.epochs, secondary.epoch), (2, 2));
    }

    #[test]
    fn one_that_stops_the_guest_is_told_by_the_mark_of_the_stop() {
        let (mut secondary, mut kernel) = start();
        let now = Instant::now();
        assert!(secondary.on_stopped(now, &mut kernel));
        secondary.on_cut(5);
        assert_eq!(kernel.epochs, 1, "what comes now finds the new state");
        assert!(!secondary.on_state_copied(now, &mut kernel), "the mark is taken already");
        assert_eq!(secondary.on_epoch(now, (7, 1), &mut kernel), CutAnswer::Known(5));
        assert_eq!(kernel.epochs, 1);
    }

    #[test]
    fn one_that_comes_to_nothing_leaves_the_guest_its_numbers() {
        let (mut secondary, mut kernel) = start();
        let now = Instant::now();
        assert!(secondary.on_stopped(now, &mut kernel));
        secondary.on_cut(5);
        assert!(secondary.is_stopped());
        secondary.on_not_copied(&mut kernel);
        assert_eq!((kernel.epochs, secondary.is_stopped()), (0, false));
        // The next one has a mark of its own.
        assert_eq!(secondary.on_epoch(now, (7, 1), &mut kernel), CutAnswer::Take);
        assert_eq!(kernel.epochs, 1);
    }

    #[test]
    fn the_primary_may_tell_of_it_before_the_frame_of_this_host() {
        let (mut secondary, mut kernel) = start();
        let now = Instant::now();
        secondary.on_stopped(now, &mut kernel);
        secondary.on_cut(5);
        assert_eq!(secondary.on_epoch(now, (7, 1), &mut kernel), CutAnswer::Known(5));
        secondary.on_not_copied(&mut kernel);
        assert_eq!(kernel.epochs, 1, "it was made, whatever is said later");
        assert!(!secondary.on_state_copied(now, &mut kernel), "the same one, told again");
        assert_eq!(kernel.epochs, 1);
        // The next one is another.
        secondary.on_stopped(now, &mut kernel);
        secondary.on_cut(9);
        secondary.on_state_copied(now, &mut kernel);
        assert_eq!(secondary.on_epoch(now, (7, 2), &mut kernel), CutAnswer::Known(9));
        assert_eq!(kernel.epochs, 2);
    }

    #[test]
    fn a_new_connection_has_nothing_of_before_in_it() {
        let (mut secondary, mut kernel) = start();
        let now = Instant::now();
        secondary.on_stopped(now, &mut kernel);
        secondary.on_cut(5);
        secondary.on_output_connection();
        secondary.on_state_copied(now, &mut kernel);
        assert_eq!(secondary.on_epoch(now, (7, 1), &mut kernel), CutAnswer::Known(0));
    }

    /// A frame that is too long for it comes by the stream, and nobody here sees it acknowledged.
    #[test]
    fn nothing_is_kept_beside_a_lane_that_is_used() {
        let (mut secondary, mut kernel) = start();
        let now = Instant::now();
        let tcp = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(4000, 80, 1000, 100)
            .ack(1);
        let mut octets = Vec::new();
        tcp.write(&mut octets, &[7; 100]).expect("a Vec takes everything");
        let frames = [Frame::new(octets.into(), 0).expect("no header")];
        secondary.on_mirror(now, &frames, &mut kernel);
        assert!(secondary.repeater.lock().bytes() > 100);
        kernel.uses_lane = true;
        secondary.on_lane_used();
        secondary.on_mirror(now, &frames, &mut kernel);
        assert_eq!((kernel.inputs, secondary.repeater.lock().bytes()), (2, 0));
        secondary.repeat_input(now + Duration::from_mins(1), &mut kernel);
        assert_eq!(kernel.inputs, 2);
        kernel.uses_lane = false;
        secondary.on_mirror(now, &frames, &mut kernel);
        assert!(secondary.repeater.lock().bytes() > 100);
    }

    #[test]
    fn after_a_failover_nothing_is_copied_any_more() {
        let (mut secondary, mut kernel) = start();
        let now = Instant::now();
        secondary.on_taken_over();
        assert!(!secondary.on_stopped(now, &mut kernel));
        assert!(!secondary.on_state_copied(now, &mut kernel));
        assert_eq!(secondary.on_epoch(now, (7, 1), &mut kernel), CutAnswer::None);
        assert_eq!(kernel.epochs, 0);
    }
}
