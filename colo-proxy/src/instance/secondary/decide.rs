//! What the secondary's half decides: which input the guest gets, and when it gets it again.
//!
//! No I/O and no clock. The owner brings frames, events and time; what has to happen goes through
//! [`Hands`].

use std::sync::Arc;
use std::time::Instant;

use colo_proxy_common::record::FlowKey;

use crate::config::Limits;
use crate::datapath::Mode;
use crate::frame::Frame;
use crate::instance::hold::Hold;
use crate::instance::repeat;
use crate::instance::segment::{Direction, segment};

/// Where decisions are carried out.
pub(crate) trait Hands {
    /// Sends a frame to the guest, by way of the programs that translate it.
    fn input(&mut self, frame: &Frame);
    /// The programs know the connection's offset.
    fn knows(&self, key: &FlowKey) -> bool;
    /// Makes the offsets of before void; `false` where that failed.
    fn bump_epoch(&mut self) -> bool;
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
}

impl Decisions {
    pub(crate) fn new(mode: Mode, repeat: Arc<repeat::Shared>) -> Self {
        Self {
            mode,
            hold: Hold::default(),
            repeat,
            epoch: 0,
            copied_in: None,
            told_by_frame: false,
        }
    }

    /// Within other limits than those that nobody has changed.
    pub(crate) fn limited(mut self, limits: &Limits) -> Self {
        self.hold = Hold::new(limits.input);
        self
    }

    /// Input of the primary guest, in the order in which it came there.
    pub(crate) fn on_mirror(&mut self, now: Instant, frames: &[Frame], hands: &mut impl Hands) {
        for frame in frames {
            hands.input(frame);
            self.repeat.lock().on_input(now, frame, |key| hands.knows(key));
        }
    }

    /// What the guest has lost.
    pub(crate) fn repeat_input(&mut self, now: Instant, hands: &mut impl Hands) {
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
            let key = segment(frame.ethernet(), Direction::ToGuest).map(|(key, _)| key);
            // The event that told of its offset may have come before it.
            if key.is_some_and(|key| hands.knows(&key)) {
                hands.input(&frame);
            } else {
                self.hold.push(now, key, frame);
            }
        }
    }

    /// The offset of a connection became known: what was held for it may go to the guest now.
    pub(crate) fn on_offset(&mut self, key: &FlowKey, hands: &mut impl Hands) {
        for frame in self.hold.take(key) {
            hands.input(&frame);
        }
    }

    /// Offsets do not matter any more to what is held.
    pub(crate) fn replay_all(&mut self, hands: &mut impl Hands) {
        for frame in self.hold.take_all() {
            hands.input(&frame);
        }
    }

    /// The COLO-frame on this host says that the guest is the primary's copy from here on. The
    /// primary will say so too, on the control lane; but it may die before that, and the guest's
    /// connections must not depend on it.
    pub(crate) fn on_state_copied(&mut self, hands: &mut impl Hands) {
        if self.mode != Mode::FailedOver && self.begin_epoch(hands) {
            self.told_by_frame = true;
        }
    }

    /// A checkpoint was made, of which the primary speaks as `(session, epoch)`: the guest's
    /// numbers are the network's now. `true` where the primary is to be told how many frames had
    /// gone into the lane by now.
    pub(crate) fn on_epoch(
        &mut self,
        (session, epoch): (u64, u64),
        hands: &mut impl Hands,
    ) -> bool {
        if self.mode == Mode::FailedOver {
            return false;
        }
        // Told again where the lanes were gone meanwhile: then only the mark is wanted.
        if self.copied_in != Some((session, epoch)) {
            if !std::mem::take(&mut self.told_by_frame) && !self.begin_epoch(hands) {
                return false;
            }
            self.copied_in = Some((session, epoch));
            self.epoch = epoch;
        }
        true
    }

    /// The guest's numbers are the network's, and what it got before is in the state that it has.
    fn begin_epoch(&mut self, hands: &mut impl Hands) -> bool {
        // The mark comes after: what is translated in between counts as old, which is safe.
        if !hands.bump_epoch() {
            return false;
        }
        self.repeat.lock().clear();
        self.replay_all(hands);
        true
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
    }

    impl Hands for Kernel {
        fn input(&mut self, _frame: &Frame) {}

        fn knows(&self, _key: &FlowKey) -> bool {
            false
        }

        fn bump_epoch(&mut self) -> bool {
            self.epochs += 1;
            true
        }
    }

    fn start() -> (Decisions, Kernel) {
        (Decisions::new(Mode::Protected, Arc::default()), Kernel::default())
    }

    #[test]
    fn a_checkpoint_that_both_tell_of_is_one_epoch() {
        let (mut decisions, mut kernel) = start();
        decisions.on_state_copied(&mut kernel);
        assert_eq!(kernel.epochs, 1, "before the primary has said anything");
        assert!(decisions.on_epoch((7, 1), &mut kernel), "the mark is wanted all the same");
        assert!(decisions.on_epoch((7, 1), &mut kernel), "and again after a lane was lost");
        assert_eq!(kernel.epochs, 1);
    }

    #[test]
    fn one_that_only_the_primary_tells_of_is_one_too() {
        let (mut decisions, mut kernel) = start();
        decisions.on_state_copied(&mut kernel);
        decisions.on_epoch((7, 1), &mut kernel);
        assert!(decisions.on_epoch((7, 2), &mut kernel));
        assert_eq!((kernel.epochs, decisions.epoch), (2, 2));
    }

    #[test]
    fn after_a_failover_nothing_is_copied_any_more() {
        let (mut decisions, mut kernel) = start();
        decisions.failed_over();
        decisions.on_state_copied(&mut kernel);
        assert!(!decisions.on_epoch((7, 1), &mut kernel));
        assert_eq!(kernel.epochs, 0);
    }
}
