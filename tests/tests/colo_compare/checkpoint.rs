//! The frames that may leave, and the effect of a checkpoint on `notify_dev`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Setup, SocketKind, TIMEOUT, arp, datagram, segment};
use colo_lab::phrases;

use super::{numbered, ours};

#[test]
fn either_socket_in_either_role_with_and_without_headers() -> Result<()> {
    for (sockets, is_client, vnet_hdr) in [
        (SocketKind::Unix, false, false),
        (SocketKind::Unix, false, true),
        (SocketKind::Unix, true, false),
        (SocketKind::Tcp, false, false),
        (SocketKind::Tcp, true, true),
    ] {
        let mut stand = ours(&Setup { sockets, is_client, vnet_hdr, ..Setup::default() })?;
        let data = segment(1000).ack(1).data(b"hello").build();
        stand.primary(&data)?;
        stand.expect(&[])?;
        stand.secondary(&data)?;
        stand.expect(&[&data])?;
        let late = datagram(7).data(b"late").build();
        stand.primary(&late)?;
        stand.expect(&[])?;
        stand.checkpoint()?;
        stand.expect(&[&late])?;
        ensure!(stand.process.terminate()?.success());
    }
    Ok(())
}

#[test]
fn what_nobody_compares_leaves_at_once() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    stand.secondary(&arp(1))?;
    stand.primary(&arp(2))?;
    stand.expect(&[&arp(2)])
}

#[test]
fn a_difference_is_one_request_and_leaves_with_the_checkpoint() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let mut held = Vec::new();
    for port in 5000..5010 {
        let good = segment(1000).port(port).ack(1).data(b"good");
        held.push(good.build());
        stand.primary(&good.build())?;
        stand.secondary(&good.data(b"evil").build())?;
    }
    stand.expect_with(&[], 1)?;
    stand.checkpoint()?;
    let held: Vec<&[u8]> = held.iter().map(Vec::as_slice).collect();
    stand.expect(&held)?;
    // There is another request for the next frame.
    stand.primary(&segment(1004).ack(1).data(b"good").build())?;
    stand.secondary(&segment(1004).ack(1).data(b"evil").build())?;
    stand.expect_with(&[], 1)
}

#[test]
fn a_checkpoint_releases_in_order_of_arrival_what_was_sent_before_it_read_or_not() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let frames: Vec<_> = (0..600).map(|i| numbered(7 + i as u16 % 3, i)).collect();
    for frame in &frames {
        stand.primary(frame)?;
    }
    stand.checkpoint()?;
    for frame in &frames {
        ensure!(stand.next_out()? == *frame);
    }
    // The twin: a frame that is sent after it is held.
    let late = numbered(7, 600);
    stand.primary(&late)?;
    stand.expect(&[])?;
    stand.checkpoint()?;
    stand.expect(&[&late])
}

#[test]
fn what_the_secondary_sent_before_a_checkpoint_vouches_for_nothing_after_it() -> Result<()> {
    for is_read_before in [true, false] {
        let mut stand = ours(&Setup::default())?;
        let (data, ack) = (segment(1000).ack(1).data(b"data").build(), datagram(7).build());
        for frame in [&data, &ack] {
            stand.secondary(frame)?;
        }
        if is_read_before {
            stand.expect(&[])?;
        }
        stand.checkpoint()?;
        for frame in [&data, &ack] {
            stand.primary(frame)?;
        }
        stand.expect(&[])?;
        // The twin: the same frames from after the checkpoint do vouch.
        for frame in [&data, &ack] {
            stand.secondary(frame)?;
        }
        stand.expect(&[&data, &ack])?;
    }
    Ok(())
}

#[test]
fn half_a_record_of_before_a_checkpoint_is_stale_when_it_is_whole() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let data = segment(1000).ack(1).data(b"data").build();
    let record = [&(data.len() as u32).to_be_bytes()[..], &data].concat();
    stand.secondary.send_octets(&record[..20])?;
    stand.checkpoint()?;
    stand.secondary.send_octets(&record[20..])?;
    stand.primary(&data)?;
    stand.expect(&[])?;
    stand.secondary(&data)?;
    stand.expect(&[&data])
}

#[test]
fn a_late_repetition_of_what_a_checkpoint_covered_is_no_reason_for_a_request() -> Result<()> {
    let covered = [segment(1000).ack(1).data(b"data").build(), segment(1004).ack(1).fin().build()];
    let mut stand = ours(&Setup { compare_timeout_ms: 200, ..Setup::default() })?;
    for frame in &covered {
        stand.primary(frame)?;
    }
    stand.checkpoint()?;
    for frame in &covered {
        ensure!(stand.next_out()? == *frame);
        stand.secondary(frame)?;
    }
    stand.expect(&[])?;
    // The twin below makes its request within this time.
    stand.expect_no_request(Duration::from_millis(600))
}

#[test]
fn the_twin_that_no_checkpoint_covered_is_a_reason() -> Result<()> {
    for frame in [datagram(7).data(b"data").build(), segment(1000).ack(1).data(b"data").build()] {
        let mut stand = ours(&Setup { compare_timeout_ms: 200, ..Setup::default() })?;
        stand.checkpoint()?;
        stand.secondary(&frame)?;
        stand.wait_request()?;
        stand.process.wait_for(phrases::compare::SECONDARY_ONLY, TIMEOUT)?;
    }
    Ok(())
}

#[test]
fn the_compare_timeout_is_noticed_when_it_is_due() -> Result<()> {
    const COMPARE_TIMEOUT: Duration = Duration::from_millis(500);
    // The default of expired_scan_cycle. The request is never later than this.
    const SCAN_CYCLE: Duration = Duration::from_secs(1);
    let mut stand = ours(&Setup { compare_timeout_ms: 500, ..Setup::default() })?;
    let sent = Instant::now();
    stand.primary(&segment(1000).ack(1).data(b"alone").build())?;
    stand.wait_request()?;
    let waited = sent.elapsed();
    ensure!(waited >= COMPARE_TIMEOUT && waited <= COMPARE_TIMEOUT + SCAN_CYCLE, "{waited:?}");
    Ok(())
}

/// The engine can tell the peer in a frame of its own what both guests have received. Here it must
/// not.
#[test]
fn nothing_leaves_that_the_primary_did_not_send() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let ack = segment(1000).ack(5000).build();
    stand.primary(&segment(1000).ack(1).build())?;
    stand.primary(&ack)?;
    stand.secondary(&segment(1000).ack(10).build())?;
    stand.expect(&[&segment(1000).ack(1).build()])?;
    stand.secondary(&segment(1000).ack(5000).build())?;
    stand.expect(&[&ack])
}
