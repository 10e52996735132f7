//! QEMU's parts of the proxy beside ours, each pair with the same traffic. A site with QEMU's parts
//! can replace either half by ours.
//!
//! The pair with only QEMU's parts is the twin: its failures come from the lab or from QEMU.

use anyhow::{Context as _, Result, ensure};
use colo_lab::client::{Conversation, echo, ping};
use colo_lab::lab_test;
use colo_lab::network::Family;
use colo_lab::qemu::colo;
use colo_lab::qmp::EventPlace;

use super::parts::{Pair, Parts, Primary, Secondary};

/// One byte, one segment, several.
const REQUEST_LENS: [u64; 3] = [1, 1000, 10_000];
const BULK_LEN: u64 = 300_000;
const DATAGRAMS: u32 = 10;
/// This test uses no traffic that QEMU's parts do not compare or translate.
const FAMILY: Family = Family::V4;

/// All pairs do the same.
fn serve_and_fail_over(primary: Primary, secondary: Secondary, vnet_hdr: bool) -> Result<()> {
    let mut pair = Pair::start(Parts { primary, secondary, vnet_hdr })?;
    let done = traffic_and_death(&mut pair);
    done.with_context(|| pair.logs())
}

fn traffic_and_death(pair: &mut Pair) -> Result<()> {
    let mut old = Conversation::open(&pair.lab.client, FAMILY)?;
    use_it(&mut old).context("an old connection")?;
    colo::checkpoint(&pair.primary, &pair.secondary)?;
    let place = pair.primary.qmp()?.place();
    traffic(pair).context("between checkpoints")?;
    expect_agreement(pair, place)?;
    use_it(&mut old).context("an old connection after a checkpoint")?;
    // QEMU's compare releases acknowledgments that the secondary has not given. So no frame is on
    // its way when the host dies.
    colo::checkpoint(&pair.primary, &pair.secondary)?;
    old.ask(1000).context("after the last checkpoint")?;
    pair.fail_over()?;
    use_it(&mut old).context("an old connection after the failover")?;
    old.close()?;
    traffic(pair).context("after the failover")
}

/// Equal guests send equal answers, and our compare recognises them. QEMU's takes other segments
/// for other data.
fn expect_agreement(pair: &Pair, place: EventPlace) -> Result<()> {
    let events = pair.primary.qmp()?.events(place);
    let checkpoints = events.iter().filter(|event| event.name == "STOP").count();
    println!("{:?}: {checkpoints} checkpoints for the traffic", pair.parts);
    ensure!(pair.parts.primary == Primary::Qemu || checkpoints == 0, "false checkpoints");
    Ok(())
}

fn traffic(pair: &Pair) -> Result<()> {
    let client = &pair.lab.client;
    let mut conversation = Conversation::open(client, FAMILY)?;
    use_it(&mut conversation)?;
    conversation.close()?;
    echo(client, FAMILY, DATAGRAMS, 500)?;
    ping(client, FAMILY, DATAGRAMS, 500).map(drop)
}

fn use_it(conversation: &mut Conversation) -> Result<()> {
    for len in REQUEST_LENS {
        conversation.ask(len)?;
        conversation.echo(len)?;
    }
    conversation.down(BULK_LEN)?;
    conversation.up(BULK_LEN).map(drop)
}

#[lab_test(root)]
fn a_pair_of_qemu_alone() -> Result<()> {
    serve_and_fail_over(Primary::Qemu, Secondary::Qemu, true)
}

#[lab_test(root)]
fn a_pair_of_qemu_alone_without_headers() -> Result<()> {
    serve_and_fail_over(Primary::Qemu, Secondary::Qemu, false)
}

#[lab_test(root)]
fn our_primary_with_qemus_redirectors_and_rewriter() -> Result<()> {
    serve_and_fail_over(Primary::Ours, Secondary::Qemu, true)
}

#[lab_test(root)]
fn our_primary_with_qemus_redirectors_and_rewriter_without_headers() -> Result<()> {
    serve_and_fail_over(Primary::Ours, Secondary::Qemu, false)
}

#[lab_test(root)]
fn qemus_mirror_and_compare_with_our_secondary() -> Result<()> {
    serve_and_fail_over(Primary::Qemu, Secondary::Ours, true)
}

#[lab_test(root)]
fn qemus_mirror_and_compare_with_our_secondary_without_headers() -> Result<()> {
    serve_and_fail_over(Primary::Qemu, Secondary::Ours, false)
}

#[lab_test(root)]
fn our_compare_between_qemus_redirectors() -> Result<()> {
    serve_and_fail_over(Primary::QemuAroundOurCompare, Secondary::Qemu, true)
}

#[lab_test(root)]
fn our_compare_between_qemus_redirectors_without_headers() -> Result<()> {
    serve_and_fail_over(Primary::QemuAroundOurCompare, Secondary::Qemu, false)
}

#[lab_test(root)]
fn our_primary_and_our_secondary_without_headers() -> Result<()> {
    serve_and_fail_over(Primary::Ours, Secondary::Ours, false)
}
