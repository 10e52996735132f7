//! The kernel lane: frames go from kernel to kernel in a tunnel. Everything that is true for the
//! streams is also true for the tunnel. The daemons find its losses. A loss costs a checkpoint
//! instead of a stall.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use colo_lab::client::{Calls, Conversation, Keeper, everything, mixed, wait_for_all};
use colo_lab::colo_frame::{BEGAN, DONE, FAILED, ScriptFrame};
use colo_lab::daemon::{Daemon, DaemonStatus, PairOptions};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, LabHost, LabOptions};
use colo_lab::pair::{LabPair, PairSetup, links};
use colo_lab::phrases;
use colo_lab::process::eventually;
use colo_lab::protocol::SERVICE_PORT;
use colo_lab::stand_in::packet::TCP;
use colo_lab::stand_in::tap::TapOffloads;
use nix::sys::signal::Signal;

#[path = "kernel_lane/long.rs"]
mod long;
#[path = "kernel_lane/sink.rs"]
mod sink;

use sink::Sink;

const TIMEOUT: Duration = Duration::from_secs(20);
/// A lost frame can stop the only connection for some seconds.
const LOSS_TIMEOUT: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(2);
/// An interface without programs.
const PLAIN: &str = "\
    link add plain0 type veth peer name plain1\n\
    link set plain1 up\n\
    link set plain0 up\n";
/// One byte too narrow for a guest's frames with the tunnel's headers.
const NARROW_MTU: u32 = 1549;

fn by(lane: &'static str) -> PairSetup {
    let daemons = PairOptions { lane, ..PairOptions::default() };
    PairSetup { daemons, ..PairSetup::default() }
}

/// A pair whose frames go through the tunnel, in both directions.
fn start(setup: PairSetup) -> Result<LabPair> {
    let pair = LabPair::start(setup)?;
    wait_used(&pair)?;
    Ok(pair)
}

/// The same, with checkpoints that the test makes.
fn driven_by(frame: &ScriptFrame) -> Result<LabPair> {
    let mut setup = by("kernel");
    setup.daemons.colo_frame = frame.kind();
    start(setup)
}

fn wait_used(pair: &LabPair) -> Result<()> {
    for daemon in [&pair.primary, &pair.secondary] {
        daemon.wait_status("the tunnel in use", TIMEOUT, is_used)?;
    }
    Ok(())
}

fn is_used(status: &DaemonStatus) -> bool {
    status.0.pointer("/detail/lanes/kernel/used") == Some(&true.into())
}

fn is_closed(status: &DaemonStatus) -> bool {
    status.0.pointer("/detail/lanes/kernel/open") == Some(&false.into())
}

fn streamed(daemon: &Daemon, lane: &str) -> Result<u64> {
    daemon.status()?.detail(&format!("/lanes/{lane}/frames"))
}

fn carries(offloads: TapOffloads, family: Family) -> Result<()> {
    let mut pair = start(PairSetup { offloads, ..by("kernel") })?;
    let before = [streamed(&pair.primary, "mirror")?, streamed(&pair.secondary, "secondary_out")?];
    everything(&pair.lab.client, family)?;
    let after = [streamed(&pair.primary, "mirror")?, streamed(&pair.secondary, "secondary_out")?];
    ensure!(before == after, "the streams carried frames: {before:?}, {after:?}");
    pair.expect_no_checkpoints()?;
    pair.expect_right_sums()?;
    pair.finish()
}

#[lab_test(root)]
fn carries_frames_with_offloads_over_ipv4() -> Result<()> {
    carries(TapOffloads::On, Family::V4)
}

#[lab_test(root)]
fn carries_frames_with_offloads_over_ipv6() -> Result<()> {
    carries(TapOffloads::On, Family::V6)
}

#[lab_test(root)]
fn carries_frames_without_offloads() -> Result<()> {
    carries(TapOffloads::Off, Family::V4)?;
    carries(TapOffloads::Off, Family::V6)
}

#[lab_test(root)]
fn many_connections_at_a_time_need_no_checkpoint() -> Result<()> {
    let pair = start(by("auto"))?;
    mixed(&pair.lab, Duration::from_secs(3))?;
    pair.expect_no_checkpoints()?;
    pair.finish()
}

