//! A restarting guest removes its TAP and makes another with the same name.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use colo_lab::client::{Conversation, echo};
use colo_lab::guest::{GuestOptions, StandInGuest};
use colo_lab::lab_test;
use colo_lab::namespace::Namespace;
use colo_lab::network::{Family, HostSide, LabOptions};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::stand_in::tap::TapOffloads;
use colo_proxy::link::LinkWatch;

const TIMEOUT: Duration = Duration::from_secs(15);

fn present(daemon: &colo_lab::daemon::Daemon, wanted: bool) -> Result<()> {
    let key = |value: &serde_json::Value| value.get("netdev_present")?.as_bool();
    daemon.wait_status("netdev_present", TIMEOUT, |s| key(&s.0) == Some(wanted)).map(drop)
}

#[lab_test(root)]
fn a_tap_that_comes_back_is_protected_again() -> Result<()> {
    let lab = LabOptions { persistent_tap: false, ..LabOptions::default() };
    let mut pair = LabPair::start(PairSetup { lab, ..PairSetup::default() })?;
    for round in 0..2 {
        let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
        conversation.ask(1000)?;
        conversation.close()?;
        let before = pair.primary.status()?.number("compared_frames")?;
        for side in HostSide::BOTH {
            let options = GuestOptions::of(side, TapOffloads::On);
            match side {
                HostSide::Primary => {
                    pair.primary_guest.kill()?;
                    present(&pair.primary, false)?;
                    pair.primary_guest = StandInGuest::start(&pair.lab, side, options)?;
                    present(&pair.primary, true)?;
                }
                HostSide::Secondary => {
                    pair.secondary_guest.kill()?;
                    present(&pair.secondary, false)?;
                    pair.secondary_guest = StandInGuest::start(&pair.lab, side, options)?;
                    present(&pair.secondary, true)?;
                }
            }
        }
        let mut conversation = Conversation::open(&pair.lab.client, Family::V6)?;
        conversation.ask(1000)?;
        conversation.down(500_000)?;
        conversation.close()?;
        echo(&pair.lab.client, Family::V4, 10, 100)?;
        let status = pair.primary.status()?;
        assert!(status.number("compared_frames")? > before, "round {round}: {status:#?}");
        for status in [status, pair.secondary.status()?] {
            assert_eq!(status.drops().get("unguarded"), None, "round {round}: {status:#?}");
        }
    }
    pair.finish()
}

/// The link events that found no room in a socket of this thread's network namespace.
fn events_lost() -> Result<u64> {
    /// `RTMGRP_LINK`, in the column of groups.
    const LINK: &str = "00000001";
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink")?;
    let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let columns = lines.next().context("no columns")?;
    let column = |name| columns.iter().position(|column| *column == name).context("no column");
    let (groups, drops) = (column("Groups")?, column("Drops")?);
    let events: Vec<_> = lines.filter(|line| line.get(groups) == Some(&LINK)).collect();
    assert!(!events.is_empty(), "nobody waits for events: {sockets}");
    let lost =
        events.iter().map(|line| Ok(line.get(drops).context("a short line")?.parse::<u64>()?));
    lost.sum()
}

/// The kernel drops events that find no room during a flood, and once it also dropped answers with
/// them. A daemon of 64 guests then never ended.
#[lab_test(root)]
fn a_flood_of_events_keeps_no_question_from_its_answer() -> Result<()> {
    const CHANGES: usize = 2000;
    let namespace = Namespace::create(&format!("colo{}-flood", std::process::id()))?;
    namespace.ip("tuntap add dev tap0 mode tap\n")?;
    let flood = "link set dev tap0 mtu 1400\nlink set dev tap0 mtu 1401\n".repeat(CHANGES / 2);
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (watch, link) = LinkWatch::start("tap0").await?;
            assert_eq!(events_lost()?, 0, "before the flood");
            // Nobody reads the events meanwhile.
            namespace.ip(&flood)?;
            assert!(events_lost()? > 0, "no flood: all events found room");
            let seen = tokio::time::timeout(TIMEOUT, watch.get()).await;
            assert_eq!(seen.context("no answer")?.map(|link| link.mtu), Some(1401));
            let changed = tokio::time::timeout(TIMEOUT, watch.set_up(link.ifindex, true)).await;
            Ok(changed.context("no answer")??)
        })
    })
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
