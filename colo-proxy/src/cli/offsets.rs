//! `colo-proxy offsets`: translated connections, out of one daemon and into another.

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
    ensure!(running.len() < 2, "name one of the running instances: {}", running.join(", "));
    running.pop().context("no instance is running")
}

fn import(instance: &str, file: &Path) -> anyhow::Result<()> {
    let text = read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // What is wrong with it can be said without the daemon; how many fit is for that to say.
    offsets::parse(&text, usize::MAX)
        .with_context(|| format!("cannot import {}", file.display()))?;
    let dir = Path::new(RUNTIME_DIR);
    let name = status::find(dir, instance)?;
    match status::ask(dir, &name, &Request::ImportOffsets { text })? {
        Reply::Done(message) => Ok(output::print(&format!("{message}\n"))?),
        other => bail!("instance {name} answered {other:?}"),
    }
}

/// The text, and no more than there can be of it.
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
