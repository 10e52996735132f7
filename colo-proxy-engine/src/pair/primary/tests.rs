#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;

use super::*;
use crate::compare::Limits;
use crate::digest::{Digester, ReturnedRecords};
use crate::pair::OnSecondaryLost;
use crate::pair::event::ColoFrameEvent;
use crate::pair::protection::{LeftGuest, LossPolicy};
use crate::pair::service_message::ServiceMessage;
use crate::pair::service_record::{RecordKeeper, Server, ServiceRecord};

/// Frames that leave in one turn.
const RELEASED_MAX: usize = 2;

/// A host on which nothing happens.
struct Idle;

impl OutputPath for Idle {
    fn set_mode(&mut self, _mode: ProgramMode) {}

    fn read_output(&mut self, _into: &mut Vec<Frame>) -> bool {
        false
    }

    fn release(&mut self, _frame: &Frame) {}

    fn acknowledge(&mut self, _frame: &Frame) {}
}

fn primary(now: Instant) -> Primary {
    let policy = LossPolicy { on_lost: OnSecondaryLost::Release, fences: false, covers: true };
    let left = LeftGuest::Lives { was_off: false };
    let protection = Protection::new(policy, RecordKeeper::in_memory(), left);
    Primary::new(now, "tap0".into(), Engine::new(Limits::default(), 1), protection, 7, true)
        .limited(PrimaryLimits { released_per_turn: RELEASED_MAX, ..PrimaryLimits::default() })
}

#[test]
fn a_checkpoint_that_the_secondary_wants_is_asked_for_once_with_its_reason() {
    let now = Instant::now();
    let mut primary = primary(now);
    for lane in [PeerLane::Mirror, PeerLane::Secondary, PeerLane::Control] {
        primary.on_lane(now, lane, true, &mut Idle);
    }
    for _ in 0..3 {
        primary.on_checkpoint_wanted(now);
        primary.collect_requests(now);
    }
    let request = ColoFrameCommand::RequestCheckpoint {
        instance: "tap0".into(),
        epoch: 0,
        reasons: vec!["secondary-flows".into()],
    };
    assert_eq!(Vec::from(primary.commands), [request]);
}

fn protected(now: Instant) -> Primary {
    let mut primary = primary(now);
    for lane in [PeerLane::Mirror, PeerLane::Secondary, PeerLane::Control] {
        primary.on_lane(now, lane, true, &mut Idle);
    }
    primary
}

/// Two hosts must not claim the guest's address.
#[test]
fn no_arp_leaves_while_the_secondary_is_lost_and_could_take_over() {
    let now = Instant::now();
    let mut primary = protected(now);
    let mut network = Network::default();
    let mut say = |primary: &mut Primary| {
        primary.on_output(now, Intake::All(&mut vec![arp()]), &mut network);
        primary.release_all(&mut network);
        network.0.drain(..).count()
    };
    assert_eq!(say(&mut primary), 1, "the twin: the secondary is there");
    for lane in [PeerLane::Secondary, PeerLane::Control] {
        primary.on_lane(now, lane, false, &mut Idle);
    }
    assert_eq!((say(&mut primary), primary.counts().dropped_peer_lost), (0, 1));
    primary.on_timeout(now + Duration::from_secs(1), &mut Idle);
    assert!(primary.protection().is_unprotected());
    assert_eq!(say(&mut primary), 1, "it takes over no more");
}

/// The word of a secondary that has taken over.
fn serves() -> ServiceMessage {
    ServiceMessage::Standing(Some(ServiceRecord::new(1, Server::ThisHost)))
}

/// Whether a checkpoint was asked for since the last time.
fn asks(primary: &mut Primary, now: Instant) -> bool {
    primary.collect_requests(now);
    let is_request =
        |command: &ColoFrameCommand| matches!(command, ColoFrameCommand::RequestCheckpoint { .. });
    primary.commands.drain(..).any(|command| is_request(&command))
}

#[test]
fn a_loss_while_the_peer_is_lost_requests_a_checkpoint_when_it_is_back() {
    let now = Instant::now();
    let mut primary = protected(now);
    primary.on_lane(now, PeerLane::Secondary, false, &mut Idle);
    primary.on_lane_loss(now, 3, false);
    assert!(!asks(&mut primary, now));
    primary.on_lane(now, PeerLane::Secondary, true, &mut Idle);
    assert!(asks(&mut primary, now));
}

