//! What the secondary's half decides: which input the guest gets, and when it gets it again.
//!
//! No I/O and no clock. The owner brings frames, events and time; what has to happen goes through
//! [`Hands`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;
use colo_proxy_common::segment::{Direction, tcp_segment};

use crate::config::Limits;
use crate::datapath::Mode;
use crate::frame::Frame;
use crate::instance::hold::Hold;
use crate::instance::repeat;

/// Where decisions are carried out.
pub(crate) trait Hands {
    /// Sends a frame to the guest, by way of the programs that translate it.
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

/// What is decided, and on what grounds.
#[derive(Debug)]
pub(crate) struct Decisions {
    pub(crate) mode: Mode,
    pub(crate) hold: Hold,
    pub(crate) repeat: Arc<repeat::Shared>,
    pub(crate) epoch: u64,
    /// The primary's session and epoch of the last checkpoint that copied state into the guest.
    copied_in: Option<(u64, u64)>,
    /// The COLO-frame on this host has told of a checkpoint before the primary did.
    told_by_frame: bool,
    /// The primary has told of a checkpoint before the COLO-frame on this host, which will.
    told_by_primary: bool,
    /// The guest is stopped, to be given the primary's state, since then.
    stopped: Option<Instant>,
    /// Frames that had gone into the lane when the guest got that state, if the primary has not
    /// been told.
    mark: Option<u64>,
}

/// What the primary is to be told of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing.
    None,
    /// So many frames had gone into the lane before it.
    Known(u64),
    /// All that have gone into the lane by now.
    Take,
}

/// Input that reached the guest's TAP so long before we heard that the guest had been stopped may
/// have found it stopped.
const HEARD_MAX: Duration = Duration::from_millis(2);

impl Decisions {
    pub(crate) fn new(mode: Mode, repeat: Arc<repeat::Shared>) -> Self {
        Self {
            mode,
            hold: Hold::default(),
            repeat,
            epoch: 0,
            copied_in: None,
            told_by_frame: false,
            told_by_primary: false,
            stopped: None,
            mark: None,
        }
    }

    /// Within other limits than those that nobody has changed.
    pub(crate) fn limited(mut self, limits: &Limits) -> Self {
        self.hold = Hold::new(limits.input);
        self
    }

    /// Input of the primary guest, in the order in which it came there.
    pub(crate) fn on_mirror(&mut self, now: Instant, frames: &[Frame], hands: &mut impl Hands) {
        let is_kept = !hands.lane_is_used();
        for frame in frames {
            hands.input_in_turn(frame);
            if is_kept {
                self.repeat.lock().on_input(now, frame, |key| hands.knows(key));
            }
        }
    }

    /// We do not hear any more what the guest acknowledges, so nothing is kept for it.
    pub(crate) fn on_lane_used(&mut self) {
        self.repeat.lock().clear();
    }

    /// What the guest has lost.
    pub(crate) fn repeat_input(&mut self, now: Instant, hands: &mut impl Hands) {
        if self.is_stopped() {
            return;
        }
        let mut lost = Vec::new();
        self.repeat.lock().on_timeout(now, &mut lost);
        for frame in &lost {
            hands.input(frame);
        }
    }

    /// Frames that came too early are kept; so is everything behind them on their connection.
    pub(crate) fn on_held(
        &mut self,
        now: Instant,
        frames: &mut Vec<Frame>,
        hands: &mut impl Hands,
    ) {
        for frame in frames.drain(..) {
            let key = tcp_segment(frame.ethernet(), Direction::ToGuest).map(|(key, _)| key);
            // The event that told of its offset may have come before it; and what is not TCP has only
            // waited for the guest to go on.
            if !self.is_stopped() && key.is_none_or(|key| hands.knows(&key)) {
                hands.input(&frame);
            } else {
                self.hold.push(now, key, frame);
            }
        }
    }

    /// The offset of a connection became known: what was held for it may go to the guest now.
    pub(crate) fn on_offset(&mut self, key: &FlowKey, hands: &mut impl Hands) {
        if self.is_stopped() {
            return;
        }
        for frame in self.hold.take(key) {
            hands.input(&frame);
        }
    }

    /// Offsets do not matter any more to what is held.
    pub(crate) fn replay_all(&mut self, hands: &mut impl Hands) {
        for frame in &self.hold.take_all() {
            hands.input(frame);
        }
        hands.resume_input();
    }

    /// The COLO-frame on this host has stopped the guest, to give it the primary's state. Its numbers
    /// are those of that state from here on, so that they are when it goes on; until it is known
    /// that it does ([`Self::is_stopped`]), nothing may go to it that would change what is known of
    /// its connections. `true` where the owner is to take a mark ([`Self::on_marked`]): what has been
    /// captured by now is of before.
    pub(crate) fn on_stopped(&mut self, now: Instant, hands: &mut impl Hands) -> bool {
        if self.mode == Mode::FailedOver || self.stopped.is_some() {
            return false;
        }
        hands.stop_input();
        if !hands.bump_epoch() {
            hands.resume_input();
            return false;
        }
        self.stopped = Some(now);
        self.told_by_primary = false;
        true
    }

