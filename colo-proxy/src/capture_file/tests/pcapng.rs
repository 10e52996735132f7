//! The newer format, ours among it.

use super::build::Build;
use super::read;
use crate::capture_file::{CaptureError, Writer};

fn file(build: Build, options: &[u8], ticks: u64) -> Vec<u8> {
    let mut file = build.section();
    file.extend(build.interface(1, options));
    file.extend(build.packet(0, ticks, b"abcde"));
    file
}

#[test]
fn packets_come_with_time_and_bytes_in_either_order() {
    for build in Build::BOTH {
        let (packets, truncated) = read(&file(build, &[], 7_123_456)).expect("a capture");
        assert!(!truncated);
        assert_eq!((packets[0].number, packets[0].time_ns), (1, 7_123_456_000));
        assert_eq!(packets[0].bytes.as_ref(), b"abcde");
    }
}

#[test]
fn the_resolution_and_the_offset_of_an_interface_count() {
    let build = Build { big: false };
    let cases: [(u8, u64, u64); 7] = [
        (9, 7, 7),
        (3, 7, 7_000_000),
        (0, 7, 7_000_000_000),
        (12, 7_000, 7),
        (127, u64::MAX, 0),
        (0x8a, 1 << 10, 1_000_000_000),
        (0, u64::MAX, u64::MAX),
    ];
    for (resolution, ticks, time_ns) in cases {
        let options = build.option(9, &[resolution]);
        let (packets, _) = read(&file(build, &options, ticks)).expect("a capture");
        assert_eq!(packets[0].time_ns, time_ns, "{resolution}");
    }
    let mut options = build.option(14, &build.u64(100));
    options.extend(build.option(0, &[]));
    let (packets, _) = read(&file(build, &options, 7)).expect("a capture");
    assert_eq!(packets[0].time_ns, 100_000_007_000);
    let options = build.option(14, &build.u64(-100_i64 as u64));
    let (packets, _) = read(&file(build, &options, 7)).expect("a capture");
    assert_eq!(packets[0].time_ns, 0, "before 1970");
}

#[test]
fn a_section_has_its_own_interfaces_and_order() {
    let [big, little] = Build::BOTH;
    let mut both = file(big, &[], 1);
    both.extend(big.block(4, b"name resolution"));
    both.extend(little.section());
    both.extend(little.interface(1, &little.option(9, &[9])));
    both.extend(little.packet(0, 5, b"xyz"));
    let (packets, _) = read(&both).expect("a capture");
    assert_eq!((packets[1].time_ns, packets[1].interface, packets[1].number), (5, 1, 2));
    let mut without = file(big, &[], 1);
    without.extend(little.section());
    without.extend(little.packet(0, 5, b"xyz"));
    assert!(matches!(read(&without), Err(CaptureError::Interface { interface: 0, .. })));
}

#[test]
fn only_the_interface_of_a_packet_has_to_be_ethernet() {
    let build = Build { big: false };
    let mut file = build.section();
    file.extend(build.interface(276, &[]));
    file.extend(build.interface(1, &[]));
    file.extend(build.packet(1, 0, b"abc"));
    assert_eq!(read(&file).expect("a capture").0[0].interface, 1);
    file.extend(build.packet(0, 0, b"abc"));
    let error = read(&file).expect_err("cooked");
    assert!(error.to_string().contains("-i any"), "{error}");
}

#[test]
fn a_packet_block_of_the_old_kind_is_read_and_a_simple_one_has_no_time() {
    let build = Build { big: true };
    let mut file = build.section();
    file.extend(build.interface(1, &[]));
    let mut body = build.u16(0).to_vec();
    body.extend(build.u16(9));
    body.extend(build.words(&[0, 3, 2, 60]));
    body.extend(b"ab");
    file.extend(build.block(2, &body));
    let (packets, _) = read(&file).expect("a capture");
    assert_eq!((packets[0].time_ns, packets[0].original_len), (3000, 60));
    file.extend(build.block(3, &build.words(&[4, 0])));
    assert!(matches!(read(&file), Err(CaptureError::NoTime { number: 2 })));
}

#[test]
fn a_file_that_ends_in_a_block_gives_what_it_has() {
    let build = Build { big: false };
    let mut file = file(build, &[], 1);
    let whole = file.len();
    file.extend(build.block(4, b"names"));
    file.extend(build.packet(0, 2, b"abc"));
    for len in whole..file.len() {
        let (packets, truncated) = read(&file[..len]).expect("it is a capture");
        assert_eq!(packets.len(), 1);
        assert_eq!(truncated, len != whole && len != whole + 20, "{len} bytes");
    }
}

#[test]
fn our_own_files_say_who_sent_what_to_the_nanosecond() {
    let mut writer = Writer::new(Vec::new(), &["primary", "secondary"]).expect("in memory");
    writer.write(1, 1_700_000_000_123_456_789, b"abc", 3, "late: ü").expect("in memory");
    writer.write(0, 5, b"", 70, "").expect("in memory");
    let file = writer.finish().expect("in memory");
    let (packets, truncated) = read(&file).expect("a capture");
    assert!(!truncated);
    assert_eq!((packets[0].interface, packets[0].time_ns), (1, 1_700_000_000_123_456_789));
    assert_eq!((packets[0].bytes.as_ref(), packets[0].is_truncated()), (&b"abc"[..], false));
    assert_eq!((packets[1].interface, packets[1].is_truncated()), (0, true));
    for text in ["primary", "secondary", "late: ü"] {
        assert!(file.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
    }
}
