use super::TakeoverAction::{
    Ask, StepDown, TakeOver, TellOperator, TellStale, TellUnreachable, TellUnrecorded,
    WithdrawQuestion,
};
use super::*;

const FENCE: TakeoverDeciders = TakeoverDeciders { fence: true, quorum: false };
const QUORUM: TakeoverDeciders = TakeoverDeciders { fence: false, quorum: true };
const NOBODY: TakeoverDeciders = TakeoverDeciders { fence: false, quorum: false };

fn record(generation: u64, server: Server) -> ServiceRecord {
    ServiceRecord::new(generation, server)
}

fn notice(protected: bool) -> ServiceMessage {
    let notice = CoverNotice { protected, number: 1 };
    ServiceMessage::Notice { notice, generation: 0 }
}

fn standing(generation: u64, server: Server) -> ServiceMessage {
    ServiceMessage::Standing(Some(record(generation, server)))
}

/// The answer to the primary's last notice, if there is one now.
fn answer(t: &mut Takeover) -> Option<u32> {
    std::iter::from_fn(|| t.next_message()).find_map(|message| match message {
        ServiceMessage::NoticeKnown(number) => Some(number),
        _ => None,
    })
}

/// A guest without a disk, which its primary has covered.
fn start(deciders: TakeoverDeciders) -> Takeover {
    let mut takeover = Takeover::new(deciders, RecordKeeper::in_memory(), false);
    takeover.on_peer_up();
    takeover.on_message(notice(true));
    takeover
}

fn actions(t: &mut Takeover) -> Vec<TakeoverAction> {
    std::iter::from_fn(|| t.next_action()).collect()
}

fn after(t: &mut Takeover, event: impl FnOnce(&mut Takeover)) -> Vec<TakeoverAction> {
    event(t);
    actions(t)
}

fn write(t: &mut Takeover) -> Option<ServiceRecord> {
    let record = t.next_record();
    t.on_recorded(true);
    record
}

/// Each word, with the twin that differs by one event.
#[test]
fn the_mode_of_each_state() {
    let mut t = Takeover::new(NOBODY, RecordKeeper::in_memory(), false);
    assert_eq!(t.mode(), Mode::Standby);
    t.on_message(notice(true));
    assert_eq!(t.mode(), Mode::Standby, "a primary that was never connected is not met");
    let peer = [(true, true), (true, false), (false, true), (false, false)];
    let modes = [Mode::Protected, Mode::Joining, Mode::PeerLost, Mode::Unprotected];
    for ((up, covered), mode) in peer.into_iter().zip(modes) {
        if up {
            t.on_peer_up();
        } else {
            t.on_peer_down(false);
        }
        t.on_message(notice(covered));
        assert_eq!(t.mode(), mode, "up {up}, covered {covered}");
    }
    t.on_peer_up();
    t.on_message(notice(true));
    t.on_pair(false);
    assert_eq!(t.mode(), Mode::CoveredNotEqual, "QEMU has lost its other half");
    t.on_pair(true);
    assert_eq!(t.mode(), Mode::Protected);
    t.on_unreachable();
    assert_eq!(t.mode(), Mode::Joining, "it may be dead");
    t.on_peer_down(false);
    assert_eq!(t.mode(), Mode::Unprotected);
}

#[test]
fn a_break_that_may_be_short_is_waited_for() {
    let mut t = start(FENCE);
    assert_eq!(t.timer(), None);
    t.on_peer_down(false);
    assert_eq!(t.timer(), Some(TakeoverTimer::Timeout));
    assert_eq!(after(&mut t, Takeover::on_timer), [Ask]);
    assert_eq!(after(&mut t, |t| t.on_permission(TakeoverPermission::Granted)), [TakeOver]);
    assert_eq!((t.timer(), t.serves()), (None, true));
    assert_eq!(t.standing(), Some(record(1, Server::ThisHost)));
}

#[test]
fn the_twin_whose_primary_is_back_in_time_does_nothing() {
    let mut t = start(FENCE);
    t.on_peer_down(false);
    t.on_peer_up();
    assert_eq!((t.timer(), after(&mut t, Takeover::on_timer)), (None, vec![]));
}

