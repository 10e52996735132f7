use super::ProtectionAction::{Announce, Fence, Join, Silence, Unprotect, WithdrawFence};
use super::ProtectionState::{GivenUp, Joining, PeerLost, Protected, TakenOver, Unprotected};
use super::ProtectionTimer::{Disclaim, PeerLost as LossTimer, Record};
use super::*;
use crate::pair::Mode;

const POLICY: LossPolicy =
    LossPolicy { on_lost: OnSecondaryLost::Release, fences: false, covers: true };
const FENCING: LossPolicy = LossPolicy { fences: true, ..POLICY };
const HOLDING: LossPolicy = LossPolicy { on_lost: OnSecondaryLost::Hold, ..POLICY };
const WAITING: ProtectionState = PeerLost(PeerLoss::Waiting);
const LIVES: LeftGuest = LeftGuest::Lives { was_off: false };

fn record(generation: u64, server: Server) -> ServiceRecord {
    ServiceRecord::new(generation, server)
}

/// A daemon without a disk, whose guest nobody has protected before.
fn start(policy: LossPolicy) -> Protection {
    Protection::new(policy, RecordKeeper::in_memory(), LIVES)
}

/// A daemon that finds `record` on its disk.
fn found(policy: LossPolicy, record: ServiceRecord, left: LeftGuest) -> Protection {
    Protection::new(policy, RecordKeeper::new(Some(record)), left)
}

/// The same after a secondary was there, and went.
fn lost(policy: LossPolicy) -> Protection {
    let mut p = start(policy);
    p.on_peer(true);
    p.on_peer(false);
    actions(&mut p);
    p
}

fn actions(p: &mut Protection) -> Vec<ProtectionAction> {
    std::iter::from_fn(|| p.next_action()).collect()
}

fn after(p: &mut Protection, event: impl FnOnce(&mut Protection)) -> Vec<ProtectionAction> {
    event(p);
    actions(p)
}

/// The secondary's daemon begins a conversation, and says where it stands.
fn hear(p: &mut Protection, theirs: Option<ServiceRecord>) {
    p.on_conversation_begins();
    p.on_message(ServiceMessage::Standing(theirs));
}

/// The secondary is told the last notice, and confirms it.
fn confirm(p: &mut Protection) -> Option<bool> {
    let notice = p.next_notice()?;
    p.on_message(ServiceMessage::NoticeKnown(notice.number));
    Some(notice.protected)
}

fn write(p: &mut Protection) -> Option<ServiceRecord> {
    let record = p.next_record();
    p.on_recorded(true);
    record
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
    let mut p = start(POLICY);
    assert_eq!(mode(&p), Mode::Held, "no secondary was met yet");
    p.on_peer(true);
    assert_eq!(mode(&p), Mode::Protected);
    p.on_peer(false);
    assert_eq!(mode(&p), Mode::PeerLost, "the twin that was met");
    p.expose();
    assert_eq!(mode(&p), Mode::CoveredNotEqual);
    p.on_peer(true);
    assert_eq!(mode(&p), Mode::Joining);
    p.on_peer(false);
    assert_eq!(mode(&p), Mode::CoveredNotEqual, "nothing has left meanwhile");
    p.on_timer(LossTimer);
    assert_eq!(mode(&p), Mode::Unprotected);
    hear(&mut p, Some(record(9, Server::ThisHost)));
    assert_eq!(mode(&p), Mode::TakenOver);

    assert_eq!(mode(&lost(POLICY)), Mode::PeerLost);
    assert_eq!(mode(&lost(HOLDING)), Mode::Held);
    let mut p = lost(FENCING);
    p.on_timer(LossTimer);
    assert_eq!(mode(&p), Mode::Held, "until the fence answers");
    let mut p = lost(POLICY);
    assert!(p.give_up());
    assert_eq!(mode(&p), Mode::TakenOver);
}

#[test]
fn a_secondary_in_time_needs_no_checkpoint() {
    let mut p = start(POLICY);
    assert!(p.runs(LossTimer));
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Announce]);
    assert_eq!((p.state(), p.runs(LossTimer)), (Protected, false));
}

