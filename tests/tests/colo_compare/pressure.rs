//! Full queues: held output, and an outdev that reads nothing or is gone.

use std::time::Duration;

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Setup, Stand, arp};
use colo_lab::phrases;

use super::{numbered, ours, wait_logged};

/// How long to try a socket that accepts nothing more.
const PATIENCE: Duration = Duration::from_millis(300);

fn long(mark: u32) -> Vec<u8> {
    let mut frame = arp(mark);
    frame.resize(1500, 0);
    frame
}

/// A number of frames that fits into the socket's buffer. These tests write all frames before they
/// read.
const FRAMES: usize = 150;

#[test]
fn a_full_queue_asks_and_loses_nothing_and_keeps_the_order() -> Result<()> {
    let mut stand = ours(&Setup { max_queue_size: 16, ..Setup::default() })?;
    for i in 0..FRAMES {
        stand.primary(&numbered(7, i))?;
    }
    stand.wait_request()?;
    stand.checkpoint()?;
    for i in 0..FRAMES {
        ensure!(stand.next_out()? == numbered(7, i), "frame {i}");
    }
    stand.expect(&[])
}

#[test]
fn a_full_queue_goes_on_when_the_secondary_answers() -> Result<()> {
    let mut stand = ours(&Setup { max_queue_size: 16, ..Setup::default() })?;
    for i in 0..FRAMES {
        stand.primary(&numbered(7, i))?;
    }
    stand.wait_request()?;
    for i in 0..FRAMES {
        stand.secondary(&numbered(7, i))?;
    }
    for i in 0..FRAMES {
        ensure!(stand.next_out()? == numbered(7, i), "frame {i}");
    }
    stand.expect(&[])
}

/// Sends numbered frames until the socket accepts no more. Returns how many went whole.
fn fill(stand: &mut Stand, frame: impl Fn(usize) -> Vec<u8>) -> Result<usize> {
    let mut sent = 0;
    while stand.primary.send_if_it_goes(&frame(sent), PATIENCE)? {
        sent += 1;
        ensure!(sent < 1 << 20, "the socket takes everything: nobody holds it back");
    }
    ensure!(sent > 0, "nothing went");
    Ok(sent)
}

#[test]
fn a_held_back_reader_holds_back_the_writer() -> Result<()> {
    let mut stand = ours(&Setup { max_queue_size: 16, ..Setup::default() })?;
    let sent = fill(&mut stand, |i| numbered(7, i))?;
    stand.wait_request()?;
    // Makes all checkpoints that are necessary. Each has a request.
    let mut seen = 0;
    stand.checkpoint()?;
    stand.primary.send_rest()?;
    while seen <= sent {
        match stand.out.receive(PATIENCE) {
            Ok(frame) => {
                ensure!(frame == numbered(7, seen), "frame {seen}");
                seen += 1;
            }
            Err(_) => stand.checkpoint()?,
        }
    }
    Ok(())
}

#[test]
fn an_outdev_that_does_not_read_stops_the_reader_and_nothing_is_lost() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let sent = fill(&mut stand, |i| long(i as u32))?;
    for i in 0..sent {
        ensure!(stand.next_out()? == long(i as u32), "frame {i}");
    }
    stand.primary.send_rest()?;
    stand.expect(&[&long(sent as u32)])
}

#[test]
fn what_is_released_waits_for_an_outdev_that_is_gone() -> Result<()> {
    for vnet_hdr in [false, true] {
        let mut stand = ours(&Setup { vnet_hdr, ..Setup::default() })?;
        stand.out.close()?;
        wait_logged(&stand.process, phrases::compare::OUTDEV_SLOW, 1)?;
        let frames: Vec<_> = (0..100).map(arp).collect();
        for frame in &frames {
            stand.primary(frame)?;
        }
        stand.out = stand.ends.meet(&stand.ends.out)?;
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        stand.expect(&frames)?;
    }
    Ok(())
}

/// The bytes that the kernel had accepted are lost with the connection. The rest starts with a
/// whole frame, the one that was truncated.
#[test]
fn a_new_outdev_begins_with_a_whole_record() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let sent = fill(&mut stand, |i| long(i as u32))?;
    stand.out.close()?;
    stand.out = stand.ends.meet(&stand.ends.out)?;
    let first = stand.next_out()?;
    let at = (0..sent).find(|i| first == long(*i as u32));
    let at = at.expect("it is one of those that were sent");
    ensure!(at > 0, "the kernel had taken none");
    for i in at + 1..sent {
        ensure!(stand.next_out()? == long(i as u32), "frame {i}");
    }
    Ok(())
}
