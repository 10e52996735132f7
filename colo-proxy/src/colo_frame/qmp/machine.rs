//! The commands for a QEMU, and the meaning of its events: one half of a pair, without I/O and clock.
//!
//! QEMU has no event for a checkpoint. It stops the secondary's guest, then the primary's; the
//! secondary's resumes with the new state, then the primary's. So a `STOP` while the pair is in COLO
//! begins a checkpoint and the next `RESUME` ends it, unless
//!
//! * `COLO_EXIT` comes in between: the state never arrived;
//! * `query-status`, asked after the `STOP`, does not answer `colo`: somebody stopped the guest by hand,
//!   or it runs again already and nobody knows which output came before ([`checkpoint`]).
//!
//! The first copy of a guest's memory is made while the guest runs. But if QEMU emulates the guest
//! (TCG), that copy misses a write now and then, and the secondary's guest crashes. So an emulated guest
//! is stopped for the copy.
//!
//! Setting `x-checkpoint-delay` to the value that it has requests a checkpoint: QEMU makes one at once,
//! and the next by itself after that delay.

mod checkpoint;
mod events;
mod found;
mod join;
mod pauses;
mod probe;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::checkpoint::SeenCheckpoint;
use self::found::FoundQemu;
use self::pauses::CheckpointPauses;
use super::pace::CheckpointPace;
use super::support;
use crate::colo_frame::ColoFrameEvent;
use crate::config::{CheckpointConfig, Role};
use crate::qmp::{QemuVersion, QmpRefusal};
use crate::status::{QemuCheckpoints, QemuReport, QemuState};

/// A requested checkpoint has begun after this long, or QEMU has lost its other half: a primary that has
/// noticed that takes the request, and does nothing.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// The longest checkpoint. A secondary's QEMU that hangs would stop the primary's guest for ever.
const CHECKPOINT_MAX: Duration = Duration::from_secs(30);

/// The question that a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QmpQuestion {
    Schema,
    ColoStatus,
    Kvm,
    Status,
    Stop,
    Cont,
    /// Is the guest stopped by the checkpoint of this number?
    Confirm(u64),
    Capabilities,
    Parameters,
    Migrate,
    /// Why did the migration fail?
    MigrateError,
    Checkpoint,
    LostHeartbeat,
    Announce,
}

/// A command for QEMU.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct QmpCommand {
    pub(super) ask: QmpQuestion,
    pub(super) command: &'static str,
    pub(super) arguments: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QemuPhase {
    /// No connection, or a QEMU that is not used.
    Absent,
    /// QEMU is being asked how it stands.
    Probing,
    /// The guest is on its own.
    Alone,
    /// A secondary that waits for a primary.
    Standby,
    /// The pair is being made. `in_colo`: it exists, and the guest resumes any moment.
    Entering {
        in_colo: bool,
    },
    Colo,
    /// COLO has ended by an error, and QEMU waits for the order to go on alone.
    Broken,
    /// QEMU is being told that the other half is gone.
    Ending,
}

impl QemuPhase {
    /// The state that `status` and the log show.
    fn state(self) -> QemuState {
        match self {
            Self::Absent => QemuState::Absent,
            Self::Probing => QemuState::Probing,
            Self::Alone => QemuState::Alone,
            Self::Standby => QemuState::Standby,
            Self::Entering { .. } => QemuState::Entering,
            Self::Colo => QemuState::Colo,
            Self::Broken => QemuState::Broken,
            Self::Ending => QemuState::Ending,
        }
    }
}

/// One half of a pair.
#[derive(Debug)]
pub(super) struct QmpMachine {
    /// The guest, for the log.
    name: String,
    role: Role,
    settings: CheckpointConfig,
    phase: QemuPhase,
    version: Option<QemuVersion>,
    found: FoundQemu,
    checkpoint: Option<SeenCheckpoint>,
    /// When the checkpoint began.
    stopped: Option<Instant>,
    /// Checkpoints that began.
    number: u64,
    pace: CheckpointPace,
    /// The pair is to be made with the secondary that waits there, as soon as QEMU can be told.
    wanted: Option<String>,
    /// QEMU has reported that it ends: somebody wanted that.
    is_ending: bool,
    /// QEMU is to be told that its other half is gone, if it has one.
    is_end_wanted: bool,
    /// When the guest was stopped for the copy.
    copying: Option<Instant>,
    /// When a requested checkpoint may be triggered.
    due: Option<Instant>,
    /// When a checkpoint was triggered that has not begun.
    triggered: Option<Instant>,
    pauses: CheckpointPauses,
    requested: u64,
    failed: u64,
    uncovered: u64,
    /// The last error, for the operator.
    trouble: Option<String>,
    /// The commands that are left to make the pair. Each is sent when the one before was done.
    join: VecDeque<QmpCommand>,
    /// When a QEMU that has not answered how it stands is asked again.
    probe_at: Option<Instant>,
    commands: VecDeque<QmpCommand>,
    events: VecDeque<ColoFrameEvent>,
}