#[test]
fn a_late_one_needs_none_where_the_guest_has_said_nothing() {
    let mut p = start(POLICY);
    assert_eq!(after(&mut p, |p| p.on_timer(LossTimer)), [Unprotect]);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Announce]);
    assert_eq!(p.state(), Protected);
    // But one that has been there and is gone for as long does.
    p.on_peer(false);
    p.on_timer(LossTimer);
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Join]);
}

#[test]
fn the_twin_whose_guest_has_said_something_needs_one() {
    let mut p = start(POLICY);
    p.on_timer(LossTimer);
    p.expose();
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Join]);
    assert_eq!(after(&mut p, Protection::on_checkpoint_done), [Announce]);
    assert_eq!(p.state(), Protected);
}

#[test]
fn what_an_earlier_daemon_let_out_needs_a_checkpoint_too() {
    let left = LeftGuest::Lives { was_off: true };
    let mut p = Protection::new(POLICY, RecordKeeper::in_memory(), left);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Join], "however soon it comes");
    assert_eq!(after(&mut p, Protection::on_checkpoint_done), [Announce]);
    // Then a short break is one again.
    p.on_peer(false);
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Announce]);
    // So does what the disk says of one.
    let mut p = found(POLICY, record(3, Server::ThisHost), LeftGuest::None);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Join]);
}

#[test]
fn a_short_break_loses_nothing() {
    let mut p = start(POLICY);
    p.on_peer(true);
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_peer(false)), [Announce]);
    assert_eq!(p.state(), WAITING);
    p.on_peer(true);
    p.on_timer(LossTimer);
    assert_eq!(p.state(), Protected, "the timer is over too late");
}

#[test]
fn the_secondary_can_take_over_until_something_leaves_without_it() {
    let mut p = start(POLICY);
    assert!(!p.is_covered(), "nobody was there yet");
    p.on_peer(true);
    p.on_peer(false);
    assert!(p.is_covered(), "output is held");
    p.on_timer(LossTimer);
    assert!(!p.is_covered());
    p.on_peer(true);
    assert!(!p.is_covered(), "a checkpoint is to come");
    p.on_checkpoint_done();
    assert!(p.is_covered());
}

#[test]
fn a_stale_secondary_that_goes_again_leaves_the_guest_unprotected_at_once() {
    let mut p = lost(POLICY);
    p.on_timer(LossTimer);
    p.on_peer(true);
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_peer(false)), [Unprotect]);
    assert_eq!(p.state(), Unprotected);
}

#[test]
fn a_secondary_that_was_there_is_fenced_before_the_guest_goes_on() {
    let mut p = lost(FENCING);
    assert_eq!(after(&mut p, |p| p.on_timer(LossTimer)), [Fence]);
    assert_eq!((p.state(), p.runs(LossTimer)), (PeerLost(PeerLoss::Fencing), false));
    // It could not be done: tried again, and held still.
    assert_eq!(after(&mut p, |p| p.on_fenced(false)), []);
    assert_eq!(after(&mut p, |p| p.on_timer(LossTimer)), [Fence]);
    assert_eq!(after(&mut p, |p| p.on_fenced(true)), [Unprotect]);
    assert!(p.is_exposed());
}

#[test]
fn one_that_never_was_there_needs_no_fence() {
    let mut p = start(FENCING);
    assert_eq!(after(&mut p, |p| p.on_timer(LossTimer)), [Unprotect]);
}

/// A fence that has begun cannot be taken back, and its answer decides.
#[test]
fn one_that_is_back_while_the_fence_is_asked_waits_for_the_answer() {
    let mut p = lost(FENCING);
    p.on_timer(LossTimer);
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [WithdrawFence]);
    assert_eq!(p.state(), PeerLost(PeerLoss::Fencing));
    let mut fenced = p.clone();
    assert_eq!(after(&mut fenced, |p| p.on_fenced(true)), [Unprotect, Join], "it is stale now");
    assert_eq!(after(&mut p, |p| p.on_fenced(false)), [Announce], "the twin");
    assert_eq!(p.state(), Protected);
}

