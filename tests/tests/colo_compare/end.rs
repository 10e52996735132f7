//! SIGTERM: the operator ends protection.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Ends, Engine, Setup, TIMEOUT, arp, segment, start};
use colo_lab::phrases;
use nix::sys::signal::Signal;

use super::{numbered, ours};

#[test]
fn what_is_held_and_what_is_still_unread_leaves_in_order() -> Result<()> {
    let mut stand = ours(&Setup { max_queue_size: 16, ..Setup::default() })?;
    for i in 0..100 {
        stand.primary(&numbered(7, i))?;
    }
    stand.wait_request()?;
    stand.process.signal(Signal::SIGTERM)?;
    for i in 0..100 {
        ensure!(stand.next_out()? == numbered(7, i), "frame {i}");
    }
    ensure!(stand.process.wait(TIMEOUT)?.success());
    let log = stand.process.stderr_to_end();
    for word in [phrases::compare::RELEASES_UNPROTECTED, "released_unprotected 100", "unsent"] {
        ensure!(log.contains(word) != (word == "unsent"), "{word}: {log}");
    }
    Ok(())
}

#[test]
fn it_counts_what_it_did_in_one_line() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let data = segment(1000).ack(1).data(b"data").build();
    stand.primary(&data)?;
    stand.secondary(&data)?;
    stand.expect(&[&data])?;
    stand.primary(&arp(1))?;
    stand.expect(&[&arp(1)])?;
    stand.checkpoint()?;
    ensure!(stand.process.terminate()?.success());
    let log = stand.process.stderr_to_end();
    let line = log.lines().find(|line| line.contains(phrases::ENDED)).unwrap_or_default();
    for word in ["uncompared 1", "checkpoints 1", "connections.notify_dev 1"] {
        ensure!(line.contains(word), "no {word} in {log}");
    }
    Ok(())
}

#[test]
fn an_outdev_that_takes_nothing_does_not_keep_it_from_ending() -> Result<()> {
    let setup = Setup::default();
    let ends = Ends::new(&setup)?;
    let mut process = start(Engine::Ours, &setup, &ends)?;
    let mut primary = ends.meet(&ends.primary)?;
    primary.send(&arp(1))?;
    let begun = Instant::now();
    ensure!(process.terminate()?.success());
    ensure!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let log = process.stderr_to_end();
    ensure!(log.contains(phrases::compare::ONE_FRAME_NOT_TAKEN), "{log}");
    Ok(())
}
