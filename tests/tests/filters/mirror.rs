//! `filter-mirror`: every frame passes, and a copy goes to the socket.

use anyhow::Result;
use colo_lab::lab_test;
use colo_lab::phrases;

use crate::stand::{Stand, WAYS, end, named, receive, receive_to, wait_mode};

#[lab_test(root)]
fn frames_of_its_queue_are_mirrored_and_all_go_on() -> Result<()> {
    let stand = Stand::new()?;
    for vnet_hdr in [false, true] {
        for queue in ["tx", "rx", "all"] {
            let (mirror, mut out) =
                stand.filter_with("mirror", queue, ("--outdev", "out"), vnet_hdr)?;
            wait_mode(&mirror, "connected")?;
            let mut wanted = Vec::new();
            for way in WAYS {
                let name = format!("{queue} {way:?} {vnet_hdr}");
                stand.passes(way, &name);
                wanted.extend(way.is_in(queue).then(|| named(&name)));
            }
            let last = WAYS.into_iter().find(|way| way.is_in(queue)).expect("a way");
            stand.passes(last, "fence");
            assert_eq!(receive_to(&mut out, &named("fence"))?, wanted, "{queue} {vnet_hdr}");
            let status = mirror.status()?;
            let mirrored = status.detail("/kernel/mirrored")?;
            assert_eq!(mirrored, wanted.len() as u64 + 1, "{status:#?}");
            assert!(status.drops().is_empty(), "{status:#?}");
            let log = end(mirror)?;
            assert!(log.contains(&format!("mirrored {mirrored}")), "{log}");
        }
    }
    Ok(())
}

#[lab_test(root)]
fn without_a_peer_frames_pass_and_the_copies_are_counted() -> Result<()> {
    let stand = Stand::new()?;
    let mirror = stand.filter("mirror", &["--outdev", &stand.client("nobody")])?;
    for way in WAYS {
        stand.passes(way, "alone");
    }
    let status = mirror.wait_status("two drops", crate::stand::TIMEOUT, |status| {
        status.drops().get("outdev-no-peer") == Some(&2)
    })?;
    assert_eq!(status.mode()?, phrases::mode::FILTER_WAITING);
    let log = end(mirror)?;
    assert!(log.contains("dropped.outdev-no-peer 2"), "{log}");
    Ok(())
}

#[lab_test(root)]
fn a_peer_that_reconnects_gets_what_is_sent_from_then_on() -> Result<()> {
    let stand = Stand::new()?;
    // Either end of the socket may listen.
    let listener = stand.listen("there")?;
    let there = stand.client("there");
    let here = stand.server("here");
    let connecting = stand.filter("mirror", &["--id", "a", "--outdev", &there])?;
    let listening = stand.filter("mirror", &["--id", "b", "--outdev", &here])?;
    for round in 0..3 {
        let mut first = listener.accept(false, crate::stand::TIMEOUT)?;
        let mut second = stand.connect("here", false)?;
        for mirror in [&connecting, &listening] {
            wait_mode(mirror, "connected")?;
        }
        let name = format!("round {round}");
        stand.passes(WAYS[round % 2], &name);
        receive(&mut first, &named(&name))?;
        receive(&mut second, &named(&name))?;
        drop((first, second));
        wait_mode(&listening, phrases::mode::FILTER_WAITING)?;
    }
    end(connecting)?;
    end(listening)?;
    Ok(())
}
