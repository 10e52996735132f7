//! An operator's mistakes are answered with a clear error. An operator's requests are done: several
//! guests in one daemon, a clean end.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use colo_lab::client::Conversation;
use colo_lab::daemon::{self, CommandOutput, Daemon, DaemonStatus, PairOptions, output, output_of};
use colo_lab::guest::{GuestOptions, StandInGuest};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, Lab, LabHost, LabOptions, LabSlot};
use colo_lab::pair::left_on;
use colo_lab::phrases;
use colo_lab::process::eventually;
use colo_lab::protocol::ECHO_PORT;
use colo_lab::stand_in::tap::TapOffloads;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const TIMEOUT: Duration = Duration::from_secs(15);
const LANES: [&str; 4] =
    ["--mirror", "tcp:127.0.0.1:9003,server", "--secondary-in", "tcp:127.0.0.1:9004,server"];

fn primary(netdev: &str) -> Vec<&str> {
    [&["primary", "--netdev", netdev], LANES.as_slice()].concat()
}

/// The command fails, prints all of `words`, and leaves nothing.
fn expect_refused(host: &LabHost, found: &CommandOutput, words: &[&str]) -> Result<()> {
    assert!(!found.success, "it should have failed: {found:?}");
    for word in words {
        assert!(found.stderr.contains(word), "no `{word}` in: {}", found.stderr);
    }
    for ugly in ["panicked", "RUST_BACKTRACE"] {
        assert!(!found.stderr.contains(ugly), "{}", found.stderr);
    }
    assert_eq!(left_on(host)?, Vec::<String>::new());
    Ok(())
}

#[lab_test(root)]
fn a_missing_interface_is_named() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let host = lab.host(HostSide::Primary);
    expect_refused(host, &output_of(host, &primary("tap7"))?, &["tap7"])
}

#[lab_test(root)]
fn missing_privileges_are_named() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let host = lab.host(HostSide::Primary);
    let folder = tempfile::tempdir()?;
    let binary = executable_by_anybody(folder.path())?;
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    // Root by name, without any capability.
    let bare_root = ["--bounding-set=-all", "--inh-caps=-all"];
    for identity in [nobody.as_slice(), &bare_root] {
        let mut command = Command::new("setpriv");
        command.args(identity).arg("--").arg(&binary).args(primary("tap0"));
        let found = output(host, command)?;
        expect_refused(host, &found, &[phrases::ERROR, phrases::HINT_ROOT])?;
        // The output is only the refusal. It does not also say that a guest is no longer served.
        assert_eq!(found.stderr.matches("tap0").count(), 1, "said once: {}", found.stderr);
    }
    Ok(())
}

#[lab_test(root)]
fn an_instance_of_roots_is_not_asked_by_anybody() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let host = lab.host(HostSide::Primary);
    let folder = tempfile::tempdir()?;
    let binary = executable_by_anybody(folder.path())?;
    let mut daemon = Daemon::start(&lab, HostSide::Primary, &PairOptions::default())?;
    let name = daemon.status()?.text("instance")?;
    for question in ["status", "failover"] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        let found = output(host, {
            command.arg(&binary).args([question, &name]);
            command
        })?;
        assert!(!found.success && found.stderr.ends_with(phrases::HINT_ROOT), "{found:?}");
    }
    assert!(daemon.process.terminate()?.success());
    assert_eq!(left_on(host)?, Vec::<String>::new());
    Ok(())
}

/// As in `colo-proxy status | head`, when `head` has ended.
#[lab_test]
fn a_reader_who_has_seen_enough_is_no_failure() -> Result<()> {
    for arguments in [&["status"][..], &["status", "--json"]] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let found = Command::new(daemon::binary()?).args(arguments).stdout(writer).output()?;
        let stderr = String::from_utf8_lossy(&found.stderr);
        // The exit status is not checked: instances of other tests that end at this moment may not
        // answer.
        assert!(!stderr.contains("panicked") && !stderr.contains("roken pipe"), "{stderr}");
    }
    Ok(())
}

