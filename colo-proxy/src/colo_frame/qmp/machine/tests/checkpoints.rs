//! Checkpoints of a pair, and the end of the pair.

use super::*;

#[test]
fn a_checkpoint_is_told_when_it_is_proven() {
    for role in [Role::Primary, Role::Secondary] {
        let mut stand = MachineStand::in_colo(role);
        stand.says("STOP");
        assert_eq!(stand.told(), None, "the guest's output is not taken yet");
        assert_eq!(stand.events(), [ColoFrameEvent::CheckpointBegan]);
        stand.confirm("colo");
        assert_eq!(stand.events(), []);
        stand.says("RESUME");
        assert_eq!(stand.events(), [done()]);
        assert_eq!(stand.machine.report().pause_us.last, Some(1000));
    }
}

#[test]
fn one_whose_guest_went_on_before_its_output_was_taken_covers_nothing() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    // Both are read in one go.
    stand.says("STOP");
    stand.says("RESUME");
    assert_eq!(stand.events(), [ColoFrameEvent::CheckpointBegan, uncovered()]);
    // Nor does the next stop prove anything of it.
    stand.says("STOP");
    assert_eq!(stand.events(), [ColoFrameEvent::CheckpointBegan]);
    let asked = stand.told().unwrap().ask;
    stand.says("RESUME");
    stand.says("STOP");
    stand.machine.on_reply(stand.now, asked, Ok(json!({"status": "colo"})));
    assert_eq!(stand.events(), [uncovered(), ColoFrameEvent::CheckpointBegan]);
    stand.confirm("colo");
    stand.says("RESUME");
    assert_eq!(stand.events(), [done()]);
    // The twin in time.
    stand.says("STOP");
    stand.events();
    stand.confirm("colo");
    stand.says("RESUME");
    assert_eq!(stand.events(), [done()]);
}

#[test]
fn whether_the_guest_is_stopped_is_asked_when_its_output_was_taken_and_not_before() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.says("STOP");
    assert_eq!(stand.machine.next_event(), Some(ColoFrameEvent::CheckpointBegan));
    assert_eq!((stand.machine.next_event(), stand.told()), (None, None), "it is being taken");
    stand.machine.output_taken();
    stand.confirm("colo");
    stand.machine.output_taken();
    assert_eq!(stand.told(), None, "asked once");
    stand.says("RESUME");
    assert_eq!(stand.events(), [done()]);
    // Output of a stop that the owner knows of says nothing about a later stop.
    stand.says("STOP");
    assert_eq!(stand.machine.next_event(), Some(ColoFrameEvent::CheckpointBegan));
    stand.says("RESUME");
    stand.says("STOP");
    stand.machine.output_taken();
    assert_eq!(stand.told(), None, "the owner has yet to take that output");
    assert_eq!(stand.events(), [uncovered(), ColoFrameEvent::CheckpointBegan]);
    stand.confirm("colo");
    stand.says("RESUME");
    assert_eq!(stand.events(), [done()]);
}

#[test]
fn an_operators_stop_and_cont_is_no_checkpoint() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.says("STOP");
    assert_eq!(stand.events(), [ColoFrameEvent::CheckpointBegan]);
    stand.confirm("paused");
    assert!(matches!(&stand.events()[..], [failed] if is_failure(failed)));
    stand.says("RESUME");
    assert_eq!(
        stand.events(),
        [ColoFrameEvent::CheckpointBegan, uncovered()],
        "and its cont covers nothing"
    );
}

#[test]
fn an_answer_to_an_earlier_question_proves_nothing() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.says("STOP");
    stand.events();
    let late = stand.told().unwrap().ask;
    stand.qemu_says("COLO_EXIT", &json!({"mode": "primary", "reason": "error"}));
    stand.events();
    stand.machine.phase = QemuPhase::Colo;
    stand.says("STOP");
    stand.events();
    stand.machine.on_reply(stand.now, late, Ok(json!({"status": "colo"})));
    stand.says("RESUME");
    assert_eq!(stand.events(), [uncovered()], "its own answer did not come in time");
}

