//! The README's commands exist: cargo's are parsed by our own command line, the daemon's options
//! are looked up in what the daemon prints about itself.

use super::Finding;
use crate::cli::Arguments;
use crate::{command, workspace};
use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use std::fs;
use std::path::Path;
use std::process::Command;

const RULE: &str = "README command";

/// A command in a block of code of the README.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub line: usize,
    pub words: Vec<String>,
}

/// The README's `cargo xtask` commands are ones that we accept.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Shown { line, words } in commands(text, &["cargo", "xtask"]) {
        // The parser's name for the program is two words, and it expects one.
        if let Err(error) = Arguments::try_parse_from(&words[1..]) {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            let what = format!("`{}`: {reason}", words.join(" "));
            findings.push(Finding { path: path.to_owned(), line, rule: RULE, what });
        }
    }
    findings
}

/// The README's `colo-proxy` commands and their options are in the daemon's own help.
pub fn readme_against_daemon(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join("README.md")).context("cannot read README.md")?;
    let shown = commands(&text, &["colo-proxy"]);
    for Shown { line, words } in &shown {
        let task = words.get(1).map_or("--help", String::as_str);
        let help = command::output(
            Command::new(workspace::cargo())
                .args([
                    "run",
                    "--quiet",
                    "--locked",
                    "--package",
                    "colo-proxy",
                    "--",
                    task,
                    "--help",
                ])
                .current_dir(root),
        )
        .with_context(|| format!("README.md:{line}: `colo-proxy {task}` is not a command"))?;
        if let Some(unknown) = unknown_option(words, &help) {
            bail!("README.md:{line}: `colo-proxy {task}` has no option {unknown}");
        }
    }
    println!("README: {} commands of the daemon exist", shown.len());
    Ok(())
}

/// The first option among `words` that `help` does not mention.
pub(super) fn unknown_option<'a>(words: &'a [String], help: &str) -> Option<&'a str> {
    let known: Vec<&str> = help.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    let options = words.iter().map(String::as_str).filter(|word| word.starts_with("--"));
    options.map(|word| word.split('=').next().unwrap_or(word)).find(|word| !known.contains(word))
}

/// The commands that start with the words `start`, in the blocks of code of `text`. A line that
/// ends in a backslash goes on in the next one.
pub(super) fn commands(text: &str, start: &[&str]) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut in_block = false;
    let mut pending: Option<(usize, String)> = None;
    for (i, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if !in_block {
            continue;
        }
        let (first, mut joined) = pending.take().unwrap_or((i + 1, String::new()));
        if let Some(part) = line.strip_suffix('\\') {
            joined.push_str(part);
            pending = Some((first, joined));
            continue;
        }
        joined.push_str(line);
        let code = joined.split(" #").next().unwrap_or_default();
        // Whoever types `sudo` or the prompt's mark means the command behind it.
        let words: Vec<String> = code
            .split_whitespace()
            .skip_while(|word| matches!(*word, "$" | "#" | "sudo"))
            .map(str::to_owned)
            .collect();
        if words.len() >= start.len() && words.iter().zip(start).all(|(word, want)| word == want) {
            found.push(Shown { line: first, words });
        }
    }
    found
}
