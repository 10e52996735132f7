//! Asking whether this half may go on without the other: the quorum and the fence command of
//! `[guest.takeover]`, in this order, each of which has to succeed.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::config::{Guest, Role, Takeover};

/// Yes, or why not.
pub(super) type Answer = Result<(), Refused>;

/// Who said no, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}")]
    Quorum(String),
    #[error("{0}")]
    Fence(String),
}

/// One question at a time.
#[derive(Debug)]
pub(super) struct Permission {
    takeover: Takeover,
    role: Role,
    instance: String,
    netdev: String,
    asking: Option<JoinHandle<Answer>>,
}

impl Permission {
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
        let commands: Vec<_> =
            [&self.takeover.quorum, &self.takeover.fence].into_iter().flatten().cloned().collect();
        let (instance, netdev, role) = (self.instance.clone(), self.netdev.clone(), self.role);
        let timeout = self.takeover.timeout;
        self.asking = Some(tokio::spawn(async move {
            for path in commands {
                let run = run(&path, &instance, &netdev, role);
                let Ok(done) = tokio::time::timeout(timeout, run).await else {
                    let ms = timeout.as_millis();
                    return Err(Refused::Fence(format!(
                        "{} did not end in {ms} ms",
                        path.display()
                    )));
                };
                done?;
            }
            Ok(())
        }));
    }

    /// The reason to ask has gone.
    pub(super) fn withdraw(&mut self) {}

    /// Waits for the answer to a question that was asked. Can be dropped without losing it.
    pub(super) async fn next(&mut self) -> Answer {
        let Some(asking) = &mut self.asking else { return std::future::pending().await };
        let answer = asking.await;
        self.asking = None;
        answer.unwrap_or_else(|error| Err(Refused::Fence(error.to_string())))
    }
}

async fn run(path: &Path, instance: &str, netdev: &str, role: Role) -> Answer {
    let status = Command::new(path)
        .env("COLO_PROXY_INSTANCE", instance)
        .env("COLO_PROXY_NETDEV", netdev)
        .env("COLO_PROXY_ROLE", role.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // One that is given up must not fence later.
        .kill_on_drop(true)
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Refused::Fence(format!("{} says no: {status}", path.display()))),
        Err(error) => Err(Refused::Fence(format!("cannot run {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn script(dir: &tempfile::TempDir, name: &str, body: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn permission(quorum: Option<PathBuf>, fence: Option<PathBuf>) -> Permission {
        Permission {
            takeover: Takeover { fence, quorum, timeout: Duration::from_secs(5) },
            role: Role::Secondary,
            instance: "web".into(),
            netdev: "tap0".into(),
            asking: None,
        }
    }

    #[tokio::test]
    async fn the_quorum_is_asked_before_anybody_is_fenced() {
        let dir = tempfile::tempdir().unwrap();
        let note = r#"echo "$(basename "$0") $COLO_PROXY_INSTANCE $COLO_PROXY_ROLE" >> "$(dirname "$0")/log""#;
        let quorum = script(&dir, "quorum", note);
        let fence = script(&dir, "fence", note);
        let mut permission = permission(Some(quorum.clone()), Some(fence));
        permission.ask();
        assert_eq!(permission.next().await, Ok(()));
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(log, "quorum web secondary\nfence web secondary\n");
        // The twin whose quorum says no fences nobody.
        script(&dir, "quorum", "exit 3");
        permission.ask();
        let why = permission.next().await.unwrap_err().to_string();
        assert!(why.contains("says no") && why.contains('3'), "{why}");
        assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), log);
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_and_one_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut hangs = permission(None, Some(script(&dir, "fence", "exec sleep 60")));
        hangs.takeover.timeout = Duration::from_millis(50);
        hangs.ask();
        assert!(hangs.next().await.unwrap_err().to_string().contains("did not end in 50 ms"));
        let mut missing = permission(None, Some("/nonexistent/fence".into()));
        missing.ask();
        assert!(
            missing.next().await.unwrap_err().to_string().contains("cannot run /nonexistent/fence")
        );
    }
}
