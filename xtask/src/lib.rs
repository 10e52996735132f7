//! The tasks behind `cargo xtask`, one module each.

pub mod bench;
pub mod book;
pub mod build_ebpf;
pub mod cli;
pub mod command;
pub mod demo;
pub mod lint;
pub mod setup;
pub mod test;
pub mod tidy;
pub mod workspace;
