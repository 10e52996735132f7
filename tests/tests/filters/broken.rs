//! A peer that stops reading: the guest's traffic goes on, and everyone can see that the link is
//! broken.

use std::time::Instant;

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Socket, datagram};
use colo_lab::daemon::Daemon;
use colo_lab::root::require_root;

use crate::stand::{Stand, TIMEOUT, Way, end, named, receive, wait_mode};

const PATIENCE: [&str; 4] = ["--peer-timeout", "300", "--queue-bytes", "139264"];

/// Sends frames, and reads them at the other end, until the filter says that its link is broken.
/// Every one of them passes, if any does.
fn flood(stand: &Stand, filter: &Daemon, way: Way, passes: bool) -> Result<u64> {
    let began = Instant::now();
    let mut sent = 0;
    while !filter.process.stderr().contains("UNPROTECTED") {
        ensure!(began.elapsed() < TIMEOUT, "{}", filter.process.stderr());
        for _ in 0..500 {
            let data = vec![sent as u8; 1400];
            let frame = datagram(6000 + (sent % 1000) as u16).data(&data).build();
            stand.send(way, &frame);
            sent += 1;
            if passes {
                stand.arrives(way, &frame);
            }
        }
    }
    Ok(sent)
}

fn silent_peer(stand: &Stand, filter: &Daemon) -> Result<Socket> {
    let out = stand.connect("out", false)?;
    wait_mode(filter, "connected")?;
    Ok(out)
}

#[test]
fn a_mirror_whose_peer_does_not_read_is_broken_and_stops_nobody() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let stand = Stand::new()?;
    for way in [Way::Tx, Way::Rx] {
        let out = stand.server("out");
        let filter = stand.filter("mirror", &[&["--outdev", &out], &PATIENCE[..]].concat())?;
        let mut peer = silent_peer(&stand, &filter)?;
        let sent = flood(&stand, &filter, way, true)?;
        let status = wait_mode(&filter, "broken")?;
        assert_eq!(status.0.pointer("/outdev/stalls"), Some(&1.into()), "{status:#?}");
        assert!(status.drops().contains_key("outdev-lost-bytes"), "{status:#?}");
        assert!(status.detail("/kernel/mirrored")? >= sent, "{status:#?}");
        let shown =
            stand.run(colo_lab::daemon::binary()?.to_str().expect("a path"), &["status"])?;
        assert!(shown.contains("): broken\n"), "{shown}");
        // It stays so until somebody connects; the guest goes on meanwhile.
        stand.passes(way, "meanwhile");
        assert_eq!(filter.status()?.mode()?, "broken");
        peer.wait_closed(TIMEOUT)?;
        let mut peer = silent_peer(&stand, &filter)?;
        stand.passes(way, "again");
        receive(&mut peer, &named("again"))?;
        let log = end(filter)?;
        assert!(log.contains("outdev-stalls 1"), "{log}");
    }
    Ok(())
}

/// The twin: a peer that reads, however much comes, is not broken.
#[test]
fn a_mirror_whose_peer_reads_is_not_broken() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let stand = Stand::new()?;
    let out = stand.server("out");
    let filter = stand.filter("mirror", &[&["--outdev", &out], &PATIENCE[..]].concat())?;
    let mut peer = silent_peer(&stand, &filter)?;
    for i in 0..2000u16 {
        let frame = datagram(6000 + i % 1000).data(&[i as u8; 1400]).build();
        stand.send(Way::Tx, &frame);
        stand.arrives(Way::Tx, &frame);
        receive(&mut peer, &frame)?;
    }
    let status = filter.status()?;
    assert_eq!(status.mode()?, "connected");
    assert!(status.drops().is_empty(), "{status:#?}");
    end(filter)?;
    Ok(())
}

/// What it takes has nowhere to go, but the other direction is not its business.
#[test]
fn a_redirector_whose_peer_does_not_read_stops_its_own_direction_only() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let stand = Stand::new()?;
    let out = stand.server("out");
    let arguments = [&["--queue", "rx", "--outdev", &out], &PATIENCE[..]].concat();
    let filter = stand.filter("redirector", &arguments)?;
    let _peer = silent_peer(&stand, &filter)?;
    flood(&stand, &filter, Way::Rx, false)?;
    wait_mode(&filter, "broken")?;
    stand.passes(Way::Tx, "towards the guest");
    assert!(stand.arrived(Way::Rx).is_empty());
    end(filter)?;
    Ok(())
}
