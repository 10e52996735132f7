//! The guest that continues after the loss of the other, and the decision about it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use colo_lab::client::wait_for_all;
use colo_lab::lab_test;
use colo_lab::network::HostSide;
use colo_lab::phrases;
use colo_lab::qemu::protected::{Protected, colo_frame};

use super::protected::{ANSWERS, FENCED, TIMEOUT, end, keepers, protected};

/// With this delay, a checkpoint is in progress most of the time.
const ALWAYS: &str = "[guest.checkpoints]\ninterval_max_ms = 20\nspacing_max_ms = 20\n";

/// With this one, none comes by itself.
const SELDOM: &str = "[guest.checkpoints]\ninterval_max_ms = 60000\n";
/// A few heartbeats, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

fn mode(pair: &Protected, side: HostSide) -> Result<String> {
    pair.half(side)?.daemon.status()?.mode()
}

#[lab_test(root)]
fn without_a_fence_the_operator_decides() -> Result<()> {
    let mut pair = protected("", true)?;
    let keepers = keepers(&pair, 1)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT)?;
    pair.kill(HostSide::Primary)?;
    let daemon = &pair.half(HostSide::Secondary)?.daemon;
    daemon.process.wait_for(phrases::takeover::NO_FENCE_AND_NO_QUORUM, TIMEOUT)?;
    ensure!(
        mode(&pair, HostSide::Secondary)? == phrases::mode::PEER_LOST,
        "it took over all the same"
    );
    daemon.failover()?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    end(keepers, &pair)
}

#[lab_test(root)]
fn a_fence_that_fails_keeps_the_guest_off_the_network_until_it_succeeds() -> Result<()> {
    let mut pair = protected(FENCED, true)?;
    let keepers = keepers(&pair, 1)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT)?;
    pair.write_fence(HostSide::Secondary, "exit 1")?;
    pair.kill(HostSide::Primary)?;
    let daemon = &pair.half(HostSide::Secondary)?.daemon;
    daemon.process.wait_for(phrases::takeover::REFUSED, TIMEOUT)?;
    ensure!(
        mode(&pair, HostSide::Secondary)? == phrases::mode::PEER_LOST,
        "it took over all the same"
    );
    pair.write_fence(HostSide::Secondary, "")?;
    pair.wait_failed_over(HostSide::Secondary, TIMEOUT).with_context(|| pair.logs())?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    end(keepers, &pair)
}

/// The secondary probably dies in the middle of a checkpoint. The primary's guest may be stopped
/// for it then, and continues. A new secondary joins, and later takes over.
#[lab_test(root)]
fn a_primary_goes_on_without_its_secondary_and_takes_a_new_one() -> Result<()> {
    let more = format!("{ALWAYS}{FENCED}");
    let mut pair = protected(&more, true)?;
    let keepers = keepers(&pair, 2)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    pair.write_fence(HostSide::Primary, "")?;
    pair.kill(HostSide::Secondary)?;
    let daemon = &pair.half(HostSide::Primary)?.daemon;
    daemon.wait_status("alone", TIMEOUT, |status| {
        status.mode().is_ok_and(|mode| mode == phrases::mode::UNPROTECTED)
            && colo_frame(status)["state"] == "alone"
    })?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    pair.start_secondary(HostSide::Secondary)?;
    pair.protect(HostSide::Primary)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    pair.write_fence(HostSide::Secondary, "")?;
    pair.kill(HostSide::Primary)?;
    pair.wait_failed_over(HostSide::Secondary, TIMEOUT).with_context(|| pair.logs())?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    end(keepers, &pair)
}

/// Its daemon lives and knows the guest's death. So nobody has to be fenced, and the operator need
/// not decide.
#[lab_test(root)]
fn a_guest_that_dies_under_its_daemon_is_taken_over_from() -> Result<()> {
    let mut pair = protected("", true)?;
    let keepers = keepers(&pair, 1)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT)?;
    pair.half_mut(HostSide::Primary)?.guest.kill()?;
    pair.wait_failed_over(HostSide::Secondary, TIMEOUT).with_context(|| pair.logs())?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    ensure!(
        mode(&pair, HostSide::Primary)? == phrases::mode::TAKEN_OVER,
        "the primary lets something out"
    );
    end(keepers, &pair)
}

/// The primary's QEMU finds out at its next checkpoint only, which may be far. The secondary's daemon knows
/// at once.
#[lab_test(root)]
fn a_secondarys_guest_that_dies_is_known_to_the_primary_at_once() -> Result<()> {
    let mut pair = protected(SELDOM, true)?;
    let keepers = keepers(&pair, 1)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT)?;
    pair.half_mut(HostSide::Secondary)?.guest.kill()?;
    let daemon = &pair.half(HostSide::Primary)?.daemon;
    daemon.wait_status("not protected", AT_ONCE, |status| {
        status.mode().is_ok_and(|mode| mode != phrases::mode::PROTECTED)
    })?;
    daemon.wait_status("alone", TIMEOUT, |status| {
        status.mode().is_ok_and(|mode| mode == phrases::mode::UNPROTECTED)
    })?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    end(keepers, &pair)
}

