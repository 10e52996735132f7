//! Peers that go, that send nonsense, and the end of the process.

use std::time::Duration;

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Engine, Setup, Stand, TIMEOUT, arp, datagram};
use nix::sys::signal::Signal;

use super::require_qemu;

/// Nothing comes in this time; the other engine shows in each test that it could.
const SILENCE: Duration = Duration::from_millis(500);

fn held() -> Vec<u8> {
    datagram(7).data(b"held").build()
}

#[test]
fn a_secondary_that_is_gone_does_not_silence_the_guest() -> Result<()> {
    if !require_qemu() {
        return Ok(());
    }
    let setup = Setup { compare_timeout_ms: 200, secondary_timeout_ms: 100, ..Setup::default() };
    let mut stand = Stand::new(Engine::Qemu, &setup)?;
    stand.primary(&held())?;
    stand.secondary.close()?;
    // It asks again and again, and lets nothing go.
    for _ in 0..4 {
        stand.wait_request()?;
    }
    stand.primary(&arp(1))?;
    ensure!(stand.next_out()? == arp(1));

    let mut stand = Stand::new(Engine::Ours, &setup)?;
    stand.primary(&held())?;
    stand.secondary.close()?;
    ensure!(stand.next_out()? == held());
    stand.process.wait_for("UNPROTECTED", TIMEOUT)?;
    Ok(())
}

#[test]
fn what_is_held_is_not_lost_with_the_process() -> Result<()> {
    if !require_qemu() {
        return Ok(());
    }
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

#[test]
fn a_socket_goes_on_after_a_record_that_is_too_long() -> Result<()> {
    if !require_qemu() {
        return Ok(());
    }
    let mut stand = Stand::new(Engine::Qemu, &Setup::default())?;
    stand.primary.send_record(0, &vec![7; 80_000])?;
    stand.process.wait_for("oversized packet", TIMEOUT)?;
    stand.primary(&arp(1))?;
    stand.greet()?;
    ensure!(stand.out.receive(SILENCE).is_err(), "QEMU reads on");

    let mut stand = Stand::new(Engine::Ours, &Setup::default())?;
    // Ours may have closed before all of it was written.
    let _ = stand.primary.send_record(0, &vec![7; 80_000]);
    stand.primary.wait_closed(TIMEOUT)?;
    stand.primary = stand.ends.meet(&stand.ends.primary)?;
    stand.primary(&arp(1))?;
    ensure!(stand.next_out()? == arp(1));
    Ok(())
}
