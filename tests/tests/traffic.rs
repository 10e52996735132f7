//! Real TCP, UDP and ICMP through a protected pair. Every byte and every checksum is right, and
//! there is no checkpoint, with all offloads and all formats of the wire between the hosts.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use colo_lab::client::{self, Conversation, mixed};
use colo_lab::daemon::PairOptions;
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, LabOptions};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::process::eventually;
use colo_lab::stand_in::tap::TapOffloads;

const TIMEOUT: Duration = Duration::from_secs(30);

fn everything(setup: PairSetup, family: Family) -> Result<()> {
    everything_by("gate", setup, family)
}

/// `capture` is the way in which the secondary must have read its guest's output.
fn everything_by(capture: &str, setup: PairSetup, family: Family) -> Result<()> {
    let mut pair = LabPair::start(setup)?;
    client::everything(&pair.lab.client, family)?;
    let status = pair.secondary.status()?;
    let found = status.0.pointer("/detail/capture").and_then(|name| name.as_str());
    assert_eq!(found, Some(capture), "{}", pair.secondary.process.stderr());
    pair.expect_no_checkpoints()?;
    pair.expect_right_sums()?;
    pair.finish()
}

fn with(offloads: TapOffloads) -> PairSetup {
    PairSetup { offloads, ..PairSetup::default() }
}

#[lab_test(root)]
fn with_offloads_over_ipv4() -> Result<()> {
    everything(with(TapOffloads::On), Family::V4)
}

#[lab_test(root)]
fn with_offloads_over_ipv6() -> Result<()> {
    everything(with(TapOffloads::On), Family::V6)
}

#[lab_test(root)]
fn without_offloads_over_ipv4() -> Result<()> {
    everything(with(TapOffloads::Off), Family::V4)
}

#[lab_test(root)]
fn without_offloads_over_ipv6() -> Result<()> {
    everything(with(TapOffloads::Off), Family::V6)
}

/// Partial checksums all the way to the client and back, as between guests of one host.
#[lab_test(root)]
fn with_partial_sums_on_the_lan() -> Result<()> {
    let lab = LabOptions { real_wire: false, ..LabOptions::default() };
    everything(PairSetup { lab, ..PairSetup::default() }, Family::V4)
}

/// Without `--vnet-hdr-support`, frames on the lanes are plain, with any offloads of the guest.
#[lab_test(root)]
fn over_plain_lanes() -> Result<()> {
    let daemons = PairOptions { vnet_hdr: false, ..PairOptions::default() };
    for offloads in [TapOffloads::On, TapOffloads::Off] {
        for family in Family::BOTH {
            everything(
                PairSetup { offloads, daemons: daemons.clone(), ..PairSetup::default() },
                family,
            )?;
        }
    }
    Ok(())
}

/// The guest's TAP itself has no virtio-net header, as with QEMU's `vnet_hdr=off`.
#[lab_test(root)]
fn on_a_tap_without_a_header() -> Result<()> {
    let lab = LabOptions { vnet_hdr: false, ..LabOptions::default() };
    everything(PairSetup { lab, offloads: TapOffloads::Off, ..PairSetup::default() }, Family::V4)
}

#[lab_test(root)]
fn without_a_control_lane() -> Result<()> {
    let daemons = PairOptions { control: false, ..PairOptions::default() };
    everything(PairSetup { daemons, ..PairSetup::default() }, Family::V4)
}

#[lab_test(root)]
fn with_the_secondary_listening() -> Result<()> {
    let daemons = PairOptions { primary_listens: false, ..PairOptions::default() };
    everything(PairSetup { daemons, ..PairSetup::default() }, Family::V6)
}

/// The secondary reads its guest's output through an `AF_XDP` socket.
#[lab_test(root)]
fn with_af_xdp_on_the_secondary() -> Result<()> {
    let config = Some([String::new(), "capture = \"af-xdp\"".to_owned()]);
    for (offloads, family) in [(TapOffloads::On, Family::V4), (TapOffloads::Off, Family::V6)] {
        let setup = PairSetup { offloads, config: config.clone(), ..PairSetup::default() };
        everything_by("af-xdp", setup, family)?;
    }
    Ok(())
}

/// AF_XDP cannot do what the wire needs here. The daemon refuses it and uses the gate.
#[lab_test(root)]
fn by_the_gate_where_af_xdp_is_refused() -> Result<()> {
    let daemons = PairOptions { vnet_hdr: false, ..PairOptions::default() };
    let config = Some([String::new(), "capture = \"af-xdp\"".to_owned()]);
    everything_by("gate", PairSetup { daemons, config, ..PairSetup::default() }, Family::V4)
}

/// How long the mixed traffic runs, in seconds.
fn mixed_duration() -> Duration {
    let seconds = std::env::var("COLO_PROXY_MIXED_S").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// One frame in a hundred is lost on the client's link, in each direction. Both guests receive the
/// same, and so they send the same, if compared as streams.
#[lab_test(root)]
fn mixed_traffic_under_loss() -> Result<()> {
    mixed_under_loss(TapOffloads::On)
}

#[lab_test(root)]
fn mixed_traffic_under_loss_without_offloads() -> Result<()> {
    mixed_under_loss(TapOffloads::Off)
}

fn mixed_under_loss(offloads: TapOffloads) -> Result<()> {
    let mut pair = LabPair::start(with(offloads))?;
    pair.lab.lose(100)?;
    let done = mixed(&pair.lab, mixed_duration())?;
    eprintln!("{done:?}");
    let retransmitted = pair.secondary_guest.counters()?.get("Tcp.RetransSegs").copied();
    assert!(retransmitted > Some(0), "the loss was not felt");
    pair.expect_right_sums()?;
    pair.expect_no_checkpoints()?;
    pair.finish()
}

/// In the middle of an upload, the secondary's guest stops reading for a while. Its TAP, whose
/// queue is short, loses data that the primary's guest receives. The guest must catch up from the
/// client's repetitions alone: no acknowledgment to the client may cover data that it has missed.
#[lab_test(root)]
fn input_that_only_the_secondary_loses_is_repeated() -> Result<()> {
    let more = "compare_timeout_ms = 30000".to_owned();
    let config = Some([more, String::new()]);
    let mut pair = LabPair::start(PairSetup { config, ..PairSetup::default() })?;
    pair.lab.host(HostSide::Secondary).namespace.ip("link set tap0 txqueuelen 50\n")?;
    let lab = Arc::clone(&pair.lab);
    let worker = std::thread::spawn(move || -> Result<()> {
        for family in Family::BOTH {
            let mut conversation = Conversation::open(&lab.client, family)?;
            for _ in 0..10 {
                conversation.up(4_000_000)?;
                conversation.down(4_000_000)?;
            }
            conversation.close()?;
        }
        Ok(())
    });
    let lost = || pair.lab.host(HostSide::Secondary).tx_dropped("tap0");
    for _ in 0..5 {
        let (before, compared) = (lost()?, pair.primary.status()?.number("compared_bytes")?);
        pair.secondary_guest.stand_in.pause()?;
        eventually("a loss", TIMEOUT, || {
            Ok((lost()? > before || worker.is_finished()).then_some(()))
        })?;
        pair.secondary_guest.stand_in.resume()?;
        eventually("more output that agrees", TIMEOUT, || {
            let more = pair.primary.status()?.number("compared_bytes")? > compared + 4_000_000;
            Ok((more || worker.is_finished()).then_some(()))
        })?;
    }
    let lost = lost()?;
    worker.join().expect("no panic")?;
    assert!(lost > 0, "nothing was lost, so nothing was shown");
    pair.expect_no_checkpoints()?;
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