/// A copy of the daemon's program in `folder`. Only root may be able to enter the folder where
/// cargo builds.
fn executable_by_anybody(folder: &Path) -> Result<PathBuf> {
    std::fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let copy = folder.join("colo-proxy");
    std::fs::copy(daemon::binary()?, &copy)?;
    std::fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    Ok(copy)
}

#[lab_test(root)]
fn a_wrong_key_is_shown_with_its_line_and_the_right_one() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let host = lab.host(HostSide::Primary);
    let config =
        PairOptions::default().config(HostSide::Primary, LabSlot(0), "secondary_timeot_ms = 5");
    let error = Daemon::run_config(host, &config).expect_err("a wrong key");
    let text = format!("{error:#}");
    let line = config.lines().position(|line| line.contains("timeot")).map_or(0, |n| n + 1);
    for word in ["secondary_timeot_ms", "secondary_timeout_ms", &format!(":{line}:")] {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    assert_eq!(left_on(host)?, Vec::<String>::new());
    Ok(())
}

#[lab_test(root)]
fn wrong_endpoints_and_flags_are_refused() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let host = lab.host(HostSide::Primary);
    for (arguments, word) in [
        (
            vec![
                "primary",
                "--netdev",
                "tap0",
                "--mirror",
                "udp:a:1",
                "--secondary-in",
                "unix:/run/x",
            ],
            "udp:a:1",
        ),
        (vec!["primary", "--netdev", "tap0"], "--mirror"),
        ([primary("tap0"), vec!["--colo-frame", "sometimes"]].concat(), "sometimes"),
        (vec!["failover", "tap9"], "tap9"),
        (vec!["run", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
    ] {
        expect_refused(host, &output_of(host, &arguments)?, &[word])?;
    }
    Ok(())
}

/// Its packets have no Ethernet header, and every one of them would vanish.
#[lab_test(root)]
fn a_tun_device_is_refused() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let host = lab.host(HostSide::Primary);
    host.namespace.output("ip", &["tuntap", "add", "dev", "tap9", "mode", "tun"])?;
    for role in ["primary", "secondary"] {
        let lane = if role == "primary" { "--secondary-in" } else { "--secondary-out" };
        let arguments = [role, "--netdev=tap9", "--mirror=unix:/run/m", lane, "unix:/run/s"];
        let refused = output_of(host, &arguments)?;
        expect_refused(host, &refused, &["tap9", phrases::filter::NOT_A_TAP])?;
    }
    host.namespace.output("ip", &["link", "del", "tap9"]).map(drop)
}

#[lab_test(root)]
fn a_second_daemon_for_the_same_tap_is_refused() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let host = lab.host(HostSide::Primary);
    let mut first = Daemon::start(&lab, HostSide::Primary, &PairOptions::default())?;
    let second = output_of(host, &primary("tap0"))?;
    assert!(!second.success && second.stderr.contains("tap0"), "{second:?}");
    assert!(second.stderr.contains(&first.process.pid().to_string()), "{second:?}");
    first.status()?;
    assert!(first.process.terminate()?.success());
    assert_eq!(left_on(host)?, Vec::<String>::new());
    Ok(())
}

/// Three guests of one daemon. They share a thread, because the daemon has one processor.
struct ThreeGuests {
    primary: Daemon,
    secondary: Daemon,
    _guests: Vec<StandInGuest>,
    slots: [LabSlot; 3],
    lab: Lab,
}

