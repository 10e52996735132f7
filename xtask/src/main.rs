//! Build, test and demonstration tasks of colo-proxy: `cargo xtask <task>`.

use clap::Parser as _;
use std::process::ExitCode;
use xtask::cli::{Task, TaskArguments};
use xtask::{bench, book, build_ebpf, demo, lint, setup, test, tidy};

fn main() -> ExitCode {
    let done = match TaskArguments::parse().task {
        Task::BuildEbpf(options) => build_ebpf::run(&options),
        Task::Setup(options) => setup::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Book => book::run(),
        Task::Bench(options) => bench::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Lint => lint::run(),
        Task::Tidy => tidy::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
