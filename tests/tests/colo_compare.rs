//! `colo-proxy colo-compare`: the engine between QEMU's sockets. It needs no root.

#[path = "colo_compare/checkpoint.rs"]
mod checkpoint;
#[path = "colo_compare/command.rs"]
mod command;
#[path = "colo_compare/covers.rs"]
mod covers;
#[path = "colo_compare/end.rs"]
mod end;
#[path = "colo_compare/framing.rs"]
mod framing;
#[path = "colo_compare/notify.rs"]
mod notify;
#[path = "colo_compare/pressure.rs"]
mod pressure;
#[path = "colo_compare/protection.rs"]
mod protection;

use anyhow::Result;
use colo_lab::colo_compare::{Engine, Setup, Stand, TIMEOUT, datagram};
use colo_lab::process::{Process, eventually};

fn ours(setup: &Setup) -> Result<Stand> {
    Stand::new(Engine::Ours, setup)
}

/// The `i`th datagram of the flow of `port`.
fn numbered(port: u16, i: usize) -> Vec<u8> {
    datagram(port).data(format!("datagram {i:6}").as_bytes()).build()
}

/// Waits until `word` was logged `times` times.
fn wait_logged(process: &Process, word: &str, times: usize) -> Result<()> {
    eventually(
        word,
        TIMEOUT,
        || Ok((process.stderr().matches(word).count() >= times).then_some(())),
    )
    .map_err(|error| error.context(process.stderr()))
}