#[test]
fn frames_under_way_when_the_peer_went_request_a_checkpoint_when_it_is_back() {
    let now = Instant::now();
    let mut primary = protected(now);
    primary.on_lane_gone();
    primary.on_lane(now, PeerLane::Control, false, &mut Idle);
    assert!(!asks(&mut primary, now));
    primary.on_lane(now, PeerLane::Control, true, &mut Idle);
    assert!(asks(&mut primary, now));
}

/// The secondary's guest runs what this one ran before, and an idle guest may say nothing for long.
#[test]
fn a_reset_requests_a_checkpoint_and_one_during_a_checkpoint_another() {
    let now = Instant::now();
    let reset = ColoFrameEvent::Reset { reason: "guest-reset".into() };
    let mut primary = protected(now);
    primary.on_colo_frame_event(now, &reset, &mut Idle);
    assert!(asks(&mut primary, now));
    let mut primary = protected(now);
    primary.on_colo_frame_event(now, &ColoFrameEvent::CheckpointBegan, &mut Idle);
    primary.on_colo_frame_event(now, &reset, &mut Idle);
    assert!(!asks(&mut primary, now), "it may come after the copy");
    primary.on_colo_frame_event(now, &ColoFrameEvent::DONE, &mut Idle);
    assert!(asks(&mut primary, now));
}

#[test]
fn a_loss_during_a_checkpoint_is_not_covered_by_it() {
    let now = Instant::now();
    for done in [true, false] {
        let mut primary = protected(now);
        primary.on_colo_frame_event(now, &ColoFrameEvent::CheckpointBegan, &mut Idle);
        primary.on_lane_loss(now, 1, false);
        assert!(!asks(&mut primary, now));
        let event = if done {
            ColoFrameEvent::CheckpointDone { state_copied: false, covers: true }
        } else {
            ColoFrameEvent::CheckpointFailed { reason: "no".into() }
        };
        primary.on_colo_frame_event(now, &event, &mut Idle);
        // After a failure there is a pause.
        let later = now + Duration::from_secs(1);
        primary.on_timeout(later, &mut Idle);
        assert!(asks(&mut primary, later), "{event:?}");
    }
}

#[test]
fn without_protection_none_is_asked_for() {
    let now = Instant::now();
    let mut primary = primary(now);
    primary.on_checkpoint_wanted(now);
    primary.collect_requests(now);
    assert!(primary.commands.is_empty());
}

/// What a guest answers: the same bytes on the same ports.
fn answer() -> Frame {
    let mut octets = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 9], 64)
        .udp(53, 5000)
        .write(&mut octets, b"an answer")
        .expect("a Vec takes everything");
    Frame::new(octets.into(), 0).expect("no header")
}

/// Its connections are other ones, whatever they look like.
#[test]
fn a_secondary_that_is_not_equal_vouches_for_nothing_until_a_checkpoint() {
    let now = Instant::now();
    let mut primary = protected(now);
    primary.end_protection_for_a_while(now);
    for lane in [PeerLane::Mirror, PeerLane::Secondary, PeerLane::Control] {
        primary.on_lane(now, lane, true, &mut Idle);
    }
    assert_eq!(primary.protection.state(), ProtectionState::Joining);
    primary.on_output(now, Intake::All(&mut vec![answer()]), &mut Idle);
    primary.on_secondary(now, vec![answer().into()]);
    assert_eq!((primary.out.release.len(), primary.counts.secondary_ignored), (0, 1));

    primary.on_colo_frame_event(now, &ColoFrameEvent::CheckpointBegan, &mut Idle);
    let done = ColoFrameEvent::CheckpointDone { state_copied: false, covers: true };
    primary.on_colo_frame_event(now, &done, &mut Idle);
    assert_eq!(primary.out.release.drain(..).len(), 1, "the checkpoint covers it");
    primary.on_output(now, Intake::All(&mut vec![answer()]), &mut Idle);
    primary.on_secondary(now, vec![answer().into()]);
    assert_eq!(primary.out.release.len(), 1, "now it counts");
}

/// Notes the lengths of the frames that leave.
#[derive(Default)]
struct Network(Vec<usize>);

impl OutputPath for Network {
    fn set_mode(&mut self, _mode: ProgramMode) {}

    fn read_output(&mut self, _into: &mut Vec<Frame>) -> bool {
        false
    }

    fn acknowledge(&mut self, frame: &Frame) {
        self.release(frame);
    }

    fn release(&mut self, frame: &Frame) {
        self.0.push(frame.len());
    }
}

