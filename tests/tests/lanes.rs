//! The wire between the hosts: it breaks, it comes back, and its other end is gone or sends
//! nonsense.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use colo_lab::client::{Conversation, Keeper, echo};
use colo_lab::daemon::{Daemon, DaemonStatus, PairOptions};
use colo_lab::guest::{GuestOptions, StandInGuest};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, Lab, LabOptions, LabSlot};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::phrases;
use colo_lab::stand_in::tap::TapOffloads;

const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);
const MIRROR_PORT: u16 = 9003;
const SECONDARY_PORT: u16 = 9004;
const CONTROL_PORT: u16 = 9005;

/// A break that is shorter than every timeout costs only time. Held output waits. The client
/// repeats the input that the secondary's guest has missed.
///
/// The compare timeout is long here, because the lab's checkpoints copy no state: a guest that is
/// behind would stay behind after one.
#[lab_test(root)]
fn a_short_break_costs_no_checkpoint() -> Result<()> {
    let mut pair = LabPair::start(patient())?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(30, TIMEOUT)?;
    pair.secondary.process.kill()?;
    pair.restart(HostSide::Secondary)?;
    let status = pair.primary.wait_protected()?;
    assert!(status.detail("/lanes/mirror/connections")? >= 2, "{status:#?}");
    keeper.wait_for_answers(100, TIMEOUT)?;
    assert!(keeper.stop()?.error.is_none());
    pair.expect_no_checkpoints()?;
    pair.finish()
}

/// A setup that waits long for the secondary, and for its answers.
fn patient() -> PairSetup {
    let primary = "secondary_timeout_ms = 20000\ncompare_timeout_ms = 20000".to_owned();
    PairSetup { config: Some([primary, String::new()]), ..PairSetup::default() }
}

/// The primary has waited without success, and says so. Its guest has sent nothing meanwhile.
#[lab_test(root)]
fn a_secondary_that_is_late_costs_no_checkpoint_where_nothing_was_said() -> Result<()> {
    let mut pair = LabPair::start(PairSetup { secondary_late: true, ..PairSetup::default() })?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.ask(1000)?;
    conversation.close()?;
    pair.expect_no_checkpoints()?;
    pair.expect_right_sums()?;
    pair.finish()
}

/// The link between the hosts is down until protection ends, and then comes back. The secondary is
/// stale by then. A new guest without any connection replaces it, and the primary's guest also has
/// no open connection. This stands for the state that a checkpoint would copy.
#[lab_test(root)]
fn a_link_that_breaks_is_seen_and_heals() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(30, TIMEOUT)?;
    let host = &pair.lab.host(HostSide::Secondary).namespace;
    host.ip("link set repl0 down\n")?;
    pair.primary.wait_status("unprotected", TIMEOUT, |s| mode_is(s, phrases::mode::UNPROTECTED))?;
    keeper.wait_for_answers(100, TIMEOUT)?;
    assert!(keeper.stop()?.error.is_none());
    pair.secondary_guest.kill()?;
    host.ip("link set repl0 up\n")?;
    let options = GuestOptions::of(HostSide::Secondary, TapOffloads::On);
    pair.secondary_guest = StandInGuest::start(&pair.lab, HostSide::Secondary, options)?;
    protected_again(&pair)?;
    pair.finish()
}

/// A secondary that ends in good order takes its guest off the network. When the daemon is back,
/// and the operator has set the TAP up again, a checkpoint makes the pair protected.
#[lab_test(root)]
fn a_secondary_that_is_ended_and_started_is_protected_again() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(30, TIMEOUT)?;
    let ended = pair.secondary.process.terminate()?;
    ensure!(ended.success(), "{ended}: {}", pair.secondary.process.stderr());
    pair.primary.wait_status("unprotected", TIMEOUT, |s| mode_is(s, phrases::mode::UNPROTECTED))?;
    keeper.wait_for_answers(100, TIMEOUT)?;
    assert!(keeper.stop()?.error.is_none());
    pair.secondary_guest.kill()?;
    pair.restart(HostSide::Secondary)?;
    pair.lab.host(HostSide::Secondary).plug_tap(LabSlot(0))?;
    let options = GuestOptions::of(HostSide::Secondary, TapOffloads::On);
    pair.secondary_guest = StandInGuest::start(&pair.lab, HostSide::Secondary, options)?;
    protected_again(&pair)?;
    pair.finish()
}

