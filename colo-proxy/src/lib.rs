//! The network half of COLO, outside of QEMU: mirror, capture, rewrite and release in the kernel,
//! compare in userspace.
//!
//! The rooms, in the direction in which a frame goes through them:
//!
//! - [`datapath`]: the kernel programs, and the capture of frames
//! - [`gate`]: the TAP between the kernel programs and the daemon
//! - [`lane`]: the streams between the hosts
//! - [`colo_proxy_engine`]: the decisions
//! - [`colo_frame`]: the drivers of COLO's checkpoints
//! - [`instance`]: one guest's task, which connects the others
//!
//! ARCHITECTURE.md has the picture.

pub mod capture_file;
pub mod colo_compare;
pub mod colo_frame;
pub mod config;
pub mod datapath;
mod deadline;
mod dialler;
pub mod endpoint;
mod error_chain;
pub mod filter;
pub mod gate;
mod guest_tap;
pub mod instance;
mod kernel_lane;
pub mod lane;
pub mod link;
pub mod name;
pub mod offline;
pub mod offsets;
pub mod qemu_args;
mod qmp;
pub mod quick_ack;
mod random;
pub mod status;
pub mod tunnel;
pub mod utc;