#[test]
fn one_whose_daemon_lives_confirms_that_it_takes_over_no_more() {
    for policy in [POLICY, FENCING] {
        let mut p = start(policy);
        hear(&mut p, None);
        p.on_peer(true);
        assert_eq!(confirm(&mut p), Some(true));
        p.on_peer(false);
        actions(&mut p);
        assert_eq!(p.next_notice(), None, "a short break changes nothing");
        assert_eq!(after(&mut p, |p| p.on_timer(LossTimer)), []);
        assert_eq!(p.state(), PeerLost(PeerLoss::Disclaiming));
        let notice = p.next_notice().unwrap();
        assert!(!notice.protected);
        // The answer to an earlier notice is none to this one.
        assert_eq!(
            after(&mut p, |p| p.on_message(ServiceMessage::NoticeKnown(notice.number - 1))),
            []
        );
        assert_eq!(
            after(&mut p, |p| p.on_message(ServiceMessage::NoticeKnown(notice.number))),
            [Unprotect]
        );
        // Without an answer it is as a daemon that is not heard.
        let mut p = start(policy);
        hear(&mut p, None);
        p.on_peer(true);
        p.on_peer(false);
        p.on_timer(LossTimer);
        actions(&mut p);
        let mut unheard = p.clone();
        let expected = if policy.fences { Fence } else { Unprotect };
        assert_eq!(after(&mut p, |p| p.on_timer(Disclaim)), [expected]);
        assert_eq!(after(&mut unheard, Protection::on_conversation_ends), [expected]);
    }
}

/// The primary's own QEMU may find out much later.
#[test]
fn a_secondary_whose_guest_is_gone_is_lost_until_its_guest_is_back() {
    let mut p = start(POLICY);
    hear(&mut p, None);
    p.on_peer(true);
    actions(&mut p);
    let guest = |there| ServiceMessage::Guest { there };
    assert_eq!(after(&mut p, |p| p.on_message(guest(false))), [Announce]);
    assert_eq!((p.state(), p.runs(LossTimer)), (WAITING, true));
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [], "the lanes are not enough");
    let mut back = p.clone();
    assert_eq!(after(&mut back, |p| p.on_message(guest(true))), [Announce]);
    assert_eq!(back.state(), Protected, "the twin: only its daemon had lost it for a moment");
    p.on_timer(LossTimer);
    assert_eq!(confirm(&mut p), Some(false));
    assert_eq!((actions(&mut p), p.state()), (vec![Unprotect], Unprotected));
}

#[test]
fn a_guest_that_is_known_to_be_alone_is_not_held() {
    let mut p = start(POLICY);
    assert_eq!(after(&mut p, Protection::on_alone), [Unprotect]);
    assert_eq!(after(&mut p, Protection::on_alone), []);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Join], "a pair begins with a checkpoint");
    let mut p = start(HOLDING);
    assert_eq!((after(&mut p, Protection::on_alone), p.state()), (vec![], WAITING));
    // One whose secondary may take over is.
    let mut p = lost(FENCING);
    assert_eq!(after(&mut p, Protection::on_alone), [Fence]);
}

#[test]
fn a_dead_guest_is_given_up_and_nothing_of_it_leaves() {
    let mut p = start(POLICY);
    hear(&mut p, None);
    p.on_peer(true);
    assert!(!p.give_up(), "its secondary is there");
    p.on_peer(false);
    assert!(p.give_up());
    assert_eq!((p.state(), p.runs(LossTimer)), (GivenUp, false));
    assert_eq!(p.next_notice().map(|notice| notice.protected), Some(true));
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), []);
    assert_eq!(after(&mut p, Protection::on_alone), [], "nor does the next guest's");
    assert_eq!((after(&mut p, Protection::begin_again), p.state()), (vec![], GivenUp));
    // Until an operator says otherwise.
    p.on_conversation_ends();
    assert_eq!(after(&mut p, |p| p.end(false)), [Unprotect]);
}

