//! The daemon finds a difference between the guests and names its byte. The client never sees it.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use colo_lab::client::{Conversation, echo};
use colo_lab::daemon::{NamedDivergence, output_of};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::phrases;
use colo_lab::protocol::{ECHO_PORT, SERVICE_PORT};
use colo_lab::stand_in::packet::{TCP, UDP};
use colo_lab::stand_in::tap::TapOffloads;
use colo_proxy::capture_file::{Packet, Reader};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

fn found(pair: &LabPair, peer_port: u16) -> Result<NamedDivergence> {
    let status = pair.primary.wait_status("a divergence", TIMEOUT, |status| {
        status.divergences().iter().any(|found| found.peer_port == peer_port)
    })?;
    let mut all = status.divergences().into_iter();
    all.find(|found| found.peer_port == peer_port).context("it was there a moment ago")
}

fn in_tcp(offloads: TapOffloads, family: Family) -> Result<()> {
    let mut pair = LabPair::start(PairSetup { offloads, ..PairSetup::default() })?;
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

/// The output of `colo-proxy divergences` on the primary's host.
fn listed(pair: &LabPair, more: &[&str]) -> Result<String> {
    let arguments = [&["divergences", "tap0"], more].concat();
    let said = output_of(pair.lab.host(HostSide::Primary), &arguments)?;
    ensure!(said.success, "{said:?}");
    Ok(said.stdout)
}

#[lab_test(root)]
fn is_listed_and_its_frames_are_written() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let none: Value = serde_json::from_str(&listed(&pair, &["--json"])?)?;
    assert_eq!(none["instances"][0]["divergences"], serde_json::json!([]), "{none:#}");
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.ask(1000)?;
    let place = conversation.received() + 77;
    pair.secondary_guest.stand_in.flip(TCP, SERVICE_PORT, 77)?;
    conversation.ask(1000)?;
    let flipped = pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
    found(&pair, flipped.peer_port)?;

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("found.pcapng");
    let file_name = file.to_str().context("a name")?;
    let all: Value = serde_json::from_str(&listed(&pair, &["--json", "--capture", file_name])?)?;
    let instance = &all["instances"][0];
    assert_eq!((&instance["role"], &instance["divergences_total"]), (&"primary".into(), &1.into()));
    let named = &instance["divergences"][0];
    assert_eq!(named["summary"], phrases::divergences::payload_differs_at(place), "{named:#}");
    assert_eq!((&named["number"], named.get("primary_frame")), (&1.into(), None), "{named:#}");

    let packets: Vec<Packet> = Reader::new(BufReader::new(File::open(&file)?))?
        .collect::<Result<_, _>>()
        .context("reading what was written")?;
    let [primary, secondary] = packets.as_slice() else { bail!("{packets:#?}") };
    assert_eq!((primary.interface, secondary.interface), (0, 1));
    let has = |packet: &Packet, byte: u8| packet.bytes.contains(&byte) && !packet.is_truncated();
    assert!(has(primary, flipped.was) && has(secondary, flipped.is), "{packets:#?}");
    let differ = primary.bytes.iter().zip(&secondary.bytes);
    let differ = differ.filter(|(a, b)| (**a, **b) == (flipped.was, flipped.is)).count();
    assert!(differ >= 1, "{packets:#?}");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    assert!(now.abs_diff(Duration::from_nanos(primary.time_ns)) < TIMEOUT, "{packets:#?}");

    let text = listed(&pair, &[])?;
    let line = format!(
        "1. {}: {}",
        named["name"].as_str().context("a name")?,
        phrases::divergences::payload_differs_at(place)
    );
    assert!(text.contains(&line), "{text}");
    assert!(text.contains(&format!("[{:02x}]", flipped.is)), "{text}");
    let other = output_of(pair.lab.host(HostSide::Secondary), &["divergences"])?;
    assert!(
        other.success && other.stdout.contains(phrases::divergences::PRIMARY_COMPARES),
        "{other:?}"
    );
    conversation.close()?;
    pair.finish()
}

#[lab_test(root)]
fn in_tcp_with_offloads() -> Result<()> {
    in_tcp(TapOffloads::On, Family::V4)
}

#[lab_test(root)]
fn in_tcp_over_ipv6_without_offloads() -> Result<()> {
    in_tcp(TapOffloads::Off, Family::V6)
}

#[lab_test(root)]
fn in_a_datagram() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    pair.secondary_guest.stand_in.flip(UDP, ECHO_PORT, 10)?;
    echo(&pair.lab.client, Family::V4, 20, 200)?;
    pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
    let status = pair.primary.wait_status("a checkpoint", TIMEOUT, |status| {
        status.checkpoints().contains_key("datagram")
    })?;
    assert_eq!(status.number("divergences")?, 1, "{status:#?}");
    pair.finish()
}

/// The primary's bytes are the valid ones, even if they are wrong. Nobody can know which guest is
/// right.
#[lab_test(root)]
fn of_the_primary_itself_reaches_the_client() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
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

fn main() -> ExitCode {
    colo_lab::harness::run()
}
