//! Real guests that send different answers. A checkpoint makes them equal, and then the primary's
//! answer leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use colo_lab::client::{Calls, ClockedAnswer, Conversation};
use colo_lab::daemon::DaemonStatus;
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide};
use colo_lab::phrases;
use colo_lab::qemu::protected::{Protected, colo_frame};

use super::parts::{Pair, Parts, Primary, Secondary};
use super::protected::protected;

const TIMEOUT: Duration = Duration::from_secs(20);
/// On each connection.
const DIFFERENCES: usize = 3;

#[lab_test(root)]
fn each_difference_costs_one_checkpoint_and_the_connection_goes_on() -> Result<()> {
    let parts = Parts { primary: Primary::Ours, secondary: Secondary::Ours, vnet_hdr: true };
    let pair = Pair::start(parts)?;
    differ(&pair).with_context(|| pair.logs())
}

fn differ(pair: &Pair) -> Result<()> {
    let before = pair.primary_daemon()?.status()?.checkpoints();
    let mut answers = Vec::new();
    for family in Family::BOTH {
        let opened = Conversation::open(&pair.lab.client, family)?;
        for mut conversation in [opened, Calls::new(&pair.lab.client, family)?.call()?] {
            for _ in 0..DIFFERENCES {
                conversation.ask(1000)?;
                answers.push(conversation.clock(500)?.took);
                conversation.ask(1000).context("after a difference")?;
            }
            conversation.close()?;
        }
    }
    answers.sort();
    println!("{} answers in which the guests differ, in order of time: {answers:?}", answers.len());
    let daemon = pair.primary_daemon()?;
    let status = daemon.wait_status("nothing held", TIMEOUT, |status| {
        status.number("held_frames").is_ok_and(|held| held == 0)
    })?;
    let asked: BTreeMap<String, u64> = status
        .checkpoints()
        .into_iter()
        .map(|(reason, count)| {
            let earlier = before.get(&reason).copied().unwrap_or_default();
            (reason, count.saturating_sub(earlier))
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    println!("requested checkpoints: {asked:?}");
    let expected = BTreeMap::from([("payload".to_owned(), answers.len() as u64)]);
    ensure!(asked == expected, "{asked:?}");
    ensure!(status.mode()? == phrases::mode::PROTECTED);
    println!("pauses in us: {}", status.0["detail"]["colo_frame"]["pause_us"]);
    Ok(())
}

/// Only requested checkpoints happen.
const SELDOM: &str = "[guest.checkpoints]\ninterval_max_ms = 600000\n";
/// Ten over each IP version.
const ANSWERS: usize = 10;

#[lab_test(root)]
fn divergences_of_real_guests_are_checkpointed() -> Result<()> {
    let pair = protected(SELDOM, true)?;
    primarys_own(&pair).with_context(|| pair.logs())
}

fn primarys_own(pair: &Protected) -> Result<()> {
    let daemon = &pair.half(HostSide::Primary)?.daemon;
    let payload = |status: &DaemonStatus| status.checkpoints().get("payload").copied().unwrap_or(0);
    let before = payload(&daemon.status()?);
    for family in Family::BOTH {
        let mut conversation = Conversation::open(&pair.lab.client, family)?;
        let port = conversation.port()?;
        for _ in 0..ANSWERS {
            conversation.ask(1000)?;
            let clocked = conversation.clock(700)?;
            let status = daemon.status()?;
            let told = status.divergences().into_iter().rfind(|told| told.peer_port == port);
            let told = told.with_context(|| format!("no divergence of port {port}"))?;
            let got = octet(&clocked, told.stream_offset);
            ensure!(got == Some(told.primary_byte), "{got:?}, but {told}");
            ensure!(got != Some(told.secondary_byte), "no difference: {told}");
            conversation.ask(1000).context("after a difference")?;
        }
        conversation.close()?;
    }
    let after = pair.wait_nothing_held(HostSide::Primary)?;
    let asked = payload(&after) - before;
    ensure!(asked == 2 * ANSWERS as u64, "{asked}, {:?}", after.checkpoints());
    ensure!(after.mode()? == phrases::mode::PROTECTED);
    Ok(())
}

/// The byte of the answer at this place of the connection.
fn octet(clocked: &ClockedAnswer, at: i64) -> Option<u8> {
    let index = at.checked_sub(i64::try_from(clocked.at).ok()?)?;
    clocked.octets.get(usize::try_from(index).ok()?).copied()
}

const MIN: Duration = Duration::from_millis(20);
const SPACING_MAX_MS: u64 = 200;
const ADAPTIVE: &str = "[guest.checkpoints]\ninterval_max_ms = 600000\ninterval_min_ms = 20\n\
                        spacing_max_ms = 200\nadaptive = true\n";

#[lab_test(root)]
fn guests_that_always_differ_get_their_checkpoints_further_apart() -> Result<()> {
    let pair = protected(ADAPTIVE, true)?;
    further_apart(&pair).with_context(|| pair.logs())
}

fn further_apart(pair: &Protected) -> Result<()> {
    let half = pair.half(HostSide::Primary)?;
    let qmp = half.guest.qmp()?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.ask(1000)?;
    let place = qmp.place();
    let mut spacings = Vec::new();
    for _ in 0..2 * ANSWERS {
        conversation.clock(700)?;
        let status = half.daemon.status()?;
        spacings.push(colo_frame(&status)["spacing_ms"].as_u64().context("no spacing")?);
    }
    conversation.close()?;
    ensure!(spacings.is_sorted(), "{spacings:?}");
    let [first, .., last] = spacings[..] else { unreachable!("there are {ANSWERS}") };
    ensure!(first < last && last == SPACING_MAX_MS, "{spacings:?}");
    let events = qmp.events(place);
    let (mut resumed, mut apart) = (None, Vec::new());
    for event in events {
        match (event.name.as_str(), resumed) {
            ("RESUME", _) => resumed = Some(event.at),
            ("STOP", Some(at)) => apart.push(event.at.saturating_sub(at)),
            _ => {}
        }
    }
    println!("spacings in ms: {spacings:?}; from one checkpoint to the next: {apart:?}");
    ensure!(apart.len() >= ANSWERS, "{} checkpoints", apart.len());
    ensure!(apart.iter().all(|apart| *apart >= MIN), "{apart:?}");
    pair.wait_nothing_held(HostSide::Primary).map(drop)
}