/// Nobody knows how the guest stands. For a secondary that is no sign that its primary is gone.
fn no_connection(role: Role, reason: String) -> ColoFrameEvent {
    match role {
        Role::Primary => ColoFrameEvent::PairLost { reason },
        Role::Secondary => ColoFrameEvent::Gone { reason },
    }
}

impl QmpMachine {
    pub(super) fn new(name: String, role: Role, settings: CheckpointConfig) -> Self {
        Self {
            name,
            role,
            settings,
            phase: QemuPhase::Absent,
            version: None,
            found: FoundQemu::default(),
            checkpoint: None,
            stopped: None,
            number: 0,
            pace: CheckpointPace::new(settings),
            wanted: None,
            is_ending: false,
            is_end_wanted: false,
            copying: None,
            due: None,
            triggered: None,
            pauses: CheckpointPauses::default(),
            requested: 0,
            failed: 0,
            uncovered: 0,
            trouble: None,
            join: VecDeque::new(),
            probe_at: None,
            commands: VecDeque::new(),
            events: VecDeque::from([no_connection(role, "not connected to QEMU yet".into())]),
        }
    }

    pub(super) fn next_command(&mut self) -> Option<QmpCommand> {
        self.commands.pop_front()
    }

    /// The next event for the owner.
    pub(super) fn next_event(&mut self) -> Option<ColoFrameEvent> {
        self.events.pop_front()
    }

    /// The guest's output up to the last stop that the owner knows of was taken. If that is the last
    /// stop at all, it is time to ask whether the guest still is stopped.
    pub(super) fn output_taken(&mut self) {
        if self.events.contains(&ColoFrameEvent::CheckpointBegan) {
            return;
        }
        if let Some(checkpoint) = &mut self.checkpoint
            && checkpoint.is_unasked()
        {
            checkpoint.asked();
            let ask = QmpQuestion::Confirm(self.number);
            self.execute(ask, "query-status", json!({}));
        }
    }

    fn execute(&mut self, ask: QmpQuestion, command: &'static str, arguments: Value) {
        self.commands.push_back(QmpCommand { ask, command, arguments });
    }

    // The connection.

    pub(super) fn on_up(&mut self, version: QemuVersion) {
        self.version = Some(version);
        self.is_ending = false;
        if let Some(why) = support::is_known_not_to_work(version) {
            return self.refuse(why);
        }
        if support::is_untried(version) {
            log::warn!(
                "{}: QEMU {version} is older than 11.1, the first release that is known to do COLO. If \
                 checkpoints fail, install QEMU 11.1 or newer on both hosts",
                self.name
            );
        }
        self.phase = QemuPhase::Probing;
        self.execute(QmpQuestion::Schema, "query-qmp-schema", json!({}));
    }

    pub(super) fn on_down(&mut self, now: Instant, why: &str) {
        self.commands.clear();
        self.join.clear();
        (self.version, self.probe_at) = (None, None);
        let before = std::mem::replace(&mut self.phase, QemuPhase::Absent);
        let reason = format!("no connection to QEMU: {why}");
        if before == QemuPhase::Absent {
            return;
        }
        // From here on QEMU may make checkpoints that nobody sees.
        self.end_checkpoint(now, &reason);
        self.events.push_back(if before == QemuPhase::Colo && !self.is_ending {
            ColoFrameEvent::Gone { reason }
        } else {
            no_connection(self.role, reason)
        });
    }

    // Replies.

    pub(super) fn on_reply(
        &mut self,
        now: Instant,
        ask: QmpQuestion,
        result: Result<Value, QmpRefusal>,
    ) {
        match ask {
            QmpQuestion::Schema => self.on_schema(result),
            QmpQuestion::ColoStatus | QmpQuestion::Kvm | QmpQuestion::Status => {
                self.on_found(now, ask, result);
            }
            QmpQuestion::Cont => {
                if let Err(refusal) = result {
                    log::error!(
                        "{}: QEMU does not resume its guest: {refusal}. Resume it by hand (`cont`)",
                        self.name
                    );
                }
            }
            QmpQuestion::Confirm(number) => self.on_confirmation(now, number, result.as_ref().ok()),
            QmpQuestion::Checkpoint => {
                if let Err(refusal) = result {
                    self.fail(now, format!("QEMU refuses to make a checkpoint: {refusal}"));
                }
            }
            QmpQuestion::Capabilities
            | QmpQuestion::Parameters
            | QmpQuestion::Stop
            | QmpQuestion::Migrate => {
                self.on_entering(ask, result);
            }
            QmpQuestion::MigrateError => {
                let why =
                    result.ok().and_then(|status| status["error-desc"].as_str().map(str::to_owned));
                self.stay_alone(format!(
                    "the migration to the secondary failed: {}",
                    why.as_deref().unwrap_or("QEMU does not say why")
                ));
            }
            QmpQuestion::LostHeartbeat => self.on_ended(result),
            QmpQuestion::Announce => {
                if let Err(refusal) = result {
                    log::warn!(
                        "{}: QEMU does not announce its guest: {refusal}. Clients may reach it late",
                        self.name
                    );
                }
            }
        }
    }

