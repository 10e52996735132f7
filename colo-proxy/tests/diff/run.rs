//! Runs the command on two captures.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::captures::Tape;

/// A folder that has both captures.
#[derive(Debug)]
pub(crate) struct Captures {
    folder: tempfile::TempDir,
}

/// The output and the exit code of the command.
#[derive(Debug)]
pub(crate) struct CommandResult {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl CommandResult {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code().expect("it ends by itself"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("one JSON object")
    }
}

impl Captures {
    pub(crate) fn new(primary: &[u8], secondary: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("primary.pcap"), primary).expect("written");
        std::fs::write(folder.path().join("secondary.pcap"), secondary).expect("written");
        Self { folder }
    }

    pub(crate) fn of(primary: &Tape, secondary: &Tape) -> Self {
        Self::new(&primary.pcap(), &secondary.pcap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn diff(&self, more: &[&str]) -> CommandResult {
        let files = [self.path("primary.pcap"), self.path("secondary.pcap")];
        diff(&files[0], &files[1], more)
    }

    /// Expects that the guests are equal, and gives the report.
    pub(crate) fn equal(&self, more: &[&str]) -> Value {
        let said = self.diff(&[&["--json"], more].concat());
        assert_eq!(said.code, 0, "{said:?}");
        let report = said.json();
        assert_eq!(report["diverged"], false, "{report:#}");
        assert_eq!(report["checkpoints"], 0, "{report:#}");
        report
    }

    /// Expects that the guests differ, and gives the report.
    pub(crate) fn different(&self, more: &[&str]) -> Value {
        let said = self.diff(&[&["--json"], more].concat());
        assert_eq!(said.code, 1, "{said:?}");
        let report = said.json();
        assert_eq!(report["diverged"], true, "{report:#}");
        report
    }
}

pub(crate) fn diff(primary: &Path, secondary: &Path, more: &[&str]) -> CommandResult {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colo-proxy"));
    command.arg("diff").arg(primary).arg(secondary).args(more);
    CommandResult::new(&command.output().expect("it runs"))
}
