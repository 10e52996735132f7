//! A guest's serial line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::Process;

/// The guest's output by line, and the input to the guest.
#[derive(Debug)]
pub(super) struct Console {
    keyboard: ChildStdin,
    lines: Receiver<String>,
    /// The output that was already read, for messages.
    seen: String,
}

impl Console {
    pub(super) fn of(process: &mut Process) -> Result<Self> {
        let keyboard = process.take_stdin().context("the guest's stdin is not piped")?;
        let screen = process.take_stdout().context("the guest's stdout is not piped")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(screen).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { keyboard, lines, seen: String::new() })
    }

    /// The output since the last read.
    pub(super) fn rest(&self) -> String {
        self.lines.try_iter().collect::<Vec<_>>().join("\n")
    }

    /// One line to the guest's first program, which answers with its counters.
    pub(super) fn ask(&mut self) -> Result<()> {
        self.seen.clear();
        self.keyboard.write_all(b"\n").context("writing to a guest's console")
    }

    /// The lines before the line `end`.
    pub(super) fn lines_until(&mut self, end: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut before = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line == end => return Ok(before),
                Ok(line) => {
                    for text in [&mut before, &mut self.seen] {
                        text.push_str(&line);
                        text.push('\n');
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no `{end}` in {timeout:?}; its console:\n{}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("it ended before `{end}`; its console:\n{}", self.seen)
                }
            }
        }
    }
}
