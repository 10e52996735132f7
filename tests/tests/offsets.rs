//! A second failover. Connections were opened through one protected pair, and are translated since
//! its failover. They continue from the secondary of the next pair.
//!
//! The lab cannot copy a guest, so the guest moves: the survivor of the first failover continues,
//! as it is, on the host of the new secondary. A checkpoint would have put its copy there.
//! Everything else is real: the connections, the translation on each host, and the offsets that one
//! daemon exports and the other imports.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use colo_lab::client::{Calls, Conversation, Keeper, wait_for_all};
use colo_lab::daemon::{CommandOutput, Daemon, output_of};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::phrases;
use nix::sys::signal::Signal;

const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);
/// A connection that continues does so within this time.
const IN_VAIN: Duration = Duration::from_secs(8);

/// Connections that either side opened, over each IP version, all in use.
fn keepers(pair: &LabPair) -> Result<Vec<Keeper>> {
    let client = &pair.lab.client;
    let mut keepers = Vec::new();
    for family in Family::BOTH {
        keepers.push(Keeper::start(Conversation::open(client, family)?, 3000, PAUSE));
        keepers.push(Keeper::start(Calls::new(client, family)?.call()?, 10, PAUSE));
    }
    Ok(keepers)
}

/// A file that disappears.
struct TextFile(PathBuf);

