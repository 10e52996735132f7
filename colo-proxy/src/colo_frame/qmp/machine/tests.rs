use super::probe::PROBE_AGAIN;
use super::*;

const NEW: QemuVersion = QemuVersion { major: 11, minor: 1, micro: 3 };
const MS: Duration = Duration::from_millis(1);

/// A QEMU of which the test knows what it would say.
struct Stand {
    machine: QmpMachine,
    now: Instant,
    /// QEMU's clock.
    clock: Duration,
}

impl Stand {
    fn new(role: Role) -> Self {
        let machine = QmpMachine::new(role, CheckpointConfig::default());
        let mut stand = Self { machine, now: Instant::now(), clock: MS * 1000 };
        let reason = "not connected to QEMU yet".into();
        assert_eq!(stand.machine.next_event(), Some(no_connection(role, reason)));
        stand
    }

    /// Connected to a QEMU that can do it, in this state.
    fn found(role: Role, mode: &str, run_state: &str) -> Self {
        let mut stand = Self::new(role);
        stand.machine.on_up(NEW);
        stand.answer(QmpQuestion::Schema, schema());
        stand.answer(QmpQuestion::ColoStatus, json!({"mode": mode}));
        stand.answer(QmpQuestion::Kvm, json!({"enabled": true, "present": true}));
        stand.answer(QmpQuestion::Status, json!({"status": run_state}));
        stand
    }

    fn in_colo(role: Role) -> Self {
        let mode = if role == Role::Primary { "primary" } else { "secondary" };
        let mut stand = Self::found(role, mode, "running");
        assert_eq!(stand.events(), [ColoFrameEvent::PairReady]);
        stand
    }

    /// What QEMU is told next.
    fn told(&mut self) -> Option<QmpCommand> {
        self.machine.next_command()
    }

    fn answer(&mut self, ask: QmpQuestion, value: Value) {
        let told = self.told().unwrap_or_else(|| panic!("{ask:?} was not asked"));
        assert_eq!(told.ask, ask);
        self.machine.on_reply(self.now, ask, Ok(value));
    }

    fn refuse(&mut self, ask: QmpQuestion) {
        assert_eq!(self.told().map(|told| told.ask), Some(ask));
        let refusal = QmpRefusal { class: "GenericError".into(), desc: "no".into() };
        self.machine.on_reply(self.now, ask, Err(refusal));
    }

    fn qemu_says(&mut self, name: &str, data: &Value) {
        self.clock += MS;
        self.machine.on_event(self.now, name, data, self.clock);
    }

    fn says(&mut self, name: &str) {
        self.qemu_says(name, &Value::Null);
    }

    fn migration(&mut self, status: &str) {
        self.qemu_says("MIGRATION", &json!({"status": status}));
    }

    /// All events for the owner, each dealt with before the next one is asked for.
    fn events(&mut self) -> Vec<ColoFrameEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.machine.next_event() {
            if event == ColoFrameEvent::CheckpointBegan {
                self.machine.output_taken();
            }
            events.push(event);
        }
        events
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.machine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.machine.on_timeout(self.now);
        }
    }

    fn confirm(&mut self, status: &str) {
        let number = self.machine.number;
        self.answer(QmpQuestion::Confirm(number), json!({"status": status}));
    }

    fn state(&self) -> &'static str {
        self.machine.phase.state().name()
    }
}

fn schema() -> Value {
    json!([
        {"name": "x-colo-lost-heartbeat", "meta-type": "command"},
        {"name": "migrate-set-parameters", "arg-type": "1"},
        {"name": "1", "members": [{"name": "x-checkpoint-delay", "type": "int"}]},
        {"name": "migrate-set-capabilities", "arg-type": "2"},
        {"name": "2", "members": [{"name": "capabilities", "type": "[3]"}]},
        {"name": "[3]", "element-type": "3"},
        {"name": "3", "members": [{"name": "capability", "type": "4"}]},
        {"name": "4", "members": [{"name": "x-colo"}]},
    ])
}

fn done() -> ColoFrameEvent {
    ColoFrameEvent::DONE
}

/// One is done, and may cover nothing.
fn uncovered() -> ColoFrameEvent {
    ColoFrameEvent::CheckpointDone { state_copied: true, covers: false }
}

fn is_failure(event: &ColoFrameEvent) -> bool {
    matches!(event, ColoFrameEvent::CheckpointFailed { .. })
}

fn is_loss(event: &ColoFrameEvent) -> bool {
    matches!(event, ColoFrameEvent::PairLost { .. })
}

#[test]
fn a_release_that_is_known_to_fail_is_told_nothing_and_refuses_protection() {
    let mut stand = Stand::new(Role::Primary);
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
    let mut stand = Stand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.protect("tcp:h:9998").unwrap();
    stand.refuse(QmpQuestion::Capabilities);
    assert_eq!((stand.told(), stand.state()), (None, "alone"));
    assert!(stand.machine.protect("tcp:h:9998").is_ok(), "and may be tried again");
    assert_eq!(stand.told().map(|told| told.ask), Some(QmpQuestion::Capabilities));
}

#[test]
fn a_qemu_that_does_not_say_how_it_is_is_asked_again_and_not_taken_for_alone() {
    let mut stand = Stand::new(Role::Primary);
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
    let mut stand = Stand::found(Role::Primary, "none", "running");
    stand.events();
    stand.migration("colo");
    assert_eq!(stand.state(), "probing");
}

