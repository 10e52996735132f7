//! The framing of a lane. Read in pieces of any size, it yields the same as a slow reader. A bad
//! length ends the connection at once, and does not affect the next connection. Written records
//! arrive unchanged. Reader and writer keep to their memory limits.

mod slow;
mod writing;

use colo_proxy::lane::io;
use colo_proxy_engine::frame::FRAME_MAX;
use colo_proxy_engine::record::{RecordError, RecordReader};
use futures_util::FutureExt;

use crate::choices::Choices;
use crate::measure::Measure;
use slow::{SlowReader, StreamPart};

/// The memory limit of a reader: an incomplete record, the bytes of one read (128 KiB), and both
/// twice while the buffer grows.
const READER_BYTES_MAX: usize = 2 * (FRAME_MAX + 8 + 128 * 1024) + 4096;

/// One bit decides whether records have a virtio-net header, and one whether to read or to write.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let kind = choices.octet();
    let vnet_hdr = kind & 1 != 0;
    if kind & 2 == 0 {
        let described = kind & 4 != 0;
        read(&mut choices, vnet_hdr, described);
    } else {
        writing::run(&mut choices, vnet_hdr);
    }
}

/// Reads a stream in pieces, and compares after each.
fn read(choices: &mut Choices<'_>, vnet_hdr: bool, described: bool) {
    let cuts: Vec<usize> =
        (0..=choices.below(4)).map(|_| 1 + usize::from(choices.number16())).collect();
    let stream = if described { describe(choices) } else { choices.rest().to_vec() };
    let mut reader = RecordReader::new(vnet_hdr);
    let mut slow = SlowReader::new(vnet_hdr);
    let mut rest = &stream[..];
    for cut in cuts.iter().cycle() {
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        rest = behind;
        if piece.is_empty() || !takes(&mut reader, &mut slow, piece) {
            break;
        }
    }
    let is_open = !slow.is_closed();
    assert!(matches!(fill(&mut reader, &mut &[][..]), Err(RecordError::Closed)) || !is_open);
    if is_open {
        slow.end();
        assert_eq!(reader.bad, slow.bad);
    }
    goes_on(&mut reader, vnet_hdr);
}

/// A stream that is longer than its description: runs of one byte, and the lengths that announce
/// them.
fn describe(choices: &mut Choices<'_>) -> Vec<u8> {
    const STREAM_MAX: usize = 200_000;
    let mut stream = Vec::new();
    while !choices.is_over() && stream.len() < STREAM_MAX {
        match choices.below(4) {
            0 => {
                let len = choices.below(64);
                stream.extend(choices.octets(len));
            }
            1 => {
                let len = any_len(choices);
                stream.resize(stream.len() + len, choices.octet());
            }
            n => {
                // The longest record, and a little more or less.
                let near = any_len(choices);
                let len = if n == 2 { near } else { FRAME_MAX + 8 - near };
                stream.extend((len as u32).to_be_bytes());
                stream.extend(u32::from(choices.octet()).to_be_bytes());
                stream.resize(stream.len() + len, choices.octet());
            }
        }
    }
    stream
}

/// Mostly a short record, because long records take long.
fn any_len(choices: &mut Choices<'_>) -> usize {
    let most = choices.one_of(&[0xf, 0xff, 0xfff, 0xffff]);
    usize::from(choices.number16() & most)
}

/// Both readers read `piece` and find the same in it; `false` if the connection has ended.
fn takes(reader: &mut RecordReader, slow: &mut SlowReader, mut piece: &[u8]) -> bool {
    let measure = Measure::start();
    let mut expected = slow.take(piece).into_iter();
    let of_slow = measure.peak_bytes();
    while !piece.is_empty() {
        assert!(fill(reader, &mut piece).is_ok(), "a slice always has its bytes");
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    let found = StreamPart::Frame(frame.vnet().to_vec(), frame.ethernet().to_vec());
                    assert_eq!(Some(found), expected.next());
                }
                Ok(None) => break,
                Err(RecordError::Oversized { length }) => {
                    assert_eq!(expected.next(), Some(StreamPart::Oversized(length)));
                    assert_eq!((expected.next(), reader.bad), (None, slow.bad));
                    return false;
                }
                Err(other) => assert!(matches!(other, RecordError::Oversized { .. }), "{other}"),
            }
        }
    }
    assert_eq!((expected.next(), reader.bad), (None, slow.bad));
    let needed = measure.peak_bytes().saturating_sub(of_slow);
    assert!(
        needed <= READER_BYTES_MAX,
        "{needed} bytes of memory for {} bytes of stream",
        slow.pending()
    );
    true
}

/// After any end of a connection, the next connection is read from its first byte.
fn goes_on(reader: &mut RecordReader, vnet_hdr: bool) {
    reader.reset();
    let head: &[u8] = if vnet_hdr { &[0, 0, 0, 26, 0, 0, 0, 12] } else { &[0, 0, 0, 26] };
    let record = [head, &[7; 26]].concat();
    assert!(fill(reader, &mut &record[..]).is_ok());
    let frame = reader.next_frame().ok().flatten();
    assert_eq!(frame.map(|frame| frame.bytes().to_vec()), Some(vec![7; 26]));
    assert!(matches!(reader.next_frame(), Ok(None)));
}

/// One read of the bytes that are there.
fn fill(reader: &mut RecordReader, from: &mut &[u8]) -> Result<(), RecordError> {
    io::fill(reader, from).now_or_never().unwrap_or(Err(RecordError::Closed))
}