#[test]
fn what_a_checkpoint_lets_go_leaves_in_turns_and_in_order() {
    let now = Instant::now();
    let long = |len: usize| Frame::new(vec![0; len].into(), 0).expect("no header");
    let mut primary = protected(now);
    let mut network = Network::default();
    let all: Vec<usize> = (20..20 + 2 * RELEASED_MAX + 5).collect();
    primary.out.release.extend(all[1..].iter().map(|len| long(*len)));
    primary.releasing.push_back(Leaving::Output(long(all[0])));
    primary.release_some(&mut network);
    assert_eq!((network.0.len(), primary.is_releasing()), (RELEASED_MAX, true));
    // What may leave meanwhile does so behind it.
    primary.out.acknowledgments.push(long(15));
    primary.out.release.push(long(14));
    while primary.is_releasing() {
        primary.release_some(&mut network);
    }
    assert_eq!(network.0, [all.as_slice(), &[14, 15]].concat());
    assert!(primary.out.is_empty());
}

#[test]
fn what_an_unprotected_guest_still_has_here_leaves_at_once() {
    let now = Instant::now();
    let mut primary = protected(now);
    primary.end_protection_for_a_while(now);
    let mut network = Network::default();
    primary.out.release.extend((0..=RELEASED_MAX).map(|_| answer()));
    primary.release_some(&mut network);
    assert_eq!((network.0.len(), primary.is_releasing()), (RELEASED_MAX + 1, false));
}

/// A segment with data, as it comes and as its digest.
fn segment() -> Frame {
    let mut octets = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 9], 64)
        .tcp(80, 5000, 1000, 60_000)
        .ack(5)
        .write(&mut octets, &[7; 300])
        .expect("a Vec takes everything");
    Frame::new(octets.into(), 0).expect("no header")
}

#[test]
fn a_digest_that_waits_vouches_for_nothing_when_the_secondary_turns_out_not_to_be_equal() {
    let now = Instant::now();
    let mut primary = protected(now);
    let mut digester = Digester::new(true, 1 << 20, Arc::default());
    let mut reader = ReturnedRecords::default();
    let mut read = |(kind, bytes)| reader.read(kind, bytes).expect("it was just written");
    let key = read(digester.begin([3; 16]));
    let digest = read(digester.digest(0, &segment()).expect("it is long enough"));
    primary.on_secondary(now, vec![key, digest]);
    assert_eq!(primary.expander.stats.waiting, 1);
    primary.on_timeout(now + Duration::from_millis(50), &mut Idle);
    primary.collect_requests(now);
    let wanted = ControlMessage::FramesWanted { frames: vec![0] };
    assert!(primary.messages.contains(&wanted), "{:?}", primary.messages);

    primary.on_colo_frame_event(
        now,
        &ColoFrameEvent::PairLost { reason: "gone".into() },
        &mut Idle,
    );
    primary.on_colo_frame_event(now, &ColoFrameEvent::PairReady, &mut Idle);
    assert_eq!(primary.protection.state(), ProtectionState::Joining);
    assert!(digester.want(&[0]));
    let answer = read(digester.next_answer().expect("it was asked for"));
    primary.on_secondary(now, vec![answer]);
    primary.on_output(now, Intake::All(&mut vec![segment()]), &mut Idle);
    assert!(primary.out.release.is_empty());
    assert_eq!((primary.counts.secondary_ignored, primary.expander.stats.waiting), (1, 0));
}

impl Primary {
    /// The secondary is gone for so long that output leaves without it.
    fn end_protection_for_a_while(&mut self, now: Instant) {
        for lane in [PeerLane::Secondary, PeerLane::Control] {
            self.on_lane(now, lane, false, &mut Idle);
        }
        let timeout = Duration::from_secs(1);
        self.on_output(now, Intake::All(&mut vec![answer()]), &mut Idle);
        self.on_timeout(now + timeout, &mut Idle);
        assert_eq!(self.protection.state(), ProtectionState::Unprotected);
        self.out.release.clear();
        self.commands.clear();
    }
}

/// An ARP request, which leaves without a comparison.
fn arp() -> Frame {
    let bytes = [&[0xff; 6][..], &[2; 6], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 32]].concat();
    Frame::new(bytes.into(), 0).expect("no header")
}

const BEGAN: ColoFrameEvent = ColoFrameEvent::CheckpointBegan;

#[test]
fn a_checkpoint_that_does_not_cover_the_output_holds_it_and_another_is_requested() {
    let now = Instant::now();
    for covers in [false, true] {
        let mut primary = protected(now);
        primary.on_output(now, Intake::All(&mut vec![answer()]), &mut Idle);
        primary.on_colo_frame_event(now, &BEGAN, &mut Idle);
        let done = ColoFrameEvent::CheckpointDone { state_copied: true, covers };
        primary.on_colo_frame_event(now, &done, &mut Idle);
        assert_eq!(primary.out.release.len(), usize::from(covers), "covers {covers}");
        assert_eq!(asks(&mut primary, now), !covers);
        assert_eq!(primary.engine().stats().held.frames, u64::from(!covers));
    }
}

