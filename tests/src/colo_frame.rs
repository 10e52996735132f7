//! A COLO-frame for tests: a shell script that a daemon runs (`script:PATH`). It records the
//! commands that it receives, and writes the lines that the test gives it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::stat::Mode;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::eventually;

/// The primary's guest is paused.
pub const BEGAN: &str = r#"{"event":"checkpoint-began"}"#;
/// The secondary has received everything.
pub const DONE: &str = r#"{"event":"checkpoint-done"}"#;
/// There will be no checkpoint.
pub const FAILED: &str = r#"{"event":"checkpoint-failed","reason":"no"}"#;
/// This host must take over.
pub const FAILOVER: &str = r#"{"event":"failover"}"#;

/// The script. It must outlive the daemon that runs it, so make it first.
///
/// It lives as long as its standard input, or as our end of the FIFO if that lives longer. Both end
/// if the daemon and the test are killed.
#[derive(Debug)]
pub struct ScriptFrame {
    dir: TempDir,
    say: File,
}

impl ScriptFrame {
    /// A script that answers each request for a checkpoint with these lines at once.
    pub fn answering(answers: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir().context("making a folder for a COLO-frame")?;
        let fifo = dir.path().join("frame.say");
        nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).context("making a FIFO")?;
        // The FIFO is open for both directions, so that opening does not block.
        let say = OpenOptions::new().read(true).write(true).open(&fifo).context("opening it")?;
        let frame = Self { dir, say };
        let path = frame.path();
        std::fs::write(&path, script(answers)).context("writing a COLO-frame")?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o700))
            .context("making a COLO-frame executable")?;
        Ok(frame)
    }

    /// A script that writes only the lines of [`say`](Self::say).
    pub fn silent() -> Result<Self> {
        Self::answering(&[])
    }

    /// The value of `--colo-frame` and `colo_frame`.
    pub fn kind(&self) -> String {
        format!("script:{}", self.path().display())
    }

    /// Makes the script write a line.
    pub fn say(&self, line: &str) -> Result<()> {
        (&self.say)
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("making a COLO-frame write {line}"))
    }

    /// The commands of this name that it has received so far.
    pub fn told(&self, command: &str) -> Result<Vec<Value>> {
        let text = match std::fs::read_to_string(self.dir.path().join("frame.told")) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context("reading the commands to a COLO-frame"),
        };
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut told = Vec::new();
        for line in whole {
            let value: Value =
                serde_json::from_str(line).with_context(|| format!("reading `{line}`"))?;
            if value.get("command").and_then(Value::as_str) == Some(command) {
                told.push(value);
            }
        }
        Ok(told)
    }

    /// Every request for a checkpoint so far.
    pub fn requests(&self) -> Result<Vec<Value>> {
        self.told("request-checkpoint")
    }

    /// Waits until it has received `command` at least `count` times.
    pub fn wait_told(&self, command: &str, count: usize, timeout: Duration) -> Result<Vec<Value>> {
        eventually(&format!("{count} times `{command}`"), timeout, || {
            let told = self.told(command)?;
            Ok((told.len() >= count).then_some(told))
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("frame")
    }
}

/// One half records and answers. The other half passes on the lines from the FIFO.
fn script(answers: &[&str]) -> String {
    let answers: Vec<String> = answers.iter().map(|answer| format!(" echo '{answer}';")).collect();
    let answers = answers.concat();
    format!(
        r#"#!/bin/sh
exec 3<&0
while read -r line; do
    printf '%s\n' "$line" >> "$0.told"
    case "$line" in *'"request-checkpoint"'*){answers} ;; esac
done <&3 &
exec cat <"$0.say" 3<&-
"#
    )
}
