//! Who serves: what a host remembers when its daemon, or the whole host, was off.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use colo_lab::client::{Conversation, Keeper, echo};
use colo_lab::daemon::{DaemonStatus, output};
use colo_lab::guest::{GuestOptions, StandInGuest};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::phrases;
use colo_lab::process::eventually;
use colo_lab::stand_in::tap::TapOffloads;
use nix::sys::signal::Signal;

const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);
/// Longer than every timeout after which a daemon goes on by itself.
const A_WHILE: Duration = Duration::from_secs(4);

/// Scripts for `quorum`, and the files by which a test speaks with them.
struct Quorum {
    dir: tempfile::TempDir,
}

impl Quorum {
    /// It refuses until [`Self::allow`].
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir()?;
        let (asked, allowed) = (dir.path().join("asked"), dir.path().join("allowed"));
        let script =
            format!("#!/bin/sh\n: > {}\nexec test -e {}\n", asked.display(), allowed.display());
        let path = dir.path().join("quorum");
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir })
    }

    /// The lines of a configuration.
    fn config(&self) -> String {
        format!("[guest.takeover]\nquorum = \"{}\"", self.dir.path().join("quorum").display())
    }

    fn allow(&self) -> Result<()> {
        std::fs::write(self.dir.path().join("allowed"), "").context("allowing it")
    }

    fn was_asked(&self) -> bool {
        self.dir.path().join("asked").exists()
    }
}

fn setup(config: [String; 2]) -> PairSetup {
    PairSetup { config: Some(config), ..PairSetup::default() }
}

fn is_mode(status: &DaemonStatus, mode: &str) -> bool {
    status.mode().is_ok_and(|found| found == mode)
}

fn record_path(pair: &LabPair, side: HostSide) -> PathBuf {
    pair.lab.host(side).state.path().join("tap0/service.json")
}

fn record(pair: &LabPair, side: HostSide) -> Result<serde_json::Value> {
    let path = record_path(pair, side);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {text}"))
}

fn cut_link(pair: &LabPair) -> Result<()> {
    pair.lab.host(HostSide::Primary).namespace.ip("link set repl0 down\n")
}

/// `kill -9` of the primary's daemon.
fn kill_primary_daemon(pair: &mut LabPair) -> Result<()> {
    pair.primary.process.signal(Signal::SIGKILL)?;
    pair.primary.process.kill()
}

/// Nothing of the primary's guest leaves for a while, and the mode stays.
fn expect_silence(pair: &LabPair, mode: &str) -> Result<()> {
    let until = Instant::now() + A_WHILE;
    eventually("a while of silence", TIMEOUT, || {
        let status = pair.primary.status()?;
        ensure!(is_mode(&status, mode), "{status:#?}");
        ensure!(status.number("released_frames")? == 0, "{status:#?}");
        Ok((Instant::now() > until).then_some(()))
    })
}

/// The secondary serves, the old primary's daemon starts again, and the hosts do not hear each other.
#[lab_test(root)]
fn a_host_that_was_taken_over_from_stays_silent_when_its_daemon_starts_again() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(30, TIMEOUT)?;
    assert_eq!(record(&pair, HostSide::Primary)?["server"], "either");
    assert_eq!(record(&pair, HostSide::Secondary)?["server"], "either");
    pair.secondary.failover_forced()?;
    let is_silent = |status: &DaemonStatus| is_mode(status, phrases::mode::TAKEN_OVER);
    pair.primary.wait_status("silent", TIMEOUT, is_silent)?;
    eventually("a record of it", TIMEOUT, || {
        Ok((record(&pair, HostSide::Primary)?["server"] == "other-host").then_some(()))
    })?;
    assert_eq!(record(&pair, HostSide::Secondary)?["server"], "this-host");
    cut_link(&pair)?;
    kill_primary_daemon(&mut pair)?;
    pair.restart(HostSide::Primary)?;
    expect_silence(&pair, phrases::mode::TAKEN_OVER)?;
    let status = pair.primary.status()?;
    assert_eq!(status.checkpoints().values().sum::<u64>(), 0, "{status:#?}");
    keeper.wait_for_answers(100, TIMEOUT)?;
    assert!(keeper.stop()?.error.is_none());
    let refused = pair.primary.failover().expect_err("the other host serves");
    ensure!(format!("{refused:#}").contains(phrases::takeover::OTHER_HOST), "{refused:#}");
    pair.finish()
}

