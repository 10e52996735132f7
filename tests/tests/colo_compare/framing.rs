//! Records that no sender sends on purpose.

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Setup, Stand, TIMEOUT, arp, segment};
use colo_lab::phrases;

use super::ours;

const RECORD_MAX: usize = 69632;

/// The primary's frame leaves when the secondary's arrives. This shows that both sockets work.
fn works(stand: &mut Stand, seq: u32) -> Result<()> {
    let data = segment(seq).ack(1).data(b"data").build();
    stand.primary(&data)?;
    stand.secondary(&data)?;
    stand.expect(&[&data])
}

#[test]
fn empty_records_and_runts_are_counted_and_ignored() -> Result<()> {
    for vnet_hdr in [false, true] {
        let mut stand = ours(&Setup { vnet_hdr, ..Setup::default() })?;
        for socket in [&mut stand.primary, &mut stand.secondary] {
            socket.send_record(0, &[])?;
            socket.send_record(0, &[7])?;
            socket.send_record(0, &[7; 13])?;
        }
        stand.expect(&[])?;
        works(&mut stand, 1000)?;
        stand.process.terminate()?;
        let log = stand.process.stderr_to_end();
        for word in ["primary_in.empty 1", "primary_in.runt 2", "secondary_in.runt 2"] {
            ensure!(log.contains(word), "no {word} in {log}");
        }
    }
    Ok(())
}

#[test]
fn an_impossible_header_length_is_counted_and_ignored() -> Result<()> {
    let mut stand = ours(&Setup { vnet_hdr: true, ..Setup::default() })?;
    stand.primary.send_record(11, &[7; 100])?;
    stand.primary.send_record(0xffff_ffff, &[7; 100])?;
    works(&mut stand, 1000)?;
    stand.process.terminate()?;
    let log = stand.process.stderr_to_end();
    ensure!(log.contains("bad.primary_in.vnet_hdr_len 2"), "{log}");
    Ok(())
}

#[test]
fn the_longest_record_passes() -> Result<()> {
    let mut stand = ours(&Setup::default())?;
    let mut longest = arp(1);
    longest.resize(RECORD_MAX, 7);
    stand.primary(&longest)?;
    stand.expect(&[&longest])
}

#[test]
fn a_longer_one_ends_its_connection_and_the_next_works() -> Result<()> {
    for is_primary in [true, false] {
        let mut stand = ours(&Setup::default())?;
        let last = segment(1000).ack(1).data(b"last").build();
        stand.primary(&last)?;
        let socket = if is_primary { &mut stand.primary } else { &mut stand.secondary };
        socket.send_octets(&(RECORD_MAX as u32 + 1).to_be_bytes())?;
        socket.wait_closed(TIMEOUT)?;
        if is_primary {
            stand.primary = stand.ends.meet(&stand.ends.primary)?;
        } else {
            stand.secondary = stand.ends.meet(&stand.ends.secondary)?;
        }
        // The frames before it on the same connection are not lost.
        stand.secondary(&last)?;
        stand.expect(&[&last])?;
        works(&mut stand, 1004)?;
    }
    Ok(())
}

#[test]
fn a_connection_that_ends_in_a_record_drops_that_record_only() -> Result<()> {
    for vnet_hdr in [false, true] {
        let mut stand = ours(&Setup { vnet_hdr, ..Setup::default() })?;
        stand.primary(&arp(1))?;
        stand.primary.send_octets(&[0, 0, 0, 60, 0, 0])?;
        stand.primary.close()?;
        stand.primary = stand.ends.meet(&stand.ends.primary)?;
        stand.primary(&arp(2))?;
        stand.expect(&[&arp(1), &arp(2)])?;
        stand.process.terminate()?;
        let log = stand.process.stderr_to_end();
        ensure!(log.contains(phrases::compare::TRUNCATED_ONCE), "{log}");
    }
    Ok(())
}
