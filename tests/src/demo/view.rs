//! The demo's output: lines that stay, and on a terminal a block below them that is redrawn.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stdout};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The target of the lines.
#[derive(Debug)]
pub(super) struct View {
    terminal: bool,
    began: Instant,
    drawn: Mutex<Vec<String>>,
}

impl View {
    pub(super) fn new(plain: bool) -> Self {
        let terminal = !plain && stdout().is_terminal();
        Self { terminal, began: Instant::now(), drawn: Mutex::default() }
    }

    /// Whether there is a terminal where a block can be redrawn.
    pub(super) fn is_live(&self) -> bool {
        self.terminal
    }

    /// Prints one line or several that stay.
    pub(super) fn say(&self, text: &str) {
        let drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        erase(&drawn, &mut out);
        for line in text.lines() {
            if !self.terminal {
                let _ = write!(out, "[{:6.2}] ", self.began.elapsed().as_secs_f64());
            }
            out += line;
            out += "\n";
        }
        draw(&drawn, &mut out);
        print(&out);
    }

    /// Prints the headline of a step.
    pub(super) fn step(&self, number: u32, title: &str) {
        let (bold, normal) = if self.terminal { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.say(&format!("{bold}{number}. {title}{normal}"));
    }

    /// Draws the block below the lines.
    pub(super) fn live(&self, lines: &[String]) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.terminal || *drawn == lines {
            return;
        }
        let mut out = String::new();
        erase(&drawn, &mut out);
        *drawn = lines.to_vec();
        draw(&drawn, &mut out);
        print(&out);
    }

    /// Removes the block.
    pub(super) fn quiet(&self) {
        self.live(&[]);
    }
}

/// Moves to the start of the block and clears everything below.
fn erase(drawn: &[String], out: &mut String) {
    if !drawn.is_empty() {
        let _ = write!(out, "\x1b[{}A\x1b[J", drawn.len());
    }
}

/// No line may wrap: a wrapped line would be two lines to erase.
fn draw(drawn: &[String], out: &mut String) {
    for line in drawn {
        let _ = writeln!(out, "\x1b[?7l\x1b[2m{line}\x1b[0m\x1b[?7h");
    }
}

/// A reader that has gone away is no reason to stop.
fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
