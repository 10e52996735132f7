//! `colo-proxy offsets`: carries translated connections from one daemon to another.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use colo_proxy::offsets::{self, TEXT_MAX};
use colo_proxy::status::{self, RUNTIME_DIR, Reply, Request};

use super::args::OffsetsCommand;
use super::output;

pub(super) fn run(command: &OffsetsCommand) -> anyhow::Result<()> {
    match command {
        OffsetsCommand::Export { instance } => export(instance.as_deref()),
        OffsetsCommand::Import { instance, file } => import(instance, file),
    }
}

fn export(instance: Option<&str>) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let name = match instance {
        Some(instance) => status::find(dir, instance)?,
        None => only(status::running(dir)?)?,
    };
    match status::ask(dir, &name, &Request::ExportOffsets)? {
        Reply::Offsets(text) => Ok(output::print(&text)?),
        other => bail!("instance {name} answered {other:?}"),
    }
}

fn only(mut running: Vec<String>) -> anyhow::Result<String> {
    ensure!(
        running.len() < 2,
        "several instances are running: name one of them ({})",
        running.join(", ")
    );
    running.pop().context("no instance is running")
}

fn import(instance: &str, file: &Path) -> anyhow::Result<()> {
    let text = read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // Errors in the text are found here. The daemon alone knows how many connections have room.
    offsets::parse(&text, usize::MAX)
        .with_context(|| format!("cannot import {}", file.display()))?;
    let dir = Path::new(RUNTIME_DIR);
    let name = status::find(dir, instance)?;
    match status::ask(dir, &name, &Request::ImportOffsets { text })? {
        Reply::Done(message) => Ok(output::print(&format!("{message}\n"))?),
        other => bail!("instance {name} answered {other:?}"),
    }
}

/// The text of `file`, up to one byte more than the longest valid text.
fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let max = TEXT_MAX as u64 + 1;
    if file == Path::new("-") {
        io::stdin().lock().take(max).read_to_string(&mut text)?;
    } else {
        File::open(file)?.take(max).read_to_string(&mut text)?;
    }
    Ok(text)
}