impl ThreeGuests {
    fn start() -> Result<Self> {
        let slots = [0, 1, 2].map(LabSlot);
        let lab = Lab::new(LabOptions { slots: 3, ..LabOptions::default() })?;
        let guests = |side: HostSide| -> Result<Vec<StandInGuest>> {
            let options = |slot| GuestOptions { slot, ..GuestOptions::of(side, TapOffloads::On) };
            slots.iter().map(|slot| StandInGuest::start(&lab, side, options(*slot))).collect()
        };
        let daemon = |side: HostSide| {
            let config = |slot: &LabSlot| PairOptions::default().config(side, *slot, "");
            let all: String = slots.iter().map(config).collect();
            with_one_processor(|| Daemon::run_config(lab.host(side), &all))
        };
        let mut all = guests(HostSide::Primary)?;
        let secondary = daemon(HostSide::Secondary)?;
        all.extend(guests(HostSide::Secondary)?);
        let primary = daemon(HostSide::Primary)?;
        eventually("three protected guests", TIMEOUT, || {
            let modes = primary.statuses()?;
            let all =
                modes.iter().all(|s| s.mode().is_ok_and(|mode| mode == phrases::mode::PROTECTED));
            Ok((all && modes.len() == 3).then_some(()))
        })?;
        Ok(Self { primary, secondary, _guests: all, slots, lab })
    }

    /// Speaks with the guest of `slot`. This requests no checkpoint.
    fn converse(&self, slot: LabSlot) -> Result<()> {
        for family in Family::BOTH {
            let mut conversation = Conversation::open_to(&self.lab.client, slot.address(family))?;
            conversation.ask(3000)?;
            conversation.down(500_000)?;
            conversation.close()?;
        }
        let status = self.status(slot)?;
        ensure!(status.number("compared_frames")? > 0, "{status:#?}");
        ensure!(status.checkpoints().is_empty(), "{status:#?}");
        Ok(())
    }

    fn status(&self, slot: LabSlot) -> Result<DaemonStatus> {
        let of = |status: &DaemonStatus| status.0["netdev"] == slot.tap();
        let found = self.primary.statuses()?.into_iter().find(of);
        found.with_context(|| format!("no status of {}", slot.tap()))
    }

    fn end(mut self) -> Result<()> {
        for daemon in [&mut self.primary, &mut self.secondary] {
            let ended = daemon.process.terminate()?;
            assert!(ended.success(), "{ended}: {}", daemon.process.stderr());
        }
        for side in HostSide::BOTH {
            assert_eq!(left_on(self.lab.host(side))?, Vec::<String>::new());
        }
        Ok(())
    }
}

/// The processes that `start` starts have one processor, on every machine.
fn with_one_processor<T>(start: impl FnOnce() -> Result<T>) -> Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this)?;
    let first = (0..CpuSet::count()).find(|cpu| before.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(first.context("no processor")?)?;
    sched_setaffinity(this, &one)?;
    let started = start();
    sched_setaffinity(this, &before)?;
    started
}

#[lab_test(root)]
fn one_daemon_serves_several_guests() -> Result<()> {
    let several = ThreeGuests::start()?;
    for slot in several.slots {
        several.converse(slot)?;
    }
    several.end()
}

/// One guest receives more than its daemon can handle, on the thread of all three guests.
#[lab_test(root)]
fn a_guest_that_is_flooded_keeps_no_other_waiting() -> Result<()> {
    let several = ThreeGuests::start()?;
    let [flooded, others @ ..] = several.slots;
    let target = SocketAddr::new(flooded.address(Family::V4), ECHO_PORT);
    let flood = several.lab.client.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    let is_over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| -> Result<u64> {
        let flooding = scope.spawn(|| {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                // The socket's queue may be full. Later datagrams follow.
                sent += u64::from(flood.send_to(&[0; 100], target).is_ok());
            }
            sent
        });
        let conversed = others.into_iter().try_for_each(|slot| several.converse(slot));
        is_over.store(true, Ordering::Relaxed);
        let sent = flooding.join();
        conversed?;
        sent.map_err(|_| anyhow!("the flood panicked"))
    })?;
    let compared = several.status(flooded)?.number("compared_frames")?;
    assert!(compared > 0 && sent > compared, "{compared} of {sent}: no flood");
    several.end()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
