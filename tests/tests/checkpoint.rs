//! Checkpoints that a script makes. A checkpoint is requested once, with the name of its reason.
//! Held output leaves when a checkpoint is done, and not before. Both hosts count epochs alike.
//!
//! The lab's COLO-frames copy no state. So a connection that was open at a checkpoint is reset
//! after it. Both guests then have no connection, which stands for equal state.

use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use colo_lab::client::{Conversation, Keeper, echo};
use colo_lab::colo_frame::{BEGAN, DONE, FAILED, FAILOVER, ScriptFrame};
use colo_lab::daemon::{Daemon, DaemonStatus, PairOptions};
use colo_lab::lab_test;
use colo_lab::network::Family;
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::phrases;
use colo_lab::protocol::{ECHO_PORT, SERVICE_PORT};
use colo_lab::stand_in::packet::{TCP, UDP};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);
/// This is longer than the compare timeout, so a frame that hangs would have caused a request.
const AFTERWARDS: Duration = Duration::from_secs(4);

fn protected_by(frame: &ScriptFrame) -> Result<LabPair> {
    let daemons = PairOptions { colo_frame: frame.kind(), ..PairOptions::default() };
    LabPair::start(PairSetup { daemons, ..PairSetup::default() })
}

fn epoch_is(status: &DaemonStatus, epoch: u64) -> bool {
    status.number("epoch").is_ok_and(|found| found == epoch)
}

fn wait_epoch(daemon: &Daemon, epoch: u64) -> Result<DaemonStatus> {
    daemon.wait_status(&format!("epoch {epoch}"), TIMEOUT, |status| epoch_is(status, epoch))
}

/// After a checkpoint, the hosts agree on the epoch. New connections are compared and right for
/// longer than anything from the old epoch could wait.
fn goes_on(pair: &LabPair, asked: u64) -> Result<()> {
    wait_epoch(&pair.secondary, 1)?;
    let before = wait_epoch(&pair.primary, 1)?.number("compared_bytes")?;
    let until = Instant::now() + AFTERWARDS;
    let client = &pair.lab.client;
    for family in Family::BOTH.into_iter().cycle() {
        let mut conversation = Conversation::open(client, family)?;
        for _ in 0..20 {
            conversation.ask(1000)?;
        }
        conversation.up(100_000)?;
        conversation.down(100_000)?;
        conversation.close()?;
        echo(client, family, 5, 300)?;
        if Instant::now() > until {
            break;
        }
    }
    let status = pair.primary.status()?;
    assert!(status.number("compared_bytes")? > before + 200_000, "{status:#?}");
    assert_eq!(status.mode()?, phrases::mode::PROTECTED, "{status:#?}");
    assert_eq!(status.number("divergences")?, 1, "{status:#?}");
    assert_eq!(status.checkpoints().values().sum::<u64>(), asked, "{status:#?}");
    assert!(epoch_is(&status, 1) && epoch_is(&pair.secondary.status()?, 1), "{status:#?}");
    Ok(())
}

/// The frame's commands name the instance, the epoch and the reason.
fn expect_asked(pair: &LabPair, frame: &ScriptFrame, reason: &str, times: usize) -> Result<()> {
    let instance = pair.primary.status()?.text("instance")?;
    let request = json!({
        "command": "request-checkpoint",
        "instance": instance,
        "epoch": 0,
        "reasons": [reason],
    });
    assert_eq!(frame.requests()?, vec![request; times]);
    Ok(())
}

#[lab_test(root)]
fn one_settles_a_datagram_that_differs() -> Result<()> {
    let frame = ScriptFrame::answering(&[BEGAN, DONE])?;
    let mut pair = protected_by(&frame)?;
    pair.secondary_guest.stand_in.flip(UDP, ECHO_PORT, 10)?;
    echo(&pair.lab.client, Family::V4, 1, 200)?;
    pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
    goes_on(&pair, 1)?;
    expect_asked(&pair, &frame, "datagram", 1)?;
    pair.finish()
}

#[lab_test(root)]
fn one_settles_an_answer_that_differs() -> Result<()> {
    let frame = ScriptFrame::answering(&[BEGAN, DONE])?;
    let mut pair = protected_by(&frame)?;
    held(&mut pair, Family::V6)?.release()?;
    goes_on(&pair, 1)?;
    expect_asked(&pair, &frame, "payload", 1)?;
    pair.finish()
}

/// A client that waits for an answer about which the guests differ.
struct Held {
    client: JoinHandle<Result<Conversation>>,
}

/// Makes the secondary differ in an answer that a client waits for.
fn held(pair: &mut LabPair, family: Family) -> Result<Held> {
    let mut conversation = Conversation::open(&pair.lab.client, family)?;
    conversation.ask(1000)?;
    pair.secondary_guest.stand_in.flip(TCP, SERVICE_PORT, 77)?;
    let client = std::thread::spawn(move || conversation.ask(1000).map(|_| conversation));
    pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
    Ok(Held { client })
}