#[test]
fn no_frame_leaves_after_a_takeover_not_even_an_uncompared_one() {
    let now = Instant::now();
    for taken_over in [true, false] {
        let mut primary = protected(now);
        let mut network = Network::default();
        primary.on_output(now, Intake::All(&mut vec![answer()]), &mut network);
        primary.on_colo_frame_event(now, &BEGAN, &mut network);
        if taken_over {
            primary.on_service_message(now, serves(), &mut network);
            assert_eq!(primary.mode(), Mode::TakenOver);
        }
        primary.on_output(now, Intake::All(&mut vec![arp(), answer()]), &mut network);
        primary.on_colo_frame_event(now, &ColoFrameEvent::DONE, &mut network);
        primary.release_all(&mut network);
        let dropped = primary.counts().dropped_taken_over;
        if taken_over {
            assert_eq!((network.0.len(), dropped), (0, 2));
        } else {
            assert_eq!(
                (network.0.len(), dropped),
                (2, 0),
                "the covered answer and the ARP request"
            );
        }
    }
}

#[test]
fn a_checkpoint_that_is_done_and_had_not_begun_covers_nothing() {
    let now = Instant::now();
    let mut primary = protected(now);
    primary.on_output(now, Intake::All(&mut vec![answer()]), &mut Idle);
    primary.on_colo_frame_event(now, &ColoFrameEvent::DONE, &mut Idle);
    let counts = primary.counts();
    assert_eq!((counts.checkpoints_ignored, counts.checkpoints_done), (1, 0));
    assert_eq!((primary.out.release.len(), primary.epoch()), (0, 0));
    // The twin.
    primary.on_colo_frame_event(now, &BEGAN, &mut Idle);
    primary.on_colo_frame_event(now, &ColoFrameEvent::DONE, &mut Idle);
    assert_eq!((primary.out.release.len(), primary.epoch()), (1, 1));
}

#[test]
fn failed_and_stray_checkpoints_are_logged_within_the_limit() {
    let now = Instant::now();
    let mut primary = protected(now);
    let failed = ColoFrameEvent::CheckpointFailed { reason: "no".into() };
    for _ in 0..5 {
        primary.on_colo_frame_event(now, &failed, &mut Idle);
        primary.on_colo_frame_event(now, &ColoFrameEvent::DONE, &mut Idle);
    }
    let later = now + Duration::from_secs(1);
    for log in [&mut primary.failure_log, &mut primary.stray_log] {
        let next = log.admit(later).expect("a second has passed");
        assert_eq!(next.to_string(), " (4 more not shown)", "one of five lines was written");
    }
}

/// A checkpoint that ran when protection ended must not leave the engine waiting for its end.
#[test]
fn output_after_an_abandoned_checkpoint_is_compared_again() {
    let now = Instant::now();
    let mut primary = primary(now);
    primary.on_colo_frame_event(now, &BEGAN, &mut Idle);
    // Nobody comes, and the guest has said nothing.
    let later = now + Duration::from_secs(2);
    primary.on_timeout(later, &mut Idle);
    assert!(primary.protection().is_unprotected());
    for lane in [PeerLane::Mirror, PeerLane::Secondary, PeerLane::Control] {
        primary.on_lane(later, lane, true, &mut Idle);
    }
    assert_eq!(primary.protection().state(), ProtectionState::Protected);
    primary.on_output(later, Intake::All(&mut vec![answer()]), &mut Idle);
    primary.on_returned(later, Intake::All(&mut vec![answer()]));
    assert_eq!(primary.out.release.len(), 1);
}

/// Without a checkpoint, the state that a secondary takes over from is the one that clients know.
#[test]
fn a_guest_that_was_taken_over_from_asks_for_no_checkpoint() {
    let now = Instant::now();
    let mut primary = protected(now);
    primary.on_output(now, Intake::All(&mut vec![answer()]), &mut Idle);
    primary.on_service_message(now, serves(), &mut Idle);
    for seconds in 1..30 {
        let later = now + Duration::from_secs(seconds);
        primary.on_timeout(later, &mut Idle);
        assert!(!asks(&mut primary, later), "after {seconds} s");
    }
    assert!(primary.protection().is_taken_over());
}