#[test]
fn silence_and_a_lost_pair_need_no_further_wait() {
    let mut t = start(QUORUM);
    t.on_peer_down(true);
    assert_eq!(t.timer(), Some(TakeoverTimer::Now));
    let mut t = start(QUORUM);
    t.on_pair(false);
    assert_eq!(t.timer(), None, "its daemon lives, and will tell");
    t.on_peer_down(false);
    assert_eq!(t.timer(), Some(TakeoverTimer::Now));
}

#[test]
fn without_a_fence_or_a_quorum_the_operator_decides_and_is_told_once() {
    let mut t = start(NOBODY);
    t.on_peer_down(true);
    assert_eq!(after(&mut t, Takeover::on_timer), [TellOperator]);
    assert_eq!(t.timer(), None);
    // The next time, again.
    t.on_peer_up();
    t.on_peer_down(true);
    assert_eq!(after(&mut t, Takeover::on_timer), [TellOperator]);
    assert_eq!(after(&mut t, |t| t.order(TakeoverOrder::ColoFrame)), [TakeOver]);
}

#[test]
fn a_guest_that_is_not_the_primarys_equal_stays_where_it_is() {
    let mut t = start(FENCE);
    t.on_message(notice(false));
    t.on_peer_down(true);
    assert_eq!(after(&mut t, Takeover::on_timer), [TellStale]);
    assert_eq!(t.timer(), None);
}

#[test]
fn a_dead_guest_whose_daemon_lives_needs_no_fence() {
    let mut t = start(NOBODY);
    assert_eq!(
        after(&mut t, |t| t.on_message(ServiceMessage::GuestGone)),
        [],
        "anybody could say so"
    );
    assert_eq!(after(&mut t, |t| t.on_pair(false)), [TakeOver]);
    assert_eq!(after(&mut t, |t| t.on_message(ServiceMessage::GuestGone)), [], "once");
    let mut t = start(NOBODY);
    assert_eq!(after(&mut t, |t| t.on_pair(false)), []);
    assert_eq!(
        after(&mut t, |t| t.on_message(ServiceMessage::GuestGone)),
        [TakeOver],
        "in either order"
    );
    let mut t = start(FENCE);
    t.on_message(notice(false));
    t.on_pair(false);
    assert_eq!(
        after(&mut t, |t| t.on_message(ServiceMessage::GuestGone)),
        [],
        "this guest is not its equal"
    );
}

#[test]
fn a_guest_out_of_reach_takes_over_from_nobody() {
    let mut t = start(FENCE);
    t.on_unreachable();
    t.on_peer_down(true);
    assert_eq!(after(&mut t, Takeover::on_timer), [TellUnreachable]);
    let mut t = start(FENCE);
    t.on_unreachable();
    t.on_reachable();
    t.on_peer_down(true);
    assert_eq!(after(&mut t, Takeover::on_timer), [Ask]);
}

#[test]
fn the_primary_hears_that_this_hosts_qemu_is_out_of_reach() {
    let mut t = start(NOBODY);
    while t.next_message().is_some() {}
    t.on_unreachable();
    assert_eq!(t.next_message(), Some(ServiceMessage::Guest { there: false }));
    assert_eq!(t.next_message(), None, "once");
    // A primary that connects later hears it too.
    t.on_peer_down(false);
    t.on_peer_up();
    let said: Vec<_> = std::iter::from_fn(|| t.next_message()).collect();
    assert!(said.contains(&ServiceMessage::Guest { there: false }), "{said:?}");
    t.on_reachable();
    assert_eq!(t.next_message(), Some(ServiceMessage::Guest { there: true }));
}

#[test]
fn a_quorum_that_said_no_is_not_asked_again_of_a_guest_that_grows_old() {
    let mut t = start(QUORUM);
    t.on_peer_down(true);
    assert_eq!(after(&mut t, Takeover::on_timer), [Ask]);
    assert_eq!(after(&mut t, |t| t.on_permission(TakeoverPermission::Denied)), []);
    assert_eq!(after(&mut t, Takeover::on_timer), [TellStale]);
    assert_eq!(t.keeper().server(), Some(Server::OtherHost));
}

