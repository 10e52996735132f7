//! Capture of guest output on real TAPs: the gate and `AF_XDP`.
//!
//! Every test runs in its own network and mount namespaces, which end with its thread.

#[path = "capture/af_xdp.rs"]
mod af_xdp;
#[path = "capture/frames.rs"]
mod frames;
#[path = "capture/gate.rs"]
mod gate;
#[path = "capture/guest.rs"]
mod guest;
#[path = "capture/lab.rs"]
mod lab;
#[path = "capture/loader.rs"]
mod loader;
#[path = "capture/namespace.rs"]
mod namespace;
#[path = "capture/packet_socket.rs"]
mod packet_socket;
#[path = "capture/xdp_program.rs"]
mod xdp_program;

use std::process::ExitCode;

fn main() -> ExitCode {
    colo_lab::harness::run()
}