#[lab_test(root)]
fn connections_outlive_the_primary_host() -> Result<()> {
    let mut pair = start(by("kernel"))?;
    let mut keepers = Vec::new();
    for family in Family::BOTH {
        let calls = Calls::new(&pair.lab.client, family)?;
        for len in [10, 3000, 60_000] {
            let conversation = Conversation::open(&pair.lab.client, family)?;
            keepers.push(Keeper::start(conversation, len, PAUSE));
            keepers.push(Keeper::start(calls.call()?, len, PAUSE));
        }
    }
    wait_for_all(&keepers, 30, TIMEOUT)?;
    pair.expect_no_checkpoints()?;
    pair.fail_over()?;
    wait_for_all(&keepers, 30, TIMEOUT)?;
    for keeper in keepers {
        let kept = keeper.stop()?;
        ensure!(kept.error.is_none(), "{}: {:#?}", kept.name, kept.error);
    }
    // The daemon has not seen a frame of its guest, but knows the guest's addresses.
    let status = pair.secondary.status()?;
    ensure!(status.detail("/announced")? >= 2, "{status:#?}");
    everything(&pair.lab.client, Family::V4)?;
    pair.finish()
}

/// The secondary's output from before a checkpoint does not vouch for output after it. Its output
/// from after the checkpoint does.
#[lab_test(root)]
fn epochs_are_kept_apart() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let mut pair = driven_by(&frame)?;
    for epoch in 1..=5 {
        let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
        conversation.ask(1000)?;
        pair.secondary_guest.stand_in.flip(TCP, SERVICE_PORT, 77)?;
        let asking = std::thread::spawn(move || conversation.ask(1000).map(|_| conversation));
        pair.secondary_guest.stand_in.flipped(TIMEOUT)?;
        frame.wait_told("request-checkpoint", epoch, TIMEOUT)?;
        frame.say(BEGAN)?;
        ensure!(!asking.is_finished(), "the answer left before the checkpoint was done");
        frame.say(DONE)?;
        asking.join().map_err(|_| anyhow::anyhow!("the client panicked"))??.reset()?;
        for daemon in [&pair.primary, &pair.secondary] {
            daemon.wait_status("the epoch", TIMEOUT, |s| {
                s.number("epoch").is_ok_and(|n| n == epoch as u64)
            })?;
        }
        everything(&pair.lab.client, Family::V6)?;
        let status = pair.primary.status()?;
        let asked = status.checkpoints().values().sum::<u64>();
        ensure!(asked == epoch as u64, "{asked} checkpoints in epoch {epoch}: {status:#?}");
    }
    pair.finish()
}

/// A checkpoint that fails changes nothing: the frames that arrived meanwhile are compared.
#[lab_test(root)]
fn a_failed_checkpoint_leaves_the_epoch_as_it_was() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let pair = driven_by(&frame)?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    for _ in 0..5 {
        frame.say(BEGAN)?;
        frame.say(FAILED)?;
        conversation.ask(3000)?;
    }
    pair.primary.wait_status("failed checkpoints", TIMEOUT, |status| {
        status.detail("/engine/checkpoints_failed").is_ok_and(|n| n == 5)
    })?;
    conversation.close()?;
    let done = everything(&pair.lab.client, Family::V4);
    pair.expect_no_checkpoints()?;
    done?;
    pair.finish()
}

/// The input of a stopped guest waits in a queue that is long enough, whether or not the checkpoint
/// succeeds.
#[lab_test(root)]
fn input_waits_for_a_guest_that_is_stopped() -> Result<()> {
    for end in [DONE, FAILED] {
        let frame = ScriptFrame::silent()?;
        let mut setup = by("kernel");
        let secondary = format!("colo_frame = \"{}\"", frame.kind());
        setup.config = Some([String::new(), secondary]);
        let pair = start(setup)?;
        let mut sink = Sink::open(&pair)?;
        frame.say(BEGAN)?;
        let held = || pair.secondary.status()?.detail("/kernel/input_to_daemon");
        eventually("the guest is stopped", TIMEOUT, || {
            sink.send(1)?;
            Ok((held()? > 0).then_some(()))
        })?;
        // Other peers also send to the guest.
        let (held_before, sent_before) = (held()?, sink.sent());
        for _ in 0..20 {
            sink.send(250)?;
            let all = held_before + u64::from(sink.sent() - sent_before);
            eventually("input waits", TIMEOUT, || Ok((held()? >= all).then_some(())))?;
        }
        frame.say(end)?;
        let numbers = sink.numbers(HostSide::Secondary);
        ensure!(
            numbers == (0..sink.sent()).collect::<Vec<_>>(),
            "{} of {} datagrams, after {end}: {numbers:?}",
            numbers.len(),
            sink.sent()
        );
        let asked = pair.primary.status()?.checkpoints();
        ensure!(asked.is_empty(), "checkpoints {asked:?}");
        pair.finish()?;
    }
    Ok(())
}

