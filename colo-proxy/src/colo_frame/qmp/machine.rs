//! What a QEMU is told, and what its events mean: one half of a pair, without I/O and clock.
//!
//! QEMU reports no checkpoint as such. It stops the guest and starts it again: first the
//! secondary's, then the primary's, then the secondary's goes on with the state that it was given,
//! then the primary's. So a `STOP` while the pair is in COLO begins a checkpoint and the `RESUME`
//! behind it ends one, unless
//!
//! * `COLO_EXIT` comes in between: the state never arrived;
//! * `query-status`, asked behind the `STOP`, does not say `colo`: somebody stopped the guest by
//!   hand, or it runs again already and nobody can tell which output came before ([`checkpoint`]).
//!
//! The first copy of a guest's memory is made while the guest runs, but for one that QEMU emulates
//! (TCG): there, writes of the guest are lost to it now and then, and the secondary's guest crashes.
//! Such a guest is stopped for the copy.
//!
//! A checkpoint is asked for by setting `x-checkpoint-delay`, to the value that it has: QEMU makes
//! one at once, and the next by itself after that delay.

mod checkpoint;
mod found;
mod join;
mod pauses;
mod probe;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::checkpoint::{Checkpoint, Ended};
use self::found::Found;
use self::pauses::Pauses;
use super::pace::Pace;
use super::support;
use crate::colo_frame::ColoFrameEvent;
use crate::config::{Checkpoints, Role};
use crate::qmp::{Refusal, Version};

/// A checkpoint that was asked for has begun after this long, or QEMU has lost its other half: a
/// primary that has noticed so takes the request, and does nothing.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// The longest checkpoint. A secondary's QEMU that hangs would keep the primary's guest stopped for
/// ever.
const CHECKPOINT_MAX: Duration = Duration::from_secs(30);
/// What a reply is the answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
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
pub(super) struct Execute {
    pub(super) ask: Ask,
    pub(super) command: &'static str,
    pub(super) arguments: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No connection, or a QEMU that is not used.
    Absent,
    /// What it is, is being asked.
    Probing,
    /// The guest is on its own.
    Alone,
    /// A secondary that waits for a primary.
    Standby,
    /// The pair is being made. `in_colo`: it is there, and the guest goes on any moment.
    Entering {
        in_colo: bool,
    },
    Colo,
    /// COLO has ended by an error, and QEMU waits to be told what this half is now.
    Broken,
    /// It is being told that the other half is gone.
    Ending,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Probing => "probing",
            Self::Alone => "alone",
            Self::Standby => "standby",
            Self::Entering { .. } => "entering",
            Self::Colo => "colo",
            Self::Broken => "broken",
            Self::Ending => "ending",
        }
    }
}

/// One half of a pair.
#[derive(Debug)]
pub(super) struct Machine {
    role: Role,
    settings: Checkpoints,
    phase: Phase,
    version: Option<Version>,
    found: Found,
    checkpoint: Option<Checkpoint>,
    /// It began then.
    stopped: Option<Instant>,
    /// Checkpoints that began.
    number: u64,
    pace: Pace,
    /// The pair is to be made with the secondary that waits there, as soon as QEMU can be told.
    wanted: Option<String>,
    /// QEMU has said that it ends: somebody wanted that.
    is_ending: bool,
    /// QEMU is to be told that its other half is gone, if it has one.
    is_end_wanted: bool,
    /// The guest was stopped for the copy, then.
    copying: Option<Instant>,
    /// A checkpoint is wanted, and may be triggered then.
    due: Option<Instant>,
    /// It was triggered then, and has not begun.
    triggered: Option<Instant>,
    pauses: Pauses,
    requested: u64,
    failed: u64,
    uncovered: u64,
    /// What went wrong last, for the operator.
    trouble: Option<String>,
    /// What is still to be said to make the pair: each when the one before was done.
    join: VecDeque<Execute>,
    /// QEMU has not said how it is, and is asked again then.
    probe_at: Option<Instant>,
    commands: VecDeque<Execute>,
    events: VecDeque<ColoFrameEvent>,
}

