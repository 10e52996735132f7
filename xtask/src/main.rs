//! Build, test and demonstration tasks of colo-proxy: `cargo xtask <task>`.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::{build_ebpf, demo, lint, setup, test, tidy};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of colo-proxy")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel programs into the object that the daemon embeds.
    BuildEbpf(build_ebpf::Options),
    /// Install what building, testing or the demonstration need.
    Setup(setup::Options),
    /// Show the whole of it in a laboratory of network namespaces (needs root).
    Demo(demo::Options),
    /// Run everything that CI runs.
    Test(test::Options),
    /// Check formatting, lints, and the licences and sources of all dependencies.
    Lint,
    /// Check the style rules that no other tool knows.
    Tidy,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::BuildEbpf(options) => build_ebpf::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Setup(options) => setup::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Lint => lint::run().map(|()| ExitCode::SUCCESS),
        Task::Tidy => tidy::run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