/// Input that finds no room while the guest is stopped is counted, and costs another checkpoint.
#[lab_test(root)]
fn input_of_a_stopped_guest_is_bounded_in_bytes() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let mut setup = by("kernel");
    let limits = "[guest.limits]\nstopped_input_bytes_max = 139264";
    let secondary = format!("colo_frame = \"{}\"\n{limits}", frame.kind());
    setup.config = Some([String::new(), secondary]);
    let pair = start(setup)?;
    let mut sink = Sink::open(&pair)?;
    frame.say(BEGAN)?;
    eventually("more than finds room", TIMEOUT, || {
        sink.send(100)?;
        let drops = pair.secondary.status()?.drops();
        Ok(drops.get("stopped-input-full").is_some_and(|n| *n > 0).then_some(()))
    })?;
    let status = pair.primary.wait_status("a checkpoint for it", TIMEOUT, |status| {
        status.checkpoints().contains_key("lane-loss")
    })?;
    ensure!(status.checkpoints().keys().eq(["lane-loss"]), "{status:#?}");
    frame.say(DONE)?;
    let dropped = pair.secondary.status()?.detail("/lanes/kernel/dropped_frames")?;
    ensure!(dropped > 0, "counted as something else");
    // The input that found room has arrived in order.
    sink.send(1)?;
    let numbers = sink.numbers(HostSide::Secondary);
    ensure!(numbers.is_sorted() && numbers.len() > 100, "{numbers:?}");
    pair.finish()
}

/// Every twentieth frame between the hosts is lost. The clients receive every byte, and each loss
/// causes a checkpoint at once.
#[lab_test(root)]
fn a_loss_is_found_and_costs_a_checkpoint() -> Result<()> {
    let pair = start(by("kernel"))?;
    pair.lab.lose_between_hosts(20)?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    let has_lost = |daemon: &Daemon| anyhow::Ok(daemon.status()?.drops().contains_key("lane-lost"));
    // Chance decides which frames are lost, so the client sends requests until some are lost in
    // either direction.
    eventually("a loss of input and one of output", LOSS_TIMEOUT, || {
        conversation.ask(100)?;
        Ok((has_lost(&pair.secondary)? && has_lost(&pair.primary)?).then_some(()))
    })?;
    conversation.close()?;
    pair.primary.wait_status("a checkpoint for it", TIMEOUT, |status| {
        status.checkpoints().contains_key("lane-loss")
    })?;
    pair.finish()
}

/// A firewall lets the control lane through, but not the tunnel. The streams then carry the frames
/// again, and continue to do so. The daemons report the reason.
#[lab_test(root)]
fn a_way_that_is_blocked_is_left_for_the_streams() -> Result<()> {
    let pair = start(by("kernel"))?;
    everything(&pair.lab.client, Family::V4)?;
    pair.expect_no_checkpoints()?;
    pair.lab.block_udp_between_hosts()?;
    // Only input, and no output: a checkpoint of the lab copies no state, so a connection that is
    // behind on the secondary would stay behind.
    let mut sink = Sink::open(&pair)?;
    eventually("the secondary has had enough", TIMEOUT, || {
        sink.send(1)?;
        Ok(is_closed(&pair.secondary.status()?).then_some(()))
    })?;
    wait_closed(&pair, "is UDP port 4789 open")?;
    let asked = pair.primary.status()?.checkpoints();
    ensure!(asked.keys().eq(["lane-loss"]), "{asked:?}");
    for family in Family::BOTH {
        everything(&pair.lab.client, family)?;
    }
    sink.send(100)?;
    let numbers = sink.numbers(HostSide::Secondary);
    let last: Vec<u32> = (0..sink.sent()).rev().take(100).collect();
    ensure!(numbers.iter().rev().take(100).eq(&last), "lost behind the tunnel: {numbers:?}");
    let status = pair.primary.status()?;
    ensure!(status.checkpoints() == asked, "{asked:?}, then {status:#?}");
    ensure!(is_closed(&status) && is_closed(&pair.secondary.status()?), "it flaps: {status:#?}");
    pair.finish()
}

