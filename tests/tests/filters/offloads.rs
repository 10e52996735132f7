//! Frames with offloads: large frames that a device has to segment, and checksums that it has to
//! complete.

use anyhow::Result;

use crate::frame::{Checksum, Shape, ones_complement_sum};
use crate::stand::{Stand, TIMEOUT, WAYS, Way, end, wait_mode};
use crate::tap::VNET_HDR_LEN;
use colo_lab::lab_test;

const MSS: u16 = 1448;
const PAYLOAD: usize = 40_000;
/// Ethernet, IPv4, TCP.
const HEADERS: u16 = 14 + 20 + 20;

/// A frame that Linux segments: its virtio-net header, and the frame.
fn large() -> (Vec<u8>, Vec<u8>) {
    let payload = (0..PAYLOAD).map(|i| (i / 7) as u8).collect();
    let frame = Shape { payload, ..Shape::default() }.build(Checksum::Partial);
    // NEEDS_CSUM, GSO_TCPV4.
    let mut header = vec![1, 1];
    for number in [HEADERS, MSS, 34, 16, 0] {
        header.extend(number.to_le_bytes());
    }
    (header, frame)
}

/// The fields of a header that matter: whether a checksum is needed, the kind of segmentation, the
/// size, and the place of the checksum.
fn meaning(header: &[u8]) -> (u8, u8, u16, u16, u16) {
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    (header[0] & 1, header[1], number(4), number(6), number(8))
}

/// For a complete checksum, the sum over pseudo-header and segment has all bits set.
fn is_right(frame: &[u8]) -> bool {
    let len = (frame.len() - 34) as u32;
    let pseudo = [&frame[26..34], &[0, 6][..], &len.to_be_bytes()].concat();
    ones_complement_sum(&[&pseudo, &frame[34..]]) == 0xffff
}

fn send(stand: &Stand, way: Way, header: &[u8], frame: &[u8]) {
    let from = if way == Way::Tx { &stand.lan } else { &stand.guest };
    from.write(&[header, frame].concat());
}

#[lab_test(root)]
fn with_headers_a_large_frame_is_mirrored_whole() -> Result<()> {
    let stand = Stand::new()?;
    let out = stand.server("out");
    let mirror = stand.filter("mirror", &["--outdev", &out, "--vnet-hdr-support"])?;
    let mut out = stand.connect("out", true)?;
    wait_mode(&mirror, "connected")?;
    let (header, frame) = large();
    for way in WAYS {
        send(&stand, way, &header, &frame);
        let arrived = stand.end(way).read_until(|read| read == frame);
        assert_eq!(meaning(&arrived[..VNET_HDR_LEN]), meaning(&header), "{way:?}");
        let (copied_header, copied) = out.receive_whole(TIMEOUT)?;
        assert_eq!(copied, frame, "{way:?}");
        assert_eq!(meaning(&copied_header), meaning(&header), "{way:?}");
    }
    end(mirror)?;
    Ok(())
}

/// The other end sees the same frames as on a wire.
#[lab_test(root)]
fn without_headers_it_is_mirrored_in_segments_with_their_sums() -> Result<()> {
    let stand = Stand::new()?;
    let mirror = stand.filter("mirror", &["--outdev", &stand.server("out")])?;
    let mut out = stand.connect("out", false)?;
    wait_mode(&mirror, "connected")?;
    let (header, frame) = large();
    for way in WAYS {
        send(&stand, way, &header, &frame);
        // The guest's own frame stays unchanged.
        let arrived = stand.end(way).read_until(|read| read == frame);
        assert_eq!(meaning(&arrived[..VNET_HDR_LEN]), meaning(&header), "{way:?}");
        let mut payload: Vec<u8> = Vec::new();
        while payload.len() < PAYLOAD {
            let segment = out.receive(TIMEOUT)?;
            assert!(segment.len() <= usize::from(HEADERS + MSS), "{} bytes", segment.len());
            assert!(is_right(&segment), "{way:?}: a segment with a wrong sum");
            payload.extend(&segment[usize::from(HEADERS)..]);
        }
        assert_eq!(payload, frame[usize::from(HEADERS)..], "{way:?}");
    }
    end(mirror)?;
    Ok(())
}

#[lab_test(root)]
fn a_large_frame_that_is_redirected_and_injected_is_the_same() -> Result<()> {
    let stand = Stand::new()?;
    for (way, queue) in [(Way::Tx, "tx"), (Way::Rx, "rx")] {
        let (out, input) = (stand.server("out"), stand.server("in"));
        let arguments =
            ["--queue", queue, "--outdev", &out, "--indev", &input, "--vnet-hdr-support"];
        let redirector = stand.filter("redirector", &arguments)?;
        let mut out = stand.connect("out", true)?;
        let mut input = stand.connect("in", true)?;
        wait_mode(&redirector, "connected")?;
        let (header, frame) = large();
        send(&stand, way, &header, &frame);
        let (taken_header, taken) = out.receive_whole(TIMEOUT)?;
        assert_eq!((meaning(&taken_header), &taken), (meaning(&header), &frame), "{way:?}");
        assert!(stand.arrived(way).is_empty(), "{way:?}");
        input.send_record(VNET_HDR_LEN, &[taken_header, taken].concat())?;
        let arrived = stand.end(way).read_until(|read| read == frame);
        assert_eq!(meaning(&arrived[..VNET_HDR_LEN]), meaning(&header), "{way:?}");
        end(redirector)?;
    }
    Ok(())
}

/// A header that contradicts its frame is counted, and does no harm.
#[lab_test(root)]
fn a_lying_header_is_refused() -> Result<()> {
    let stand = Stand::new()?;
    let input = stand.server("in");
    let redirector =
        stand.filter("redirector", &["--queue", "tx", "--indev", &input, "--vnet-hdr-support"])?;
    let mut input = stand.connect("in", true)?;
    let lying = [1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
    input.send_record(VNET_HDR_LEN, &[&lying[..], &[0x11; 64]].concat())?;
    let good = crate::stand::named("good");
    input.send(&good)?;
    stand.arrives(Way::Tx, &good);
    let status = redirector.status()?;
    assert_eq!(status.drops().get("indev-malformed"), Some(&1), "{status:#?}");
    end(redirector)?;
    Ok(())
}