#[test]
fn one_without_colo_built_in_is_named() {
    let mut stand = Stand::new(Role::Primary);
    stand.machine.on_up(NEW);
    stand.answer(QmpQuestion::Schema, json!([]));
    let why = stand.machine.protect("tcp:h:1").unwrap_err();
    assert!(why.contains("built without COLO") && why.contains("x-colo-lost-heartbeat"), "{why}");
}

#[test]
fn a_primary_is_brought_into_colo() {
    let mut stand = Stand::found(Role::Primary, "none", "running");
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
    let mut stand = Stand::found(Role::Primary, "none", "running");
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
    let mut stand = Stand::new(Role::Primary);
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
    let mut stand = Stand::found(Role::Primary, "none", "running");
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
    let mut stand = Stand::new(Role::Secondary);
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
    let mut stand = Stand::found(Role::Secondary, "none", "inmigrate");
    stand.answer(QmpQuestion::Capabilities, json!({}));
    stand.machine.end(stand.now);
    stand.answer(QmpQuestion::ColoStatus, json!({"mode": "secondary"}));
    stand.answer(QmpQuestion::Kvm, json!({"enabled": true}));
    stand.answer(QmpQuestion::Status, json!({"status": "running"}));
    assert_eq!(stand.told().map(|told| told.ask), Some(QmpQuestion::LostHeartbeat));
    // One that still waits has nobody to lose.
    let mut stand = Stand::found(Role::Secondary, "none", "inmigrate");
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
    let mut stand = Stand::found(Role::Secondary, "none", "inmigrate");
    assert_eq!(stand.state(), "standby");
    stand.answer(QmpQuestion::Capabilities, json!({}));
    stand.migration("active");
    stand.migration("colo");
    stand.says("RESUME");
    assert_eq!(stand.events(), [ColoFrameEvent::PairReady]);
}

#[test]
fn a_migration_that_fails_is_told_with_qemus_reason() {
    let mut stand = Stand::found(Role::Primary, "none", "running");
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
    let mut stand = Stand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.protect("tcp:h:9998").unwrap();
    stand.refuse(QmpQuestion::Capabilities);
    assert_eq!(stand.told(), None, "no migration without them");
    assert_eq!(stand.state(), "alone");
}

#[test]
fn a_half_of_the_other_kind_is_refused() {
    let mut stand = Stand::found(Role::Primary, "secondary", "running");
    assert!(
        matches!(&stand.events()[..], [ColoFrameEvent::Alone { reason }] if reason.contains("secondary"))
    );
    assert_eq!(stand.state(), "absent");
}

#[test]
fn a_checkpoint_is_told_when_it_is_proven() {
    for role in [Role::Primary, Role::Secondary] {
        let mut stand = Stand::in_colo(role);
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
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::in_colo(Role::Primary);
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

#[test]
fn a_secondary_that_is_lost_in_a_checkpoint_fails_it() {
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::in_colo(Role::Primary);
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
        let mut stand = Stand::in_colo(Role::Secondary);
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
    let mut stand = Stand::in_colo(Role::Secondary);
    stand.qemu_says("COLO_EXIT", &json!({"mode": "secondary", "reason": "error"}));
    assert!(matches!(&stand.events()[..], [lost] if is_loss(lost)));
    stand.machine.end(stand.now);
    stand.answer(QmpQuestion::LostHeartbeat, json!({}));
    assert_eq!(stand.told().map(|told| told.command), Some("announce-self"));
}

#[test]
fn what_an_operator_told_qemu_is_done_here_too() {
    let mut stand = Stand::in_colo(Role::Secondary);
    stand.says("STOP");
    stand.migration("completed");
    stand.says("RESUME");
    let events = stand.events();
    assert!(events.contains(&ColoFrameEvent::Failover) && !events.contains(&done()), "{events:?}");
}

#[test]
fn a_request_sets_the_delay_once_and_the_next_one_keeps_its_distance() {
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::found(Role::Primary, "none", "running");
    stand.events();
    stand.machine.request_checkpoint(stand.now);
    assert!(matches!(&stand.events()[..], [failed] if is_failure(failed)));
}

#[test]
fn a_connection_that_is_lost_in_colo_is_a_lost_pair_until_it_is_back() {
    let mut stand = Stand::in_colo(Role::Primary);
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
    let mut stand = Stand::in_colo(Role::Primary);
    stand.qemu_says("SHUTDOWN", &json!({"guest": true, "reason": "guest-shutdown"}));
    stand.machine.on_down(stand.now, "QEMU closed the connection");
    assert!(stand.events().iter().all(is_loss));
}

#[test]
fn unknown_events_and_states_change_nothing() {
    let mut stand = Stand::in_colo(Role::Primary);
    for name in ["", "VSERPORT_CHANGE", "MIGRATION_PASS", "NEW_IN_QEMU_99"] {
        stand.qemu_says(name, &json!({"status": "colo"}));
    }
    stand.migration("new-in-qemu-99");
    stand.qemu_says("MIGRATION", &json!([1]));
    assert_eq!((stand.events(), stand.state()), (vec![], "colo"));
}