/// Somebody removes the tunnel of one daemon, or sets it down. That end reports it, and both
/// continue with the streams.
#[lab_test(root)]
fn a_tunnel_that_is_taken_away_is_missed() -> Result<()> {
    for side in HostSide::BOTH {
        for (what, why) in [("del", "was deleted"), ("set", "was taken down")] {
            let pair = start(by("kernel"))?;
            let host = pair.lab.host(side);
            let tunnel = tunnel_of(host)?;
            let down = if what == "set" { "down" } else { "" };
            host.namespace.ip(&format!("link {what} {tunnel} {down}\n"))?;
            wait_closed(&pair, why)?;
            for family in Family::BOTH {
                everything(&pair.lab.client, family)?;
            }
            let asked = pair.primary.status()?.checkpoints();
            ensure!(asked.keys().eq(["lane-loss"]), "{asked:?}");
            pair.finish()?;
        }
    }
    Ok(())
}

fn tunnel_of(host: &LabHost) -> Result<String> {
    let links = links(host)?;
    links.into_iter().find(|name| name.starts_with("colo-tun")).context("there is no tunnel")
}

/// The secondary's guest is slow, and its TAP drops input. No peer sends that again, so a
/// checkpoint makes the guests equal.
#[lab_test(root)]
fn what_is_dropped_behind_the_tunnel_costs_a_checkpoint() -> Result<()> {
    let mut setup = by("kernel");
    let short = "[guest.limits]\nguest_queue_frames = 100".to_owned();
    setup.config = Some([String::new(), short]);
    let mut pair = start(setup)?;
    let mut sink = Sink::open(&pair)?;
    pair.secondary_guest.stand_in.pause()?;
    let host = pair.lab.host(HostSide::Secondary);
    eventually("a full TAP", TIMEOUT, || {
        sink.send(100)?;
        Ok((host.tx_dropped(&host.tap)? > 0).then_some(()))
    })?;
    // A guest that reads nothing has missed nothing yet.
    pair.secondary_guest.stand_in.resume()?;
    let status = pair.primary.wait_status("a checkpoint for it", TIMEOUT, |status| {
        status.checkpoints().contains_key("lane-loss")
    })?;
    ensure!(!status.drops().contains_key("lane-lost"), "lost in the tunnel: {status:#?}");
    let dropped = pair.secondary.status()?.detail("/lanes/kernel/dropped_frames")?;
    ensure!(dropped > 0, "a checkpoint for something else");
    pair.finish()
}

/// Waits until neither end has a tunnel. The reason at one end begins with the fact. The reason at
/// the other end refers to the peer.
fn wait_closed(pair: &LabPair, why: &str) -> Result<()> {
    let mut reasons = Vec::new();
    for daemon in [&pair.primary, &pair.secondary] {
        let status = daemon.wait_status("the tunnel closed", TIMEOUT, is_closed)?;
        let reason = status.0.pointer("/detail/lanes/kernel/why").and_then(|why| why.as_str());
        reasons.push(reason.unwrap_or_default().to_owned());
    }
    ensure!(reasons.iter().any(|reason| reason.contains(why)), "{reasons:?}");
    let other = "the other host has closed its end";
    let are_told = reasons.iter().all(|reason| reason.contains(why) || reason.contains(other));
    ensure!(are_told, "{reasons:?}");
    Ok(())
}

/// The twin: the streams lose nothing, so there is no request.
#[lab_test(root)]
fn the_streams_over_the_same_link_ask_for_none() -> Result<()> {
    let pair = LabPair::start(by("stream"))?;
    pair.lab.lose_between_hosts(20)?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    for _ in 0..50 {
        conversation.ask(100)?;
    }
    conversation.close()?;
    let status = pair.primary.status()?;
    ensure!(!status.checkpoints().contains_key("lane-loss"), "{status:#?}");
    pair.finish()
}

/// The link is one byte too narrow. The streams carry the frames, and the daemons report the
/// reason.
#[lab_test(root)]
fn a_link_that_is_too_narrow_is_refused_with_its_reason() -> Result<()> {
    for lane in ["auto", "kernel"] {
        let lab = LabOptions { replication_mtu: NARROW_MTU, ..LabOptions::default() };
        let pair = LabPair::start(PairSetup { lab, ..by(lane) })?;
        let refused = |status: &DaemonStatus| {
            let why = status.0.pointer("/detail/lanes/kernel/why").and_then(|why| why.as_str());
            why.is_some_and(|why| {
                why.contains("1549") && why.contains(phrases::capture::MTU_NEEDED)
            })
        };
        for daemon in [&pair.primary, &pair.secondary] {
            daemon.wait_status("the reason", TIMEOUT, refused)?;
        }
        everything(&pair.lab.client, Family::V4)?;
        pair.expect_no_checkpoints()?;
        ensure!(streamed(&pair.primary, "mirror")? > 0, "nothing went by the stream");
        pair.finish()?;
    }
    Ok(())
}