#[test]
fn a_late_yes_does_not_bring_back_a_guest_that_is_not_equal_any_more() {
    let mut t = start(FENCE);
    t.on_peer_down(true);
    t.on_timer();
    t.on_peer_up();
    t.on_message(notice(false));
    t.on_peer_down(false);
    actions(&mut t);
    assert_eq!(after(&mut t, |t| t.on_permission(TakeoverPermission::Granted)), [TellStale]);
}

#[test]
fn a_refusal_is_asked_again_later() {
    let mut t = start(FENCE);
    t.on_peer_down(true);
    assert_eq!(after(&mut t, Takeover::on_timer), [Ask]);
    assert_eq!(t.timer(), None, "being asked");
    assert_eq!(after(&mut t, |t| t.on_permission(TakeoverPermission::NotFenced)), []);
    assert_eq!(t.timer(), Some(TakeoverTimer::Timeout));
    assert_eq!(after(&mut t, Takeover::on_timer), [Ask]);
}

#[test]
fn a_primary_that_is_back_meanwhile_lives_unless_it_was_fenced() {
    for (deciders, then) in [(QUORUM, vec![]), (FENCE, vec![TakeOver])] {
        let mut t = start(deciders);
        t.on_peer_down(true);
        t.on_timer();
        actions(&mut t);
        assert_eq!(after(&mut t, Takeover::on_peer_up), [WithdrawQuestion]);
        assert_eq!(after(&mut t, |t| t.on_permission(TakeoverPermission::Granted)), then);
    }
}

/// With the question its answer is gone.
#[test]
fn a_question_that_was_withdrawn_is_asked_again_when_the_primary_goes_again() {
    let mut t = start(QUORUM);
    t.on_peer_down(true);
    t.on_timer();
    t.on_peer_up();
    t.on_question_withdrawn();
    t.on_peer_down(true);
    actions(&mut t);
    assert_eq!(after(&mut t, Takeover::on_timer), [Ask]);
}

fn on_disk(server: Server, left: bool) -> Takeover {
    Takeover::new(QUORUM, RecordKeeper::new(Some(record(4, server))), left)
}

#[test]
fn the_guest_takes_over_when_the_disk_says_so() {
    let mut t = on_disk(Server::Either, true);
    t.on_timer();
    actions(&mut t);
    assert_eq!(after(&mut t, |t| t.on_permission(TakeoverPermission::Granted)), []);
    assert_eq!(t.standing(), Some(record(5, Server::Either)), "not yet");
    assert_eq!(t.next_record(), Some(record(5, Server::ThisHost)));
    // A disk that takes no record forbids it, and that is said.
    assert_eq!(after(&mut t, |t| t.on_recorded(false)), [TellUnrecorded]);
    assert_eq!(t.timer(), Some(TakeoverTimer::Timeout));
    assert_eq!(after(&mut t, Takeover::on_timer), []);
    assert_eq!(write(&mut t), Some(record(5, Server::ThisHost)));
    assert_eq!(actions(&mut t), [TakeOver]);
}

#[test]
fn a_forced_order_does_not_wait_for_a_disk_that_fails() {
    for (forced, then) in [(true, vec![TellUnrecorded, TakeOver]), (false, vec![TellUnrecorded])] {
        let mut t = on_disk(Server::OtherHost, true);
        let order = if forced { TakeoverOrder::Forced } else { TakeoverOrder::ColoFrame };
        assert_eq!(after(&mut t, |t| t.order(order)), []);
        assert!(t.next_record().is_some());
        assert_eq!(after(&mut t, |t| t.on_recorded(false)), then);
    }
}

#[test]
fn an_operators_order_asks_those_who_decide_unless_it_is_forced() {
    use TakeoverOrder::{Forced, Operator};
    for (deciders, order, then) in
        [(NOBODY, Operator, TakeOver), (FENCE, Operator, Ask), (FENCE, Forced, TakeOver)]
    {
        let mut t = start(deciders);
        t.on_peer_down(true);
        assert_eq!(after(&mut t, |t| t.order(order)), [then], "{deciders:?}, {order:?}");
    }
}