impl TextFile {
    fn new(name: &str, text: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("colo-lab-{}-{name}", std::process::id()));
        std::fs::write(&path, text).context("writing a file")?;
        Ok(Self(path))
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn offsets(pair: &LabPair, side: HostSide, arguments: &[&str]) -> Result<CommandOutput> {
    let arguments: Vec<&str> =
        std::iter::once("offsets").chain(arguments.iter().copied()).collect();
    output_of(pair.lab.host(side), &arguments)
}

/// The output of `colo-proxy offsets export` on the host of `side`.
fn export(pair: &LabPair, side: HostSide) -> Result<String> {
    let output = offsets(pair, side, &["export"])?;
    ensure!(output.success, "export: {}", output.stderr);
    Ok(output.stdout)
}

/// The surviving guest's host becomes the primary of the next pair, which has no secondary yet.
fn become_primary(pair: &mut LabPair) -> Result<()> {
    let status = pair.secondary.process.terminate()?;
    ensure!(status.success(), "{status}: {}", pair.secondary.process.stderr());
    let arguments = [
        "primary",
        "--netdev=tap0",
        "--mirror=unix:/run/mirror,server",
        "--secondary-in=unix:/run/secondary,server",
    ];
    pair.secondary = Daemon::spawn(pair.lab.host(HostSide::Secondary), &arguments)?;
    pair.secondary.wait_ready()
}

/// The daemon of the next pair's secondary, on the host of the first primary.
fn new_secondary(pair: &mut LabPair) -> Result<()> {
    let control = format!("--control=tcp:{}:9005,server", HostSide::Primary.replication());
    let arguments = [
        "secondary",
        "--netdev=tap0",
        "--mirror=unix:/run/mirror,server",
        "--secondary-out=unix:/run/secondary,server",
        &control,
    ];
    pair.primary = Daemon::spawn(pair.lab.host(HostSide::Primary), &arguments)?;
    pair.primary.wait_ready()
}

/// The status of a primary after checkpoints that have copied state.
fn tell_epochs(pair: &LabPair, epochs: u64) -> Result<()> {
    let host = &pair.lab.host(HostSide::Secondary).namespace;
    let mut to = host.run(|| Ok(TcpStream::connect((HostSide::Primary.replication(), 9005))?))?;
    to.set_read_timeout(Some(TIMEOUT))?;
    let mut from = BufReader::new(to.try_clone()?).lines();
    writeln!(to, r#"{{"type":"hello","version":3,"role":"primary"}}"#)?;
    for epoch in 1..=epochs {
        writeln!(to, r#"{{"type":"epoch","session":7,"epoch":{epoch}}}"#)?;
        let done = format!(r#""type":"epoch-done","epoch":{epoch}"#);
        loop {
            let line = from.next().context("the control lane was closed")??;
            if line.contains(&done) {
                break;
            }
        }
    }
    Ok(())
}

/// A pair, a failover, the next pair, and another failover. With `told`, the second secondary imports
/// the first secondary's offsets.
fn fail_over_twice(pair: &mut LabPair, keepers: &[Keeper], told: bool) -> Result<()> {
    wait_for_all(keepers, 30, TIMEOUT)?;
    pair.expect_no_checkpoints()?;
    pair.fail_over()?;
    wait_for_all(keepers, 30, TIMEOUT)?;
    let exported = export(pair, HostSide::Secondary)?;
    ensure!(exported.lines().count() > keepers.len(), "too little was exported:\n{exported}");

    become_primary(pair)?;
    wait_for_all(keepers, 30, TIMEOUT)?;
    ensure!(same(&export(pair, HostSide::Secondary)?, &exported), "the new primary knows as much");
    // The twin runs at the same time.
    let name = if told { "offsets.jsonl" } else { "offsets-untold.jsonl" };
    let file = TextFile::new(name, &export(pair, HostSide::Secondary)?)?;

    new_secondary(pair)?;
    if told {
        let path = file.0.to_string_lossy().into_owned();
        let output = offsets(pair, HostSide::Primary, &["import", "tap0", &path])?;
        ensure!(output.success && output.stdout.contains(phrases::offsets::IMPORTED), "{output:?}");
        tell_epochs(pair, 3)?;
        ensure!(same(&export(pair, HostSide::Primary)?, &exported), "after three checkpoints");
    }
    // The host of the survivor dies.
    pair.secondary.process.signal(Signal::SIGKILL)?;
    pair.lab.host(HostSide::Secondary).unplug()?;
    pair.secondary_guest.move_to(&pair.lab, HostSide::Primary)?;
    pair.primary.failover_forced()?;
    pair.secondary.process.kill()
}

/// The same connections are in both texts, with the same translation.
fn same(one: &str, other: &str) -> bool {
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    sorted(one) == sorted(other)
}

#[lab_test(root)]
fn connections_outlive_a_second_failover() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let keepers = keepers(&pair)?;
    fail_over_twice(&mut pair, &keepers, true)?;
    wait_for_all(&keepers, 30, TIMEOUT)?;
    for keeper in keepers {
        let kept = keeper.stop()?;
        eprintln!("{}: {} answers, gap {:?}", kept.name, kept.answers, kept.longest_gap);
        assert!(kept.error.is_none(), "{}: {:#?}", kept.name, kept.error);
    }
    Ok(())
}

#[lab_test(root)]
fn the_twin_whose_secondary_was_told_nothing_loses_them() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let keepers = keepers(&pair)?;
    fail_over_twice(&mut pair, &keepers, false)?;
    // The guest is there, and serves new connections.
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.ask(1000)?;
    for keeper in &keepers {
        assert!(keeper.wait_for_answers(1, IN_VAIN / 4).is_err(), "{} goes on", keeper.name());
    }
    Ok(())
}

#[lab_test(root)]
fn what_cannot_be_imported_is_refused_with_its_line_and_changes_nothing() -> Result<()> {
    let pair = LabPair::start(PairSetup::default())?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.ask(1000)?;
    let exported = export(&pair, HostSide::Secondary)?;
    ensure!(exported.lines().count() == 2, "one connection:\n{exported}");
    let count = exported.replace("\"flows\":1", "\"flows\":2");
    let line = exported.lines().nth(1).context("a connection")?;
    for (name, text, reason) in [
        (
            "cut",
            exported.lines().next().unwrap_or_default().to_owned(),
            phrases::offsets::PROMISES_ONE,
        ),
        ("twice", format!("{count}{line}\n"), phrases::offsets::SAME_CONNECTION_AGAIN),
        ("hostile", format!("{count}{}\n", "{".repeat(10_000)), phrases::offsets::LINE_TOO_LONG),
        ("offset", exported.replace("\"seq_offset\":", "\"seq_offset\":1"), ""),
        ("other", "hello\n".to_owned(), phrases::offsets::UNREADABLE),
    ] {
        let file = TextFile::new(name, &text)?;
        let path = file.0.to_string_lossy().into_owned();
        let output = offsets(&pair, HostSide::Secondary, &["import", "tap0", &path])?;
        ensure!(!output.success && output.stderr.contains(reason), "{name}: {output:?}");
        ensure!(same(&export(&pair, HostSide::Secondary)?, &exported), "{name} changed something");
    }
    let again = TextFile::new("again", &exported)?;
    let path = again.0.to_string_lossy().into_owned();
    let output = offsets(&pair, HostSide::Secondary, &["import", "tap0", &path])?;
    ensure!(
        output.success && output.stdout.contains(phrases::offsets::ONE_KNOWN_ALREADY),
        "{output:?}"
    );
    conversation.ask(1000)?;
    conversation.close()?;
    pair.expect_no_checkpoints()?;
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