fn protected_again(pair: &LabPair) -> Result<()> {
    let status = pair.primary.wait_protected()?;
    assert_eq!(status.checkpoints().get("resync"), Some(&1), "{status:#?}");
    let before = status.number("compared_frames")?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V6)?;
    for _ in 0..100 {
        conversation.ask(1000)?;
    }
    conversation.close()?;
    let status = pair.primary.status()?;
    assert!(status.number("compared_frames")? > before + 100, "{status:#?}");
    assert_eq!(status.checkpoints().len(), 1, "{status:#?}");
    Ok(())
}

#[lab_test(root)]
fn without_a_secondary_output_leaves_after_the_timeout_and_status_says_so() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(30, TIMEOUT)?;
    pair.secondary.process.kill()?;
    keeper.wait_for_answers(100, TIMEOUT)?;
    let status = pair.primary.status()?;
    assert_eq!(status.mode()?, phrases::mode::UNPROTECTED, "{status:#?}");
    let kept = keeper.stop()?;
    assert!(kept.error.is_none(), "{kept:?}");
    // The default of `secondary_timeout_ms` is 1000.
    assert!(kept.longest_gap >= Duration::from_millis(900), "{:?}", kept.longest_gap);
    pair.finish()
}

#[lab_test(root)]
fn without_a_secondary_hold_keeps_holding() -> Result<()> {
    let more =
        "on_secondary_lost = \"hold\"\nsecondary_timeout_ms = 200\ncompare_timeout_ms = 20000";
    let config = Some([more.to_owned(), String::new()]);
    let mut pair = LabPair::start(PairSetup { config, ..PairSetup::default() })?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(30, TIMEOUT)?;
    pair.secondary.process.kill()?;
    pair.primary.wait_status("held output", TIMEOUT, |status| {
        mode_is(status, phrases::mode::HELD)
            && status.number("held_frames").is_ok_and(|held| held > 0)
    })?;
    let answers = keeper.answers();
    // It still waits after five timeouts.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(keeper.answers(), answers, "an answer left although nobody vouched for it");
    pair.restart(HostSide::Secondary)?;
    keeper.wait_for_answers(30, TIMEOUT)?;
    assert!(keeper.stop()?.error.is_none());
    pair.finish()
}

fn mode_is(status: &DaemonStatus, mode: &str) -> bool {
    status.mode().is_ok_and(|found| found == mode)
}

/// A primary without a secondary. The test plays with its lanes.
struct Alone {
    primary: Daemon,
    lab: Lab,
}

impl Alone {
    fn start() -> Result<(Self, StandInGuest)> {
        let lab = Lab::new(LabOptions::default())?;
        let guest = StandInGuest::start(
            &lab,
            HostSide::Primary,
            GuestOptions::of(HostSide::Primary, TapOffloads::On),
        )?;
        let primary = Daemon::start(&lab, HostSide::Primary, &PairOptions::default())?;
        Ok((Self { primary, lab }, guest))
    }