/// Nobody knows what becomes of the guest. For a secondary that is no sign that its primary is gone.
fn no_connection(role: Role, reason: String) -> ColoFrameEvent {
    match role {
        Role::Primary => ColoFrameEvent::PairLost { reason },
        Role::Secondary => ColoFrameEvent::Gone { reason },
    }
}

impl Machine {
    pub(super) fn new(role: Role, settings: Checkpoints) -> Self {
        Self {
            role,
            settings,
            phase: Phase::Absent,
            version: None,
            found: Found::default(),
            checkpoint: None,
            stopped: None,
            number: 0,
            pace: Pace::new(settings),
            wanted: None,
            is_ending: false,
            is_end_wanted: false,
            copying: None,
            due: None,
            triggered: None,
            pauses: Pauses::default(),
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

    pub(super) fn next_command(&mut self) -> Option<Execute> {
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
            let ask = Ask::Confirm(self.number);
            self.execute(ask, "query-status", json!({}));
        }
    }

    fn execute(&mut self, ask: Ask, command: &'static str, arguments: Value) {
        self.commands.push_back(Execute { ask, command, arguments });
    }

    // The connection.

    pub(super) fn on_up(&mut self, version: Version) {
        self.version = Some(version);
        self.is_ending = false;
        if let Some(why) = support::is_known_not_to_work(version) {
            return self.refuse(why);
        }
        if support::is_untried(version) {
            log::warn!("QEMU {version} is older than 11.1, the first that was seen to do COLO");
        }
        self.phase = Phase::Probing;
        self.execute(Ask::Schema, "query-qmp-schema", json!({}));
    }

    pub(super) fn on_down(&mut self, now: Instant, why: &str) {
        self.commands.clear();
        self.join.clear();
        (self.version, self.probe_at) = (None, None);
        let before = std::mem::replace(&mut self.phase, Phase::Absent);
        let reason = format!("no connection to QEMU: {why}");
        if before == Phase::Absent {
            return;
        }
        // Checkpoints that nobody sees may be made from here on.
        self.end_checkpoint(now, &reason);
        self.events.push_back(if before == Phase::Colo && !self.is_ending {
            ColoFrameEvent::Gone { reason }
        } else {
            no_connection(self.role, reason)
        });
    }

    // Replies.

    pub(super) fn on_reply(&mut self, now: Instant, ask: Ask, result: Result<Value, Refusal>) {
        match ask {
            Ask::Schema => self.on_schema(result),
            Ask::ColoStatus | Ask::Kvm | Ask::Status => self.on_found(now, ask, result),
            Ask::Cont => {
                if let Err(refusal) = result {
                    log::error!("QEMU does not let its guest go on: {refusal}");
                }
            }
            Ask::Confirm(number) => self.on_confirmation(now, number, result.as_ref().ok()),
            Ask::Checkpoint => {
                if let Err(refusal) = result {
                    self.fail(now, format!("QEMU refuses to make a checkpoint: {refusal}"));
                }
            }
            Ask::Capabilities | Ask::Parameters | Ask::Stop | Ask::Migrate => {
                self.on_entering(ask, result);
            }
            Ask::MigrateError => {
                let why =
                    result.ok().and_then(|status| status["error-desc"].as_str().map(str::to_owned));
                self.stay_alone(format!(
                    "the migration to the secondary failed: {}",
                    why.as_deref().unwrap_or("QEMU does not say why")
                ));
            }
            Ask::LostHeartbeat => self.on_ended(result),
            Ask::Announce => {
                if let Err(refusal) = result {
                    log::warn!("QEMU does not announce its guest: {refusal}");
                }
            }
        }
    }

    // Events of QEMU.

    /// `at` is QEMU's clock, which only counts between two events.
    pub(super) fn on_event(&mut self, now: Instant, name: &str, data: &Value, at: Duration) {
        if matches!(name, "STOP" | "RESUME" | "MIGRATION" | "COLO_EXIT") {
            match self.phase {
                Phase::Probing => return self.found.on_change(),
                // Nobody starts or stops a guest that waits: it has gone on without us.
                Phase::Standby if name != "MIGRATION" => return self.probe(),
                // Somebody makes a pair by hand.
                Phase::Alone if name == "MIGRATION" && data["status"] == "colo" => {
                    return self.probe();
                }
                _ => {}
            }
        }
        match name {
            "STOP" => self.on_stop(now, at),
            "RESUME" => self.on_resume(now, at),
            "MIGRATION" => self.on_migration(now, data["status"].as_str().unwrap_or_default()),
            "COLO_EXIT" => self.on_colo_exit(now, data),
            "SHUTDOWN" => {
                self.is_ending = true;
                self.end_checkpoint(now, "QEMU is shutting down");
                let reason = "QEMU is shutting down".into();
                self.events.push_back(no_connection(self.role, reason));
            }
            _ => {}
        }
    }

    fn on_stop(&mut self, now: Instant, at: Duration) {
        if self.role == Role::Primary && matches!(self.phase, Phase::Entering { .. }) {
            self.copying.get_or_insert(now);
        }
        if self.phase != Phase::Colo || self.checkpoint.is_some() {
            return;
        }
        self.number += 1;
        self.triggered = None;
        self.checkpoint = Some(Checkpoint::new(at));
        self.stopped = Some(now);
        self.events.push_back(ColoFrameEvent::CheckpointBegan);
    }

    fn on_resume(&mut self, now: Instant, at: Duration) {
        let is_first = self.phase == (Phase::Entering { in_colo: true });
        if is_first {
            self.phase = Phase::Colo;
            if let Some(since) = self.copying.take() {
                let ms = now.saturating_duration_since(since).as_millis();
                log::info!("the guest was stopped for {ms} ms for the copy of its memory");
            }
            self.events.push_back(ColoFrameEvent::PairReady);
        }
        match self.checkpoint.as_ref().map(|one| one.on_resume(self.role, at)) {
            Some(ended) => self.on_checkpoint_ended(now, ended),
            // The guest had been stopped by somebody when a checkpoint was made, which has set it
            // going; or somebody has. Nobody said when it began.
            None if self.phase == Phase::Colo && !is_first => {
                self.events.push_back(ColoFrameEvent::CheckpointBegan);
                let ended = match self.role {
                    Role::Primary => Ended::Uncovered,
                    Role::Secondary => Ended::Done { pause: Duration::ZERO },
                };
                self.on_checkpoint_ended(now, ended);
            }
            None => {}
        }
    }

    fn on_confirmation(&mut self, now: Instant, number: u64, status: Option<&Value>) {
        let status = status.and_then(|status| status["status"].as_str()).unwrap_or_default();
        let checkpoint = self.checkpoint.as_mut().filter(|_| number == self.number);
        if let Some(ended) = checkpoint.and_then(|one| one.on_status(status)) {
            self.on_checkpoint_ended(now, ended);
        }
    }

    fn on_checkpoint_ended(&mut self, now: Instant, ended: Ended) {
        match ended {
            Ended::Done { pause } => {
                self.pauses.add(pause);
                self.events.push_back(ColoFrameEvent::DONE);
            }
            Ended::Uncovered => {
                log::warn!("a checkpoint covers nothing: the guest went on before it was known of");
                self.uncovered += 1;
                let (state_copied, covers) = (true, false);
                self.events.push_back(ColoFrameEvent::CheckpointDone { state_copied, covers });
            }
            Ended::NotMade(why) => return self.fail(now, why.into()),
        }
        self.pace.on_done(now);
        (self.checkpoint, self.triggered, self.due) = (None, None, None);
    }

    fn on_migration(&mut self, now: Instant, status: &str) {
        match (status, self.phase) {
            ("active" | "setup", Phase::Standby) => self.phase = Phase::Entering { in_colo: false },
            ("colo", Phase::Standby | Phase::Entering { .. }) => {
                self.phase = Phase::Entering { in_colo: true };
            }
            ("failed", Phase::Entering { .. }) if self.role == Role::Primary => {
                self.execute(Ask::MigrateError, "query-migrate", json!({}));
            }
            ("failed", Phase::Entering { .. }) => {
                self.stay_alone("the migration from the primary failed".into());
            }
            ("completed", Phase::Entering { .. }) => {
                self.stay_alone("QEMU migrated and did not enter COLO".into());
            }
            ("completed", Phase::Ending) => {
                self.end_unfinished(now);
                self.phase = Phase::Alone;
            }
            // Somebody told QEMU by hand that the other half is gone.
            ("completed", Phase::Colo | Phase::Broken) => self.on_told_by_hand(now),
            _ => {}
        }
    }

    /// The state of the checkpoint that was being made will not come any more.
    fn end_unfinished(&mut self, now: Instant) {
        if self.checkpoint.is_some() {
            self.fail(now, "the other half is gone".into());
        }
    }

    fn on_told_by_hand(&mut self, now: Instant) {
        self.phase = Phase::Alone;
        self.lose(now, "an operator told QEMU that the other half is gone");
        self.events.push_back(ColoFrameEvent::Failover);
    }

    fn on_colo_exit(&mut self, now: Instant, data: &Value) {
        if self.phase == Phase::Ending {
            return self.end_unfinished(now);
        }
        if matches!(self.phase, Phase::Entering { .. }) && self.role == Role::Primary {
            // Nothing was protected yet, and the guest stands still until QEMU is told.
            self.phase = Phase::Ending;
            self.copying = None;
            self.execute(Ask::LostHeartbeat, "x-colo-lost-heartbeat", json!({}));
            return self.stay_alone("the secondary's QEMU did not enter COLO".into());
        }
        if self.phase != Phase::Colo {
            return;
        }
        if data["reason"] == "request" {
            return self.on_told_by_hand(now);
        }
        self.phase = Phase::Broken;
        self.lose(now, "QEMU has lost its other half");
    }

    /// The pair is no more, nor is the checkpoint that it was making.
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

    // What the proxy wants.

    pub(super) fn request_checkpoint(&mut self, now: Instant) {
        self.requested += 1;
        match self.phase {
            Phase::Colo => {
                // One that is running settles it.
                if self.checkpoint.is_none() && self.triggered.is_none() {
                    self.due = Some(self.pace.on_request(now));
                }
            }
            _ => self.fail(now, format!("QEMU is not in COLO ({})", self.phase.name())),
        }
    }

    /// The other half is gone for good: this one goes on alone.
    pub(super) fn end(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Absent | Phase::Probing | Phase::Standby) {
            // It may be in COLO by now.
            self.is_end_wanted = true;
            if self.phase == Phase::Standby {
                self.probe();
            }
        }
        if matches!(self.phase, Phase::Colo | Phase::Broken | Phase::Entering { in_colo: true }) {
            // A secondary may have the state of a checkpoint that was being made: its events will
            // tell.
            if self.role == Role::Primary || self.checkpoint.is_none() {
                self.lose(now, "protection has ended");
            }
            self.phase = Phase::Ending;
            self.execute(Ask::LostHeartbeat, "x-colo-lost-heartbeat", json!({}));
        }
    }

