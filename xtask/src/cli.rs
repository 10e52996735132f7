//! The command line: a library's, so that `tidy` can try the README's commands on it.

use crate::{build_ebpf, demo, setup, test};
use clap::{Parser, Subcommand};
use colo_lab::bench;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of colo-proxy")]
pub struct TaskArguments {
    #[command(subcommand)]
    pub task: Task,
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Build the kernel programs into the object that the daemon embeds.
    BuildEbpf(build_ebpf::BuildOptions),
    /// Install the programs for the build, the tests and the demonstration.
    Setup(setup::SetupOptions),
    /// Show the main job in a lab of network namespaces (needs root).
    Demo(demo::DemoTaskOptions),
    /// Measure the same work without a proxy, with QEMU's own chain and with colo-proxy (needs
    /// root).
    Bench(bench::BenchOptions),
    /// Build the documentation as a book.
    Book,
    /// Run everything that CI runs.
    Test(test::TestOptions),
    /// Check formatting, lints, and the licences and sources of all dependencies.
    Lint,
    /// Check the style rules that no other tool checks.
    Tidy,
}
