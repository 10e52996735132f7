//! A difference between the guests is found, named to the octet, and never seen by the client.

use std::time::Duration;

use anyhow::{Context, Result};
use colo_lab::client::{Conversation, echo};
use colo_lab::daemon::NamedDivergence;
use colo_lab::network::Family;
use colo_lab::pair::{Pair, PairSetup};
use colo_lab::protocol::{ECHO_PORT, SERVICE_PORT};
use colo_lab::root::require_root;
use colo_lab::stand_in::packet::{TCP, UDP};
use colo_lab::stand_in::tap::Offloads;

const TIMEOUT: Duration = Duration::from_secs(10);

fn found(pair: &Pair, peer_port: u16) -> Result<NamedDivergence> {
    let status = pair.primary.wait_status("a divergence", TIMEOUT, |status| {
        status.divergences().iter().any(|found| found.peer_port == peer_port)
    })?;
    let mut all = status.divergences().into_iter();
    all.find(|found| found.peer_port == peer_port).context("it was there a moment ago")
}

fn in_tcp(offloads: Offloads, family: Family) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut pair = Pair::start(PairSetup { offloads, ..PairSetup::default() })?;
    let mut conversation = Conversation::open(&pair.lab.client, family)?;
    conversation.ask(1000)?;
    pair.expect_no_checkpoints()?;
    let place = conversation.received() + 77;
    pair.secondary_guest.stand_in.flip(TCP, SERVICE_PORT, 77)?;
    conversation.ask(1000)?;
    let flipped = pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
    let named = found(&pair, flipped.peer_port)?;
    assert_eq!(
        (named.stream_offset, named.primary_byte, named.secondary_byte),
        (place as i64, flipped.was, flipped.is),
        "{named}"
    );
    let asked = pair.primary.status()?.checkpoints();
    assert_eq!(asked.get("payload"), Some(&1), "{asked:?}");
    for _ in 0..100 {
        conversation.ask(1000)?;
    }
    conversation.close()?;
    let status = pair.primary.status()?;
    assert_eq!(status.number("divergences")?, 1, "{status:#?}");
    assert_eq!(status.checkpoints().values().sum::<u64>(), 1, "{status:#?}");
    pair.finish()
}

#[test]
fn in_tcp_with_offloads() -> Result<()> {
    in_tcp(Offloads::On, Family::V4)
}

#[test]
fn in_tcp_over_ipv6_without_offloads() -> Result<()> {
    in_tcp(Offloads::Off, Family::V6)
}

#[test]
fn in_a_datagram() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut pair = Pair::start(PairSetup::default())?;
    pair.secondary_guest.stand_in.flip(UDP, ECHO_PORT, 10)?;
    echo(&pair.lab.client, Family::V4, 20, 200)?;
    pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
    let status = pair.primary.wait_status("a checkpoint", TIMEOUT, |status| {
        status.checkpoints().contains_key("datagram")
    })?;
    assert_eq!(status.number("divergences")?, 1, "{status:#?}");
    pair.finish()
}

/// The primary's octets count, also where it is the primary that is wrong: nobody can tell.
#[test]
fn of_the_primary_itself_reaches_the_client() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut pair = Pair::start(PairSetup::default())?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.ask(1000)?;
    pair.primary_guest.stand_in.flip(TCP, SERVICE_PORT, 40)?;
    let error = conversation.ask(1000).expect_err("the client's check");
    assert!(format!("{error:#}").contains("wrong"), "{error:#}");
    let flipped = pair.primary_guest.stand_in.flipped(TIMEOUT)?;
    let named = found(&pair, flipped.peer_port)?;
    assert_eq!((named.primary_byte, named.secondary_byte), (flipped.is, flipped.was));
    pair.finish()
}