/// Only one end wants the tunnel: the streams carry the frames.
#[lab_test(root)]
fn a_peer_without_one_gets_the_streams() -> Result<()> {
    let config = Some(["lane = \"auto\"".to_owned(), "lane = \"stream\"".to_owned()]);
    let daemons = PairOptions { lane: "", ..PairOptions::default() };
    let pair = LabPair::start(PairSetup { config, daemons, ..PairSetup::default() })?;
    everything(&pair.lab.client, Family::V4)?;
    pair.expect_no_checkpoints()?;
    ensure!(!is_used(&pair.primary.status()?), "a tunnel to nobody");
    pair.finish()
}

/// The twin: with a daemon, the guests' frames go through the tunnel, in both directions.
#[lab_test(root)]
fn a_tunnel_with_a_daemon_lets_the_guests_frames_through() -> Result<()> {
    let pair = start(by("kernel"))?;
    for side in HostSide::BOTH {
        let host = pair.lab.host(side);
        let tunnel = tunnel_of(host)?;
        let before = host.tx_packets(&tunnel)?;
        everything(&pair.lab.client, Family::V4)?;
        ensure!(host.tx_packets(&tunnel)? > before, "nothing of the guests' goes by {tunnel}");
    }
    pair.finish()
}

/// How many more frames an interface has sent after the host has sent to every neighbour behind it.
fn count_of_speaking(host: &LabHost, interface: &str) -> Result<u64> {
    host.namespace.ip(&format!("addr add 10.99.0.1/24 dev {interface}\n"))?;
    let before = host.tx_packets(interface)?;
    host.namespace.run(|| {
        let socket = UdpSocket::bind("10.99.0.1:0")?;
        socket.set_broadcast(true)?;
        for _ in 0..10 {
            // The frame must not leave, whether or not the kernel refuses it.
            let _ = socket.send_to(b"from the host", "10.99.0.255:9");
        }
        Ok(())
    })?;
    let after = host.tx_packets(interface)?;
    host.namespace.ip(&format!("addr del 10.99.0.1/24 dev {interface}\n"))?;
    Ok(after - before)
}

/// A killed daemon that lets its guest continue leaves a tunnel. The tunnel must not be a way to
/// this host, or from it to the other one.
#[lab_test(root)]
fn a_tunnel_without_a_daemon_lets_nothing_through() -> Result<()> {
    let mut setup = by("kernel");
    setup.config = Some(["on_death = \"pass\"".to_owned(), String::new()]);
    let mut pair = start(setup)?;
    pair.primary.process.signal(Signal::SIGKILL)?;
    pair.primary.process.kill()?;
    let host = pair.lab.host(HostSide::Primary);
    let tunnel = tunnel_of(host)?;
    let guards = host.namespace.run(|| {
        let count = |way| anyhow::Ok(SchedClassifier::query_tcx(tunnel.as_str(), way)?.1.len());
        Ok([count(TcAttachType::Ingress)?, count(TcAttachType::Egress)?])
    })?;
    ensure!(guards == [1, 1], "{guards:?} programs on {tunnel}");
    ensure!(
        host.namespace
            .run(|| Ok(SchedClassifier::query_tcx("tap0", TcAttachType::Ingress)?.1))?
            .is_empty()
    );
    // The host has routes into the tunnel, and sends. None of that reaches the tunnel's own
    // counter.
    ensure!(count_of_speaking(host, &tunnel)? == 0, "the host speaks to the other one by {tunnel}");
    // The twin: without the program, the same frames are counted.
    host.namespace.ip(PLAIN)?;
    ensure!(count_of_speaking(host, "plain0")? >= 10, "the host does not speak");
    host.namespace.ip("link del plain0\n")?;
    pair.restart(HostSide::Primary)?;
    pair.primary.wait_protected()?;
    wait_used(&pair)?;
    everything(&pair.lab.client, Family::V4)?;
    pair.finish()
}

/// A killed daemon leaves its tunnel. The next daemon makes its own, and removes both at the end.
#[lab_test(root)]
fn the_next_daemon_has_a_tunnel_again() -> Result<()> {
    let mut pair = start(by("kernel"))?;
    for side in [HostSide::Primary, HostSide::Secondary] {
        let daemon = match side {
            HostSide::Primary => &mut pair.primary,
            HostSide::Secondary => &mut pair.secondary,
        };
        daemon.process.signal(Signal::SIGKILL)?;
        daemon.process.kill()?;
        pair.restart(side)?;
        pair.primary.wait_protected()?;
        wait_used(&pair)?;
        everything(&pair.lab.client, Family::V4)?;
    }
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