#[test]
fn a_secondary_that_has_taken_over_silences_this_guest_whatever_its_state() {
    let mut p = lost(POLICY);
    p.on_timer(LossTimer);
    actions(&mut p);
    assert_eq!(p.state(), Unprotected);
    let serves = Some(record(1, Server::ThisHost));
    assert_eq!(after(&mut p, |p| hear(p, serves)), [Silence]);
    assert_eq!(after(&mut p, |p| hear(p, serves)), [], "told once");
    assert_eq!(p.keeper().record(), Some(record(1, Server::OtherHost)));
    assert_eq!((after(&mut p, Protection::on_alone), p.state()), (vec![], TakenOver));
}

/// A peer may say anything.
#[test]
fn a_generation_of_the_peer_overflows_nothing() {
    for server in [Server::ThisHost, Server::Either, Server::OtherHost] {
        let mut p = found(FENCING, record(5, Server::Either), LIVES);
        hear(&mut p, Some(record(u64::MAX, server)));
        p.end(true);
        p.on_message(ServiceMessage::NoticeKnown(u32::MAX));
        p.on_timer(Disclaim);
        assert!(write(&mut p).is_some());
        assert_eq!(p.keeper().generation(), u64::MAX, "{server}");
    }
}

#[test]
fn of_two_that_claim_to_serve_the_older_claim_is_wrong() {
    let older = Some(record(4, Server::ThisHost));
    let mut p = found(POLICY, record(5, Server::ThisHost), LIVES);
    assert_eq!(after(&mut p, |p| hear(p, older)), []);
    let mut p = found(POLICY, record(4, Server::ThisHost), LIVES);
    assert_eq!(after(&mut p, |p| hear(p, older)), [Silence], "an operator's word was later");
}

#[test]
fn a_guest_that_was_taken_over_from_stays_silent_when_its_daemon_starts_again() {
    let mut p = found(POLICY, record(5, Server::OtherHost), LIVES);
    assert_eq!((p.state(), p.runs(LossTimer), mode(&p)), (TakenOver, false, Mode::TakenOver));
    hear(&mut p, None);
    assert_eq!(p.next_notice().map(|notice| notice.protected), Some(false));
    p.on_peer(true);
    p.on_alone();
    assert_eq!((actions(&mut p), p.compares()), (vec![], false));
    // An operator's word counts, once the disk has it.
    assert_eq!(after(&mut p, |p| p.end(false)), []);
    assert_eq!(write(&mut p), Some(record(6, Server::ThisHost)));
    assert_eq!(actions(&mut p), [Unprotect]);
}

/// The host was off while the secondary may have taken over.
#[test]
fn one_that_was_protected_holds_and_asks_when_its_daemon_starts_again() {
    for left in [LIVES, LeftGuest::None] {
        let either = record(5, Server::Either);
        let mut p = found(FENCING, either, left);
        assert_eq!((p.state(), mode(&p), p.runs(LossTimer)), (WAITING, Mode::Held, true));
        assert_eq!(after(&mut p, Protection::on_alone), [Fence]);
        assert_eq!(after(&mut p, |p| p.on_fenced(true)), []);
        assert_eq!(write(&mut p), Some(record(6, Server::ThisHost)));
        assert_eq!(actions(&mut p), [Unprotect]);
        // With nobody to ask it waits for the secondary or for an operator.
        let mut p = found(POLICY, either, left);
        assert!(!p.runs(LossTimer));
        assert_eq!((after(&mut p, Protection::on_alone), p.state()), (vec![], WAITING));
        hear(&mut p, Some(record(5, Server::OtherHost)));
        assert!(p.runs(LossTimer), "the secondary can say that this host serves");
        p.on_timer(LossTimer);
        assert_eq!(confirm(&mut p), Some(false));
        assert_eq!(write(&mut p), Some(record(6, Server::ThisHost)));
        assert_eq!(actions(&mut p), [Unprotect]);
    }
    // The twin that was never protected passes.
    let mut p = Protection::new(POLICY, RecordKeeper::new(None), LeftGuest::None);
    assert!(p.runs(LossTimer));
    assert_eq!(after(&mut p, |p| p.on_timer(LossTimer)), [Unprotect]);
    assert_eq!(p.next_record(), None);
}

