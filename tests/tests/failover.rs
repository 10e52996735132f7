//! The primary host dies, and every connection continues from the secondary.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use colo_lab::client::{Calls, Conversation, Keeper, echo, ping, wait_for_all};
use colo_lab::daemon::PairOptions;
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, LabOptions};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::phrases;
use colo_lab::stand_in::tap::TapOffloads;

const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);

/// Connections that either side opened, over each IP version, all in use.
fn keepers(pair: &LabPair) -> Result<Vec<Keeper>> {
    let client = &pair.lab.client;
    let mut keepers = Vec::new();
    for family in Family::BOTH {
        let calls = Calls::new(client, family)?;
        for len in [10, 3000, 60_000] {
            keepers.push(Keeper::start(Conversation::open(client, family)?, len, PAUSE));
            keepers.push(Keeper::start(calls.call()?, len, PAUSE));
        }
    }
    Ok(keepers)
}

fn survive(setup: PairSetup) -> Result<()> {
    let mut pair = LabPair::start(setup)?;
    let keepers = keepers(&pair)?;
    wait_for_all(&keepers, 30, TIMEOUT)?;
    pair.expect_no_checkpoints()?;
    let took = pair.fail_over()?;
    wait_for_all(&keepers, 30, TIMEOUT)?;
    for keeper in keepers {
        let kept = keeper.stop()?;
        eprintln!("{}: gap {:?} (failover itself {took:?})", kept.name, kept.longest_gap);
        assert!(kept.error.is_none(), "{}: {:#?}", kept.name, kept.error);
    }
    for family in Family::BOTH {
        let client = &pair.lab.client;
        let mut conversation = Conversation::open(client, family)?;
        conversation.down(1_000_000)?;
        conversation.up(1_000_000)?;
        conversation.close()?;
        let mut called = Calls::new(client, family)?.call()?;
        called.ask(100)?;
        called.close()?;
        echo(client, family, 10, 300)?;
        ping(client, family, 3, 300)?;
    }
    assert_eq!(pair.secondary.status()?.mode()?, phrases::mode::SERVING);
    pair.finish()
}

#[lab_test(root)]
fn with_offloads() -> Result<()> {
    survive(PairSetup::default())
}

#[lab_test(root)]
fn without_offloads() -> Result<()> {
    survive(PairSetup { offloads: TapOffloads::Off, ..PairSetup::default() })
}

#[lab_test(root)]
fn with_partial_sums_on_the_lan() -> Result<()> {
    let lab = LabOptions { real_wire: false, ..LabOptions::default() };
    survive(PairSetup { lab, ..PairSetup::default() })
}

#[lab_test(root)]
fn over_plain_lanes() -> Result<()> {
    let daemons = PairOptions { vnet_hdr: false, ..PairOptions::default() };
    survive(PairSetup { daemons, ..PairSetup::default() })
}

#[lab_test(root)]
fn with_af_xdp_on_the_secondary() -> Result<()> {
    let config = Some([String::new(), "capture = \"af-xdp\"".to_owned()]);
    survive(PairSetup { config, ..PairSetup::default() })
}

/// The client is in the middle of an upload, and only the secondary can finish it.
#[lab_test(root)]
fn in_the_middle_of_bulk() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let mut conversations = Vec::new();
    for family in Family::BOTH {
        conversations.push(Conversation::open(&pair.lab.client, family)?);
        conversations.push(Calls::new(&pair.lab.client, family)?.call()?);
    }
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = conversations
            .into_iter()
            .map(|mut conversation| {
                scope.spawn(move || -> Result<()> {
                    for _ in 0..40 {
                        conversation.up(1_000_000)?;
                        conversation.down(1_000_000)?;
                    }
                    conversation.close()
                })
            })
            .collect();
        pair.primary.wait_status("bulk", TIMEOUT, |status| {
            status.number("compared_bytes").is_ok_and(|bytes| bytes > 20_000_000)
        })?;
        pair.fail_over()?;
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    pair.finish()
}

/// The secondary's host takes over while the primary still runs. The primary then continues alone,
/// and `status` shows that.
#[lab_test(root)]
fn of_the_primary_is_going_on_alone() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 500, PAUSE);
    keeper.wait_for_answers(20, TIMEOUT)?;
    pair.lab.host(HostSide::Secondary).unplug()?;
    pair.secondary.process.kill()?;
    pair.primary.failover()?;
    assert_eq!(pair.primary.status()?.mode()?, phrases::mode::UNPROTECTED);
    keeper.wait_for_answers(200, TIMEOUT)?;
    let kept = keeper.stop()?;
    assert!(kept.error.is_none(), "{kept:?}");
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