/// On a secondary, the copy of the primary's state resets the machine too.
#[test]
fn a_reset_of_a_primary_in_colo_is_an_event() {
    let data = json!({"guest": true, "reason": "guest-reset"});
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.qemu_says("RESET", &data);
    assert_eq!(stand.events(), [ColoFrameEvent::Reset { reason: "guest-reset".into() }]);
    let mut stand = MachineStand::in_colo(Role::Secondary);
    stand.qemu_says("RESET", &data);
    assert_eq!(stand.events(), []);
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    stand.events();
    stand.qemu_says("RESET", &data);
    assert_eq!(stand.events(), [], "it is in no pair");
}

#[test]
fn a_secondary_that_is_lost_in_a_checkpoint_fails_it() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.says("STOP");
    stand.events();
    stand.confirm("colo");
    stand.qemu_says("COLO_EXIT", &json!({"mode": "primary", "reason": "error"}));
    let events = stand.events();
    assert!(matches!(&events[..], [failed, lost] if is_failure(failed) && is_loss(lost)));
    // Alone: what stops and starts the guest now is no checkpoint.
    stand.machine.end(stand.now);
    stand.answer(QmpQuestion::LostHeartbeat, json!({}));
    stand.says("STOP");
    stand.migration("completed");
    stand.says("RESUME");
    assert!(!stand.events().contains(&done()));
    assert_eq!(stand.state(), "alone");
    assert!(stand.machine.protect("tcp:h:1").is_ok(), "a new secondary may come");
}

#[test]
fn a_primary_whose_secondary_is_silent_is_told_to_go_on_in_a_checkpoint() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.says("STOP");
    stand.events();
    stand.confirm("colo");
    stand.machine.end(stand.now);
    stand.answer(QmpQuestion::LostHeartbeat, json!({}));
    stand.migration("completed");
    stand.says("RESUME");
    assert!(!stand.events().contains(&done()));
}

#[test]
fn a_takeover_waits_for_the_state_that_was_on_its_way() {
    for arrives in [false, true] {
        let mut stand = MachineStand::in_colo(Role::Secondary);
        stand.says("STOP");
        stand.events();
        stand.confirm("colo");
        stand.machine.end(stand.now);
        assert_eq!(stand.events(), [], "nobody knows yet");
        if arrives {
            stand.says("RESUME");
        }
        stand.migration("completed");
        stand.says("RESUME");
        let events = stand.events();
        if arrives {
            assert_eq!(events, [done()]);
        } else {
            assert!(matches!(&events[..], [failed] if is_failure(failed)), "{events:?}");
        }
        assert_eq!(stand.told().map(|told| told.ask), Some(QmpQuestion::LostHeartbeat));
    }
}

#[test]
fn a_survivor_announces_itself() {
    let mut stand = MachineStand::in_colo(Role::Secondary);
    stand.qemu_says("COLO_EXIT", &json!({"mode": "secondary", "reason": "error"}));
    assert!(matches!(&stand.events()[..], [lost] if is_loss(lost)));
    stand.machine.end(stand.now);
    stand.answer(QmpQuestion::LostHeartbeat, json!({}));
    assert_eq!(stand.told().map(|told| told.command), Some("announce-self"));
}

#[test]
fn what_an_operator_told_qemu_is_done_here_too() {
    let mut stand = MachineStand::in_colo(Role::Secondary);
    stand.says("STOP");
    stand.migration("completed");
    stand.says("RESUME");
    let events = stand.events();
    assert!(events.contains(&ColoFrameEvent::Failover) && !events.contains(&done()), "{events:?}");
}

#[test]
fn a_request_sets_the_delay_once_and_the_next_one_keeps_its_distance() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    for _ in 0..3 {
        stand.machine.request_checkpoint(stand.now);
    }
    stand.pass(Duration::ZERO);
    let told = stand.told().unwrap();
    assert_eq!((told.ask, told.command), (QmpQuestion::Checkpoint, "migrate-set-parameters"));
    assert_eq!(told.arguments, json!({"x-checkpoint-delay": 20_000}));
    assert_eq!(stand.told(), None);
    stand.machine.on_reply(stand.now, QmpQuestion::Checkpoint, Ok(json!({})));
    stand.says("STOP");
    stand.events();
    stand.confirm("colo");
    stand.says("RESUME");
    assert_eq!(stand.events(), [done()]);
    stand.machine.request_checkpoint(stand.now);
    stand.pass(MS * 9);
    assert_eq!(stand.told(), None, "10 ms are configured");
    stand.pass(MS);
    assert!(stand.told().is_some());
}

