#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use super::ProtectionState::{PeerLost, Protected, TakenOver, Unprotected};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(1);

fn protection(now: Instant, on_lost: OnSecondaryLost, fences: bool) -> Protection {
    Protection::new(now, LossPolicy { timeout: TIMEOUT, on_lost, fences })
}

fn start() -> (Instant, Protection) {
    let now = Instant::now();
    (now, protection(now, OnSecondaryLost::Release, false))
}

fn start_fencing() -> (Instant, Protection) {
    let now = Instant::now();
    (now, protection(now, OnSecondaryLost::Release, true))
}

fn since(at: Instant) -> ProtectionState {
    PeerLost(PeerLoss::Since(at))
}

/// The mode, which has to be the first word of the log line too.
fn mode(protection: &Protection) -> Mode {
    let (mode, line) = (protection.mode(), protection.description());
    assert!(line.to_lowercase().starts_with(&format!("{mode}: ")), "{mode} is logged as {line}");
    mode
}

/// Each word, with the twin that differs by one event or by the policy.
#[test]
fn the_mode_of_each_state_is_the_word_of_its_log_line() {
    let (now, mut p) = start();
    assert_eq!(mode(&p), Mode::Held, "no secondary was met yet");
    p.on_peer(now, true);
    assert_eq!(mode(&p), Mode::Protected);
    p.on_peer(now, false);
    assert_eq!(mode(&p), Mode::PeerLost, "the twin that was met");
    p.expose();
    assert_eq!(mode(&p), Mode::CoveredNotEqual);
    p.on_peer(now, true);
    assert_eq!(mode(&p), Mode::Joining);
    p.on_peer(now, false);
    assert_eq!(mode(&p), Mode::Unprotected);
    p.be_taken_over();
    assert_eq!(mode(&p), Mode::TakenOver);

    for (on_lost, word) in
        [(OnSecondaryLost::Release, Mode::PeerLost), (OnSecondaryLost::Hold, Mode::Held)]
    {
        let mut p = protection(now, on_lost, false);
        p.on_peer(now, true);
        p.on_peer(now, false);
        assert_eq!(mode(&p), word);
    }
    let (now, mut p) = start_fencing();
    p.on_peer(now, true);
    p.on_peer(now, false);
    p.on_timeout(now + TIMEOUT);
    assert_eq!(mode(&p), Mode::Held, "until the fence answers");
}

#[test]
fn a_secondary_in_time_needs_no_checkpoint() {
    let (now, mut p) = start();
    assert_eq!(p.on_timeout(now + TIMEOUT.saturating_sub(MOMENT)), None);
    assert_eq!(p.on_peer(now, true), Some(ProtectionAction::Announce));
    assert_eq!((p.state(), p.poll_timeout()), (Protected, None));
}

#[test]
fn a_late_one_needs_none_where_the_guest_has_said_nothing() {
    let (now, mut p) = start();
    assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Unprotect));
    assert_eq!(p.on_peer(now + TIMEOUT * 9, true), Some(ProtectionAction::Announce));
    assert_eq!(p.state(), Protected);
    // But one that has been there and is gone for as long does.
    p.on_peer(now + TIMEOUT * 9, false);
    p.on_timeout(now + TIMEOUT * 10);
    assert_eq!(p.on_peer(now + TIMEOUT * 10, true), Some(ProtectionAction::Join));
}

#[test]
fn the_twin_a_millisecond_later_is_unprotected_and_needs_one() {
    let (now, mut p) = start();
    assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Unprotect));
    p.expose();
    assert_eq!(p.on_peer(now + TIMEOUT, true), Some(ProtectionAction::Join));
    assert_eq!(p.on_checkpoint_done(), Some(ProtectionAction::Announce));
    assert_eq!(p.state(), Protected);
}

#[test]
fn what_an_earlier_daemon_let_out_needs_a_checkpoint_too() {
    let (now, mut p) = start();
    p.expose();
    assert_eq!(p.on_peer(now, true), Some(ProtectionAction::Join), "however soon it comes");
    assert_eq!(p.on_checkpoint_done(), Some(ProtectionAction::Announce));
    // Then a short break is one again.
    p.on_peer(now, false);
    assert_eq!(p.on_peer(now, true), Some(ProtectionAction::Announce));
    assert_eq!(p.state(), Protected);
}

#[test]
fn a_short_break_loses_nothing() {
    let (now, mut p) = start();
    p.on_peer(now, true);
    assert_eq!(p.on_peer(now, false), Some(ProtectionAction::Announce));
    assert_eq!(p.state(), since(now));
    p.on_peer(now + TIMEOUT / 2, true);
    assert_eq!((p.state(), p.on_timeout(now + TIMEOUT * 2)), (Protected, None));
}

#[test]
fn the_secondary_can_take_over_until_something_leaves_without_it() {
    let (now, mut p) = start();
    assert!(!p.is_covered(), "nobody was there yet");
    p.on_peer(now, true);
    p.on_peer(now, false);
    assert!(p.is_covered(), "output is held");
    p.on_timeout(now + TIMEOUT);
    assert!(!p.is_covered());
    p.on_peer(now + TIMEOUT, true);
    assert!(!p.is_covered(), "a checkpoint is to come");
    p.on_checkpoint_done();
    assert!(p.is_covered());
}

