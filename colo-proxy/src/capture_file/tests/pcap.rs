//! The older format.

use super::build::Build;
use super::read;
use crate::capture_file::CaptureError;

#[test]
fn packets_come_with_time_number_and_bytes_in_either_order_and_unit() {
    for build in Build::BOTH {
        for (magic, fraction) in [(0xa1b2_c3d4, 123_456), (0xa1b2_3c4d, 123_456_000)] {
            let mut file = build.pcap(magic, 1);
            file.extend(build.record([7, fraction], 3, b"abc"));
            file.extend(build.record([8, 0], 2, b"de"));
            let (packets, truncated) = read(&file).expect("it is a capture");
            assert!(!truncated);
            let first = &packets[0];
            assert_eq!((first.number, first.time_ns), (1, 7_123_456_000), "{build:?}");
            assert_eq!((first.bytes.as_ref(), first.is_truncated()), (&b"abc"[..], false));
            assert_eq!((packets[1].number, packets[1].time_ns), (2, 8_000_000_000));
            assert_eq!(packets.len(), 2);
        }
    }
}

#[test]
fn a_packet_cut_by_the_snapshot_length_says_so() {
    let build = Build { big: false };
    let mut file = build.pcap(0xa1b2_c3d4, 1);
    file.extend(build.record([0, 0], 1514, &[0; 96]));
    let (packets, _) = read(&file).expect("it is a capture");
    assert!(packets[0].is_truncated());
    assert_eq!((packets[0].original_len, packets[0].bytes.len()), (1514, 96));
}

#[test]
fn a_capture_that_was_killed_gives_what_it_has() {
    let build = Build { big: false };
    let mut file = build.pcap(0xa1b2_c3d4, 1);
    file.extend(build.record([0, 0], 3, b"abc"));
    let whole = file.len();
    file.extend(build.record([1, 0], 3, b"def"));
    for len in whole..file.len() {
        let (packets, truncated) = read(&file[..len]).expect("it is a capture");
        assert_eq!((packets.len(), truncated), (1, len > whole), "{len} bytes");
    }
}

#[test]
fn another_link_type_is_named() {
    let build = Build { big: true };
    let mut file = build.pcap(0xa1b2_c3d4, 113);
    file.extend(build.record([0, 0], 1, b"a"));
    let error = read(&file).expect_err("not Ethernet");
    assert!(error.to_string().contains("Linux cooked"), "{error}");
}

#[test]
fn the_length_of_the_check_sequence_is_not_part_of_the_link_type() {
    let build = Build { big: true };
    let mut file = build.pcap(0xa1b2_c3d4, 0x2400_0001);
    file.extend(build.record([0, 0], 1, b"a"));
    assert_eq!(read(&file).expect("Ethernet").0.len(), 1);
}

#[test]
fn what_is_no_capture_is_refused_with_what_it_may_be() {
    assert!(matches!(read(b""), Err(CaptureError::Empty)));
    assert!(matches!(read(b"abc"), Err(CaptureError::NoCapture { .. })));
    assert!(matches!(read(b"hello, world"), Err(CaptureError::NoCapture { .. })));
    let error = read(&[0x1f, 0x8b, 8, 0]).expect_err("gzip");
    assert!(error.to_string().contains("gzip"), "{error}");
    let header = Build { big: true }.pcap(0xa1b2_c3d4, 1);
    assert!(matches!(read(&header[..23]), Err(CaptureError::NoHeader)));
    assert!(read(&header).expect("nothing in it").0.is_empty());
}
