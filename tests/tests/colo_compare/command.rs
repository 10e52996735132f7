//! The command line.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Ends, Engine, Setup, TIMEOUT, start};
use colo_lab::phrases;
use colo_lab::process::{Process, program};

fn colo_compare(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program("colo-proxy", "COLO_PROXY_BIN")?);
    Ok(command.arg("colo-compare").args(arguments).output()?)
}

const SOCKETS: [&str; 6] =
    ["--primary-in", "unix:/nowhere/a", "--secondary-in", "unix:/nowhere/b", "--outdev", "unix:/c"];

#[test]
fn zero_is_refused_as_qemu_refuses_it() -> Result<()> {
    for option in
        ["--compare-timeout", "--expired-scan-cycle", "--max-queue-size", "--secondary-timeout"]
    {
        let done = colo_compare(&[&SOCKETS[..], &[option, "0"]].concat())?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(!done.status.success() && said.contains(option), "{option}: {said}");
    }
    Ok(())
}

#[test]
fn each_of_the_three_sockets_is_needed() -> Result<()> {
    for left_out in [0, 2, 4] {
        let mut sockets = SOCKETS.to_vec();
        let option = sockets.remove(left_out);
        sockets.remove(left_out);
        let done = colo_compare(&sockets)?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(!done.status.success() && said.contains(option), "{option}: {said}");
    }
    Ok(())
}

#[test]
fn a_path_that_is_in_use_is_refused_by_name() -> Result<()> {
    let setup = Setup::default();
    let ends = Ends::new(&setup)?;
    let _first = start(Engine::Ours, &setup, &ends)?;
    let taken = ends.primary.argument();
    let done = colo_compare(&[&["--primary-in", &taken][..], &SOCKETS[2..]].concat())?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(
        !done.status.success() && said.contains(phrases::compare::ALREADY_LISTENED_ON),
        "{said}"
    );
    ensure!(said.contains(&taken), "{said}");
    Ok(())
}

/// Nobody listens at the other ends. The process is up, and keeps trying.
#[test]
fn it_is_up_before_its_peers_are() -> Result<()> {
    let mut command = Command::new(program("colo-proxy", "COLO_PROXY_BIN")?);
    command.arg("colo-compare").args(SOCKETS);
    let mut process = Process::spawn("colo-compare", command, &[])?;
    process.wait_for(phrases::READY, TIMEOUT)?;
    process
        .wait_for(&format!("unix:/nowhere/a{}", phrases::compare::NO_CONNECTION_YET), TIMEOUT)?;
    ensure!(process.terminate()?.success());
    let log = process.stderr_to_end();
    ensure!(log.lines().filter(|line| line.contains(phrases::READY)).count() == 1, "{log}");
    Ok(())
}

#[test]
fn its_socket_files_go_with_it() -> Result<()> {
    let setup = Setup::default();
    let ends = Ends::new(&setup)?;
    let mut process = start(Engine::Ours, &setup, &ends)?;
    ensure!(ends.files()?.len() == 4, "{:?}", ends.files()?);
    process.terminate()?;
    ensure!(ends.files()?.is_empty(), "{:?}", ends.files()?);
    Ok(())
}
