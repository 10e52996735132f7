//! QEMU's command line: the output of `qemu-args` is valid, and a QEMU that cannot do COLO is
//! refused with its reason.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use colo_lab::daemon::{Daemon, output_of};
use colo_lab::lab_test;
use colo_lab::network::{HostSide, Lab, LabHost, LabOptions};
use colo_lab::phrases;
use colo_lab::process::{Process, eventually};
use colo_lab::qemu::emulator::{Emulator, OLDEST};

use super::found;

const TIMEOUT: Duration = Duration::from_secs(20);

const PRIMARY: &str = "[[guest]]\nrole = \"primary\"\nnetdev = \"tap0\"\n\
    mirror = \"tcp:10.78.0.1:9003,server\"\nsecondary_in = \"tcp:10.78.0.1:9004,server\"\n\
    colo_frame = \"qmp:unix:/run/web.qmp\"\nmigrate = \"tcp:10.78.0.2:9998\"\n";
const SECONDARY: &str = "[[guest]]\nrole = \"secondary\"\nnetdev = \"tap0\"\n\
    mirror = \"tcp:10.78.0.1:9003\"\nsecondary_out = \"tcp:10.78.0.1:9004\"\n\
    colo_frame = \"qmp:unix:/run/web.qmp\"\nmigrate = \"tcp:10.78.0.2:9998\"\n";

/// The output of `qemu-args` for this host, and for a QEMU on the other host.
fn printed(host: &LabHost, config: &str, vnet_hdr: bool) -> Result<[Vec<String>; 2]> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.toml");
    std::fs::write(&path, format!("{config}vnet_hdr_support = {vnet_hdr}\n"))?;
    let path = path.display().to_string();
    let done = output_of(host, &["qemu-args", "--config", &path, "--peer", "qemu"])?;
    ensure!(done.success, "{}", done.stderr);
    let words = |lines: &str| {
        let lines = lines.lines().filter(|line| !line.starts_with('#'));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect::<Vec<_>>()
    };
    let Some((here, there)) = done.stdout.split_once("on the other host") else {
        bail!("nothing for the other host in\n{}", done.stdout)
    };
    Ok([words(here), words(there.split_once('\n').map_or("", |(_, lines)| lines))])
}

/// Starts a machine without a system, with these arguments, and a monitor on its standard input.
fn start(emulator: &Emulator, host: &LabHost, arguments: &[String]) -> Result<Process> {
    let mut command = emulator.command();
    command
        .args(["-M", "pc", "-accel", "tcg", "-S", "-nodefaults", "-display", "none"])
        .args(["-qmp", "stdio"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Process::spawn("QEMU", command, &host.namespaces())
}

/// QEMU greets when it has made all its objects.
fn expect_greeting(mut qemu: Process) -> Result<()> {
    let mut stdout = qemu.take_stdout().context("its stdout is not piped")?;
    let mut greeting = [0; 8];
    let read = std::io::Read::read_exact(&mut stdout, &mut greeting);
    ensure!(read.is_ok() && greeting == *b"{\"QMP\": ", "{}", qemu.stderr_to_end());
    qemu.kill()
}

#[lab_test(root)]
fn what_is_printed_starts_a_qemu_of_either_kind() -> Result<()> {
    let (emulator, _) = found()?;
    for vnet_hdr in [true, false] {
        let lab = Lab::new(LabOptions { vnet_hdr, ..LabOptions::default() })?;
        for (config, side) in [(PRIMARY, HostSide::Primary), (SECONDARY, HostSide::Secondary)] {
            let [here, there] = printed(lab.host(side), config, vnet_hdr)?;
            ensure!(!here.iter().any(|word| word == "-object"), "{here:?}");
            ensure!(there.iter().any(|word| word == "-object"), "{there:?}");
            expect_greeting(start(&emulator, lab.host(side), &here)?)?;
            expect_greeting(start(&emulator, lab.host(side.other()), &there)?)?;
        }
    }
    Ok(())
}

/// Debian's stable QEMU is old and is refused. If a newer one is installed, it is not refused.
#[lab_test(root)]
fn a_release_that_cannot_do_colo_is_refused_in_a_sentence() -> Result<()> {
    let emulator = Emulator::installed();
    let release = emulator.release()?;
    let lab = Lab::new(LabOptions::default())?;
    let host = lab.host(HostSide::Primary);
    let arguments = ["-qmp", "unix:/run/web.qmp,server=on,wait=off"].map(str::to_owned);
    let mut qemu = start(&emulator, host, &arguments)?;
    let daemon = Daemon::run_config(host, PRIMARY)?;
    if release < OLDEST {
        daemon.process.wait_for(phrases::takeover::QEMU_TOO_OLD, TIMEOUT)?;
        let refused = daemon.protect("tcp:10.78.0.2:9998").expect_err("it was not refused");
        ensure!(format!("{refused:#}").contains(phrases::takeover::CANNOT_PROTECT), "{refused:#}");
    } else {
        eventually("a QEMU that is known", TIMEOUT, || {
            let status = daemon.status()?;
            Ok((status.0["detail"]["colo_frame"]["state"] == "alone").then_some(()))
        })?;
    }
    qemu.kill()
}