#[test]
fn a_stale_secondary_that_goes_again_leaves_the_guest_unprotected_at_once() {
    let (now, mut p) = start();
    p.on_timeout(now + TIMEOUT);
    p.expose();
    p.on_peer(now + TIMEOUT, true);
    assert_eq!(p.on_peer(now + TIMEOUT, false), Some(ProtectionAction::Unprotect));
    assert_eq!(p.state(), Unprotected);
}

#[test]
fn a_secondary_that_was_there_is_fenced_before_the_guest_goes_on() {
    let (now, mut p) = start_fencing();
    p.on_peer(now, true);
    p.on_peer(now, false);
    assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Fence));
    assert_eq!(
        (p.state(), p.poll_timeout()),
        (PeerLost(PeerLoss::Fencing), None),
        "held meanwhile"
    );
    // It could not be done: tried again, and held still.
    assert_eq!(p.on_fenced(now + TIMEOUT, false), None);
    assert_eq!(p.on_timeout(now + TIMEOUT * 2), Some(ProtectionAction::Fence));
    assert_eq!(p.on_fenced(now + TIMEOUT * 2, true), Some(ProtectionAction::Unprotect));
    assert!(p.is_exposed());
}

#[test]
fn one_that_never_was_there_needs_no_fence_nor_does_one_that_is_back() {
    let (now, mut p) = start_fencing();
    assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Unprotect));
    let (now, mut p) = start_fencing();
    p.on_peer(now, true);
    p.on_peer(now, false);
    p.on_timeout(now + TIMEOUT);
    p.on_peer(now + TIMEOUT, true);
    assert_eq!(p.on_fenced(now + TIMEOUT, true), None, "it was back before");
    assert_eq!(p.state(), Protected);
}

#[test]
fn a_guest_that_is_known_to_be_alone_is_not_held() {
    let (now, mut p) = start();
    assert_eq!(p.on_alone(), Some(ProtectionAction::Unprotect));
    assert_eq!(p.on_alone(), None);
    assert_eq!(
        p.on_peer(now, true),
        Some(ProtectionAction::Join),
        "a pair begins with a checkpoint"
    );
    let mut p = protection(now, OnSecondaryLost::Hold, false);
    assert_eq!((p.on_alone(), p.state()), (None, since(now)));
}

#[test]
fn a_dead_guest_is_given_up_and_nothing_of_it_leaves() {
    let (now, mut p) = start();
    p.on_peer(now, true);
    assert!(!p.give_up(), "its secondary is there");
    p.on_peer(now, false);
    assert!(p.give_up());
    assert_eq!((p.poll_timeout(), p.on_timeout(now + TIMEOUT * 9)), (None, None));
    assert_eq!((p.on_peer(now, true), p.state()), (None, TakenOver));
    assert_eq!(p.on_alone(), None, "nor does the next one's, which somebody starts");
    p.begin_again();
    assert_eq!((p.on_peer(now, true), p.state()), (None, TakenOver));
    // Until an operator says otherwise.
    assert_eq!(p.end(), Some(ProtectionAction::Unprotect));
}

#[test]
fn a_secondary_that_has_taken_over_silences_this_guest_whatever_its_state() {
    let (now, mut p) = start();
    p.on_timeout(now + TIMEOUT);
    assert_eq!(p.state(), Unprotected);
    assert!(p.be_taken_over());
    assert!(!p.be_taken_over(), "told once");
    assert_eq!((p.state(), p.on_alone(), p.poll_timeout()), (TakenOver, None, None));
}

#[test]
fn one_that_may_take_over_is_fenced_also_by_a_daemon_that_has_not_met_it() {
    let (now, mut p) = start_fencing();
    p.on_pair();
    assert_eq!(p.on_timeout(now + TIMEOUT), Some(ProtectionAction::Fence));
    let (now, mut p) = start_fencing();
    p.on_peer(now, true);
    assert_eq!(p.on_alone(), Some(ProtectionAction::Fence));
    assert_eq!((p.state(), p.poll_timeout()), (PeerLost(PeerLoss::Fencing), None));
    assert_eq!(p.on_fenced(now, true), Some(ProtectionAction::Unprotect));
}

#[test]
fn protection_that_was_ended_can_be_begun_again() {
    let (now, mut p) = start();
    p.end();
    assert_eq!(p.on_peer(now, true), None);
    p.begin_again();
    assert_eq!(p.on_peer(now, true), Some(ProtectionAction::Join));
}

#[test]
fn the_policy_hold_waits_for_ever_and_an_operator_ends_it() {
    let now = Instant::now();
    let mut p = protection(now, OnSecondaryLost::Hold, false);
    assert_eq!((p.poll_timeout(), p.on_timeout(now + TIMEOUT * 99)), (None, None));
    assert_eq!(p.end(), Some(ProtectionAction::Unprotect));
    assert_eq!(p.on_peer(now, true), None, "ended is ended");
}
