//! A secondary that leaves, that never comes, and that comes back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use colo_lab::colo_compare::{Ends, Engine, Setup, TIMEOUT, arp, segment, start};
use colo_lab::phrases;

use super::{numbered, ours, wait_logged};

const OFF: &str = phrases::UNPROTECTED;
const ON: &str = phrases::compare::PROTECTED;
const SECONDARY_TIMEOUT: Duration = Duration::from_millis(400);

fn setup() -> Setup {
    Setup { secondary_timeout_ms: SECONDARY_TIMEOUT.as_millis() as u64, ..Setup::default() }
}

#[test]
fn a_secondary_that_is_gone_lets_held_output_go_and_needs_a_checkpoint_to_come_back() -> Result<()>
{
    let mut stand = ours(&setup())?;
    wait_logged(&stand.process, ON, 1)?;
    stand.primary(&numbered(7, 0))?;
    stand.expect(&[])?;
    let gone = Instant::now();
    stand.secondary.close()?;
    ensure!(stand.next_out()? == numbered(7, 0));
    ensure!(gone.elapsed() >= SECONDARY_TIMEOUT, "{:?}", gone.elapsed());
    wait_logged(&stand.process, OFF, 1)?;
    // Protection stays off: the next frame leaves at once.
    stand.primary(&numbered(7, 1))?;
    ensure!(stand.next_out()? == numbered(7, 1));

    stand.secondary = stand.ends.meet(&stand.ends.secondary)?;
    // The secondary is stale. A checkpoint is requested, and output is held until it is done.
    stand.wait_request()?;
    stand.primary(&numbered(7, 2))?;
    // A secondary that is not equal vouches for nothing, whatever it says: a frame that nobody compares
    // leaves before this one.
    stand.secondary(&numbered(7, 2))?;
    stand.primary(&arp(1))?;
    ensure!(stand.next_out()? == arp(1), "a stale secondary vouched for output");
    stand.checkpoint()?;
    ensure!(stand.next_out()? == numbered(7, 2));
    wait_logged(&stand.process, ON, 2)?;
    // Protection is on: a difference is held and causes a request.
    stand.primary(&segment(1000).ack(1).data(b"good").build())?;
    stand.secondary(&segment(1000).ack(1).data(b"evil").build())?;
    stand.expect_with(&[], 1)
}

/// The connection existed before the message, whichever the engine reads first.
#[test]
fn a_checkpoint_right_behind_the_connection_makes_it_protected() -> Result<()> {
    // Longer than the pause between two connections of an endpoint.
    let mut stand = ours(&Setup { secondary_timeout_ms: 150, ..Setup::default() })?;
    for round in 1..10 {
        stand.secondary.close()?;
        wait_logged(&stand.process, OFF, round)?;
        stand.secondary = stand.ends.meet(&stand.ends.secondary)?;
        stand.checkpoint()?;
        wait_logged(&stand.process, ON, round + 1)?;
    }
    Ok(())
}

#[test]
fn a_short_break_costs_nothing() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let data = segment(1000).ack(1).data(b"data").build();
    stand.primary(&data)?;
    stand.expect(&[])?;
    stand.secondary.close()?;
    stand.secondary = stand.ends.meet(&stand.ends.secondary)?;
    stand.expect(&[])?;
    stand.secondary(&data)?;
    stand.expect(&[&data])?;
    ensure!(!stand.process.stderr().contains(OFF));
    Ok(())
}

#[test]
fn one_that_never_comes_has_as_long_from_the_start() -> Result<()> {
    let setup = setup();
    let ends = Ends::new(&setup)?;
    let process = start(Engine::Ours, &setup, &ends)?;
    let (mut primary, mut out) = (ends.meet(&ends.primary)?, ends.meet(&ends.out)?);
    primary.send(&numbered(7, 0))?;
    ensure!(out.receive(TIMEOUT)? == numbered(7, 0));
    process.wait_for(OFF, TIMEOUT)?;
    // The guest was alone for a while. A secondary that comes now needs a checkpoint.
    let mut notify = ends.meet(&ends.notify)?;
    let _secondary = ends.meet(&ends.secondary)?;
    let asked = notify.receive_message(TIMEOUT).with_context(|| process.stderr())?;
    ensure!(asked == colo_lab::colo_compare::REQUEST);
    Ok(())
}

#[test]
fn one_that_comes_late_but_before_the_guest_says_anything_needs_no_checkpoint() -> Result<()> {
    let setup = Setup { secondary_timeout_ms: 1, ..Setup::default() };
    let ends = Ends::new(&setup)?;
    let process = start(Engine::Ours, &setup, &ends)?;
    process.wait_for(OFF, TIMEOUT)?;
    let _secondary = ends.meet(&ends.secondary)?;
    wait_logged(&process, ON, 1)
}

/// When the secondary left, its output was not being read, because there was no room. The engine
/// still sees that it is gone.
#[test]
fn a_secondary_that_goes_while_it_is_held_back_is_missed() -> Result<()> {
    let mut stand = ours(&Setup { max_queue_size: 4, ..setup() })?;
    for i in 0..40 {
        stand.secondary(&numbered(7, i))?;
    }
    stand.primary(&numbered(8, 0))?;
    stand.primary(&arp(1))?;
    ensure!(stand.next_out()? == arp(1));
    stand.secondary.close()?;
    ensure!(stand.next_out()? == numbered(8, 0));
    wait_logged(&stand.process, OFF, 1)
}
