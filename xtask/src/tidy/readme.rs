//! The examples of the README and of the pages below `docs/` work.
//!
//! Commands of cargo are parsed by our own command line. Commands of the daemon are compared with
//! the help that it prints. The daemon itself reads each configuration. No example listens on every
//! address.

use super::Finding;
use crate::cli::TaskArguments;
use crate::{command, workspace};
use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::Path;
use std::process::Command;

const COMMAND: &str = "example command";
const ADDRESS: &str = "example address";
/// Addresses that mean every address of a host. The lanes are not authenticated.
const EVERY_ADDRESS: [&str; 2] = ["0.0.0.0", "[::]"];

/// A command in a block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShownCommand {
    pub line: usize,
    pub words: Vec<String>,
}

/// A block of code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    /// Language behind the fence.
    pub language: &'a str,
    /// Number of the first line inside, from 1.
    pub line: usize,
    pub lines: Vec<&'a str>,
}

/// Readers copy the examples of this page.
pub(super) fn has_examples(path: &str) -> bool {
    let is_page = Path::new(path).extension().is_some_and(|end| end == "md");
    path == "README.md" || (path.starts_with("docs/") && is_page)
}

/// The `cargo xtask` commands of a page are ones that we accept, and no example of it listens on
/// every address.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |line, rule, what| {
        findings.push(Finding { path: path.to_owned(), line, rule, what });
    };
    for ShownCommand { line, words } in commands(text, &["cargo", "xtask"]) {
        // The parser's name for the program is two words, and it expects one.
        if let Err(error) = TaskArguments::try_parse_from(&words[1..]) {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            add(line, COMMAND, format!("`{}`: {reason}", words.join(" ")));
        }
    }
    for Block { line, lines, .. } in blocks(text) {
        for (i, shown) in lines.iter().enumerate() {
            if EVERY_ADDRESS.iter().any(|address| shown.contains(address)) {
                let what = "the example listens on every address: name that of the link".to_owned();
                add(line + i, ADDRESS, what);
            }
        }
    }
    findings
}

/// The `colo-proxy` commands of all pages and their options are in the daemon's own help, and the
/// daemon accepts the configurations.
pub fn readme_against_daemon(root: &Path) -> Result<()> {
    let mut helps = BTreeMap::new();
    let (mut commands_count, mut configurations_count) = (0, 0);
    for path in super::files(root)?.iter().filter(|path| has_examples(path)) {
        let text =
            fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        for shown in commands(&text, &["colo-proxy"]) {
            command_against_help(root, path, &shown, &mut helps)?;
            commands_count += 1;
        }
        for block in blocks(&text).iter().filter(|block| is_configuration(block)) {
            configuration_against_daemon(root, path, block)?;
            configurations_count += 1;
        }
    }
    println!(
        "examples: {commands_count} commands of the daemon exist, and it accepts \
         {configurations_count} configurations"
    );
    Ok(())
}

/// The command is one of the daemon's, and its help mentions the options. `helps` has the texts
/// that were asked for before.
fn command_against_help(
    root: &Path,
    path: &str,
    ShownCommand { line, words }: &ShownCommand,
    helps: &mut BTreeMap<String, String>,
) -> Result<()> {
    let task = task(words);
    let name = task.join(" ");
    let help = match helps.entry(name.clone()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => unknown.insert(
            command::output(daemon(root).args(&task).arg("--help"))
                .with_context(|| format!("{path}:{line}: `colo-proxy {name}` is no command"))?,
        ),
    };
    if let Some(unknown) = unknown_option(words, help) {
        bail!("{path}:{line}: `colo-proxy {name}` has no option {unknown}");
    }
    Ok(())
}

/// The daemon reads the configuration in `block`. `qemu-args` reads it as `run` does, needs no
/// root, and attaches nothing.
fn configuration_against_daemon(root: &Path, path: &str, block: &Block<'_>) -> Result<()> {
    let file = std::env::temp_dir().join(format!("colo-proxy-example-{}.toml", std::process::id()));
    fs::write(&file, block.lines.join("\n"))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let read = command::output(daemon(root).args(["qemu-args", "--config"]).arg(&file));
    // A file that stays in the folder for temporary ones does no harm.
    let _ = fs::remove_file(&file);
    read.with_context(|| format!("{path}:{}: the daemon refuses this example", block.line))?;
    Ok(())
}

/// The daemon, built if needed.
fn daemon(root: &Path) -> Command {
    let mut command = Command::new(workspace::cargo());
    command.args(["run", "--quiet", "--locked", "--package", "colo-proxy", "--"]).current_dir(root);
    command
}

/// A part of a configuration cannot be read alone.
pub(super) fn is_configuration(block: &Block<'_>) -> bool {
    block.language == "toml" && block.lines.iter().any(|line| line.trim() == "[[guest]]")
}

/// The words of a command that say whose help has its options: the command, and that below it.
pub(super) fn task(words: &[String]) -> Vec<&str> {
    let deep = if words.get(1).is_some_and(|word| word == "offsets") { 2 } else { 1 };
    let named = words.iter().skip(1).map(String::as_str);
    named.take_while(|word| !word.starts_with('-')).take(deep).collect()
}

/// The first option among `words` that `help` does not mention.
pub(super) fn unknown_option<'a>(words: &'a [String], help: &str) -> Option<&'a str> {
    let known: Vec<&str> = help.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    let options = words.iter().map(String::as_str).filter(|word| word.starts_with("--"));
    options.map(|word| word.split('=').next().unwrap_or(word)).find(|word| !known.contains(word))
}

/// The commands that start with the words `start`, in the blocks of code of `text`. A line that
/// ends in a backslash goes on in the next one.
pub(super) fn commands(text: &str, start: &[&str]) -> Vec<ShownCommand> {
    let mut found = Vec::new();
    for block in blocks(text) {
        let mut pending: Option<(usize, String)> = None;
        for (i, line) in block.lines.iter().enumerate() {
            let (first, mut joined) = pending.take().unwrap_or((block.line + i, String::new()));
            if let Some(part) = line.strip_suffix('\\') {
                joined.push_str(part);
                pending = Some((first, joined));
                continue;
            }
            joined.push_str(line);
            let words = words(&joined);
            if words.len() >= start.len()
                && words.iter().zip(start).all(|(word, want)| word == want)
            {
                found.push(ShownCommand { line: first, words });
            }
        }
    }
    found
}

/// The words of a command, without its comment. A reader who types `sudo` or the prompt's sign
/// means the command behind it.
fn words(line: &str) -> Vec<String> {
    let code = line.split(" #").next().unwrap_or_default();
    code.split_whitespace()
        .skip_while(|word| matches!(*word, "$" | "#" | "sudo"))
        .map(str::to_owned)
        .collect()
}

/// The fenced blocks of `text`.
pub(super) fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut all = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (i, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language: language.trim(), line: i + 2, lines: Vec::new() });
            }
            (Some(_), Some(_)) => all.extend(open.take()),
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
    }
    // A block without an end reaches to the end of the page.
    all.extend(open);
    all
}
