//! Capture files. For any file, reading ends and needs limited memory. It finds the same as a slow
//! reader. A truncated file yields everything before its end. A written file is read back
//! unchanged.

mod slow;

use std::io::{self, Read};

use colo_proxy::capture_file::{CaptureError, PACKET_MAX, Packet, Reader, Writer};

use crate::choices::Choices;
use crate::measure::Measure;

/// A packet, the list of a section's interfaces, and one interface's description.
const READER_BYTES_MAX: usize = PACKET_MAX as usize + 2 * 4096 * 32 + 65536 + 4096;

/// One bit decides whether the file is the input or the output of our writer.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    if choices.octet() & 1 == 0 {
        let piece = 1 + usize::from(choices.octet());
        read(choices.rest(), piece);
    } else {
        write(&mut choices);
    }
}

/// The packets in a file, and how the file ended.
type Reading = (Vec<Packet>, Result<bool, String>);

fn read(file: &[u8], piece: usize) {
    let whole = everything(file);
    // This holds for any number of bytes per read.
    assert_eq!(everything(Pieces { rest: file, piece }), whole);
    is_plausible(file, &whole);
    if let Some(expected) = slow::read(file) {
        assert_eq!(whole, expected);
    }
    for at in [file.len() / 2, file.len().saturating_sub(1)] {
        is_beginning(&everything(&file[..at]), &whole);
    }
    is_bounded(file);
}

fn everything(input: impl Read) -> Reading {
    let mut packets = Vec::new();
    let mut reader = match Reader::new(input) {
        Ok(reader) => reader,
        Err(error) => return (packets, Err(error.to_string())),
    };
    loop {
        match reader.next_packet() {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => break,
            Err(error) => {
                assert!(!matches!(error, CaptureError::Read(_)), "{error}");
                // After the end, there is nothing more.
                assert!(matches!(reader.next_packet(), Ok(None)));
                return (packets, Err(error.to_string()));
            }
        }
    }
    assert!(matches!(reader.next_packet(), Ok(None)));
    assert_eq!(reader.packets(), packets.len() as u64);
    let is_truncated = reader.is_truncated();
    (packets, Ok(is_truncated))
}

/// Packets are counted from 1, are inside the file, and are no longer than a packet may be.
fn is_plausible(file: &[u8], (packets, _): &Reading) {
    let mut octets = 0;
    for (packet, number) in packets.iter().zip(1..) {
        assert_eq!(packet.number, number);
        assert!(packet.bytes.len() <= PACKET_MAX as usize);
        assert_eq!(packet.is_truncated(), packet.bytes.len() < packet.original_len as usize);
        octets += packet.bytes.len() + 16;
    }
    assert!(octets <= file.len());
}

/// A truncated file yields the packets before its end. The only error is that it is truncated.
fn is_beginning((cut, end): &Reading, (whole, whole_end): &Reading) {
    assert_eq!(whole.get(..cut.len()), Some(&cut[..]));
    assert!(cut.len() < whole.len() || end.is_ok() || whole_end.is_err() || cut.is_empty());
}

/// Nothing that was read stays, packet by packet.
fn is_bounded(file: &[u8]) {
    let measure = Measure::start();
    if let Ok(reader) = Reader::new(file) {
        assert!(reader.count() <= file.len());
    }
    let needed = measure.peak_bytes();
    assert!(
        needed <= READER_BYTES_MAX,
        "{needed} bytes of memory for a file of {} bytes",
        file.len()
    );
}

/// A file that gives only a limited number of bytes at a time.
#[derive(Debug)]
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(self.piece).min(self.rest.len());
        let (taken, rest) = self.rest.split_at(len);
        into[..len].copy_from_slice(taken);
        self.rest = rest;
        Ok(len)
    }
}

/// A written file is read back, with any names, comments and times.
fn write(choices: &mut Choices<'_>) {
    let names: Vec<String> = (0..=choices.below(4)).map(|_| any_text(choices)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut expected = Vec::new();
    let file = written(choices, &names, &mut expected);
    let Ok(file) = file else { return assert!(file.is_ok(), "{file:?}") };
    assert_eq!(everything(&file[..]), (expected, Ok(false)));
}

fn written(
    choices: &mut Choices<'_>,
    names: &[&str],
    expected: &mut Vec<Packet>,
) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new(), names)?;
    while !choices.is_over() {
        let interface = choices.below(names.len()) as u32;
        let time_ns = u64::from(choices.number32()) << 32 | u64::from(choices.number32());
        let len = choices.below(100);
        let octets = choices.octets(len);
        let original_len = u32::from(choices.octet());
        // An option has a 16-bit length.
        let times = if choices.octet() == 255 { 4000 } else { 1 };
        let comment = any_text(choices).repeat(times);
        writer.write(interface, time_ns, octets, original_len, &comment)?;
        expected.push(Packet {
            number: expected.len() as u64 + 1,
            time_ns,
            interface,
            original_len: original_len.max(octets.len() as u32),
            bytes: octets.to_vec().into(),
        });
    }
    writer.finish()
}

fn any_text(choices: &mut Choices<'_>) -> String {
    let len = choices.below(20);
    String::from_utf8_lossy(choices.octets(len)).into_owned()
}