    /// So many frames had gone into the lane.
    pub(crate) fn on_marked(&mut self, sent: u64) {
        self.mark = Some(sent);
    }

    /// The lane was connected anew: all that goes into it is of after the last checkpoint.
    pub(crate) fn on_output_connection(&mut self) {
        self.mark = self.mark.map(|_| 0);
    }

    /// The guest goes on as it was: the state has not come.
    pub(crate) fn on_not_copied(&mut self, hands: &mut impl Hands) {
        if self.stopped.take().is_some() {
            hands.restore_epoch();
            self.mark = None;
            self.replay_all(hands);
        }
    }

    /// The guest is stopped, and nobody knows yet with which state it will go on: input has to wait.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// The COLO-frame on this host says that the guest is the primary's copy from here on. The
    /// primary will say so too, on the control lane; but it may die before that, and the guest's
    /// connections must not depend on it. `true` where the owner is to take a mark.
    pub(crate) fn on_state_copied(&mut self, now: Instant, hands: &mut impl Hands) -> bool {
        if self.mode == Mode::FailedOver || std::mem::take(&mut self.told_by_primary) {
            return false;
        }
        if let Some(stopped) = self.stopped.take() {
            self.told_by_frame = true;
            self.forget_input(now, Some(stopped), hands);
            return false;
        }
        self.told_by_frame = self.begin_epoch(now, hands);
        self.told_by_frame
    }

    /// A checkpoint was made, of which the primary speaks as `(session, epoch)`: the guest's
    /// numbers are the network's now.
    pub(crate) fn on_epoch(
        &mut self,
        now: Instant,
        (session, epoch): (u64, u64),
        hands: &mut impl Hands,
    ) -> Mark {
        if self.mode == Mode::FailedOver {
            return Mark::None;
        }
        // Told again where the lanes were gone meanwhile: then only the mark is wanted.
        if self.copied_in != Some((session, epoch)) {
            if !std::mem::take(&mut self.told_by_frame) && !self.is_copied_by(now, hands) {
                return Mark::None;
            }
            self.copied_in = Some((session, epoch));
            self.epoch = epoch;
        }
        // Of a guest that is stopped it is the mark of a checkpoint that is still being made.
        match self.mark.take_if(|_| self.stopped.is_none()) {
            Some(sent) => Mark::Known(sent),
            None => Mark::Take,
        }
    }

    /// The primary has told of a checkpoint before the COLO-frame of this host.
    fn is_copied_by(&mut self, now: Instant, hands: &mut impl Hands) -> bool {
        match self.stopped.take() {
            Some(stopped) => {
                self.told_by_primary = true;
                self.forget_input(now, Some(stopped), hands);
                true
            }
            None => self.begin_epoch(now, hands),
        }
    }

    /// The guest's numbers are the network's, and what it got before is in the state that it has.
    fn begin_epoch(&mut self, now: Instant, hands: &mut impl Hands) -> bool {
        // The mark comes after: what is translated in between counts as old, which is safe.
        if !hands.bump_epoch() {
            return false;
        }
        self.forget_input(now, None, hands);
        true
    }

    /// What the guest got before it was stopped is in its state; but what came just before we heard
    /// of that was translated for the state that it had.
    fn forget_input(&mut self, now: Instant, stopped: Option<Instant>, hands: &mut impl Hands) {
        let kept = self.repeat.lock().take_all();
        if let Some(from) = stopped.map(|at| at.checked_sub(HEARD_MAX).unwrap_or(at)) {
            for (_, frame) in kept.into_iter().filter(|(at, _)| *at >= from) {
                hands.input(&frame);
                self.repeat.lock().on_input(now, &frame, |_| true);
            }
        }
        self.replay_all(hands);
    }