    // The end of a pair, and of a checkpoint.

    /// The state of the checkpoint that runs will not come any more.
    fn end_unfinished(&mut self, now: Instant) {
        if self.checkpoint.is_some() {
            self.fail(now, "the other half is gone".into());
        }
    }

    /// The pair is no more, nor is its checkpoint.
    fn lose(&mut self, now: Instant, why: &str) {
        self.end_checkpoint(now, why);
        self.events.push_back(ColoFrameEvent::PairLost { reason: why.to_owned() });
    }

    fn end_checkpoint(&mut self, now: Instant, why: &str) {
        if self.checkpoint.is_some() || self.triggered.is_some() {
            self.fail(now, why.to_owned());
        }
        (self.due, self.triggered) = (None, None);
    }

    fn fail(&mut self, now: Instant, reason: String) {
        (self.checkpoint, self.triggered, self.due) = (None, None, None);
        self.failed += 1;
        self.pace.on_failed(now);
        self.events.push_back(ColoFrameEvent::CheckpointFailed { reason });
    }

    // Requests of the proxy.

    pub(super) fn request_checkpoint(&mut self, now: Instant) {
        self.requested += 1;
        match self.phase {
            QemuPhase::Colo => {
                // A checkpoint that runs settles it.
                if self.checkpoint.is_none() && self.triggered.is_none() {
                    self.due = Some(self.pace.on_request(now));
                }
            }
            _ => self.fail(now, format!("QEMU is not in COLO ({})", self.phase.state())),
        }
    }

    /// The other half is gone for good: this half goes on alone.
    pub(super) fn end(&mut self, now: Instant) {
        if matches!(self.phase, QemuPhase::Absent | QemuPhase::Probing | QemuPhase::Standby) {
            // It may be in COLO by now.
            self.is_end_wanted = true;
            if self.phase == QemuPhase::Standby {
                self.probe();
            }
        }
        if matches!(
            self.phase,
            QemuPhase::Colo | QemuPhase::Broken | QemuPhase::Entering { in_colo: true }
        ) {
            // A secondary may have the state of the checkpoint that runs. Its events will show that.
            if self.role == Role::Primary || self.checkpoint.is_none() {
                self.lose(now, "protection has ended");
            }
            self.phase = QemuPhase::Ending;
            self.execute(QmpQuestion::LostHeartbeat, "x-colo-lost-heartbeat", json!({}));
        }
    }

    fn on_ended(&mut self, result: Result<Value, QmpRefusal>) {
        // Otherwise it is over when QEMU reports that: events before that may belong to a checkpoint.
        if let Err(refusal) = result {
            let why = format!(
                "QEMU does not let its guest go on alone: {refusal}. Look at `query-status` of this QEMU"
            );
            log::error!("{}: {why}", self.name);
            self.trouble = Some(why);
            if self.phase == QemuPhase::Ending {
                self.phase = QemuPhase::Alone;
            }
        }
        if self.role == Role::Secondary {
            // QEMU's own announcement, after ours. It repeats itself, for switches that lose one.
            let rounds = json!({"initial": 50, "max": 550, "rounds": 5, "step": 50});
            self.execute(QmpQuestion::Announce, "announce-self", rounds);
        }
    }

    // Time.

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.due, self.given_up(), self.probe_at].into_iter().flatten().min()
    }

    /// When a checkpoint that does not begin, or does not end, is given up.
    fn given_up(&self) -> Option<Instant> {
        let running = self.stopped.filter(|_| self.checkpoint.is_some());
        let begins = self.triggered.map(|at| at + BEGIN_MAX);
        [begins, running.map(|at| at + CHECKPOINT_MAX)].into_iter().flatten().min()
    }

    pub(super) fn on_timeout(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.triggered = Some(now);
            let delay = self.delay();
            let parameters = json!({"x-checkpoint-delay": delay});
            self.execute(QmpQuestion::Checkpoint, "migrate-set-parameters", parameters);
        }
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe();
        }
        if self.given_up().is_some_and(|at| at <= now) {
            self.phase = QemuPhase::Broken;
            self.lose(now, "QEMU makes no checkpoint: its other half is gone, or hangs");
        }
    }

    // The status.

    pub(super) fn report(&self) -> QemuReport {
        QemuReport {
            qemu: self.version.map(|version| version.to_string()),
            state: self.phase.state(),
            trouble: self.trouble.clone(),
            checkpoints: QemuCheckpoints {
                requested: self.requested,
                done: self.pauses.count(),
                failed: self.failed,
                uncovered: self.uncovered,
            },
            pause_us: self.pauses.report(),
            spacing_ms: self.pace.spacing().as_millis() as u64,
        }
    }
}

#[cfg(test)]
mod tests;
