#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use super::*;

const TIMEOUT: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(1);

fn start(is_automatic: bool, fences: bool) -> (Instant, Takeover) {
    let deciders = TakeoverDeciders { fence: fences, quorum: is_automatic && !fences };
    let mut takeover = Takeover::new(deciders, TIMEOUT);
    takeover.on_protection(true);
    (Instant::now(), takeover)
}

/// Each word, with the twin that differs by one event.
#[test]
fn the_mode_of_each_state() {
    let mut t = Takeover::new(TakeoverDeciders::default(), TIMEOUT);
    assert_eq!(t.mode(), Mode::Standby);
    t.on_protection(true);
    assert_eq!(t.mode(), Mode::Standby, "a primary that was never connected is not met");
    let peer = [(true, true), (true, false), (false, true), (false, false)];
    let modes = [Mode::Protected, Mode::Joining, Mode::PeerLost, Mode::Unprotected];
    for ((up, covered), mode) in peer.into_iter().zip(modes) {
        if up {
            t.on_peer_up();
        } else {
            t.on_peer_down(Instant::now(), false);
        }
        t.on_protection(covered);
        assert_eq!(t.mode(), mode, "up {up}, covered {covered}");
    }
    t.on_peer_up();
    t.on_protection(true);
    t.on_pair(false);
    assert_eq!(t.mode(), Mode::CoveredNotEqual, "QEMU has lost its other half");
    t.on_pair(true);
    assert_eq!(t.mode(), Mode::Protected);
    t.on_unreachable();
    assert_eq!(t.mode(), Mode::Joining, "it may be dead");
    t.on_peer_down(Instant::now(), false);
    assert_eq!(t.mode(), Mode::Unprotected);
}

#[test]
fn a_break_that_may_be_short_is_waited_for() {
    let (now, mut t) = start(true, true);
    t.on_peer_down(now, false);
    assert_eq!(t.on_timeout(now + TIMEOUT.saturating_sub(MOMENT)), None);
    assert_eq!(t.on_timeout(now + TIMEOUT), Some(TakeoverAction::Ask));
    assert_eq!(
        t.on_permission(now + TIMEOUT, TakeoverPermission::Granted),
        Some(TakeoverAction::TakeOver)
    );
    assert_eq!(t.poll_timeout(), None, "once");
}

#[test]
fn the_twin_whose_primary_is_back_in_time_does_nothing() {
    let (now, mut t) = start(true, true);
    t.on_peer_down(now, false);
    t.on_peer_up();
    assert_eq!((t.poll_timeout(), t.on_timeout(now + TIMEOUT * 9)), (None, None));
}

#[test]
fn silence_and_a_lost_pair_need_no_further_wait() {
    let (now, mut t) = start(true, false);
    t.on_peer_down(now, true);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::Ask));
    let (now, mut t) = start(true, false);
    t.on_pair(false);
    assert_eq!(t.poll_timeout(), None, "its daemon lives, and will tell");
    t.on_peer_down(now, false);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::Ask));
}

#[test]
fn without_a_fence_or_a_quorum_the_operator_decides_and_is_told_once() {
    let (now, mut t) = start(false, false);
    t.on_peer_down(now, true);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::TellOperator));
    assert_eq!(t.on_timeout(now + TIMEOUT), None);
    // The next time, again.
    t.on_peer_up();
    t.on_peer_down(now, true);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::TellOperator));
}

#[test]
fn a_guest_that_is_not_the_primarys_equal_stays_where_it_is() {
    let (now, mut t) = start(true, true);
    t.on_protection(false);
    t.on_peer_down(now, true);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::TellStale));
    assert_eq!(t.on_timeout(now + TIMEOUT * 9), None);
}

#[test]
fn a_dead_guest_whose_daemon_lives_needs_no_fence() {
    let (_, mut t) = start(false, false);
    assert_eq!(t.on_guest_gone(), None, "anybody could say so");
    assert_eq!(t.on_pair(false), Some(TakeoverAction::TakeOver));
    assert_eq!(t.on_guest_gone(), None, "once");
    let (_, mut t) = start(false, false);
    assert_eq!(t.on_pair(false), None);
    assert_eq!(t.on_guest_gone(), Some(TakeoverAction::TakeOver), "in either order");
    let (_, mut t) = start(true, true);
    t.on_protection(false);
    t.on_pair(false);
    assert_eq!(t.on_guest_gone(), None, "this guest is not its equal");
}

#[test]
fn a_guest_out_of_reach_takes_over_from_nobody() {
    let (now, mut t) = start(true, true);
    t.on_unreachable();
    t.on_peer_down(now, true);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::TellUnreachable));
    let (now, mut t) = start(true, true);
    t.on_unreachable();
    t.on_reachable();
    t.on_peer_down(now, true);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::Ask));
}

#[test]
fn a_quorum_that_said_no_is_not_asked_again_of_a_guest_that_grows_old() {
    let (now, mut t) = start(true, false);
    t.on_peer_down(now, true);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::Ask));
    assert_eq!(t.on_permission(now, TakeoverPermission::Denied), None);
    assert_eq!(t.on_timeout(now + TIMEOUT * 9), Some(TakeoverAction::TellStale));
}

#[test]
fn a_late_yes_does_not_bring_back_a_guest_that_is_not_equal_any_more() {
    let (now, mut t) = start(true, true);
    t.on_peer_down(now, true);
    t.on_timeout(now);
    t.on_peer_up();
    t.on_protection(false);
    t.on_peer_down(now, false);
    assert_eq!(t.on_permission(now, TakeoverPermission::Granted), Some(TakeoverAction::TellStale));
}

#[test]
fn a_refusal_is_asked_again_later() {
    let (now, mut t) = start(true, true);
    t.on_peer_down(now, true);
    assert_eq!(t.on_timeout(now), Some(TakeoverAction::Ask));
    assert_eq!(t.on_timeout(now), None, "being asked");
    assert_eq!(t.on_permission(now, TakeoverPermission::NotFenced), None);
    assert_eq!(t.on_timeout(now + TIMEOUT.saturating_sub(MOMENT)), None);
    assert_eq!(t.on_timeout(now + TIMEOUT), Some(TakeoverAction::Ask));
}

#[test]
fn a_primary_that_is_back_meanwhile_lives_unless_it_was_fenced() {
    for (fences, then) in [(false, None), (true, Some(TakeoverAction::TakeOver))] {
        let (now, mut t) = start(true, fences);
        t.on_peer_down(now, true);
        t.on_timeout(now);
        t.on_peer_up();
        assert_eq!(t.on_permission(now, TakeoverPermission::Granted), then);
    }
}
