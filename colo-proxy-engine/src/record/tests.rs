use std::io::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::{Outbox, RecordError, RecordReader};
use crate::frame::{FRAME_MAX, Frame};

fn frame(vnet_len: usize, ethernet: &[u8]) -> Frame {
    let mut bytes = vec![7; vnet_len];
    bytes.extend_from_slice(ethernet);
    Frame::new(bytes.into(), vnet_len).expect("the header is there")
}

/// Everything in `wire`, handed over in pieces of `step` bytes.
fn read_all(
    reader: &mut RecordReader,
    wire: &[u8],
    step: usize,
) -> Result<Vec<Frame>, RecordError> {
    let mut frames = Vec::new();
    for piece in wire.chunks(step.max(1)) {
        reader.buffer.extend_from_slice(piece);
        while let Some(frame) = reader.next_frame()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn write_all(outbox: &mut Outbox) -> Vec<u8> {
    let mut wire = Vec::new();
    while !outbox.is_empty() {
        let slices = outbox.slices();
        let written = wire.write_vectored(slices.get()).expect("a Vec takes everything");
        outbox.on_written(written);
    }
    wire
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_any_pieces(
        vnet in any::<bool>(),
        sizes in prop::collection::vec(14usize..9000, 1..20),
        step in 1usize..10_000,
    ) {
        let vnet_len = if vnet { 12 } else { 0 };
        let sent: Vec<Frame> = sizes.iter().map(|size| frame(vnet_len, &vec![*size as u8; *size])).collect();
        let mut outbox = Outbox::new(vnet, 1 << 20);
        for frame in &sent {
            outbox.push(frame);
        }
        let wire = write_all(&mut outbox);
        let mut reader = RecordReader::new(vnet);
        prop_assert_eq!(read_all(&mut reader, &wire, step).expect("all records are good"), sent);
        prop_assert!(reader.buffer.is_empty());
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow(wire in prop::collection::vec(any::<u8>(), 0..4096), vnet in any::<bool>()) {
        let mut reader = RecordReader::new(vnet);
        let _ = read_all(&mut reader, &wire, 100);
        prop_assert!(reader.buffer.len() <= wire.len());
    }
}

#[test]
fn the_bytes_are_qemus() {
    let mut outbox = Outbox::new(true, 1 << 20);
    outbox.push(&frame(12, &[9; 14]));
    let mut expected = BytesMut::new();
    expected.put_u32(26);
    expected.put_u32(12);
    expected.put_slice(&[7; 12]);
    expected.put_slice(&[9; 14]);
    assert_eq!(write_all(&mut outbox), expected);

    let mut outbox = Outbox::new(false, 1 << 20);
    outbox.push(&frame(12, &[9; 14]));
    assert_eq!(write_all(&mut outbox), [[0, 0, 0, 14].as_slice(), &[9; 14]].concat());
}

#[test]
fn empty_records_and_runts_are_counted_and_the_next_frame_is_read() {
    let mut wire = BytesMut::new();
    wire.put_u32(0);
    wire.put_u32(13);
    wire.put_bytes(1, 13);
    wire.put_u32(14);
    wire.put_bytes(2, 14);
    let mut reader = RecordReader::new(false);
    let frames = read_all(&mut reader, &wire, 5).expect("none is impossible");
    assert_eq!(frames, [frame(0, &[2; 14])]);
    assert_eq!((reader.bad.empty, reader.bad.runt), (1, 1));
}

#[test]
fn a_frame_that_is_held_does_not_keep_the_buffer_of_others() {
    for len in [14, 60, 2962, 30_000] {
        let mut wire = BytesMut::new();
        for _ in 0..2 {
            wire.put_u32(len);
            wire.put_bytes(2, len as usize);
        }
        let mut reader = RecordReader::new(false);
        let frames = read_all(&mut reader, &wire, wire.len()).expect("none is impossible");
        assert!(frames.iter().all(|frame| frame.bytes().is_unique()), "{len} bytes");
    }
}

#[test]
fn a_header_length_that_is_none_is_counted() {
    let mut wire = BytesMut::new();
    for vnet_len in [11, u32::MAX, 12] {
        wire.put_u32(26);
        wire.put_u32(vnet_len);
        wire.put_bytes(7, 26);
    }
    let mut reader = RecordReader::new(true);
    assert_eq!(read_all(&mut reader, &wire, 999).expect("lengths are possible").len(), 1);
    assert_eq!(reader.bad.vnet_hdr_len, 2);
}

#[test]
fn the_longest_record_is_read_and_one_byte_more_is_refused_at_once() {
    let mut reader = RecordReader::new(false);
    let mut wire = BytesMut::new();
    wire.put_u32(FRAME_MAX as u32);
    wire.put_bytes(3, FRAME_MAX);
    assert_eq!(read_all(&mut reader, &wire, 1000).expect("69632 is allowed").len(), 1);
    for length in [FRAME_MAX as u32 + 1, u32::MAX] {
        let mut reader = RecordReader::new(false);
        let error = read_all(&mut reader, &length.to_be_bytes(), 4).expect_err("refused");
        assert!(matches!(error, RecordError::Oversized { length: found } if found == length));
        assert_eq!(reader.bad.oversized, 1);
    }
}

#[test]
fn a_connection_cut_in_a_record_loses_that_record_only() {
    let mut reader = RecordReader::new(false);
    let wire = [0, 0, 0, 14, 1, 2, 3];
    reader.room().extend_from_slice(&wire);
    assert!(reader.on_read(Ok(wire.len())).expect("bytes came"));
    assert!(reader.next_frame().expect("nothing impossible").is_none());
    assert!(matches!(reader.on_read(Ok(0)), Err(RecordError::Closed)));
    assert_eq!(reader.bad.truncated, 1);
    reader.reset();
    let mut whole = vec![0, 0, 0, 14];
    whole.extend([5; 14]);
    assert_eq!(read_all(&mut reader, &whole, 3).expect("good").len(), 1);
}

#[test]
fn the_outbox_says_when_it_is_full() {
    let mut outbox = Outbox::new(false, 100);
    let small = frame(0, &[1; 90]);
    outbox.push(&small);
    assert!(outbox.has_room(), "94 bytes wait");
    outbox.push(&small);
    assert!(!outbox.has_room(), "188 wait");
    assert_eq!((outbox.waiting_bytes(), outbox.clear()), (188, 188));
    outbox.push(&small);
    assert_eq!(Bytes::from(write_all(&mut outbox)).len(), 94);
}
