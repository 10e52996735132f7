//! Filters and guests that die, end, and come back.

use anyhow::Result;
use colo_lab::colo_compare::datagram;
use colo_lab::daemon::Daemon;
use colo_lab::lab_test;
use colo_lab::pair::left_on;
use colo_lab::phrases;
use colo_lab::process::eventually;
use nix::sys::signal::Signal;

use crate::stand::{Stand, TIMEOUT, WAYS, Way, end, named, receive, wait_mode};

/// Links, pins, sockets and locks that no filter should leave.
fn left(stand: &Stand) -> Result<Vec<String>> {
    let left = left_on(stand.host())?;
    Ok(left.into_iter().filter(|name| name != "lan0").collect())
}

#[lab_test(root)]
fn a_mirror_that_is_killed_lets_everything_pass_and_the_next_goes_on() -> Result<()> {
    let stand = Stand::new()?;
    let arguments = ["--outdev", &stand.server("out")];
    let mut mirror = stand.filter("mirror", &arguments)?;
    mirror.process.kill()?;
    for way in WAYS {
        stand.passes(way, "nobody mirrors");
    }
    assert!(left(&stand)?.iter().any(|path| path.ends_with("link_colo_filter_tx")), "pinned");
    let mirror = stand.filter("mirror", &arguments)?;
    assert!(
        mirror.process.stderr().contains(phrases::filter::TOOK_OVER),
        "{}",
        mirror.process.stderr()
    );
    let mut out = stand.connect("out", false)?;
    wait_mode(&mirror, "connected")?;
    for way in WAYS {
        let name = format!("again {way:?}");
        stand.passes(way, &name);
        receive(&mut out, &named(&name))?;
    }
    assert_eq!(mirror.status()?.detail("/kernel/mirror_failed")?, 2, "while nobody was there");
    end(mirror)?;
    assert_eq!(left(&stand)?, [""; 0]);
    Ok(())
}

#[lab_test(root)]
fn a_redirector_that_is_killed_lets_nothing_pass_until_it_is_ended() -> Result<()> {
    let stand = Stand::new()?;
    let arguments = ["--queue", "rx", "--outdev", &stand.server("out")];
    let mut redirector = stand.filter("redirector", &arguments)?;
    redirector.process.kill()?;
    stand.send(Way::Rx, &named("lost"));
    stand.passes(Way::Tx, "the other direction");
    assert!(stand.arrived(Way::Rx).is_empty());
    let redirector = stand.filter("redirector", &arguments)?;
    let mut out = stand.connect("out", false)?;
    wait_mode(&redirector, "connected")?;
    stand.send(Way::Rx, &named("taken"));
    receive(&mut out, &named("taken"))?;
    assert!(stand.arrived(Way::Rx).is_empty());
    end(redirector)?;
    assert_eq!(left(&stand)?, [""; 0]);
    stand.passes(Way::Rx, "after the end");
    Ok(())
}

/// Frames that were captured before the end are delivered. They are more than the socket holds.
#[lab_test(root)]
fn the_end_delivers_what_was_taken() -> Result<()> {
    let stand = Stand::new()?;
    let out = stand.server("out");
    let arguments = ["--queue", "rx", "--peer-timeout", "60000", "--outdev", &out];
    let mut redirector = stand.filter("redirector", &arguments)?;
    let mut out = stand.connect("out", false)?;
    wait_mode(&redirector, "connected")?;
    let frames: Vec<Vec<u8>> =
        (0..600u16).map(|i| datagram(6000 + i).data(&[i as u8; 1400]).build()).collect();
    for frame in &frames {
        stand.send(Way::Rx, frame);
    }
    redirector.process.signal(Signal::SIGTERM)?;
    for frame in &frames {
        assert_eq!(&out.receive(TIMEOUT)?, frame, "in order");
    }
    out.wait_closed(TIMEOUT)?;
    let log = end(redirector)?;
    assert!(log.contains("sent 600") && !log.contains("unsent"), "{log}");
    Ok(())
}

fn is_back(filter: &Daemon) -> Result<()> {
    let back = phrases::filter::TAP_IS_BACK;
    eventually(back, TIMEOUT, || Ok(filter.process.stderr().contains(back).then_some(())))
}

#[lab_test(root)]
fn a_guest_that_restarts_is_filtered_again() -> Result<()> {
    let mut stand = Stand::new()?;
    let mirror = stand.filter("mirror", &["--queue", "tx", "--outdev", &stand.server("m")])?;
    let (out, input) = (stand.server("out"), stand.server("in"));
    let redirector =
        stand.filter("redirector", &["--queue", "rx", "--outdev", &out, "--indev", &input])?;
    let mut copies = stand.connect("m", false)?;
    let mut out = stand.connect("out", false)?;
    let mut input = stand.connect("in", false)?;
    wait_mode(&mirror, "connected")?;
    wait_mode(&redirector, "connected")?;
    stand.restart_guest()?;
    is_back(&mirror)?;
    is_back(&redirector)?;
    stand.passes(Way::Tx, "to the new one");
    receive(&mut copies, &named("to the new one"))?;
    stand.send(Way::Rx, &named("of the new one"));
    receive(&mut out, &named("of the new one"))?;
    assert!(!stand.arrived(Way::Rx).contains(&named("of the new one")));
    input.send(&named("released"))?;
    stand.arrives(Way::Rx, &named("released"));
    end(mirror)?;
    end(redirector)?;
    assert_eq!(left(&stand)?, [""; 0]);
    Ok(())
}

/// A filter ends in good order also if its guest has ended.
#[lab_test(root)]
fn a_filter_can_end_while_its_tap_is_gone() -> Result<()> {
    let stand = Stand::new()?;
    let filters = [
        stand.filter("mirror", &["--outdev", &stand.server("m")])?,
        stand.filter("redirector", &["--queue", "rx", "--outdev", &stand.server("r")])?,
        stand.filter("rewriter", &[])?,
    ];
    stand.host().namespace.ip("link del tap0\n")?;
    for filter in &filters {
        filter.process.wait_for(phrases::filter::TAP_IS_GONE, TIMEOUT)?;
    }
    let binary = colo_lab::daemon::binary()?;
    let shown = stand.run(binary.to_str().expect("a path"), &["status"])?;
    assert_eq!(shown.matches(phrases::filter::STATUS_TAP_IS_GONE).count(), 3, "{shown}");
    for filter in filters {
        end(filter)?;
    }
    assert_eq!(left(&stand)?, [""; 0]);
    Ok(())
}
