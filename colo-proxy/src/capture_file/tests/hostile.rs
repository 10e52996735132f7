//! Files that are made to break a reader.

use proptest::prelude::*;

use super::build::Build;
use super::read;
use crate::capture_file::{CaptureError, PACKET_MAX, Reader};

/// A file without end, of zeros.
#[derive(Debug)]
struct Endless<'a>(&'a [u8]);

impl std::io::Read for Endless<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            into.fill(0);
            return Ok(into.len());
        }
        std::io::Read::read(&mut self.0, into)
    }
}

#[test]
fn no_length_is_believed_beyond_the_longest_packet() {
    let build = Build { big: false };
    for len in [PACKET_MAX + 1, u32::MAX] {
        let mut pcap = build.pcap(0xa1b2_c3d4, 1);
        pcap.extend(build.words(&[0, 0, len, len]));
        let error = Reader::new(Endless(&pcap)).expect("its header").next_packet();
        assert!(matches!(error, Err(CaptureError::PacketLength { .. })), "{error:?}");
        let mut pcapng = build.section();
        pcapng.extend(build.interface(1, &[]));
        pcapng.extend(build.words(&[6, u32::MAX - 3, 0, 0, 0, len, len]));
        let error = Reader::new(Endless(&pcapng)).expect("its header").next_packet();
        assert!(matches!(error, Err(CaptureError::PacketLength { .. })), "{error:?}");
    }
}

#[test]
fn the_list_of_interfaces_is_bounded() {
    let build = Build { big: false };
    let mut file = build.section();
    for _ in 0..5000 {
        file.extend(build.interface(1, &[]));
    }
    assert!(matches!(read(&file), Err(CaptureError::Interfaces { .. })));
}

#[test]
fn impossible_blocks_are_refused() {
    let build = Build { big: true };
    let after = |bytes: &[u8]| [build.section(), bytes.to_vec()].concat();
    let cases = [
        after(&build.words(&[4, 0])),
        after(&build.words(&[4, 13, 0, 0])),
        after(&build.words(&[4, 12, 16])),
        after(&build.block(1, &[0; 4])),
        after(&[build.interface(1, &[]), build.block(6, &[0; 16])].concat()),
        after(&build.words(&[1, 0x10_0000])),
        after(&build.words(&[0x0a0d_0d0a, 28, 7])),
        after(&build.words(&[0x0a0d_0d0a, 12, 0x1a2b_3c4d])),
    ];
    for (at, file) in cases.iter().enumerate() {
        let error = read(file);
        assert!(matches!(error, Err(CaptureError::Block { .. })), "case {at}: {error:?}");
    }
}

#[test]
fn after_an_error_there_is_nothing_more() {
    let build = Build { big: false };
    let mut file = build.pcap(0xa1b2_c3d4, 1);
    file.extend(build.words(&[0, 0, u32::MAX, 0]));
    let mut reader = Reader::new(&file[..]).expect("its header");
    assert!(reader.next_packet().is_err());
    assert!(reader.next_packet().expect("its end").is_none());
}

proptest! {
    /// Reading ends, and gives no more than the file has.
    #[test]
    fn any_bytes_are_read_to_an_end(
        start in 0..4usize,
        noise in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let build = Build { big: start % 2 == 0 };
        let mut file = if start < 2 { build.pcap(0xa1b2_c3d4, 1) } else { build.section() };
        file.extend(&noise);
        if let Ok((packets, _)) = read(&file) {
            let bytes: usize = packets.iter().map(|packet| packet.bytes.len()).sum();
            prop_assert!(bytes <= noise.len());
        }
    }

    /// A good file with a few bytes changed.
    #[test]
    fn a_damaged_file_is_read_to_an_end(
        big: bool,
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let build = Build { big };
        let mut file = build.section();
        file.extend(build.interface(1, &build.option(9, &[9])));
        file.extend(build.packet(0, 1, b"abcde"));
        file.extend(build.packet(0, 2, b"fghij"));
        for (at, byte) in changes {
            let at = at % file.len();
            file[at] = byte;
        }
        let _ = read(&file);
    }
}
