//! What a command prints on its standard output.

use std::io::{self, ErrorKind, Write};

use serde_json::Value;

/// Prints `text`. A reader who has seen enough, as `head` does, is no failure.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// The command fails with the last of `errors`, if there are any. Each has a line.
pub(super) fn fail_with(mut errors: Vec<anyhow::Error>) -> anyhow::Result<()> {
    let Some(last) = errors.pop() else { return Ok(()) };
    for error in errors {
        eprintln!("colo-proxy: error: {error:#}");
    }
    Err(last)
}

/// The counters of a status by name, in one line.
pub(super) fn counts(map: &Value) -> String {
    let all: Vec<String> =
        map.as_object().into_iter().flatten().map(|(name, n)| format!("{name} {n}")).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}