#[test]
fn a_request_that_is_refused_or_not_followed_fails() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.machine.request_checkpoint(stand.now);
    stand.pass(Duration::ZERO);
    stand.refuse(QmpQuestion::Checkpoint);
    assert!(matches!(&stand.events()[..], [failed] if is_failure(failed)));
    // It backs off.
    stand.machine.request_checkpoint(stand.now);
    stand.pass(MS * 99);
    assert_eq!(stand.told(), None);
    stand.pass(MS);
    assert!(stand.told().is_some());
    stand.pass(BEGIN_MAX);
    let events = stand.events();
    assert!(matches!(&events[..], [failed, lost] if is_failure(failed) && is_loss(lost)));
    assert_eq!((stand.machine.poll_timeout(), stand.state()), (None, "broken"));
    // The way out of it.
    stand.machine.end(stand.now);
    assert_eq!(stand.told().map(|told| told.ask), Some(QmpQuestion::LostHeartbeat));
}

#[test]
fn a_checkpoint_that_never_ends_is_given_up() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.says("STOP");
    stand.events();
    stand.confirm("colo");
    stand.pass(CHECKPOINT_MAX.saturating_sub(MS));
    assert_eq!(stand.events(), []);
    stand.pass(MS);
    let events = stand.events();
    assert!(matches!(&events[..], [failed, lost] if is_failure(failed) && is_loss(lost)));
}

#[test]
fn a_checkpoint_of_a_guest_that_an_operator_had_stopped_covers_nothing() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.says("STOP");
    stand.events();
    stand.confirm("paused");
    stand.events();
    stand.machine.request_checkpoint(stand.now);
    stand.pass(MS * 100);
    assert_eq!(stand.told().map(|told| told.ask), Some(QmpQuestion::Checkpoint));
    // QEMU makes it, and sets the guest going.
    stand.says("RESUME");
    assert_eq!(stand.events(), [ColoFrameEvent::CheckpointBegan, uncovered()]);
}

#[test]
fn without_colo_a_request_fails_at_once() {
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.request_checkpoint(stand.now);
    assert!(matches!(&stand.events()[..], [failed] if is_failure(failed)));
}

#[test]
fn a_connection_that_is_lost_in_colo_is_a_lost_pair_until_it_is_back() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.machine.on_down(stand.now, "QEMU closed the connection");
    assert!(matches!(&stand.events()[..], [ColoFrameEvent::Gone { .. }]));
    stand.machine.on_down(stand.now, "again");
    assert_eq!(stand.events(), [], "told once");
    stand.machine.on_up(NEW);
    stand.answer(QmpQuestion::Schema, schema());
    stand.answer(QmpQuestion::ColoStatus, json!({"mode": "primary"}));
    stand.answer(QmpQuestion::Kvm, json!({"enabled": true}));
    stand.answer(QmpQuestion::Status, json!({"status": "running"}));
    assert_eq!(stand.events(), [ColoFrameEvent::PairReady]);
}

#[test]
fn one_that_says_that_it_ends_is_not_gone_without_a_word() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    stand.qemu_says("SHUTDOWN", &json!({"guest": true, "reason": "guest-shutdown"}));
    stand.machine.on_down(stand.now, "QEMU closed the connection");
    assert!(stand.events().iter().all(is_loss));
}

#[test]
fn unknown_events_and_states_change_nothing() {
    let mut stand = MachineStand::in_colo(Role::Primary);
    for name in ["", "VSERPORT_CHANGE", "MIGRATION_PASS", "NEW_IN_QEMU_99"] {
        stand.qemu_says(name, &json!({"status": "colo"}));
    }
    stand.migration("new-in-qemu-99");
    stand.qemu_says("MIGRATION", &json!([1]));
    assert_eq!((stand.events(), stand.state()), (vec![], "colo"));
}
