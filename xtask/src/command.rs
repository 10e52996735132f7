//! Runs other programs. Every failure tells the command and how it ended.

use anyhow::{Context as _, Result, bail};
use std::env;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders where Debian keeps programs for root, which a user's `PATH` may lack.
const ROOT_PATHS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Runs `command` with our own stdin, stdout and stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", show(command));
    }
    Ok(())
}

/// Runs `command` with our own stdin and stderr. Prints its stdout while it runs, and returns it.
pub fn run_and_read(command: &mut Command) -> Result<String> {
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("cannot start {}", show(command)))?;
    let stdout = child.stdout.take().context("its stdout is not piped")?;
    let mut text = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.with_context(|| format!("cannot read the output of {}", show(command)))?;
        println!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait().with_context(|| format!("cannot wait for {}", show(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", show(command));
    }
    Ok(text)
}

/// Runs `command` and returns what it printed, without the last line end.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{} failed: {}: {}", show(command), done.status, said.trim());
    }
    let text = String::from_utf8(done.stdout)
        .with_context(|| format!("{} printed text that is not UTF-8", show(command)))?;
    Ok(text.trim_end().to_owned())
}

/// The SHA-256 of `bytes`. coreutils computes it, so that anybody can check a record with the same
/// program.
pub fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start sha256sum")?;
    // The pipe is dropped at the end of the statement. That is the end of the program's input.
    let sent = child.stdin.take().context("sha256sum has no stdin")?.write_all(bytes);
    let done = child.wait_with_output().context("cannot wait for sha256sum")?;
    sent.context("cannot write to sha256sum")?;
    let text = String::from_utf8_lossy(&done.stdout);
    let sum = text.split_whitespace().next().context("sha256sum printed nothing")?;
    Ok(sum.to_owned())
}

/// Finds the program `name` on `PATH`, or in a folder for root's programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(ROOT_PATHS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The command as a person would type it.
fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
