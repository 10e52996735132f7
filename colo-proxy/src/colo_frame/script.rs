//! Runs a command and speaks JSON lines with it: a [`ColoFrameCommand`] a line on its standard input,
//! a [`ColoFrameEvent`] a line on its standard output. Its standard error is ours.
//!
//! A script that ends is started again, so that it may end when it likes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::task::AbortOnDropHandle;

use super::{ColoFrame, ColoFrameCommand, ColoFrameError, ColoFrameEvent, NextEvent};
use crate::error_chain::chain;
use crate::status::ColoFrameReport;

/// The longest line a script may write; a longer one ends the conversation.
const LINE_MAX: usize = 4096;
/// Lines that may wait, in either direction.
const WAITING_MAX: usize = 64;
/// Pause before a script that ended is started again.
const RESTART: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct ScriptDriver {
    /// The guest, for the log.
    instance: String,
    commands: mpsc::Sender<String>,
    events: mpsc::Receiver<ColoFrameEvent>,
    /// Ends with this, and the script with it.
    _task: AbortOnDropHandle<()>,
}

impl ScriptDriver {
    pub(super) fn start(instance: &str, path: &Path) -> Result<Self, ColoFrameError> {
        let child = spawn(path)?;
        let script = ServedScript { instance: instance.into(), path: path.into() };
        let (commands, from_proxy) = mpsc::channel(WAITING_MAX);
        let (to_proxy, events) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(serve(script, child, from_proxy, to_proxy));
        Ok(Self {
            instance: instance.into(),
            commands,
            events,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

impl ColoFrame for ScriptDriver {
    fn command(&mut self, command: &ColoFrameCommand) {
        // Strings and integers always serialise.
        let line = serde_json::to_string(command).unwrap_or_default();
        if self.commands.try_send(line).is_err() {
            log::error!(
                "{}: the COLO-frame script does not read its standard input, so this command is lost: \
                 {command:?}",
                self.instance
            );
        }
    }

    fn next_event(&mut self) -> NextEvent<'_> {
        Box::pin(async {
            match self.events.recv().await {
                Some(event) => event,
                // The task that serves the script only ends with this.
                None => std::future::pending().await,
            }
        })
    }

    fn report(&self) -> ColoFrameReport {
        ColoFrameReport::Script
    }
}

fn spawn(path: &Path) -> Result<Child, ColoFrameError> {
    tokio::process::Command::new(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ColoFrameError::Start { path: path.display().to_string(), source })
}

/// The script of a guest.
struct ServedScript {
    instance: String,
    path: PathBuf,
}

/// Serves one child after the other until the proxy is gone.
async fn serve(
    script: ServedScript,
    mut child: Child,
    mut commands: mpsc::Receiver<String>,
    events: mpsc::Sender<ColoFrameEvent>,
) {
    let ServedScript { instance, path } = script;
    loop {
        if let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take())
            && converse(&instance, stdin, stdout, &mut commands, &events).await == ScriptEnd::Proxy
        {
            return;
        }
        log::error!(
            "{instance}: the COLO-frame script {} ended. It is started again",
            path.display()
        );
        // Its checkpoint will not come: the proxy asks again.
        let failed = ColoFrameEvent::CheckpointFailed { reason: "the script ended".into() };
        if events.send(failed).await.is_err() {
            return;
        }
        child = loop {
            tokio::time::sleep(RESTART).await;
            match spawn(&path) {
                Ok(child) => break child,
                Err(error) => log::error!("{instance}: {}; trying again", chain(&error)),
            }
        };
    }
}

#[derive(PartialEq, Eq)]
enum ScriptEnd {
    Proxy,
    Script,
}

async fn converse(
    instance: &str,
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    commands: &mut mpsc::Receiver<String>,
    events: &mpsc::Sender<ColoFrameEvent>,
) -> ScriptEnd {
    let mut lines = FramedRead::new(stdout, LinesCodec::new_with_max_length(LINE_MAX));
    loop {
        tokio::select! {
            command = commands.recv() => {
                let Some(line) = command else { return ScriptEnd::Proxy };
                if stdin.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    return ScriptEnd::Script;
                }
            }
            line = lines.next() => {
                let line = match line {
                    Some(Ok(line)) => line,
                    // Too long, or not UTF-8: this is no script that speaks our language.
                    Some(Err(error)) => {
                        let why = chain(&error);
                        log::error!("{instance}: cannot read from the COLO-frame script: {why}");
                        return ScriptEnd::Script;
                    }
                    None => return ScriptEnd::Script,
                };
                match serde_json::from_str(&line) {
                    Ok(event) => if events.send(event).await.is_err() { return ScriptEnd::Proxy },
                    Err(error) => log::warn!(
                        "{instance}: the COLO-frame script wrote `{line}`, which is no event: {}",
                        chain(&error)
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A script that answers each command line with `answers`.
    fn script(dir: &tempfile::TempDir, body: &str) -> PathBuf {
        let path = dir.path().join("frame");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("the script is written");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("it becomes executable");
        path
    }

    fn request() -> ColoFrameCommand {
        let reasons = vec!["payload".into()];
        ColoFrameCommand::RequestCheckpoint { instance: "web".into(), epoch: 4, reasons }
    }

    #[tokio::test]
    async fn it_is_asked_in_json_and_answers_in_json() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = script(
            &dir,
            r#"
            read line; echo "$line" > "$0.asked"
            echo 'no json'
            echo '{"event":"checkpoint-began"}'
            echo '{"event":"checkpoint-done"}'
            echo '{"event":"checkpoint-done","state_copied":false}'
            echo '{"event":"failover"}'
            read line"#,
        );
        let mut frame = ScriptDriver::start("guest", &path).expect("it starts");
        frame.command(&request());
        assert_eq!(frame.next_event().await, ColoFrameEvent::CheckpointBegan);
        assert_eq!(frame.next_event().await, ColoFrameEvent::DONE);
        assert_eq!(
            frame.next_event().await,
            ColoFrameEvent::CheckpointDone { state_copied: false, covers: true }
        );
        assert_eq!(frame.next_event().await, ColoFrameEvent::Failover);
        let asked = std::fs::read_to_string(dir.path().join("frame.asked")).expect("it was asked");
        assert_eq!(
            asked.trim(),
            r#"{"command":"request-checkpoint","instance":"web","epoch":4,"reasons":["payload"]}"#
        );
    }

    #[tokio::test]
    async fn one_that_ends_fails_its_checkpoint_and_is_started_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = script(
            &dir,
            r#"read line; test -e "$0.once" && echo '{"event":"failover"}'; touch "$0.once""#,
        );
        let mut frame = ScriptDriver::start("guest", &path).expect("it starts");
        frame.command(&request());
        assert!(matches!(frame.next_event().await, ColoFrameEvent::CheckpointFailed { .. }));
        frame.command(&request());
        assert_eq!(frame.next_event().await, ColoFrameEvent::Failover);
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_named() {
        let error = ScriptDriver::start("guest", Path::new("/nonexistent/frame"))
            .expect_err("nothing there");
        assert!(error.to_string().contains("/nonexistent/frame"), "{error}");
    }
}