    fn on_ended(&mut self, result: Result<Value, Refusal>) {
        // Otherwise it is over when QEMU says so: what it says before may be of a checkpoint.
        if let Err(refusal) = result {
            let why = format!("QEMU does not let its guest go on alone: {refusal}");
            log::error!("{why}");
            self.trouble = Some(why);
            if self.phase == Phase::Ending {
                self.phase = Phase::Alone;
            }
        }
        if self.role == Role::Secondary {
            // QEMU's own announcement, behind ours: it repeats itself, for switches that lose one.
            let rounds = json!({"initial": 50, "max": 550, "rounds": 5, "step": 50});
            self.execute(Ask::Announce, "announce-self", rounds);
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
            self.execute(Ask::Checkpoint, "migrate-set-parameters", parameters);
        }
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe();
        }
        if self.given_up().is_some_and(|at| at <= now) {
            self.phase = Phase::Broken;
            self.lose(now, "QEMU makes no checkpoint; its other half is gone, or hangs");
        }
    }

    // What `status` shows.

    pub(super) fn report(&self) -> Value {
        json!({
            "driver": "qmp",
            "qemu": self.version.map(|version| version.to_string()),
            "state": self.phase.name(),
            "trouble": self.trouble,
            "checkpoints": {
                "requested": self.requested,
                "done": self.pauses.count(),
                "failed": self.failed,
                "uncovered": self.uncovered,
            },
            "pause_us": self.pauses.report(),
            "spacing_ms": self.pace.spacing().as_millis() as u64,
        })
    }
}

#[cfg(test)]
mod tests;
