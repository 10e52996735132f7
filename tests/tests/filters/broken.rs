//! A peer that stops reading: the guest's traffic continues, and everyone can see that the link is
//! broken.

use std::time::Instant;

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Socket, datagram};
use colo_lab::daemon::{Daemon, DaemonStatus};
use colo_lab::lab_test;
use colo_lab::phrases;

use crate::stand::{Stand, TIMEOUT, Way, end, named, receive, wait_mode};

const PATIENCE: [&str; 4] = ["--peer-timeout", "300", "--queue-bytes", "139264"];

/// More frames than the socket and `--queue-bytes` hold, and fewer than fit into the gate.
const STALL: usize = 5000;
/// More frames than fit into all three.
const OVERFLOW: usize = 12_000;

/// Sends a frame, and reads it at the other end if it passes.
fn send(stand: &Stand, way: Way, passes: bool, i: usize) -> Vec<u8> {
    let frame = datagram(6000 + (i % 1000) as u16).data(&vec![i as u8; 1400]).build();
    stand.send(way, &frame);
    if passes {
        stand.arrives(way, &frame);
    }
    frame
}

/// A peer that reads nothing. This sends enough to stall it, and waits until the filter reports a
/// broken link.
fn stall(stand: &Stand, filter: &Daemon, way: Way, passes: bool) -> Result<()> {
    for i in 0..STALL {
        send(stand, way, passes, i);
    }
    filter.process.wait_for(phrases::UNPROTECTED, TIMEOUT).map(drop)
}

/// A peer that reads about one frame in ten of any number. This sends until the filter reports a
/// broken link, and returns how many frames that took.
fn outrun(
    stand: &Stand,
    filter: &Daemon,
    peer: &mut Socket,
    way: Way,
    passes: bool,
) -> Result<usize> {
    let began = Instant::now();
    let mut sent = 0;
    while !filter.process.stderr().contains(phrases::UNPROTECTED) {
        ensure!(began.elapsed() < TIMEOUT, "{sent} sent; {}", filter.process.stderr());
        for _ in 0..500 {
            send(stand, way, passes, sent);
            sent += 1;
        }
        // The peer reads about 48 frames ahead. The link may break meanwhile, and then it is
        // closed.
        let _ = peer.receive(TIMEOUT);
    }
    Ok(sent)
}

/// A stall takes so long here that only an overflow can break the link.
const NO_STALL: [&str; 4] = ["--peer-timeout", "600000", "--queue-bytes", "139264"];

fn silent_peer(stand: &Stand, filter: &Daemon) -> Result<Socket> {
    let out = stand.connect("out", false)?;
    wait_mode(filter, "connected")?;
    Ok(out)
}

#[lab_test(root)]
fn a_mirror_whose_peer_does_not_read_is_broken_and_stops_nobody() -> Result<()> {
    let stand = Stand::new()?;
    for way in [Way::Tx, Way::Rx] {
        let out = stand.server("out");
        let filter = stand.filter("mirror", &[&["--outdev", &out], &PATIENCE[..]].concat())?;
        let mut peer = silent_peer(&stand, &filter)?;
        stall(&stand, &filter, way, true)?;
        let status = wait_mode(&filter, phrases::mode::FILTER_BROKEN)?;
        assert_eq!(status.0.pointer("/outdev/stalls"), Some(&1.into()), "{status:#?}");
        assert!(status.drops().contains_key("outdev-lost-bytes"), "{status:#?}");
        assert!(status.detail("/kernel/mirrored")? >= STALL as u64, "{status:#?}");
        let shown =
            stand.run(colo_lab::daemon::binary()?.to_str().expect("a path"), &["status"])?;
        assert!(shown.contains("): broken\n"), "{shown}");
        // It stays broken until somebody connects. The guest continues meanwhile.
        stand.passes(way, "meanwhile");
        assert_eq!(filter.status()?.mode()?, phrases::mode::FILTER_BROKEN);
        peer.wait_closed(TIMEOUT)?;
        let mut peer = silent_peer(&stand, &filter)?;
        stand.passes(way, "again");
        receive(&mut peer, &named("again"))?;
        let log = end(filter)?;
        assert!(log.contains("outdev-stalls 1"), "{log}");
    }
    Ok(())
}

