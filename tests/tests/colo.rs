//! Real guests in QEMU's COLO: state is copied, checkpoints stop the guests, and hosts die.
//!
//! [`stock`] tests QEMU alone, without a network proxy: it pins the facts that all other tests here
//! rely on. [`protected`] has our daemons on both hosts. [`mixed`] has QEMU's parts of the proxy
//! beside ours. In [`divergence`], the guests differ.

#[path = "colo/command_lines.rs"]
mod command_lines;
#[path = "colo/divergence.rs"]
mod divergence;
#[path = "colo/mixed.rs"]
mod mixed;
#[path = "colo/parts.rs"]
mod parts;
#[path = "colo/protected.rs"]
mod protected;
#[path = "colo/stock.rs"]
mod stock;
#[path = "colo/takeover.rs"]
mod takeover;

use std::process::ExitCode;

use anyhow::Result;
use colo_lab::harness::Skip;
use colo_lab::qemu::emulator::Emulator;
use colo_lab::qemu::{self, Image};

/// A QEMU that can do COLO, and the image that guests boot from.
///
/// The test is skipped if this machine cannot have a QEMU for COLO. `cargo xtask test` looks for
/// one before it starts the tests.
fn found() -> Result<(Emulator, Image)> {
    let cache = qemu::cache(env!("CARGO_TARGET_TMPDIR"))?;
    let emulator = Emulator::with_colo(&cache).map_err(|error| error.context(Skip))?;
    Ok((emulator, Image::build(&cache)?))
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
