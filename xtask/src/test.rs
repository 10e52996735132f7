//! stub
use anyhow::Result;
#[derive(Debug, clap::Args)]
pub struct Options {}
pub fn run(_o: &Options) -> Result<std::process::ExitCode> {
    Ok(std::process::ExitCode::SUCCESS)
}
