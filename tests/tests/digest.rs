//! Digests instead of the secondary's frames: how much they save, and their cost. The tests of
//! pairs run once more with digests, and show that the verdicts are the same.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use colo_lab::client::Conversation;
use colo_lab::daemon::{DaemonStatus, PairOptions};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::stand_in::tap::TapOffloads;

const TIMEOUT: Duration = Duration::from_secs(20);
const OCTETS: u64 = 50_000_000;

fn pair(returns: &str, offloads: TapOffloads) -> Result<LabPair> {
    let daemons = PairOptions { returns: returns.to_owned(), ..PairOptions::default() };
    LabPair::start(PairSetup { daemons, offloads, ..PairSetup::default() })
}

/// The bytes that the secondary has returned for each million bytes that both guests have sent.
fn returned_per_million(returns: &str, offloads: TapOffloads) -> Result<u64> {
    let pair = pair(returns, offloads)?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.down(OCTETS)?;
    conversation.close()?;
    let (primary, secondary) = (pair.primary.status()?, pair.secondary.status()?);
    let returned = secondary.detail("/lanes/secondary_out/bytes")?;
    let compared = primary.number("compared_bytes")?;
    eprintln!("{returns}: {returned} bytes for {compared}; {}", digests(&primary));
    ensure!(compared >= OCTETS, "{primary:#?}");
    pair.expect_no_checkpoints()?;
    pair.finish()?;
    Ok(returned * 1_000_000 / compared)
}

fn digests(status: &DaemonStatus) -> String {
    let count = |name| status.detail(&format!("/lanes/digests/{name}")).unwrap_or_default();
    let names = ["digests", "expanded_frames", "asked_frames", "different", "gone_frames"];
    names.map(|name| format!("{name} {}", count(name))).join(", ")
}

#[lab_test(root)]
fn a_download_returns_less_than_a_twentieth() -> Result<()> {
    let digests = returned_per_million("digest", TapOffloads::Off)?;
    assert!(digests < 50_000, "{digests} bytes for a million");
    // The twin.
    let frames = returned_per_million("frames", TapOffloads::Off)?;
    assert!(frames > 1_000_000, "{frames} bytes for a million");
    Ok(())
}

/// A new primary has not seen the earlier bytes, and finds that out.
#[lab_test(root)]
fn a_primary_that_is_started_again_goes_on_with_digests() -> Result<()> {
    let mut pair = pair("digest", TapOffloads::Off)?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V6)?;
    conversation.down(1_000_000)?;
    pair.primary.process.kill()?;
    pair.restart(HostSide::Primary)?;
    pair.primary.wait_protected()?;
    conversation.down(1_000_000)?;
    conversation.close()?;
    let expanded = |status: &DaemonStatus| {
        status.detail("/lanes/digests/expanded_frames").is_ok_and(|frames| frames > 100)
    };
    pair.primary.wait_status("expanded digests", TIMEOUT, expanded)?;
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