    /// The guest is on the network, and gets its input from there.
    pub(crate) fn failed_over(&mut self) {
        self.mode = Mode::FailedOver;
        self.repeat.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Kernel {
        epochs: u32,
        inputs: u32,
        uses_lane: bool,
    }

    impl Hands for Kernel {
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

    fn start() -> (Decisions, Kernel) {
        (Decisions::new(Mode::Protected, Arc::default()), Kernel::default())
    }

    #[test]
    fn a_checkpoint_that_both_tell_of_is_one_epoch() {
        let (mut decisions, mut kernel) = start();
        let now = Instant::now();
        assert!(decisions.on_state_copied(now, &mut kernel));
        assert_eq!(kernel.epochs, 1, "before the primary has said anything");
        decisions.on_marked(7);
        let epoch = decisions.on_epoch(now, (7, 1), &mut kernel);
        assert_eq!(epoch, Mark::Known(7), "what had been sent then");
        let again = decisions.on_epoch(now, (7, 1), &mut kernel);
        assert_eq!(again, Mark::Take, "and again after a lane was lost");
        assert_eq!(kernel.epochs, 1);
    }

    #[test]
    fn one_that_only_the_primary_tells_of_is_one_too() {
        let (mut decisions, mut kernel) = start();
        let now = Instant::now();
        decisions.on_state_copied(now, &mut kernel);
        decisions.on_epoch(now, (7, 1), &mut kernel);
        assert_eq!(decisions.on_epoch(now, (7, 2), &mut kernel), Mark::Take);
        assert_eq!((kernel.epochs, decisions.epoch), (2, 2));
    }

    #[test]
    fn one_that_stops_the_guest_is_told_by_the_mark_of_the_stop() {
        let (mut decisions, mut kernel) = start();
        let now = Instant::now();
        assert!(decisions.on_stopped(now, &mut kernel));
        decisions.on_marked(5);
        assert_eq!(kernel.epochs, 1, "what comes now finds the new state");
        assert!(!decisions.on_state_copied(now, &mut kernel), "the mark is taken already");
        assert_eq!(decisions.on_epoch(now, (7, 1), &mut kernel), Mark::Known(5));
        assert_eq!(kernel.epochs, 1);
    }

    #[test]
    fn one_that_comes_to_nothing_leaves_the_guest_its_numbers() {
        let (mut decisions, mut kernel) = start();
        let now = Instant::now();
        assert!(decisions.on_stopped(now, &mut kernel));
        decisions.on_marked(5);
        assert!(decisions.is_stopped());
        decisions.on_not_copied(&mut kernel);
        assert_eq!((kernel.epochs, decisions.is_stopped()), (0, false));
        // The next one has a mark of its own.
        assert_eq!(decisions.on_epoch(now, (7, 1), &mut kernel), Mark::Take);
        assert_eq!(kernel.epochs, 1);
    }

    #[test]
    fn the_primary_may_tell_of_it_before_the_frame_of_this_host() {
        let (mut decisions, mut kernel) = start();
        let now = Instant::now();
        decisions.on_stopped(now, &mut kernel);
        decisions.on_marked(5);
        assert_eq!(decisions.on_epoch(now, (7, 1), &mut kernel), Mark::Known(5));
        decisions.on_not_copied(&mut kernel);
        assert_eq!(kernel.epochs, 1, "it was made, whatever is said later");
        assert!(!decisions.on_state_copied(now, &mut kernel), "the same one, told again");
        assert_eq!(kernel.epochs, 1);
        // The next one is another.
        decisions.on_stopped(now, &mut kernel);
        decisions.on_marked(9);
        decisions.on_state_copied(now, &mut kernel);
        assert_eq!(decisions.on_epoch(now, (7, 2), &mut kernel), Mark::Known(9));
        assert_eq!(kernel.epochs, 2);
    }

    #[test]
    fn a_new_connection_has_nothing_of_before_in_it() {
        let (mut decisions, mut kernel) = start();
        let now = Instant::now();
        decisions.on_stopped(now, &mut kernel);
        decisions.on_marked(5);
        decisions.on_output_connection();
        decisions.on_state_copied(now, &mut kernel);
        assert_eq!(decisions.on_epoch(now, (7, 1), &mut kernel), Mark::Known(0));
    }

    /// A frame that is too long for it comes by the stream, and nobody here sees it acknowledged.
    #[test]
    fn nothing_is_kept_beside_a_lane_that_is_used() {
        let (mut decisions, mut kernel) = start();
        let now = Instant::now();
        let tcp = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(4000, 80, 1000, 100)
            .ack(1);
        let mut octets = Vec::new();
        tcp.write(&mut octets, &[7; 100]).expect("a Vec takes everything");
        let frames = [Frame::new(octets.into(), 0).expect("no header")];
        decisions.on_mirror(now, &frames, &mut kernel);
        assert!(decisions.repeat.lock().bytes() > 100);
        kernel.uses_lane = true;
        decisions.on_lane_used();
        decisions.on_mirror(now, &frames, &mut kernel);
        assert_eq!((kernel.inputs, decisions.repeat.lock().bytes()), (2, 0));
        decisions.repeat_input(now + Duration::from_mins(1), &mut kernel);
        assert_eq!(kernel.inputs, 2);
        kernel.uses_lane = false;
        decisions.on_mirror(now, &frames, &mut kernel);
        assert!(decisions.repeat.lock().bytes() > 100);
    }

    #[test]
    fn after_a_failover_nothing_is_copied_any_more() {
        let (mut decisions, mut kernel) = start();
        let now = Instant::now();
        decisions.failed_over();
        assert!(!decisions.on_stopped(now, &mut kernel));
        assert!(!decisions.on_state_copied(now, &mut kernel));
        assert_eq!(decisions.on_epoch(now, (7, 1), &mut kernel), Mark::None);
        assert_eq!(kernel.epochs, 0);
    }
}
