//! `colo-proxy diff` on the recorded output of two real guests. The same work of two kernels with
//! different numbers is no difference. One flipped byte is a difference.

#[path = "diff/recorder.rs"]
mod recorder;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use colo_lab::client::{Calls, Conversation, echo, ping};
use colo_lab::daemon::{CommandOutput, output_of};
use colo_lab::lab_test;
use colo_lab::network::{Family, GUEST_MAC, HostSide};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::protocol::SERVICE_PORT;
use colo_lab::stand_in::packet::TCP;
use colo_lab::stand_in::tap::TapOffloads;
use serde_json::Value;

use recorder::Recorder;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Records both guests. For the primary it uses the guest's own interface, because the host's sees
/// every frame twice, at the capture and at the release. For the secondary it uses the TAP.
fn record(pair: &LabPair) -> Result<[Recorder; 2]> {
    let host = pair.lab.host(HostSide::Secondary);
    Ok([
        Recorder::start(&pair.primary_guest.namespace, "eth0")?,
        Recorder::start(&host.namespace, &host.tap)?,
    ])
}

fn write(recorders: [Recorder; 2], folder: &Path) -> Result<[PathBuf; 2]> {
    let paths = ["primary.pcapng", "secondary.pcapng"].map(|name| folder.join(name));
    for (recorder, path) in recorders.into_iter().zip(&paths) {
        recorder.finish(path)?;
    }
    Ok(paths)
}

fn diff(pair: &LabPair, files: &[PathBuf; 2]) -> Result<(CommandOutput, Value)> {
    let [primary, secondary] =
        files.each_ref().map(|path| path.to_str().context("a name in UTF-8"));
    let arguments = ["diff", "--json", "--guest", GUEST_MAC, primary?, secondary?];
    let said = output_of(pair.lab.host(HostSide::Primary), &arguments)?;
    let report = serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?;
    Ok((said, report))
}

fn equal(offloads: TapOffloads, family: Family) -> Result<()> {
    let pair = LabPair::start(PairSetup { offloads, ..PairSetup::default() })?;
    let recorders = record(&pair)?;
    let client = &pair.lab.client;
    let mut conversation = Conversation::open(client, family)?;
    for len in [1, 1448, 200_000] {
        conversation.ask(len)?;
        conversation.echo(len)?;
    }
    conversation.down(2_000_000)?;
    conversation.up(2_000_000)?;
    conversation.close()?;
    let mut called = Calls::new(client, family)?.call()?;
    called.ask(3000)?;
    called.close()?;
    echo(client, family, 20, 1400)?;
    ping(client, family, 5, 64)?;
    pair.expect_no_checkpoints()?;
    let folder = tempfile::tempdir()?;
    let (said, report) = diff(&pair, &write(recorders, folder.path())?)?;
    ensure!(said.success, "{report:#}\n{}", said.stderr);
    assert_eq!((&report["diverged"], &report["checkpoints"]), (&false.into(), &0.into()));
    // At least the client's conversation and the guest's call.
    assert!(report["connections_in_both"].as_u64() >= Some(2), "{report:#}");
    assert!(report["compared_bytes"].as_u64() > Some(2_000_000), "{report:#}");
    // No frame was left over on either side.
    let nothing = serde_json::json!({ "primary_frames": 0, "secondary_frames": 0, "flows": [] });
    assert_eq!(report["undecided"], nothing, "{report:#}");
    pair.finish()
}

#[lab_test(root)]
fn equal_guests_with_offloads_are_equal() -> Result<()> {
    equal(TapOffloads::On, Family::V4)
}

#[lab_test(root)]
fn equal_guests_without_offloads_over_ipv6_are_equal() -> Result<()> {
    equal(TapOffloads::Off, Family::V6)
}

#[lab_test(root)]
fn a_flipped_byte_is_found_where_the_daemon_finds_it() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let recorders = record(&pair)?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.ask(1000)?;
    let place = conversation.received() + 77;
    pair.secondary_guest.stand_in.flip(TCP, SERVICE_PORT, 77)?;
    conversation.ask(1000)?;
    let flipped = pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
    for _ in 0..20 {
        conversation.ask(1000)?;
    }
    conversation.close()?;
    let folder = tempfile::tempdir()?;
    let (said, report) = diff(&pair, &write(recorders, folder.path())?)?;
    assert!(!said.success, "{report:#}");
    let found = &report["divergences"][0];
    assert_eq!(found["stream_offset"], place, "{report:#}");
    assert_eq!(
        (&found["primary_byte"], &found["secondary_byte"]),
        (&flipped.was.into(), &flipped.is.into())
    );
    assert_eq!(report["divergences_total"], 1, "{report:#}");
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
