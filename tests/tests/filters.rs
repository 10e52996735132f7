//! `colo-proxy filter-mirror`, `filter-redirector` and `filter-rewriter`: each alone on a guest's
//! TAP, several of them in QEMU's order, and with QEMU's own filters at the other end of a socket.
#![allow(clippy::panic, reason = "that is how a test fails")]

#[path = "filters/broken.rs"]
mod broken;
#[path = "filters/command.rs"]
mod command;
#[path = "../../colo-proxy-common/tests/frame/mod.rs"]
mod frame;
#[path = "filters/life.rs"]
mod life;
#[path = "filters/mirror.rs"]
mod mirror;
#[path = "filters/offloads.rs"]
mod offloads;
#[path = "filters/order.rs"]
mod order;
#[path = "filters/pair.rs"]
mod pair;
#[path = "filters/qemu.rs"]
mod qemu;
#[path = "filters/redirector.rs"]
mod redirector;
#[path = "filters/rewriter.rs"]
mod rewriter;
#[path = "filters/stand.rs"]
mod stand;
#[path = "datapath/tap.rs"]
mod tap;

use std::process::ExitCode;

fn main() -> ExitCode {
    colo_lab::harness::run()
}
