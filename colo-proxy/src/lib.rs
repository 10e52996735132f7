//! The network half of COLO, outside of QEMU: mirror, capture, rewrite and release in the kernel,
//! compare in userspace.
//!
//! The rooms, in the direction in which a frame goes through them:
//! [`datapath`] (the kernel programs and how frames are captured) and [`gate`] (the TAP by which
//! frames come and go), [`lane`] (the wire between the hosts), [`compare`] (the engine that decides
//! what may leave), [`colo_frame`] (who makes checkpoints), and [`instance`], which connects them
//! for one guest. ARCHITECTURE.md has the picture.

pub mod capture_file;
pub mod colo_compare;
pub mod colo_frame;
pub mod compare;
pub mod config;
pub mod control;
pub mod datapath;
mod dialler;
mod digest;
pub mod endpoint;
mod error_chain;
pub mod filter;
pub mod frame;
pub mod gate;
pub mod instance;
pub mod lane;
pub mod link;
mod log_limit;
pub mod name;
pub mod offline;
pub mod offsets;
mod protection;
pub mod qemu_args;
mod qmp;
pub mod quick_ack;
pub mod status;
pub mod tunnel;
pub mod utc;
