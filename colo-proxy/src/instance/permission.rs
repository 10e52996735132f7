//! Asking whether this half may go on without the other: the quorum command of `[guest.takeover]`, then
//! its fence command. Each of them has to succeed.
//!
//! A question can be withdrawn until the fence begins. From then on the fence may end the other guest
//! any moment, and there is no way back.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::config::{Guest, Role, TakeoverConfig};
use crate::error_chain::chain;

/// Yes, or why not.
pub(super) type PermissionAnswer = Result<(), PermissionRefusal>;

/// The command that did not say yes. One that cannot be run, or does not end, did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PermissionRefusal {
    #[error("{0}")]
    Quorum(String),
    #[error("{0}")]
    Fence(String),
}

/// How far a question has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Quorum,
    Withdrawn,
    Fence,
}

/// One question at a time.
#[derive(Debug)]
pub(super) struct PermissionTask {
    takeover: TakeoverConfig,
    role: Role,
    instance: String,
    netdev: String,
    asking: Option<Asking>,
}

#[derive(Debug)]
struct Asking {
    stage: Arc<Mutex<Stage>>,
    task: JoinHandle<PermissionAnswer>,
}

impl Asking {
    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // The running command ends with its task.
        self.task.abort();
    }
}

impl PermissionTask {
    pub(super) fn new(guest: &Guest, instance: &str) -> Self {
        Self {
            takeover: guest.takeover.clone(),
            role: guest.role(),
            instance: instance.into(),
            netdev: guest.netdev.clone(),
            asking: None,
        }
    }

    /// Asks, unless that is being done.
    pub(super) fn ask(&mut self) {
        if self.asking.is_some() {
            return;
        }
        let stage = Arc::new(Mutex::new(Stage::Quorum));
        let question = PermissionCommands {
            quorum: self.takeover.quorum.clone(),
            fence: self.takeover.fence.clone(),
            timeout: self.takeover.timeout,
            environment: [
                ("COLO_PROXY_INSTANCE", self.instance.clone()),
                ("COLO_PROXY_NETDEV", self.netdev.clone()),
                ("COLO_PROXY_ROLE", self.role.to_string()),
            ],
        };
        let task = tokio::spawn(question.decide(Arc::clone(&stage)));
        self.asking = Some(Asking { stage, task });
    }

    /// The reason to ask is gone. The question goes, too: its answer must not count for the next one.
    /// `false`: a fence has begun and goes on, and its answer comes.
    pub(super) fn withdraw(&mut self) -> bool {
        let Some(asking) = &self.asking else { return true };
        {
            let mut stage = asking.stage.lock().unwrap_or_else(PoisonError::into_inner);
            if *stage == Stage::Fence {
                return false;
            }
            *stage = Stage::Withdrawn;
        }
        self.asking = None;
        true
    }

    /// Waits for the answer to a question that was asked. Can be dropped without losing it.
    pub(super) async fn next(&mut self) -> PermissionAnswer {
        let Some(asking) = &mut self.asking else { return std::future::pending().await };
        let answer = (&mut asking.task).await;
        let stage = asking.stage();
        self.asking = None;
        answer.unwrap_or_else(|error| {
            let refused = if stage == Stage::Fence {
                PermissionRefusal::Fence
            } else {
                PermissionRefusal::Quorum
            };
            Err(refused(chain(&error)))
        })
    }
}

/// The commands, and their environment.
struct PermissionCommands {
    quorum: Option<PathBuf>,
    fence: Option<PathBuf>,
    timeout: Duration,
    environment: [(&'static str, String); 3],
}

impl PermissionCommands {
    async fn decide(self, stage: Arc<Mutex<Stage>>) -> PermissionAnswer {
        if let Some(quorum) = &self.quorum {
            self.run(quorum).await.map_err(PermissionRefusal::Quorum)?;
        }
        let Some(fence) = &self.fence else { return Ok(()) };
        {
            let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
            if *stage == Stage::Withdrawn {
                // Nobody waits for this answer any more.
                return Err(PermissionRefusal::Quorum("the question was withdrawn".into()));
            }
            *stage = Stage::Fence;
        }
        self.run(fence).await.map_err(PermissionRefusal::Fence)
    }

    async fn run(&self, path: &Path) -> Result<(), String> {
        let command = path.display();
        let cannot_run = |error: std::io::Error| format!("cannot run {command}: {}", chain(&error));
        let mut group = Group::spawn(path, &self.environment).map_err(cannot_run)?;
        match tokio::time::timeout(self.timeout, group.0.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{command} says no: {status}")),
            Ok(Err(error)) => Err(cannot_run(error)),
            Err(_) => Err(format!("{command} did not end in {} ms", self.timeout.as_millis())),
        }
    }
}

/// A command and all processes that it started. They are killed with this: a command that was given up
/// must not fence later.
struct Group(Child);

impl Group {
    fn spawn(path: &Path, environment: &[(&'static str, String)]) -> std::io::Result<Self> {
        let child = Command::new(path)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            // Has the runtime reap it.
            .kill_on_drop(true)
            .spawn();
        child.map(Self)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A child that was reaped has no id any more, so this is nobody else's.
        let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) else { return };
        if let Err(error) = killpg(Pid::from_raw(id), Signal::SIGKILL) {
            log::error!(
                "cannot end the fence or quorum command with the process id {id}: {}. End it by hand: \
                 it may still fence",
                chain(&error)
            );
        }
    }
}

#[cfg(test)]
mod tests;
