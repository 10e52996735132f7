//! The fuzz targets of colo-proxy.
//!
//! Each target is a function of bytes. It asserts everything that must hold for any bytes, which is
//! more than "no panic". The same functions run under libFuzzer (`cargo +nightly fuzz run TARGET`)
//! and, on every file of the committed corpora, in `cargo test`. README.md explains how.

pub mod capture_file;
pub mod config;
pub mod decoder;
pub mod engine;
pub mod framing;
pub mod offsets;
pub mod replay;
pub mod rewriter;

mod choices;
mod measure;
mod sums;

/// A target: its name and its function. The corpus and the program have the same name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("capture_file", capture_file::run),
    ("config", config::run),
    ("decoder", decoder::run),
    ("engine", engine::run),
    ("framing", framing::run),
    ("offsets", offsets::run),
    ("rewriter", rewriter::run),
];
