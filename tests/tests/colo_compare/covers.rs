//! What a checkpoint covers, where the COLO-frame says more than QEMU's `notify_dev` can.

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Setup, Stand, TIMEOUT, arp};
use colo_lab::colo_frame::{BEGAN, DONE, FAILED, ScriptFrame};

use super::{numbered, ours, wait_logged};

/// The secondary has the state, and nobody knows which output it covers.
const UNCOVERED: &str = r#"{"event":"checkpoint-done","covers":false}"#;

fn stand() -> Result<(ScriptFrame, Stand)> {
    let frame = ScriptFrame::silent()?;
    let colo_frame = Some(frame.kind());
    let stand = ours(&Setup { notify: false, colo_frame, ..Setup::default() })?;
    Ok((frame, stand))
}

/// Waits until the COLO-frame was asked for so many checkpoints.
fn wait_requests(frame: &ScriptFrame, wanted: usize) -> Result<()> {
    frame.wait_told("request-checkpoint", wanted, TIMEOUT).map(drop)
}

/// Nothing but a frame that nobody compares leaves.
fn expect_held(stand: &mut Stand, number: u32) -> Result<()> {
    stand.primary(&arp(number))?;
    ensure!(stand.next_out()? == arp(number), "output left that no checkpoint covers");
    Ok(())
}

#[test]
fn output_that_a_checkpoint_does_not_cover_stays_held_and_another_one_is_asked_for() -> Result<()> {
    let (frame, mut stand) = stand()?;
    stand.primary(&numbered(7, 0))?;
    expect_held(&mut stand, 1)?;
    frame.say(BEGAN)?;
    frame.say(UNCOVERED)?;
    wait_requests(&frame, 1)?;
    expect_held(&mut stand, 2)?;
    // The twin: a checkpoint that covers it lets it go.
    frame.say(BEGAN)?;
    frame.say(DONE)?;
    ensure!(stand.next_out()? == numbered(7, 0));
    Ok(())
}

#[test]
fn a_checkpoint_that_never_began_covers_nothing_and_is_logged() -> Result<()> {
    let (frame, mut stand) = stand()?;
    stand.primary(&numbered(7, 0))?;
    expect_held(&mut stand, 1)?;
    frame.say(DONE)?;
    wait_logged(&stand.process, "did not report as begun", 1)?;
    expect_held(&mut stand, 2)
}

/// Two seconds are room for two or three lines.
#[test]
fn failed_checkpoints_are_logged_within_a_limit() -> Result<()> {
    let (frame, mut stand) = stand()?;
    for _ in 0..500 {
        frame.say(FAILED)?;
    }
    frame.say(BEGAN)?;
    frame.say(DONE)?;
    stand.primary(&numbered(7, 0))?;
    stand.secondary(&numbered(7, 0))?;
    ensure!(stand.next_out()? == numbered(7, 0));
    wait_logged(&stand.process, "made no checkpoint", 1)?;
    let lines = stand.process.stderr().matches("made no checkpoint").count();
    ensure!(lines < 100, "{lines} lines for 500 failures");
    Ok(())
}

/// Output that the secondary sent while it was the primary's equal does not count once it is not.
#[test]
fn a_secondary_that_has_to_join_again_begins_anew() -> Result<()> {
    let (frame, mut stand) = stand()?;
    // The secondary says something that the primary has not said yet.
    stand.secondary(&numbered(7, 0))?;
    stand.primary(&numbered(8, 0))?;
    stand.secondary(&numbered(8, 0))?;
    ensure!(stand.next_out()? == numbered(8, 0));
    frame.say(r#"{"event":"pair-lost","reason":"a test"}"#)?;
    frame.say(r#"{"event":"pair-ready"}"#)?;
    wait_requests(&frame, 1)?;
    stand.primary(&numbered(7, 0))?;
    expect_held(&mut stand, 1)?;
    frame.say(BEGAN)?;
    frame.say(DONE)?;
    ensure!(stand.next_out()? == numbered(7, 0));
    Ok(())
}