/// The secondary's guest runs what the other one ran before, and after a takeover clients would meet it.
#[lab_test(root)]
fn a_primary_that_is_reset_gets_a_checkpoint() -> Result<()> {
    let pair = protected(SELDOM, true)?;
    // The lab's guests end where others start again, and a firmware may do that once more.
    for side in HostSide::BOTH {
        let action = serde_json::json!({"reboot": "reset"});
        pair.half(side)?.guest.qmp()?.execute("set-action", &action)?;
    }
    let qemu = pair.half(HostSide::Primary)?.guest.qmp()?;
    qemu.execute("system_reset", &serde_json::Value::Null)?;
    let daemon = &pair.half(HostSide::Primary)?.daemon;
    daemon
        .wait_status("a checkpoint for it", TIMEOUT, |status| {
            status.checkpoints().contains_key("guest-reset")
                && status.mode().is_ok_and(|mode| mode == phrases::mode::PROTECTED)
                && status.number("epoch").is_ok_and(|epoch| epoch >= 2)
        })
        .with_context(|| pair.logs())?;
    end(Vec::new(), &pair)
}

/// Quick acknowledgments exist while they are useful, and end with the daemon.
#[lab_test(root)]
fn the_route_for_quick_acknowledgments_ends_with_the_daemon() -> Result<()> {
    let mut pair = protected("", true)?;
    let routes = |pair: &Protected| {
        let host = &pair.lab.host(HostSide::Primary).namespace;
        host.output("ip", &["route", "show", "proto", "206"])
    };
    let status = pair.half(HostSide::Primary)?.daemon.status()?;
    ensure!(colo_frame(&status)["quick_ack"]["state"] == "on", "{}", colo_frame(&status));
    let shown = routes(&pair)?;
    ensure!(shown.contains("10.78.0.2") && shown.contains("quickack 1"), "{shown}");
    let ended = pair.half_mut(HostSide::Primary)?.daemon.process.terminate()?;
    ensure!(ended.success(), "{}", pair.logs());
    ensure!(routes(&pair)?.trim().is_empty(), "{}", routes(&pair)?);
    Ok(())
}

/// The guest continues alone. Its secondary has a fence and does not use it.
#[lab_test(root)]
fn a_primary_that_ends_in_good_order_is_neither_stopped_nor_taken_over_from() -> Result<()> {
    let more = format!("{ALWAYS}{FENCED}");
    let mut pair = protected(&more, true)?;
    let keepers = keepers(&pair, 1)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT)?;
    let ended = pair.half_mut(HostSide::Primary)?.daemon.process.terminate()?;
    ensure!(ended.success(), "{}", pair.logs());
    let daemon = &pair.half(HostSide::Secondary)?.daemon;
    daemon.process.wait_for(phrases::takeover::NOT_EQUAL, TIMEOUT)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    ensure!(mode(&pair, HostSide::Secondary)? == phrases::mode::UNPROTECTED, "{}", pair.logs());
    end(keepers, &pair)
}

/// An operator was wrong, and the primary lives. One of the two guests has to be silent.
#[lab_test(root)]
fn a_primary_that_is_taken_over_from_does_not_answer_any_more() -> Result<()> {
    let pair = protected("", true)?;
    let keepers = keepers(&pair, 1)?;
    wait_for_all(&keepers, ANSWERS, TIMEOUT)?;
    let secondary = &pair.half(HostSide::Secondary)?.daemon;
    let refused = secondary.failover().expect_err("the primary is heard");
    ensure!(format!("{refused:#}").contains(phrases::takeover::PRIMARY_HEARD), "{refused:#}");
    secondary.failover_forced()?;
    let daemon = &pair.half(HostSide::Primary)?.daemon;
    daemon.process.wait_for(phrases::takeover::SECONDARY_HAS_TAKEN_OVER, TIMEOUT)?;
    ensure!(mode(&pair, HostSide::Primary)? == phrases::mode::TAKEN_OVER, "{}", pair.logs());
    wait_for_all(&keepers, ANSWERS, TIMEOUT).with_context(|| pair.logs())?;
    let refused = daemon.protect("tcp:10.78.0.2:9998").expect_err("it was not refused");
    ensure!(format!("{refused:#}").contains(phrases::takeover::PEER_TAKES_OVER), "{refused:#}");
    end(keepers, &pair)
}
