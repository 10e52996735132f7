//! What a command asks of instances, and prints on its standard output.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::anyhow;
use colo_proxy::status::{self, InstanceHead, InstanceRole, Reply, Request, StatusError};
use serde::Serialize;

/// What is printed if there is nobody to ask.
pub(super) const NONE: &str = "no instance is running\n";

/// What instances answered.
pub(super) struct Answers<T> {
    pub(super) found: Vec<T>,
    /// Of the instances without an answer.
    pub(super) silent: Vec<anyhow::Error>,
}

/// The instance that `name` means. Without a name: all that run.
pub(super) fn names(dir: &Path, name: Option<&str>) -> Result<Vec<String>, StatusError> {
    match name {
        Some(name) => Ok(vec![status::find(dir, name)?]),
        None => status::running(dir),
    }
}

/// Asks one after the other. `take` takes the answer that is expected, and gives back any other.
pub(super) fn ask_all<T>(
    dir: &Path,
    names: &[String],
    request: &Request,
    take: impl Fn(Reply) -> Result<T, Reply>,
) -> Answers<T> {
    let mut answers = Answers { found: Vec::new(), silent: Vec::new() };
    for name in names {
        match status::ask(dir, name, request).map(&take) {
            Ok(Ok(found)) => answers.found.push(found),
            Ok(Err(other)) => {
                answers.silent.push(anyhow!("instance {name} answered {other:?}"));
            }
            Err(error) => answers.silent.push(error.into()),
        }
    }
    answers
}

/// Prints `text`. If the reader has seen enough, as `head` does, that is no failure.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// An answer for programs.
pub(super) fn json(answer: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(answer)? + "\n")
}

/// The first line about an instance.
pub(super) fn head(head: &InstanceHead, role: InstanceRole, mode: impl Display) -> String {
    let InstanceHead { instance, netdev, netdev_present, pid, .. } = head;
    let gone = if *netdev_present { "" } else { ", which is gone" };
    format!("{instance} ({role} of {netdev}{gone}, pid {pid}): {mode}")
}

/// The counters of a status by name, in one line.
pub(super) fn counts(counts: &BTreeMap<String, u64>) -> String {
    let all: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// The command fails with the last of `errors`, if there are any. Each has a line.
pub(super) fn fail_with(mut errors: Vec<anyhow::Error>) -> anyhow::Result<()> {
    let Some(last) = errors.pop() else { return Ok(()) };
    for error in errors {
        eprintln!("colo-proxy: error: {error:#}");
    }
    Err(last)
}