    /// Connects to a lane of the primary from the other host.
    fn connect(&self, port: u16) -> Result<TcpStream> {
        let address = SocketAddr::new(HostSide::Primary.replication().into(), port);
        let stream = self.lab.host(HostSide::Secondary).namespace.run(|| {
            TcpStream::connect_timeout(&address, TIMEOUT).context("connecting to a lane")
        })?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    fn bad(&self, kind: &str, count: u64) -> Result<()> {
        let pointer = format!("/lanes/secondary_in/bad_records/{kind}");
        let what = format!("{count} bad records: {kind}");
        let seen = |status: &DaemonStatus| status.detail(&pointer).is_ok_and(|seen| seen == count);
        self.primary.wait_status(&what, TIMEOUT, seen).map(drop)
    }
}

/// A record with a virtio-net header.
fn record(frame: &[u8]) -> Vec<u8> {
    let mut bytes = (frame.len() as u32 + 12).to_be_bytes().to_vec();
    bytes.extend(12_u32.to_be_bytes());
    bytes.extend([0; 12]);
    bytes.extend(frame);
    bytes
}

/// The other end closes, with or without a reset.
fn expect_closed(mut stream: TcpStream) -> Result<()> {
    match stream.read(&mut [0; 16]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => anyhow::bail!("the connection is not closed: {other:?}"),
    }
}

#[lab_test(root)]
fn bad_records_are_counted_and_impossible_ones_close_the_lane() -> Result<()> {
    let (alone, guest) = Alone::start()?;
    let mut lane = alone.connect(SECONDARY_PORT)?;
    // A LENGTH of 0 with the second word, then a runt, then frames that contradict their headers.
    lane.write_all(&[0; 8])?;
    lane.write_all(&record(&[1, 2, 3]))?;
    for len in [14, 20, 33, 60, 1514, 65_000] {
        lane.write_all(&record(&vec![0x45; len]))?;
    }
    alone.bad("empty", 1)?;
    alone.bad("runt", 1)?;
    for (nth, length) in [69_633_u32, u32::MAX].into_iter().enumerate() {
        lane.write_all(&length.to_be_bytes())?;
        lane.write_all(&12_u32.to_be_bytes())?;
        expect_closed(lane)?;
        alone.bad("oversized", nth as u64 + 1)?;
        lane = alone.connect(SECONDARY_PORT)?;
    }
    // The stream ends inside a record, and inside a length word.
    for (nth, cut) in [record(&[7; 100]), vec![0, 0]].into_iter().enumerate() {
        lane.write_all(cut.get(..cut.len() - 1).unwrap_or_default())?;
        drop(lane);
        alone.bad("truncated", nth as u64 + 1)?;
        lane = alone.connect(SECONDARY_PORT)?;
    }
    drop(lane);
    let mut control = alone.connect(CONTROL_PORT)?;
    for line in ["\n", "no json\n", "{\"type\":\"epoch-done\",\"epoch\":-1}\n"] {
        control.write_all(line.as_bytes())?;
    }
    // A line without an end. The daemon closes it, with everything that is unread.
    let _ = control.write_all(&vec![b'x'; 1 << 20]);
    drop(control);
    pair_up(alone, guest)
}

/// After all of that, the real secondary connects, and the pair works.
fn pair_up(alone: Alone, guest: StandInGuest) -> Result<()> {
    let Alone { mut primary, lab } = alone;
    let secondary = Daemon::start(&lab, HostSide::Secondary, &PairOptions::default())?;
    let options = GuestOptions::of(HostSide::Secondary, TapOffloads::On);
    let second_guest = StandInGuest::start(&lab, HostSide::Secondary, options)?;
    let before = primary.wait_protected()?.number("compared_frames")?;
    let mut conversation = Conversation::open(&lab.client, Family::V4)?;
    conversation.ask(1000)?;
    conversation.close()?;
    echo(&lab.client, Family::V6, 10, 100)?;
    assert!(primary.status()?.number("compared_frames")? > before);
    drop((secondary, second_guest, guest));
    let ended = primary.process.terminate()?;
    ensure!(ended.success(), "{ended}: {}", primary.process.stderr());
    Ok(())
}

/// A mirror that sends nonsense must not reach the secondary's guest, and must not stop its daemon.
#[lab_test(root)]
fn a_bad_mirror_does_not_harm_the_secondary() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let listener = lab
        .host(HostSide::Primary)
        .namespace
        .run(|| Ok(TcpListener::bind((HostSide::Primary.replication(), MIRROR_PORT))?))?;
    let mut daemon = Daemon::start(&lab, HostSide::Secondary, &PairOptions::default())?;
    let options = GuestOptions::of(HostSide::Secondary, TapOffloads::On);
    let mut guest = StandInGuest::start(&lab, HostSide::Secondary, options)?;
    for bad in [
        [69_633_u32.to_be_bytes(), [0, 0, 0, 12]].concat(),
        [u32::MAX.to_be_bytes(); 2].concat(),
        record(&[9; 200]).get(..50).unwrap_or_default().to_vec(),
    ] {
        let (mut lane, _) = listener.accept()?;
        lane.set_read_timeout(Some(TIMEOUT))?;
        lane.write_all(&[0; 8])?;
        for len in [1, 14, 34, 60, 1514, 65_000] {
            lane.write_all(&record(&vec![0x45; len]))?;
        }
        // A virtio-net header that promises a checksum and segments that do not exist.
        let mut lying = record(&[0x11; 64]);
        lying.splice(8..20, [1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        lane.write_all(&lying)?;
        lane.write_all(&bad)?;
        if bad.len() > 8 { drop(lane) } else { expect_closed(lane)? }
    }
    // The daemon has connected again, so it lives. The guest lives too.
    listener.accept()?;
    let status = daemon.status()?;
    assert_eq!(status.mode()?, phrases::mode::STANDBY, "{status:#?}");
    guest.stand_in.counts()?;
    let ended = daemon.process.terminate()?;
    ensure!(ended.success(), "{ended}: {}", daemon.process.stderr());
    Ok(())
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
