//! The COLO-frame's channel, as QEMU uses it.

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{
    CHECKPOINT, Ends, Engine, GREETING, INIT, REQUEST, Setup, TIMEOUT, arp, segment, start,
};
use colo_lab::phrases;

use super::{numbered, ours, wait_logged};

/// With headers, messages to the compare have the second word, and messages from it do not.
/// `send_message` and `receive_message` of the stand do the same.
#[test]
fn a_greeting_is_answered_and_the_second_word_is_only_on_the_way_in() -> Result<()> {
    for vnet_hdr in [false, true] {
        let mut stand = ours(&Setup { vnet_hdr, ..Setup::default() })?;
        let data = segment(1000).ack(1).data(b"good").build();
        stand.primary(&data)?;
        stand.secondary(&segment(1000).ack(1).data(b"evil").build())?;
        stand.wait_request()?;
        let notify = stand.notify.as_mut().expect("it has one");
        notify.send_message(INIT)?;
        ensure!(notify.receive_message(TIMEOUT)? == GREETING);
        // The text starts after the second word, which may have any value.
        notify.send_record(12, CHECKPOINT)?;
        ensure!(stand.next_out()? == data);
    }
    Ok(())
}

#[test]
fn an_unknown_message_is_logged_counted_and_ignored() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    stand.primary(&numbered(7, 0))?;
    let notify = stand.notify.as_mut().expect("it has one");
    for message in [&b"COLO_CHECKPOINT\0"[..], b"COLO_CHECKPOIN", b"DO_CHECKPOINT", b"x", b""] {
        notify.send_message(message)?;
    }
    notify.send_message(&vec![0xff; 69632])?;
    stand.greet()?;
    stand.expect(&[])?;
    stand.checkpoint()?;
    stand.expect(&[&numbered(7, 0)])?;
    stand.process.wait_for(
        &format!(r#"{} "COLO_CHECKPOINT\x00""#, phrases::compare::UNKNOWN_MESSAGE),
        TIMEOUT,
    )?;
    stand.process.terminate()?;
    let log = stand.process.stderr_to_end();
    ensure!(log.contains("unknown_messages 5") && log.contains("bad.notify_dev.empty 1"), "{log}");
    Ok(())
}

#[test]
fn a_message_that_is_too_long_ends_the_connection_and_the_next_one_works() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let notify = stand.notify.as_mut().expect("it has one");
    notify.send_octets(&69633u32.to_be_bytes())?;
    notify.wait_closed(TIMEOUT)?;
    stand.notify = Some(stand.ends.meet(&stand.ends.notify)?);
    stand.greet()
}

/// The COLO-frame was away when the guests began to differ, or went away before it learned of the
/// difference.
#[test]
fn a_request_is_made_to_whoever_connects_for_as_long_as_it_is_outstanding() -> Result<()> {
    let setup = Setup::default();
    let ends = Ends::new(&setup)?;
    let process = start(Engine::Ours, &setup, &ends)?;
    let mut secondary = ends.meet(&ends.secondary)?;
    let (mut primary, mut out) = (ends.meet(&ends.primary)?, ends.meet(&ends.out)?);
    primary.send(&segment(1000).ack(1).data(b"good").build())?;
    secondary.send(&segment(1000).ack(1).data(b"evil").build())?;
    process.wait_for(phrases::compare::NO_PEER_TO_ASK, TIMEOUT)?;
    for _ in 0..2 {
        let mut notify = ends.meet(&ends.notify)?;
        ensure!(notify.receive_message(TIMEOUT)? == REQUEST);
    }
    let mut notify = ends.meet(&ends.notify)?;
    ensure!(notify.receive_message(TIMEOUT)? == REQUEST);
    notify.send_message(CHECKPOINT)?;
    ensure!(out.receive(TIMEOUT)? == segment(1000).ack(1).data(b"good").build());
    // The twin: the difference is settled, and there is no request.
    drop(notify);
    let mut notify = ends.meet(&ends.notify)?;
    notify.send_message(INIT)?;
    ensure!(notify.receive_message(TIMEOUT)? == GREETING);
    Ok(())
}

#[test]
fn without_the_channel_nobody_is_asked_and_the_log_says_what_that_means() -> Result<()> {
    let mut stand = ours(&Setup { notify: false, ..Setup::default() })?;
    stand.primary(&segment(1000).ack(1).data(b"good").build())?;
    stand.secondary(&segment(1000).ack(1).data(b"evil").build())?;
    wait_logged(&stand.process, phrases::compare::HOLD_CONTINUES, 1)?;
    stand.primary(&arp(1))?;
    stand.expect(&[&arp(1)])?;
    stand.process.terminate()?;
    let log = stand.process.stderr_to_end();
    ensure!(log.contains("requests.payload 1"), "{log}");
    Ok(())
}
