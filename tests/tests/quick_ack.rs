//! The route with quick acknowledgments to the secondary's host, in a kernel: a daemon makes
//! it, shares it and removes it, and leaves other routes alone.

use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use colo_lab::lab_test;
use colo_lab::phrases;
use colo_lab::process::eventually;
use colo_proxy::quick_ack::QuickAck;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const PEER: &str = "10.78.0.2";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `test` in a network namespace of its own. The threads that the test makes are also in it.
fn in_netns(test: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        test()
    };
    thread::spawn(body).join().map_err(|_| anyhow!("the thread panicked"))?
}

fn ip(arguments: &str) -> Result<String> {
    let done = Command::new("ip").args(arguments.split(' ')).output()?;
    ensure!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

/// An interface with a network that the peer is on.
fn link() -> Result<()> {
    ip("link add d0 type veth peer name d1")?;
    ip("link set d1 up")?;
    ip("addr add 10.78.0.1/24 dev d0 noprefixroute")?;
    ip("link set d0 up").map(drop)
}

/// The routes that the daemon has made.
fn daemons_routes() -> Result<String> {
    ip("route show proto 206")
}

/// Starts, and returns the report when it is final.
fn start(ack: &mut QuickAck) -> Result<Value> {
    ack.start(Some(PEER.into()));
    eventually("a route, or the reason why there is none", TIMEOUT, || {
        let report = serde_json::to_value(ack.report())?;
        Ok((report["state"] != "pending").then_some(report))
    })
}

#[lab_test(root)]
fn a_route_is_made_shared_and_removed_with_its_last_user() -> Result<()> {
    in_netns(|| {
        link()?;
        ip("route add 10.78.0.0/24 dev d0 src 10.78.0.1 mtu 1400")?;
        let (mut one, mut two) = (QuickAck::new(true), QuickAck::new(true));
        assert_eq!(start(&mut one)?, json!({"state": "on", "route": PEER}));
        let route = daemons_routes()?;
        assert!(route.contains("mtu 1400") && route.contains("quickack 1"), "{route}");
        assert_eq!(start(&mut two)?["state"], "on");
        drop(one);
        assert!(daemons_routes()?.contains(PEER), "the other one uses it");
        drop(two);
        assert_eq!(daemons_routes()?, "");
        Ok(())
    })
}

#[lab_test(root)]
fn a_route_of_a_killed_daemon_is_adopted_and_removed() -> Result<()> {
    in_netns(|| {
        link()?;
        ip("route add 10.78.0.0/24 dev d0")?;
        ip("route add 10.78.0.2 dev d0 proto 206 quickack 1")?;
        let mut next = QuickAck::new(true);
        assert_eq!(start(&mut next)?["state"], "on");
        drop(next);
        assert_eq!(daemons_routes()?, "");
        Ok(())
    })
}

#[lab_test(root)]
fn an_operators_route_is_left_alone() -> Result<()> {
    in_netns(|| {
        link()?;
        ip("route add 10.78.0.0/24 dev d0")?;
        ip("route add 10.78.0.2 dev d0 mtu 1300")?;
        let mut none = QuickAck::new(true);
        let why = start(&mut none)?["why"].to_string();
        assert!(why.contains(phrases::quick_ack::LEFT_ALONE), "{why}");
        ip("route change 10.78.0.2 dev d0 mtu 1300 quickack 1")?;
        let why = start(&mut none)?["why"].to_string();
        assert!(why.contains(phrases::quick_ack::HAS_QUICKACK), "{why}");
        drop(none);
        assert!(ip("route show 10.78.0.2")?.contains("mtu 1300"));
        Ok(())
    })
}

#[lab_test(root)]
fn the_route_is_made_in_the_table_that_leads_to_the_peer() -> Result<()> {
    in_netns(|| {
        link()?;
        ip("rule add to 10.78.0.2 lookup 1000")?;
        ip("route add 10.78.0.0/24 dev d0 table 1000")?;
        let mut ack = QuickAck::new(true);
        assert_eq!(start(&mut ack)?["table"], 1000);
        assert!(ip("route get 10.78.0.2")?.contains("dev d0"));
        assert!(ip("route show table 1000")?.contains("quickack 1"));
        drop(ack);
        assert!(!ip("route show table 1000")?.contains("quickack 1"));
        Ok(())
    })
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