/// The link breaks, and the primary's host starts again: its daemon cannot know whether the secondary
/// has taken over.
#[lab_test(root)]
fn a_host_that_comes_back_without_its_secondary_holds_and_asks() -> Result<()> {
    let (ours, theirs) = (Quorum::new()?, Quorum::new()?);
    let mut pair = LabPair::start(setup([ours.config(), theirs.config()]))?;
    echo(&pair.lab.client, Family::V4, 5, 300)?;
    reboot_primary(&mut pair)?;
    assert!(!ours.was_asked(), "it has had a secondary all the time");
    pair.restart(HostSide::Primary)?;
    expect_silence(&pair, phrases::mode::HELD)?;
    assert!(ours.was_asked());
    ours.allow()?;
    let goes_on = |status: &DaemonStatus| is_mode(status, phrases::mode::UNPROTECTED);
    pair.primary.wait_status("alone", TIMEOUT, goes_on)?;
    assert_eq!(record(&pair, HostSide::Primary)?["server"], "this-host");
    echo(&pair.lab.client, Family::V4, 5, 300)?;
    pair.finish()
}

/// The twin: nothing says that this guest was ever protected.
#[lab_test(root)]
fn a_host_that_knows_of_no_secondary_goes_on() -> Result<()> {
    let (ours, theirs) = (Quorum::new()?, Quorum::new()?);
    let mut pair = LabPair::start(setup([ours.config(), theirs.config()]))?;
    reboot_primary(&mut pair)?;
    std::fs::remove_file(record_path(&pair, HostSide::Primary))?;
    pair.restart(HostSide::Primary)?;
    let goes_on = |status: &DaemonStatus| is_mode(status, phrases::mode::UNPROTECTED);
    pair.primary.wait_status("alone", TIMEOUT, goes_on)?;
    assert!(!ours.was_asked());
    pair.finish()
}

/// Everything of the primary's host ends but its disk, and the link is down.
fn reboot_primary(pair: &mut LabPair) -> Result<()> {
    cut_link(pair)?;
    kill_primary_daemon(pair)?;
    pair.primary_guest.kill()?;
    let mut unpin = Command::new("rm");
    unpin.args(["-r", "/sys/fs/bpf/colo-proxy"]);
    let unpinned = output(pair.lab.host(HostSide::Primary), unpin)?;
    ensure!(unpinned.success, "{unpinned:?}");
    let options = GuestOptions::of(HostSide::Primary, TapOffloads::On);
    pair.primary_guest = StandInGuest::start(&pair.lab, HostSide::Primary, options)?;
    Ok(())
}

/// Nobody can be asked: the secondary's daemon, or an operator, has to say that this host serves.
#[lab_test(root)]
fn with_nobody_to_ask_a_host_waits_for_the_secondary_or_for_an_operator() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    echo(&pair.lab.client, Family::V4, 5, 300)?;
    cut_link(&pair)?;
    kill_primary_daemon(&mut pair)?;
    pair.restart(HostSide::Primary)?;
    expect_silence(&pair, phrases::mode::HELD)?;
    pair.lab.host(HostSide::Primary).namespace.ip("link set repl0 up\n")?;
    pair.primary.wait_protected()?;
    echo(&pair.lab.client, Family::V4, 5, 300)?;
    cut_link(&pair)?;
    kill_primary_daemon(&mut pair)?;
    pair.restart(HostSide::Primary)?;
    expect_silence(&pair, phrases::mode::HELD)?;
    pair.primary.failover()?;
    assert!(is_mode(&pair.primary.status()?, phrases::mode::UNPROTECTED));
    echo(&pair.lab.client, Family::V4, 5, 300)?;
    pair.finish()
}

/// After a takeover that no disk remembers, the next start would not know of it.
#[lab_test(root)]
fn a_record_that_cannot_be_written_forbids_a_takeover() -> Result<()> {
    let quorum = Quorum::new()?;
    quorum.allow()?;
    let mut pair = LabPair::start(setup([String::new(), quorum.config()]))?;
    echo(&pair.lab.client, Family::V4, 5, 300)?;
    // Root may write everywhere, but not a file in the place of a directory.
    let in_the_way = record_path(&pair, HostSide::Secondary).with_extension("json.new");
    std::fs::create_dir(&in_the_way)?;
    kill_primary_daemon(&mut pair)?;
    pair.primary_guest.kill()?;
    pair.secondary.process.wait_for(phrases::takeover::NO_RECORD, TIMEOUT)?;
    let until = Instant::now() + A_WHILE;
    eventually("a while without a takeover", TIMEOUT, || {
        let status = pair.secondary.status()?;
        ensure!(!is_mode(&status, phrases::mode::SERVING), "{status:#?}");
        Ok((Instant::now() > until).then_some(()))
    })?;
    std::fs::remove_dir(&in_the_way)?;
    let serves = |status: &DaemonStatus| is_mode(status, phrases::mode::SERVING);
    pair.secondary.wait_status("serving", TIMEOUT, serves)?;
    echo(&pair.lab.client, Family::V4, 5, 300)?;
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
