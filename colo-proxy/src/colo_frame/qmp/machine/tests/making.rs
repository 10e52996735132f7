//! Asking QEMU how it stands, and making a pair.

use super::*;

#[test]
fn a_release_that_is_known_to_fail_is_told_nothing_and_refuses_protection() {
    let mut stand = MachineStand::new(Role::Primary);
    stand.machine.on_up(QemuVersion { major: 7, minor: 2, micro: 22 });
    assert_eq!(stand.told(), None);
    let Some(ColoFrameEvent::Alone { reason }) = stand.machine.next_event() else {
        panic!("alone")
    };
    assert!(reason.contains("7.2.22 deadlocks"), "{reason}");
    let why = stand.machine.protect("tcp:h:1").unwrap_err();
    assert!(why.contains("7.2.22 deadlocks"), "{why}");
}

#[test]
fn capabilities_that_are_refused_end_the_attempt_before_anything_is_copied() {
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.protect("tcp:h:9998").unwrap();
    stand.refuse(QmpQuestion::Capabilities);
    assert_eq!((stand.told(), stand.state()), (None, "alone"));
    assert!(stand.machine.protect("tcp:h:9998").is_ok(), "and may be tried again");
    assert_eq!(stand.told().map(|told| told.ask), Some(QmpQuestion::Capabilities));
}

#[test]
fn a_qemu_that_does_not_say_how_it_is_is_asked_again_and_not_taken_for_alone() {
    let mut stand = MachineStand::new(Role::Primary);
    stand.machine.on_up(NEW);
    stand.answer(QmpQuestion::Schema, schema());
    stand.refuse(QmpQuestion::ColoStatus);
    assert!(matches!(&stand.events()[..], [lost] if is_loss(lost)));
    while stand.told().is_some() {}
    stand.pass(PROBE_AGAIN);
    stand.answer(QmpQuestion::ColoStatus, json!({"mode": "primary"}));
    stand.answer(QmpQuestion::Kvm, json!({"enabled": true}));
    stand.answer(QmpQuestion::Status, json!({"status": "running"}));
    assert_eq!(stand.events(), [ColoFrameEvent::PairReady]);
}

#[test]
fn a_pair_that_is_made_by_hand_is_noticed() {
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    stand.events();
    stand.migration("colo");
    assert_eq!(stand.state(), "probing");
}

#[test]
fn one_without_colo_built_in_is_named() {
    let mut stand = MachineStand::new(Role::Primary);
    stand.machine.on_up(NEW);
    stand.answer(QmpQuestion::Schema, json!([]));
    let why = stand.machine.protect("tcp:h:1").unwrap_err();
    assert!(why.contains("built without COLO") && why.contains("x-colo-lost-heartbeat"), "{why}");
}

#[test]
fn a_primary_is_brought_into_colo() {
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    assert_eq!(stand.events(), [ColoFrameEvent::Alone { reason: "QEMU is not in COLO".into() }]);
    assert!(stand.machine.protect("tcp:h:9998").is_ok());
    for (ask, command) in [
        (QmpQuestion::Capabilities, "migrate-set-capabilities"),
        (QmpQuestion::Parameters, "migrate-set-parameters"),
        (QmpQuestion::Migrate, "migrate"),
    ] {
        let told = stand.told().unwrap();
        assert_eq!((told.ask, told.command), (ask, command));
        if ask == QmpQuestion::Parameters {
            assert_eq!(told.arguments["x-checkpoint-delay"], 20_000);
        }
        stand.machine.on_reply(stand.now, ask, Ok(json!({})));
    }
    for status in ["setup", "active"] {
        stand.migration(status);
    }
    stand.says("STOP");
    stand.migration("device");
    stand.migration("colo");
    assert_eq!(stand.events(), [], "the guest is stopped still");
    stand.says("RESUME");
    assert_eq!(stand.events(), [ColoFrameEvent::PairReady]);
    assert_eq!(stand.state(), "colo");
}

#[test]
fn a_guest_that_is_emulated_stands_still_for_the_copy_and_goes_on_if_that_fails() {
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.found.on_kvm(&json!({"enabled": false}));
    stand.machine.protect("tcp:h:9998").unwrap();
    for ask in [
        QmpQuestion::Capabilities,
        QmpQuestion::Parameters,
        QmpQuestion::Stop,
        QmpQuestion::Migrate,
    ] {
        stand.answer(ask, json!({}));
    }
    stand.says("STOP");
    stand.migration("failed");
    stand.answer(QmpQuestion::MigrateError, json!({}));
    assert_eq!(stand.told().map(|told| told.command), Some("cont"));
}

#[test]
fn protection_that_is_wanted_early_begins_when_it_can() {
    let mut stand = MachineStand::new(Role::Primary);
    assert!(stand.machine.protect("tcp:h:9998").is_ok());
    stand.machine.on_up(NEW);
    assert!(stand.machine.protect("tcp:h:9998").is_ok());
    stand.answer(QmpQuestion::Schema, schema());
    stand.answer(QmpQuestion::ColoStatus, json!({"mode": "none"}));
    stand.answer(QmpQuestion::Kvm, json!({"enabled": true}));
    stand.answer(QmpQuestion::Status, json!({"status": "running"}));
    assert_eq!(stand.state(), "entering");
}