impl Held {
    /// No output has left, and no host has counted a checkpoint.
    fn expect_held(&self, pair: &LabPair) -> Result<()> {
        let status = pair.primary.status()?;
        assert!(status.number("held_frames")? > 0, "{status:#?}");
        assert_eq!(status.detail("/engine/checkpoints")?, 0, "{status:#?}");
        assert!(epoch_is(&status, 0) && epoch_is(&pair.secondary.status()?, 0), "{status:#?}");
        assert!(!self.client.is_finished(), "the client has its answer: {status:#?}");
        Ok(())
    }

    /// The answer comes, and is right.
    fn release(self) -> Result<()> {
        let answered = self.client.join().map_err(|_| anyhow!("the client panicked"))?;
        answered?.reset()
    }
}

fn wait_failed(pair: &LabPair, count: u64) -> Result<DaemonStatus> {
    pair.primary.wait_status("a failed checkpoint", TIMEOUT, |status| {
        status.detail("/engine/checkpoints_failed").is_ok_and(|failed| failed == count)
    })
}

#[lab_test(root)]
fn one_that_failed_is_asked_for_again_and_releases_nothing() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let mut pair = protected_by(&frame)?;
    let held = held(&mut pair, Family::V4)?;
    frame.wait_told("request-checkpoint", 1, TIMEOUT)?;
    held.expect_held(&pair)?;
    frame.say(FAILED)?;
    wait_failed(&pair, 1)?;
    frame.wait_told("request-checkpoint", 2, TIMEOUT)?;
    held.expect_held(&pair)?;
    // A checkpoint that began and then failed has made a cut, but has released nothing.
    frame.say(BEGAN)?;
    frame.say(FAILED)?;
    wait_failed(&pair, 2)?;
    frame.wait_told("request-checkpoint", 3, TIMEOUT)?;
    held.expect_held(&pair)?;
    frame.say(BEGAN)?;
    frame.say(DONE)?;
    held.release()?;
    goes_on(&pair, 3)?;
    expect_asked(&pair, &frame, "payload", 3)?;
    pair.finish()
}

/// This line is the second of two, or comes from a confused frame. There was no cut, so no state
/// was copied.
#[lab_test(root)]
fn one_that_is_done_without_having_begun_is_ignored() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let mut pair = protected_by(&frame)?;
    let held = held(&mut pair, Family::V4)?;
    frame.wait_told("request-checkpoint", 1, TIMEOUT)?;
    frame.say(DONE)?;
    // The daemon handles events in order. When the failure is counted, the daemon has handled the
    // line before it.
    frame.say(FAILED)?;
    wait_failed(&pair, 1)?;
    held.expect_held(&pair)?;
    frame.wait_told("request-checkpoint", 2, TIMEOUT)?;
    held.expect_held(&pair)?;
    frame.say(BEGAN)?;
    frame.say(DONE)?;
    // This is a twin.
    frame.say(DONE)?;
    held.release()?;
    goes_on(&pair, 2)?;
    expect_asked(&pair, &frame, "payload", 2)?;
    pair.finish()
}

/// The secondary's frame learns that the primary is lost, and decides.
#[lab_test(root)]
fn a_frame_of_the_secondary_fails_over() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let config = Some([String::new(), format!("colo_frame = \"{}\"", frame.kind())]);
    let mut pair = LabPair::start(PairSetup { config, ..PairSetup::default() })?;
    let mut keepers = Vec::new();
    for family in Family::BOTH {
        let conversation = Conversation::open(&pair.lab.client, family)?;
        keepers.push(Keeper::start(conversation, 500, PAUSE));
    }
    for keeper in &keepers {
        keeper.wait_for_answers(30, TIMEOUT)?;
    }
    pair.expect_no_checkpoints()?;
    assert!(frame.told("peer-lost")?.is_empty(), "{}", pair.secondary.process.stderr());
    pair.primary.process.kill()?;
    pair.primary_guest.kill()?;
    let told = frame.wait_told("peer-lost", 1, TIMEOUT)?;
    let status = pair.secondary.status()?;
    let lost = json!({ "command": "peer-lost", "instance": status.text("instance")? });
    // There may be several if the kernel still accepts a connection for the daemon that is ending.
    assert!(told.iter().all(|told| *told == lost), "{told:?}");
    assert_eq!(status.mode()?, phrases::mode::PEER_LOST, "nobody has said so yet: {status:#?}");
    frame.say(FAILOVER)?;
    pair.secondary.wait_status("a failover", TIMEOUT, |status| {
        status.mode().is_ok_and(|mode| mode == phrases::mode::SERVING)
    })?;
    for keeper in keepers {
        keeper.wait_for_answers(50, TIMEOUT)?;
        let kept = keeper.stop()?;
        assert!(kept.error.is_none(), "{}: {:#?}", kept.name, kept.error);
    }
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
