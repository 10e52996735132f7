//! QEMU alone. The secondary's guest gets no input between checkpoints, and its host is off the
//! LAN. So a connection survives a failover if nothing happens on it after the last checkpoint.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use colo_lab::client::Conversation;
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, Lab, LabOptions, LabSlot};
use colo_lab::qemu::colo::{self, NEVER_MS};
use colo_lab::qemu::machine::QemuMachine;
use colo_lab::qemu::{Image, QemuGuest};
use serde_json::{Value, json};

use super::found;

const TIMEOUT: Duration = Duration::from_secs(20);
const CHECKPOINTS: usize = 10;
const TAP: LabSlot = LabSlot(0);

/// Two hosts, and the image of their guests.
struct Stock {
    lab: Lab,
    image: Image,
    machine: QemuMachine,
}

impl Stock {
    fn new() -> Result<Self> {
        let (emulator, image) = found()?;
        let lab = Lab::new(LabOptions::default())?;
        Ok(Self { lab, image, machine: QemuMachine::for_colo(emulator) })
    }

    fn boot(&self, side: HostSide) -> Result<QemuGuest> {
        let mut guest = QemuGuest::boot_on(&self.lab, side, &self.image, &self.machine)?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// A guest that waits for the other's state. It is on no network.
    fn wait_for_state(&self, side: HostSide) -> Result<QemuGuest> {
        self.lab.host(side).unplug_tap(TAP)?;
        let incoming = Some(format!("tcp:{}:9998", side.replication()));
        let machine = QemuMachine { incoming, ..self.machine.clone() };
        QemuGuest::boot_on(&self.lab, side, &self.image, &machine)
    }

    /// Both guests, in COLO.
    fn pair(&self) -> Result<[QemuGuest; 2]> {
        let primary = self.boot(HostSide::Primary)?;
        let secondary = self.wait_for_state(HostSide::Secondary)?;
        colo::enter(&primary, &secondary, NEVER_MS)?;
        Ok([primary, secondary])
    }

    /// One host is gone. The other host's guest is on the network in its place.
    fn fail_over(&self, mut dead: QemuGuest, survivor: &QemuGuest) -> Result<()> {
        dead.kill()?;
        colo::go_on_alone(survivor)?;
        self.lab.host(survivor.side).plug_tap(TAP)?;
        colo::announce(survivor)
    }
}

/// Everything that has happened on `conversation` when this returns is in the secondary's state.
fn use_and_copy(
    conversation: &mut Conversation,
    [primary, secondary]: [&QemuGuest; 2],
) -> Result<()> {
    for len in [1, 1000, 100_000] {
        conversation.ask(len)?;
        colo::checkpoint(primary, secondary)?;
    }
    Ok(())
}

#[lab_test(root)]
fn one_connection_lives_through_two_pairs_and_two_failovers() -> Result<()> {
    let stock = Stock::new()?;
    let [first, second] = stock.pair()?;
    let mut conversation = Conversation::open(&stock.lab.client, Family::V4)?;
    use_and_copy(&mut conversation, [&first, &second])?;
    stock.fail_over(first, &second)?;
    conversation.ask(1000).context("after the first failover")?;

    let third = stock.wait_for_state(HostSide::Primary)?;
    colo::enter(&second, &third, NEVER_MS)?;
    use_and_copy(&mut conversation, [&second, &third])?;
    stock.fail_over(second, &third)?;
    conversation.ask(1000).context("after the second failover")?;
    conversation.close()
}

#[lab_test(root)]
fn a_primary_whose_secondary_died_takes_a_new_one() -> Result<()> {
    let stock = Stock::new()?;
    let [primary, mut secondary] = stock.pair()?;
    let mut conversation = Conversation::open(&stock.lab.client, Family::V4)?;
    secondary.kill()?;
    conversation.ask(1000).context("the primary does not know yet")?;
    colo::go_on_alone(&primary)?;
    conversation.ask(1000).context("alone")?;
    drop(secondary);
    let secondary = stock.wait_for_state(HostSide::Secondary)?;
    colo::enter(&primary, &secondary, NEVER_MS)?;
    use_and_copy(&mut conversation, [&primary, &secondary])?;
    conversation.close()
}

/// The primary's guest continues from any part of a checkpoint, as soon as QEMU learns that it is
/// alone. Without that, it may stand still for ever.
#[lab_test(root)]
fn a_guest_that_stands_still_for_a_dead_secondary_goes_on() -> Result<()> {
    let stock = Stock::new()?;
    let [primary, mut secondary] = stock.pair()?;
    let mut conversation = Conversation::open(&stock.lab.client, Family::V4)?;
    conversation.ask(1000)?;
    let place = primary.qmp()?.place();
    colo::request_checkpoint(&primary)?;
    primary.qmp()?.wait_named("STOP", place, TIMEOUT)?;
    secondary.kill()?;
    colo::go_on_alone(&primary)?;
    conversation.ask(1000)?;
    conversation.close()
}

/// The secondary has nothing to send while it waits for the primary's acknowledgment.
#[lab_test(root)]
fn a_checkpoint_is_shorter_where_the_primary_acknowledges_at_once() -> Result<()> {
    let stock = Stock::new()?;
    let [primary, secondary] = stock.pair()?;
    let usual = pauses(&primary, &secondary)?;
    for side in HostSide::BOTH {
        stock.lab.host(side).acknowledge_at_once()?;
    }
    let quick = pauses(&primary, &secondary)?;
    println!(
        "pauses of the primary in {CHECKPOINTS} checkpoints each: {usual:?}; with quickack: {quick:?}"
    );
    ensure!(median(&quick) < median(&usual), "acknowledging at once is no faster");
    let status = primary.qmp()?.execute("query-status", &Value::Null)?;
    ensure!(status.get("running") == Some(&json!(true)), "{status}");
    Ok(())
}

/// In order of their length.
fn pauses(primary: &QemuGuest, secondary: &QemuGuest) -> Result<Vec<Duration>> {
    let one = |_| Ok(colo::checkpoint(primary, secondary)?.pause);
    let mut pauses: Vec<Duration> = (0..CHECKPOINTS).map(one).collect::<Result<_>>()?;
    pauses.sort();
    Ok(pauses)
}

fn median(sorted: &[Duration]) -> Option<Duration> {
    sorted.get(sorted.len() / 2).copied()
}
