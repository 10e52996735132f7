//! `filter-redirector`: frames go to the socket instead of the TAP. Frames from a socket continue
//! after the filter.

use anyhow::Result;
use colo_lab::lab_test;
use colo_lab::phrases;

use crate::stand::{Stand, TIMEOUT, WAYS, Way, end, named, receive, receive_to, wait_mode};

#[lab_test(root)]
fn frames_of_its_queue_are_taken_and_others_pass() -> Result<()> {
    let stand = Stand::new()?;
    for vnet_hdr in [false, true] {
        for queue in ["tx", "rx", "all"] {
            let (redirector, mut out) =
                stand.filter_with("redirector", queue, ("--outdev", "out"), vnet_hdr)?;
            wait_mode(&redirector, "connected")?;
            for way in WAYS {
                let name = format!("{queue} {way:?} {vnet_hdr}");
                if way.is_in(queue) {
                    stand.send(way, &named(&name));
                    receive(&mut out, &named(&name))?;
                    assert!(!stand.arrived(way).contains(&named(&name)), "{name} passed");
                } else {
                    stand.passes(way, &name);
                }
            }
            let log = end(redirector)?;
            assert!(log.contains(phrases::filter::PASSES_AGAIN), "{log}");
            for way in WAYS {
                stand.passes(way, "after the end");
            }
        }
    }
    Ok(())
}

#[lab_test(root)]
fn without_a_peer_nothing_passes() -> Result<()> {
    let stand = Stand::new()?;
    let arguments = ["--queue", "rx", "--outdev", &stand.server("out")];
    let redirector = stand.filter("redirector", &arguments)?;
    stand.send(Way::Rx, &named("lost"));
    let dropped = |count| {
        redirector.wait_status("a drop", TIMEOUT, move |status| {
            status.drops().get("outdev-no-peer") == Some(&count)
        })
    };
    assert_eq!(dropped(1)?.mode()?, phrases::mode::FILTER_WAITING);
    assert!(stand.arrived(Way::Rx).is_empty());
    // Frames after the loss of a peer are also dropped.
    let mut out = stand.connect("out", false)?;
    wait_mode(&redirector, "connected")?;
    stand.send(Way::Rx, &named("taken"));
    receive(&mut out, &named("taken"))?;
    drop(out);
    wait_mode(&redirector, phrases::mode::FILTER_WAITING)?;
    stand.send(Way::Rx, &named("lost too"));
    dropped(2)?;
    assert!(stand.arrived(Way::Rx).is_empty());
    end(redirector)?;
    Ok(())
}

#[lab_test(root)]
fn what_comes_from_indev_goes_on_in_each_of_its_directions() -> Result<()> {
    let stand = Stand::new()?;
    for vnet_hdr in [false, true] {
        for queue in ["tx", "rx", "all"] {
            let (redirector, mut input) =
                stand.filter_with("redirector", queue, ("--indev", "in"), vnet_hdr)?;
            let name = format!("{queue} {vnet_hdr}");
            input.send(&named(&name))?;
            for way in WAYS {
                if way.is_in(queue) {
                    stand.arrives(way, &named(&name));
                }
                // This redirector has no outdev.
                stand.passes(way, &format!("{name} {way:?} passes"));
            }
            let status = redirector.status()?;
            for (way, counter) in [(Way::Tx, "injected_tx"), (Way::Rx, "injected_rx")] {
                let injected = status.detail(&format!("/kernel/{counter}"))?;
                assert_eq!(injected, u64::from(way.is_in(queue)), "{status:#?}");
                let others = stand.arrived(way);
                assert!(!others.contains(&named(&name)), "{way:?}: {name} came twice");
            }
            end(redirector)?;
        }
    }
    Ok(())
}

/// The path of the compare's output back to the guest's TAP: out by one socket, and in by the
/// other.
#[lab_test(root)]
fn with_both_sockets_a_frame_goes_around() -> Result<()> {
    let stand = Stand::new()?;
    let (out, input) = (stand.server("out"), stand.server("in"));
    let arguments = ["--queue", "rx", "--indev", &input, "--outdev", &out, "--vnet-hdr-support"];
    let redirector = stand.filter("redirector", &arguments)?;
    let mut out = stand.connect("out", true)?;
    let mut input = stand.connect("in", true)?;
    wait_mode(&redirector, "connected")?;
    for i in 0..100 {
        stand.send(Way::Rx, &named(&format!("frame {i}")));
    }
    stand.send(Way::Rx, &named("fence"));
    let frames = receive_to(&mut out, &named("fence"))?;
    assert_eq!(frames.len(), 100);
    assert!(stand.arrived(Way::Rx).is_empty());
    for frame in &frames {
        input.send(frame)?;
    }
    for i in 0..100 {
        stand.arrives(Way::Rx, &named(&format!("frame {i}")));
    }
    end(redirector)?;
    Ok(())
}

#[lab_test(root)]
fn bad_records_are_counted_and_the_next_connection_works() -> Result<()> {
    let stand = Stand::new()?;
    let redirector =
        stand.filter("redirector", &["--queue", "tx", "--indev", &stand.server("in")])?;
    let mut input = stand.connect("in", false)?;
    input.send_octets(&[0; 4])?;
    input.send(b"runt")?;
    input.send_octets(&u32::MAX.to_be_bytes())?;
    input.wait_closed(TIMEOUT)?;
    let mut input = stand.connect("in", false)?;
    input.send(&named("good"))?;
    stand.arrives(Way::Tx, &named("good"));
    let status = redirector.status()?;
    assert_eq!(status.drops().get("indev-bad-records"), Some(&3), "{status:#?}");
    end(redirector)?;
    Ok(())
}
