//! Peers that leave, peers that send nonsense, and the end of the process.

use std::time::Duration;

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Engine, Setup, Stand, TIMEOUT, arp, datagram};
use colo_lab::lab_test;
use colo_lab::phrases;
use colo_lab::process::eventually;
use nix::sys::signal::Signal;

/// Nothing arrives in this time. In each test, the other engine shows that a frame could arrive.
const SILENCE: Duration = Duration::from_millis(500);

fn held() -> Vec<u8> {
    datagram(7).data(b"held").build()
}

#[lab_test(qemu)]
fn a_secondary_that_is_gone_does_not_silence_the_guest() -> Result<()> {
    let setup = Setup { compare_timeout_ms: 200, secondary_timeout_ms: 100, ..Setup::default() };
    let mut stand = Stand::new(Engine::Qemu, &setup)?;
    stand.primary(&held())?;
    stand.secondary.close()?;
    // QEMU repeats its request and releases nothing.
    for _ in 0..4 {
        stand.wait_request()?;
    }
    stand.primary(&arp(1))?;
    ensure!(stand.next_out()? == arp(1));

    let mut stand = Stand::new(Engine::Ours, &setup)?;
    stand.primary(&held())?;
    stand.secondary.close()?;
    ensure!(stand.next_out()? == held());
    stand.process.wait_for(phrases::UNPROTECTED, TIMEOUT)?;
    Ok(())
}

#[lab_test(qemu)]
fn what_is_held_is_not_lost_with_the_process() -> Result<()> {
    let mut stand = Stand::new(Engine::Qemu, &Setup::default())?;
    stand.primary(&held())?;
    stand.expect(&[])?;
    stand.process.signal(Signal::SIGTERM)?;
    // The end of the connection, without a frame before it.
    let lost = stand.out.receive(TIMEOUT).expect_err("QEMU releases nothing");
    ensure!(format!("{lost:#}").contains("closed"), "{lost:#}");

    let mut stand = Stand::new(Engine::Ours, &Setup::default())?;
    stand.primary(&held())?;
    stand.expect(&[])?;
    stand.process.signal(Signal::SIGTERM)?;
    ensure!(stand.next_out()? == held());
    Ok(())
}

#[lab_test(qemu)]
fn a_socket_goes_on_after_a_record_that_is_too_long() -> Result<()> {
    let mut stand = Stand::new(Engine::Qemu, &Setup::default())?;
    stand.primary.send_record(0, &vec![7; 80_000])?;
    stand.process.wait_for("oversized packet", TIMEOUT)?;
    stand.primary(&arp(1))?;
    stand.greet()?;
    ensure!(stand.out.receive(SILENCE).is_err(), "QEMU reads on");

    let mut stand = Stand::new(Engine::Ours, &Setup::default())?;
    // Ours may have closed the socket before all of it was written.
    let _ = stand.primary.send_record(0, &vec![7; 80_000]);
    stand.primary.wait_closed(TIMEOUT)?;
    stand.primary = stand.ends.meet(&stand.ends.primary)?;
    stand.primary(&arp(1))?;
    ensure!(stand.next_out()? == arp(1));
    Ok(())
}

/// QEMU takes the bytes of the next connection for the rest of the record.
#[lab_test(qemu)]
fn a_connection_that_ends_in_a_record_does_not_spoil_the_next() -> Result<()> {
    for engine in [Engine::Qemu, Engine::Ours] {
        let mut stand = Stand::new(engine, &Setup::default())?;
        stand.primary(&arp(1))?;
        ensure!(stand.next_out()? == arp(1));
        // 60 bytes arrive from a record of 124 bytes.
        stand.primary.send_octets(&[&[0, 0, 0, 124][..], &arp(2)].concat())?;
        stand.primary.close()?;
        stand.primary = stand.ends.meet(&stand.ends.primary)?;
        stand.primary(&arp(3))?;
        let first = stand.next_out()?;
        let mixed = [&arp(2)[..], &[0, 0, 0, 60], &arp(3)].concat();
        ensure!(first == if engine == Engine::Qemu { mixed } else { arp(3) }, "{first:02x?}");
    }
    Ok(())
}

#[lab_test(qemu)]
fn what_is_released_while_outdev_is_gone_is_not_lost() -> Result<()> {
    for engine in [Engine::Qemu, Engine::Ours] {
        let mut stand = Stand::new(engine, &Setup::default())?;
        stand.out.close()?;
        stand.primary(&arp(1))?;
        // Once for the bytes that were read with the frame, and once for the bytes that were read
        // after it.
        stand.greet()?;
        stand.greet()?;
        stand.out = stand.ends.meet(&stand.ends.out)?;
        let mut mark = 2;
        let first = eventually("a frame", TIMEOUT, || {
            stand.primary(&arp(mark))?;
            mark += 1;
            Ok(stand.out.receive(SILENCE).ok())
        })?;
        ensure!((first == arp(1)) == (engine == Engine::Ours), "{engine:?}: {first:02x?}");
    }
    Ok(())
}