/// The link never stalls, but copies are lost. That is no protection either.
#[lab_test(root)]
fn a_mirror_whose_peer_reads_too_slowly_is_broken_and_stops_nobody() -> Result<()> {
    let stand = Stand::new()?;
    for way in [Way::Tx, Way::Rx] {
        let out = stand.server("out");
        let filter = stand.filter("mirror", &[&["--outdev", &out], &NO_STALL[..]].concat())?;
        let mut peer = silent_peer(&stand, &filter)?;
        let shown = filter.status()?;
        assert_eq!(shown.0.pointer("/outdev/since_break_ms"), Some(&serde_json::Value::Null));
        outrun(&stand, &filter, &mut peer, way, true)?;
        let status = wait_mode(&filter, phrases::mode::FILTER_BROKEN)?;
        let outdev = |status: &DaemonStatus, key: &str| {
            status.0.pointer(&format!("/outdev/{key}")).and_then(serde_json::Value::as_u64)
        };
        for (key, count) in [("overflows", 1), ("stalls", 0), ("breaks", 1)] {
            assert_eq!(outdev(&status, key), Some(count), "{key}: {status:#?}");
        }
        for reason in ["outdev-gate-full", "outdev-lost-bytes"] {
            assert!(status.drops().contains_key(reason), "{status:#?}");
        }
        stand.passes(way, "meanwhile");
        peer.wait_closed(TIMEOUT)?;
        // The next peer stays connected. The status still shows that the last one did not.
        let mut peer = silent_peer(&stand, &filter)?;
        stand.passes(way, "again");
        receive(&mut peer, &named("again"))?;
        let status = filter.wait_status("two looks later", TIMEOUT, |status| {
            outdev(status, "since_break_ms").is_some_and(|age| age > 300)
        })?;
        assert_eq!(status.mode()?, "connected", "{status:#?}");
        assert_eq!(outdev(&status, "breaks"), Some(1), "{status:#?}");
        let log = end(filter)?;
        assert_eq!(log.matches(phrases::UNPROTECTED).count(), 1, "{log}");
        assert!(
            log.contains(phrases::filter::READS_TOO_SLOWLY) && log.contains("outdev-overflows 1"),
            "{log}"
        );
    }
    Ok(())
}

/// The twin of both: a peer that reads does not break, however much arrives.
#[lab_test(root)]
fn a_mirror_whose_peer_reads_is_not_broken() -> Result<()> {
    let stand = Stand::new()?;
    let out = stand.server("out");
    let filter = stand.filter("mirror", &[&["--outdev", &out], &PATIENCE[..]].concat())?;
    let mut peer = silent_peer(&stand, &filter)?;
    for i in 0..OVERFLOW {
        let frame = send(&stand, Way::Tx, true, i);
        receive(&mut peer, &frame)?;
    }
    let status = filter.status()?;
    assert_eq!(status.mode()?, "connected");
    assert_eq!(status.0.pointer("/outdev/breaks"), Some(&0.into()), "{status:#?}");
    assert!(status.drops().is_empty(), "{status:#?}");
    end(filter)?;
    Ok(())
}

/// The frames that it captures have no place to go, but the other direction is not affected.
#[lab_test(root)]
fn a_redirector_whose_peer_does_not_read_stops_its_own_direction_only() -> Result<()> {
    let stand = Stand::new()?;
    let out = stand.server("out");
    let arguments = [&["--queue", "rx", "--outdev", &out], &PATIENCE[..]].concat();
    let filter = stand.filter("redirector", &arguments)?;
    let _peer = silent_peer(&stand, &filter)?;
    stall(&stand, &filter, Way::Rx, false)?;
    wait_mode(&filter, phrases::mode::FILTER_BROKEN)?;
    stand.passes(Way::Tx, "towards the guest");
    assert!(stand.arrived(Way::Rx).is_empty());
    end(filter)?;
    Ok(())
}

#[lab_test(root)]
fn a_redirector_whose_peer_reads_too_slowly_is_broken_too() -> Result<()> {
    let stand = Stand::new()?;
    let out = stand.server("out");
    let arguments = [&["--queue", "rx", "--outdev", &out], &NO_STALL[..]].concat();
    let filter = stand.filter("redirector", &arguments)?;
    let mut peer = silent_peer(&stand, &filter)?;
    outrun(&stand, &filter, &mut peer, Way::Rx, false)?;
    let status = wait_mode(&filter, phrases::mode::FILTER_BROKEN)?;
    assert_eq!(status.0.pointer("/outdev/overflows"), Some(&1.into()), "{status:#?}");
    stand.passes(Way::Tx, "towards the guest");
    assert!(stand.arrived(Way::Rx).is_empty());
    end(filter)?;
    Ok(())
}
