//! Real guests in QEMU's COLO: state is copied, checkpoints stop the guests, and hosts die.
//!
//! [`stock`] is QEMU alone, without a network proxy: it pins the facts that everything else here
//! stands on. [`protected`] has our daemons on both hosts, and [`mixed`] QEMU's parts of the proxy
//! and ours beside each other. In [`divergence`] the guests differ.

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

use anyhow::Result;
use colo_lab::qemu::emulator::Emulator;
use colo_lab::qemu::{self, Image};
use colo_lab::root::require_root;

/// What guests under COLO are started from, or nothing where they cannot be.
fn found() -> Result<Option<(Emulator, Image)>> {
    if !require_root() {
        return Ok(None);
    }
    let cache = qemu::cache(env!("CARGO_TARGET_TMPDIR"))?;
    let emulator = match Emulator::with_colo(&cache) {
        Ok(emulator) => emulator,
        // `cargo xtask test` asks before; whoever starts the test by hand is told.
        Err(reason) if std::env::var_os("COLO_PROXY_REQUIRE_ROOT").is_none() => {
            eprintln!("skipped: {reason:#}");
            return Ok(None);
        }
        Err(reason) => return Err(reason),
    };
    Ok(Some((emulator, Image::build(&cache)?)))
}
