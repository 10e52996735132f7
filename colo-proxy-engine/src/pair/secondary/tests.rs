#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use super::*;
use crate::pair::service_message::{CoverNotice, ServiceMessage};
use crate::pair::service_record::RecordKeeper;
use crate::pair::takeover::{TakeoverDeciders, TakeoverOrder};

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
    let takeover = Takeover::new(TakeoverDeciders::default(), RecordKeeper::in_memory(), false);
    let repeater = SharedRepeater::default();
    let limits = InputLimits::default();
    let name = "tap0".into();
    let secondary = Secondary::new(name, ProgramMode::Protected, takeover, repeater, limits);
    (secondary, Kernel::default())
}

#[test]
fn a_checkpoint_that_both_report_is_one_epoch() {
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
fn one_that_only_the_primary_reports_is_one_too() {
    let (mut secondary, mut kernel) = start();
    let now = Instant::now();
    secondary.on_state_copied(now, &mut kernel);
    secondary.on_epoch(now, (7, 1), &mut kernel);
    assert_eq!(secondary.on_epoch(now, (7, 2), &mut kernel), CutAnswer::Take);
    assert_eq!((kernel.epochs, secondary.epoch), (2, 2));
}

#[test]
fn one_that_stops_the_guest_has_its_cut_at_the_stop() {
    let (mut secondary, mut kernel) = start();
    let now = Instant::now();
    assert!(secondary.on_stopped(now, &mut kernel));
    secondary.on_cut(5);
    assert_eq!(kernel.epochs, 1, "what comes now finds the new state");
    assert!(!secondary.on_state_copied(now, &mut kernel), "the cut is taken already");
    assert_eq!(secondary.on_epoch(now, (7, 1), &mut kernel), CutAnswer::Known(5));
    assert_eq!(kernel.epochs, 1);
}

#[test]
fn one_that_fails_leaves_the_guest_its_numbers() {
    let (mut secondary, mut kernel) = start();
    let now = Instant::now();
    assert!(secondary.on_stopped(now, &mut kernel));
    secondary.on_cut(5);
    assert!(secondary.is_stopped());
    secondary.on_not_copied(&mut kernel);
    assert_eq!((kernel.epochs, secondary.is_stopped()), (0, false));
    // The next one has a cut of its own.
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
fn a_new_connection_has_no_frame_of_the_older_epoch() {
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

fn tell(secondary: &mut Secondary, now: Instant, notice: CoverNotice) {
    let message = ServiceMessage::Notice { notice, generation: 0 };
    secondary.decide(now, |takeover| takeover.on_message(message));
}

/// Each mode, and the event that makes the difference to the one before it.
#[test]
fn the_mode_is_standby_until_a_primary_was_met() {
    let (mut secondary, _) = start();
    let now = Instant::now();
    assert_eq!(secondary.mode(), Mode::Standby, "it has never met a primary");
    secondary.decide(now, Takeover::on_peer_up);
    assert_eq!(secondary.mode(), Mode::Joining, "met, and not covered yet");
    tell(&mut secondary, now, CoverNotice { protected: true, number: 1 });
    assert_eq!(secondary.mode(), Mode::Protected);
    secondary.decide(now, |takeover| takeover.on_peer_down(false));
    assert_eq!(secondary.mode(), Mode::PeerLost, "a primary that was met is lost");
    secondary.on_taken_over();
    assert_eq!(secondary.mode(), Mode::Serving);
    secondary.program_mode = ProgramMode::Off;
    assert_eq!(secondary.mode(), Mode::Unguarded);
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

/// The answer to the primary that this guest will not take over.
fn disclaimed(secondary: &mut Secondary, now: Instant, number: u32) -> bool {
    tell(secondary, now, CoverNotice { protected: false, number });
    let known = ControlMessage::ProtectionKnown { number };
    std::iter::from_fn(|| secondary.next_message()).any(|message| message == known)
}

/// The primary would go on without its fence, beside a guest that goes on the network.
#[test]
fn a_takeover_that_waits_for_a_checkpoint_is_not_denied() {
    let (mut secondary, mut kernel) = start();
    let now = Instant::now();
    secondary.decide(now, Takeover::on_peer_up);
    assert!(disclaimed(&mut secondary, now, 1), "the twin: nothing is under way");
    secondary.on_stopped(now, &mut kernel);
    secondary.decide(now, |takeover| takeover.order(TakeoverOrder::ColoFrame));
    assert_eq!(secondary.next_takeover_action(), Some(TakeoverAction::TakeOver));
    assert_eq!(secondary.take_over(now), TakeoverStep::Later);
    assert!(!disclaimed(&mut secondary, now, 2));
    secondary.on_not_copied(&mut kernel);
    assert!(secondary.take_pending_takeover());
    secondary.on_taken_over();
    assert!(!disclaimed(&mut secondary, now, 3));
}
