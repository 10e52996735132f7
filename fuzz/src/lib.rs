//! The fuzz targets of colo-proxy.
//!
//! Each target is a function of bytes that asserts what must hold whatever they are; it asserts
//! more than "no panic". The same functions run under libFuzzer (`cargo +nightly fuzz run TARGET`)
//! and, on every file of the committed corpora, in `cargo test`. README.md says how.

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

/// A target: its name, which is that of its corpus and of its program, and what it runs.
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