/// The secondary's guest lives, and knows more than a guest that has just been started.
#[test]
fn a_guest_that_has_started_anew_gives_way_to_one_that_was_covered() {
    let covered = Some(record(5, Server::Either));
    let mut p = found(POLICY, record(5, Server::Either), LeftGuest::None);
    assert_eq!(after(&mut p, |p| hear(p, covered)), [Announce]);
    assert_eq!(p.state(), GivenUp);
    // The twin whose guest has lived on.
    let mut p = found(POLICY, record(5, Server::Either), LIVES);
    assert_eq!((after(&mut p, |p| hear(p, covered)), p.state()), (vec![], WAITING));
    // A host that has lost its disk learns from the other one.
    let mut p = Protection::new(POLICY, RecordKeeper::new(None), LeftGuest::None);
    hear(&mut p, covered);
    assert_eq!((p.state(), p.keeper().generation()), (GivenUp, 5));
}

#[test]
fn the_secondary_is_covered_when_the_disk_says_so() {
    let mut p = Protection::new(POLICY, RecordKeeper::new(None), LIVES);
    hear(&mut p, None);
    assert_eq!(confirm(&mut p), Some(false));
    p.on_peer(true);
    assert_eq!((p.state(), mode(&p), p.is_covered()), (Protected, Mode::Joining, false));
    assert_eq!(p.next_notice(), None);
    actions(&mut p);
    assert_eq!(p.next_record(), Some(record(0, Server::Either)));
    // It cannot be written: said, and tried again.
    assert_eq!(after(&mut p, |p| p.on_recorded(false)), []);
    assert_eq!((mode(&p), p.runs(Record), p.next_record()), (Mode::Joining, true, None));
    p.on_timer(Record);
    assert_eq!(write(&mut p), Some(record(0, Server::Either)));
    assert_eq!((actions(&mut p), mode(&p)), (vec![Announce], Mode::Protected));
    assert_eq!(p.next_notice().map(|notice| notice.protected), Some(true));
}

#[test]
fn output_leaves_when_the_disk_says_that_this_host_serves_alone() {
    let mut p = found(FENCING, record(2, Server::Either), LIVES);
    p.on_timer(LossTimer);
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_fenced(true)), []);
    assert_eq!(p.next_record(), Some(record(3, Server::ThisHost)));
    assert_eq!(after(&mut p, |p| p.on_recorded(false)), [], "held");
    // A secondary that comes meanwhile has to wait too: it is stale.
    assert_eq!(after(&mut p, |p| p.on_peer(true)), []);
    p.on_timer(Record);
    write(&mut p);
    assert_eq!((actions(&mut p), p.state()), (vec![Unprotect, Join], Joining));
}

/// Its guest's output passes when this daemon dies, so the secondary never may.
#[test]
fn a_secondary_of_a_guest_that_passes_on_death_is_never_covered() {
    let mut p = start(LossPolicy { covers: false, ..POLICY });
    hear(&mut p, None);
    p.on_peer(true);
    assert_eq!((p.state(), p.is_covered(), p.may_be_taken_over()), (Protected, false, false));
    p.on_peer(false);
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_timer(LossTimer)), [Unprotect], "nobody is asked");
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [Join], "it has missed something");
}

#[test]
fn protection_that_was_ended_can_be_begun_again() {
    let mut p = start(POLICY);
    p.end(false);
    actions(&mut p);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), []);
    assert_eq!(after(&mut p, Protection::begin_again), [Join]);
}

#[test]
fn the_policy_hold_waits_for_ever_and_an_operator_ends_it() {
    let mut p = start(HOLDING);
    assert!(!p.runs(LossTimer));
    assert_eq!(after(&mut p, |p| p.end(false)), [Unprotect]);
    assert_eq!(after(&mut p, |p| p.on_peer(true)), [], "ended is ended");
}
