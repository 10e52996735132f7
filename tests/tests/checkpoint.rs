//! Checkpoints that a script makes: asked for once, with a name for the reason; what is held leaves
//! when one is done and not before; both hosts count epochs alike.
//!
//! The lab's frames copy nothing. So a connection that was open at a checkpoint is reset after it,
//! and what stands in for the copied state is that both guests then have none.

use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use colo_lab::client::{Conversation, Keeper, echo};
use colo_lab::colo_frame::{BEGAN, DONE, FAILED, FAILOVER, ScriptFrame};
use colo_lab::daemon::{Daemon, PairOptions, Status};
use colo_lab::lab_test;
use colo_lab::network::Family;
use colo_lab::pair::{Pair, PairSetup};
use colo_lab::phrases;
use colo_lab::protocol::{ECHO_PORT, SERVICE_PORT};
use colo_lab::stand_in::packet::{TCP, UDP};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);
/// Longer than the compare timeout: what hangs would have been asked about.
const AFTERWARDS: Duration = Duration::from_secs(4);

fn protected_by(frame: &ScriptFrame) -> Result<Pair> {
    let daemons = PairOptions { colo_frame: frame.kind(), ..PairOptions::default() };
    Pair::start(PairSetup { daemons, ..PairSetup::default() })
}

fn epoch_is(status: &Status, epoch: u64) -> bool {
    status.number("epoch").is_ok_and(|found| found == epoch)
}

fn wait_epoch(daemon: &Daemon, epoch: u64) -> Result<Status> {
    daemon.wait_status(&format!("epoch {epoch}"), TIMEOUT, |status| epoch_is(status, epoch))
}

/// After a checkpoint: the hosts agree on the epoch, and new connections are compared and are right
/// for longer than anything of the old epoch could wait.
fn goes_on(pair: &Pair, asked: u64) -> Result<()> {
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

/// What the frame was told names the instance, the epoch and the reason.
fn expect_asked(pair: &Pair, frame: &ScriptFrame, reason: &str, times: usize) -> Result<()> {
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

/// Has the secondary differ in an answer that a client waits for.
fn held(pair: &mut Pair, family: Family) -> Result<Held> {
    let mut conversation = Conversation::open(&pair.lab.client, family)?;
    conversation.ask(1000)?;
    pair.secondary_guest.stand_in.flip(TCP, SERVICE_PORT, 77)?;
    let client = std::thread::spawn(move || conversation.ask(1000).map(|_| conversation));
    pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
    Ok(Held { client })
}

impl Held {
    /// Nothing has left, and no host has counted a checkpoint.
    fn expect_held(&self, pair: &Pair) -> Result<()> {
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

fn wait_failed(pair: &Pair, count: u64) -> Result<Status> {
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
    // One that began and then failed has cut, but released nothing either.
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

/// Such a line is the second of two, or of a frame that is confused: no state was cut, so none was
/// copied.
#[lab_test(root)]
fn one_that_is_done_without_having_begun_is_ignored() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let mut pair = protected_by(&frame)?;
    let held = held(&mut pair, Family::V4)?;
    frame.wait_told("request-checkpoint", 1, TIMEOUT)?;
    frame.say(DONE)?;
    // Events are taken in order: when the failure is counted, the line before it was dealt with.
    frame.say(FAILED)?;
    wait_failed(&pair, 1)?;
    held.expect_held(&pair)?;
    frame.wait_told("request-checkpoint", 2, TIMEOUT)?;
    held.expect_held(&pair)?;
    frame.say(BEGAN)?;
    frame.say(DONE)?;
    // A twin.
    frame.say(DONE)?;
    held.release()?;
    goes_on(&pair, 2)?;
    expect_asked(&pair, &frame, "payload", 2)?;
    pair.finish()
}

/// The frame of the secondary is told that the primary is lost, and decides.
#[lab_test(root)]
fn a_frame_of_the_secondary_fails_over() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let config = Some([String::new(), format!("colo_frame = \"{}\"", frame.kind())]);
    let mut pair = Pair::start(PairSetup { config, ..PairSetup::default() })?;
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
    // More than once where the kernel still takes a connection for the daemon that it is ending.
    assert!(told.iter().all(|told| *told == lost), "{told:?}");
    assert_eq!(status.mode()?, phrases::mode::PROTECTED, "nobody has said so yet: {status:#?}");
    frame.say(FAILOVER)?;
    pair.secondary.wait_status("a failover", TIMEOUT, |status| {
        status.mode().is_ok_and(|mode| mode == phrases::mode::TAKEN_OVER)
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
