//! The way out: records leave whole and in order, with any number of bytes that the peer takes at a
//! time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use colo_proxy::lane::io::{fill, write};
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::record::{Outbox, RecordReader};
use futures_util::FutureExt;
use tokio::io::AsyncWrite;

use super::any_len;
use crate::choices::Choices;

/// A peer that takes a given number of bytes, or nothing yet.
#[derive(Debug, Default)]
struct Peer {
    taken: Vec<u8>,
    room: usize,
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.room == 0 {
            return Poll::Pending;
        }
        let len = octets.len().min(self.room);
        self.taken.extend(&octets[..len]);
        self.room -= len;
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.room == 0 {
            return Poll::Pending;
        }
        let room = self.room;
        let octets: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let len = octets.len().min(room);
        self.taken.extend(&octets[..len]);
        self.room -= len;
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Frames go in and bytes come out, in any order of the two.
pub(super) fn run(choices: &mut Choices<'_>, vnet_hdr: bool) {
    const OCTETS_MAX: usize = 200_000;
    let limit_bytes = usize::from(choices.number16());
    let mut outbox = Outbox::new(vnet_hdr, limit_bytes);
    let mut peer = Peer::default();
    let (mut expected, mut frames) = (Vec::new(), Vec::new());
    while !choices.is_over() && expected.len() < OCTETS_MAX {
        if choices.below(3) == 0 {
            peer.room = any_len(choices);
            while !outbox.is_empty() && peer.room > 0 {
                let written = write(&mut outbox, &mut peer).now_or_never();
                assert!(matches!(written, Some(Ok(()))), "{written:?}");
            }
            // The peer takes nothing now. A write that is given up has lost nothing.
            assert!(outbox.is_empty() || write(&mut outbox, &mut peer).now_or_never().is_none());
        } else {
            let frame = any_frame(choices);
            write_slowly(&mut expected, &frame, vnet_hdr);
            outbox.push(&frame);
            frames.push(frame);
        }
        let waiting = expected.len() - peer.taken.len();
        assert_eq!(outbox.waiting_bytes(), waiting);
        assert_eq!(outbox.has_room(), waiting < limit_bytes);
        assert_eq!(outbox.is_empty(), waiting == 0);
    }
    finish(outbox, peer, &expected, &frames, vnet_hdr);
}

/// All of it arrives, and is read as it was written.
fn finish(mut outbox: Outbox, mut peer: Peer, expected: &[u8], frames: &[Frame], vnet_hdr: bool) {
    peer.room = usize::MAX;
    while !outbox.is_empty() {
        assert!(matches!(write(&mut outbox, &mut peer).now_or_never(), Some(Ok(()))));
    }
    assert_eq!(peer.taken, expected);
    let mut reader = RecordReader::new(vnet_hdr);
    let mut octets = expected;
    let mut read = Vec::new();
    while !octets.is_empty() {
        assert!(matches!(fill(&mut reader, &mut octets).now_or_never(), Some(Ok(()))));
        while let Ok(Some(frame)) = reader.next_frame() {
            read.push(frame);
        }
    }
    let is_whole = |frame: &&Frame| vnet_hdr || frame.ethernet().len() >= 14;
    assert_eq!(read.len(), frames.iter().filter(is_whole).count());
    for (read, frame) in read.iter().zip(frames.iter().filter(is_whole)) {
        assert_eq!(read.ethernet(), frame.ethernet());
        assert!(!vnet_hdr || read.vnet() == frame.vnet());
    }
}

/// A frame as a gate or a lane passes it on: it has at least an Ethernet header.
fn any_frame(choices: &mut Choices<'_>) -> Frame {
    let vnet_len = choices.one_of(&[0, 10, 12, 20]);
    let octets = vec![choices.octet(); vnet_len + 14 + any_len(choices)];
    let frame = Frame::new(Bytes::from(octets), vnet_len);
    frame.expect("it is longer than its header")
}

fn write_slowly(stream: &mut Vec<u8>, frame: &Frame, vnet_hdr: bool) {
    let vnet = if vnet_hdr { frame.vnet() } else { &[] };
    stream.extend(((vnet.len() + frame.ethernet().len()) as u32).to_be_bytes());
    if vnet_hdr {
        stream.extend((vnet.len() as u32).to_be_bytes());
    }
    stream.extend(vnet);
    stream.extend(frame.ethernet());
}
