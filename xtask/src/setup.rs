//! stub
use anyhow::Result;
#[derive(Debug, clap::Args)]
pub struct Options {}
pub fn run(_o: &Options) -> Result<()> {
    Ok(())
}