#[test]
fn an_order_that_is_known_to_be_wrong_is_refused() {
    let mut t = Takeover::new(NOBODY, RecordKeeper::in_memory(), false);
    assert_eq!(t.refusal(), Some(TakeoverRefusal::NeverEqual));
    t.on_peer_up();
    t.on_message(notice(true));
    assert_eq!(t.refusal(), Some(TakeoverRefusal::PrimaryHeard));
    t.on_peer_down(false);
    assert_eq!(t.refusal(), None);
    t.on_peer_up();
    t.on_message(notice(false));
    t.on_peer_down(false);
    assert_eq!(t.refusal(), Some(TakeoverRefusal::Stale));
    t.order(TakeoverOrder::Forced);
    assert_eq!(t.refusal(), None, "it serves");
}

/// It was alive all the time, and goes on.
#[test]
fn a_permission_that_was_not_used_yet_ends_when_the_primary_is_back() {
    let mut t = on_disk(Server::Either, true);
    t.on_timer();
    t.on_permission(TakeoverPermission::Granted);
    t.next_record();
    t.on_peer_up();
    t.on_recorded(true);
    assert_eq!(actions(&mut t), [Ask]);
    assert_eq!(write(&mut t), Some(record(4, Server::Either)), "as it was");
    assert!(t.is_covered());
}

#[test]
fn what_the_primary_is_answered_is_on_the_disk() {
    let mut t = on_disk(Server::Either, true);
    t.on_peer_up();
    t.on_message(notice(false));
    assert_eq!((t.is_covered(), answer(&mut t)), (false, None));
    assert_eq!(write(&mut t), Some(record(4, Server::OtherHost)));
    assert_eq!(answer(&mut t), Some(1));
    assert_eq!(answer(&mut t), None, "once");
}

/// The primary would go on without its fence, beside a guest that goes on the network.
#[test]
fn a_guest_that_takes_over_does_not_confirm_that_it_will_not() {
    let mut t = start(NOBODY);
    answer(&mut t);
    t.order(TakeoverOrder::ColoFrame);
    t.on_message(notice(false));
    assert_eq!((answer(&mut t), t.serves()), (None, true));
}

#[test]
fn a_daemon_that_starts_again_goes_by_the_disk_and_by_what_is_left() {
    let t = on_disk(Server::Either, true);
    assert!(t.is_covered(), "the guest has lived on, and output is held without it");
    assert_eq!((t.mode(), t.timer()), (Mode::PeerLost, Some(TakeoverTimer::Timeout)));
    let mut t = on_disk(Server::Either, false);
    assert_eq!((t.is_covered(), t.mode()), (false, Mode::Standby), "another guest");
    assert_eq!(write(&mut t), Some(record(4, Server::OtherHost)));
    for server in [Server::ThisHost, Server::OtherHost] {
        let t = on_disk(server, true);
        assert_eq!((t.is_covered(), t.timer(), t.serves()), (false, None, false));
    }
}

#[test]
fn an_operator_who_makes_the_primary_serve_again_ends_this_guests_service() {
    let mut t = start(NOBODY);
    t.order(TakeoverOrder::ColoFrame);
    actions(&mut t);
    let same = standing(1, Server::ThisHost);
    assert_eq!(after(&mut t, |t| t.on_message(same)), [], "the primary gives way");
    let later = standing(2, Server::ThisHost);
    assert_eq!(after(&mut t, |t| t.on_message(later)), [StepDown]);
    assert_eq!((t.serves(), t.keeper().record()), (false, Some(record(2, Server::OtherHost))));
}

/// A peer may say anything.
#[test]
fn a_generation_of_the_primary_overflows_nothing() {
    let mut t = start(NOBODY);
    t.on_message(standing(u64::MAX, Server::Either));
    assert_eq!(after(&mut t, |t| t.order(TakeoverOrder::ColoFrame)), [TakeOver]);
    assert_eq!(t.keeper().generation(), u64::MAX);
}

#[test]
fn a_primary_that_serves_alone_leaves_nothing_to_take_over() {
    let mut t = start(QUORUM);
    t.on_message(standing(7, Server::ThisHost));
    assert_eq!((t.is_covered(), t.keeper().record()), (false, Some(record(7, Server::OtherHost))));
}