#[test]
fn a_secondary_without_colo_leaves_the_primary_going() {
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.protect("tcp:h:9998").unwrap();
    for ask in [QmpQuestion::Capabilities, QmpQuestion::Parameters, QmpQuestion::Migrate] {
        stand.answer(ask, json!({}));
    }
    stand.says("STOP");
    stand.migration("colo");
    stand.qemu_says("COLO_EXIT", &json!({"mode": "primary", "reason": "error"}));
    stand.answer(QmpQuestion::LostHeartbeat, json!({}));
    assert!(matches!(&stand.events()[..], [ColoFrameEvent::Alone { .. }]));
    stand.migration("completed");
    assert_eq!((stand.told(), stand.state()), (None, "alone"));
}

#[test]
fn a_qemu_that_changes_while_it_is_asked_is_asked_again() {
    let mut stand = MachineStand::new(Role::Secondary);
    stand.machine.on_up(NEW);
    stand.answer(QmpQuestion::Schema, schema());
    stand.answer(QmpQuestion::ColoStatus, json!({"mode": "none"}));
    stand.migration("colo");
    stand.answer(QmpQuestion::Kvm, json!({"enabled": true}));
    stand.answer(QmpQuestion::Status, json!({"status": "inmigrate"}));
    assert_eq!(stand.state(), "probing", "it is no secondary that waits any more");
    stand.answer(QmpQuestion::ColoStatus, json!({"mode": "secondary"}));
    stand.answer(QmpQuestion::Kvm, json!({"enabled": true}));
    stand.answer(QmpQuestion::Status, json!({"status": "running"}));
    assert_eq!(stand.events(), [ColoFrameEvent::PairReady]);
}

#[test]
fn a_takeover_of_a_qemu_that_is_being_asked_is_not_forgotten() {
    let mut stand = MachineStand::found(Role::Secondary, "none", "inmigrate");
    stand.answer(QmpQuestion::Capabilities, json!({}));
    stand.machine.end(stand.now);
    stand.answer(QmpQuestion::ColoStatus, json!({"mode": "secondary"}));
    stand.answer(QmpQuestion::Kvm, json!({"enabled": true}));
    stand.answer(QmpQuestion::Status, json!({"status": "running"}));
    assert_eq!(stand.told().map(|told| told.ask), Some(QmpQuestion::LostHeartbeat));
    // One that still waits has nobody to lose.
    let mut stand = MachineStand::found(Role::Secondary, "none", "inmigrate");
    stand.answer(QmpQuestion::Capabilities, json!({}));
    stand.machine.end(stand.now);
    stand.answer(QmpQuestion::ColoStatus, json!({"mode": "none"}));
    stand.answer(QmpQuestion::Kvm, json!({"enabled": true}));
    stand.answer(QmpQuestion::Status, json!({"status": "inmigrate"}));
    assert_eq!(stand.told().map(|told| told.ask), Some(QmpQuestion::Capabilities));
    assert_eq!(stand.state(), "standby");
}

#[test]
fn a_secondary_waits_with_its_capabilities_set() {
    let mut stand = MachineStand::found(Role::Secondary, "none", "inmigrate");
    assert_eq!(stand.state(), "standby");
    stand.answer(QmpQuestion::Capabilities, json!({}));
    stand.migration("active");
    stand.migration("colo");
    stand.says("RESUME");
    let events = stand.events();
    let [ColoFrameEvent::Alone { reason }, ColoFrameEvent::PairReady] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(reason.contains("waits for the migration"), "{reason}");
}

#[test]
fn a_migration_that_fails_is_told_with_qemus_reason() {
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.protect("tcp:h:9998").unwrap();
    for ask in [QmpQuestion::Capabilities, QmpQuestion::Parameters, QmpQuestion::Migrate] {
        stand.answer(ask, json!({}));
    }
    stand.migration("failed");
    stand.answer(
        QmpQuestion::MigrateError,
        json!({"status": "failed", "error-desc": "no such host"}),
    );
    let events = stand.events();
    assert!(
        matches!(&events[..], [ColoFrameEvent::Alone { reason }] if reason.contains("no such host"))
    );
    assert!(stand.machine.report().trouble.unwrap().contains("no such host"));
    assert!(stand.machine.protect("tcp:h:9998").is_ok(), "and may be tried again");
}

#[test]
fn a_command_that_is_refused_ends_the_attempt() {
    let mut stand = MachineStand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.protect("tcp:h:9998").unwrap();
    stand.refuse(QmpQuestion::Capabilities);
    assert_eq!(stand.told(), None, "no migration without them");
    assert_eq!(stand.state(), "alone");
}

#[test]
fn a_half_of_the_other_kind_is_refused() {
    let mut stand = MachineStand::found(Role::Primary, "secondary", "running");
    assert!(
        matches!(&stand.events()[..], [ColoFrameEvent::Alone { reason }] if reason.contains("secondary"))
    );
    assert_eq!(stand.state(), "absent");
}
