mod checkpoints;
mod making;

use super::probe::PROBE_AGAIN;
use super::*;

const NEW: QemuVersion = QemuVersion { major: 11, minor: 1, micro: 3 };
const MS: Duration = Duration::from_millis(1);

/// A QEMU whose answers the test gives.
struct MachineStand {
    machine: QmpMachine,
    now: Instant,
    /// QEMU's clock.
    clock: Duration,
}

impl MachineStand {
    fn new(role: Role) -> Self {
        let machine = QmpMachine::new("guest".into(), role, CheckpointConfig::default());
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
