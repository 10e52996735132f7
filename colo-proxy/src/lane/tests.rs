use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use etherparse::PacketBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use colo_proxy_engine::digest::{Digester, ReturnedRecord, ReturnedRecords};
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::record::FrameRecords;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::PeerLimits;
use super::*;
use crate::datapath::capture::{CaptureBackend, CaptureStats};
use crate::endpoint::Port;

/// A source of frames that a test writes to.
struct Pipe(UnixDatagram);

fn pipe() -> (UnixDatagram, Box<dyn CaptureBackend>) {
    let (ours, theirs) = UnixDatagram::pair().expect("a socket pair");
    theirs.set_nonblocking(true).expect("not blocking");
    (ours, Box::new(Pipe(theirs)))
}

impl CaptureBackend for Pipe {
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn read_batch(&mut self, max_frames: usize, into: &mut Vec<Frame>) -> io::Result<usize> {
        let mut bytes = vec![0; 70_000];
        let mut read = 0;
        while read < max_frames {
            match self.0.recv(&mut bytes) {
                Ok(len) => {
                    into.extend(Frame::new(Bytes::copy_from_slice(&bytes[..len]), 0));
                    read += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn is_faithful(&self) -> bool {
        true
    }

    fn stats(&self) -> CaptureStats {
        CaptureStats::default()
    }

    fn name(&self) -> &'static str {
        "pipe"
    }
}

struct Lab {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Lab {
    async fn port() -> (Self, Port) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lane");
        let endpoint = format!("unix:{},server", path.display()).parse().expect("an endpoint");
        let port = Port::open(endpoint).await.expect("it listens");
        (Self { path, _dir: dir }, port)
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.expect("the lane listens")
    }
}

fn outgoing(port: Port, source: Box<dyn CaptureBackend>, stats: &Arc<LaneStats>) -> Outgoing {
    Outgoing {
        port,
        source,
        vnet_hdr: false,
        limits: PeerLimits {
            queue_bytes: 256 * 1024,
            timeout: Duration::from_millis(100),
            ..PeerLimits::default()
        },
        stats: stats.clone(),
        observe: Box::new(|_| {}),
        digester: None,
    }
}

/// One record off the wire.
async fn record(stream: &mut UnixStream) -> Vec<u8> {
    let length = stream.read_u32().await.expect("a record");
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await.expect("all of it");
    bytes
}

#[tokio::test]
async fn frames_go_to_one_peer_after_the_other() {
    let (lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    let stats = Arc::new(LaneStats::default());
    let (_requests, mut events) = spawn_outgoing(outgoing(port, source, &stats)).expect("spawned");
    for round in 0..3u8 {
        let mut peer = lab.connect().await;
        assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
        guest.send(&[round; 60]).expect("sent");
        assert_eq!(record(&mut peer).await, [round; 60]);
        drop(peer);
        assert!(matches!(events.recv().await, Some(LaneEvent::Down)));
    }
    assert_eq!(stats.status("").frames, 3);
    assert_eq!(stats.status("").connections, 3);
}

#[tokio::test]
async fn a_flush_is_answered_when_all_has_gone_and_not_before() {
    let (lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    let stats = Arc::new(LaneStats::default());
    let mut lane = outgoing(port, source, &stats);
    lane.limits.timeout = Duration::from_mins(1);
    let (requests, mut events) = spawn_outgoing(lane).expect("spawned");
    let mut peer = lab.connect().await;
    assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
    // More than the socket takes while nobody reads.
    let frame = vec![7; 60_000];
    guest.set_nonblocking(true).expect("not blocking");
    let mut sent = 0u64;
    while stats.queued_bytes.load(Relaxed) < 65_536 {
        sent += u64::from(guest.send(&frame).is_ok());
        tokio::task::yield_now().await;
    }
    let (reply, mut flushed) = oneshot::channel();
    requests.send(OutgoingRequest::Flush(reply)).await.expect("it lives");
    let early = tokio::time::timeout(Duration::from_millis(50), &mut flushed).await;
    assert!(early.is_err(), "nobody has read it");
    for _ in 0..sent {
        assert_eq!(record(&mut peer).await.len(), frame.len());
    }
    flushed.await.expect("all has gone");
    assert_eq!(stats.queued_bytes.load(Relaxed), 0);
    drop(peer);
    assert!(matches!(events.recv().await, Some(LaneEvent::Down)));
    let (reply, flushed) = oneshot::channel();
    guest.send(&frame).expect("there is room");
    requests.send(OutgoingRequest::Flush(reply)).await.expect("it lives");
    flushed.await.expect("there is nobody to wait for");
    assert_eq!(stats.status("").dropped_no_peer, 1);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_disconnected_and_stops_nobody() {
    let (lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    guest.set_nonblocking(true).expect("not blocking");
    let stats = Arc::new(LaneStats::default());
    let (_requests, mut events) = spawn_outgoing(outgoing(port, source, &stats)).expect("spawned");
    let _peer = lab.connect().await;
    assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
    let flood = async {
        loop {
            // The socket may be full. The lane must go on all the same.
            let _ = guest.send(&[7; 1500]);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        event = events.recv() => assert!(matches!(event, Some(LaneEvent::Down)), "{event:?}"),
        () = flood => {}
    }
    assert_eq!(stats.status("").stalls, 1);
    assert!(stats.status("").lost_bytes > 0, "what it had not read is counted");
}

#[tokio::test]
async fn a_break_closes_the_connection_that_it_means_and_no_other() {
    let (lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    let stats = Arc::new(LaneStats::default());
    let (requests, mut events) = spawn_outgoing(outgoing(port, source, &stats)).expect("spawned");
    // Nobody is there: nothing to close.
    requests.send(OutgoingRequest::Break { connection: 1 }).await.expect("it lives");
    for connection in 1..=2u8 {
        let mut peer = lab.connect().await;
        assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
        let earlier = u64::from(connection) - 1;
        requests.send(OutgoingRequest::Break { connection: earlier }).await.expect("it lives");
        guest.send(&[connection; 60]).expect("sent");
        assert_eq!(record(&mut peer).await, [connection; 60], "it is still connected");
        let broken = OutgoingRequest::Break { connection: connection.into() };
        requests.send(broken).await.expect("it lives");
        assert!(matches!(events.recv().await, Some(LaneEvent::Down)));
        assert_eq!(peer.read(&mut [0; 1]).await.expect("readable"), 0, "the connection is closed");
        assert_eq!(stats.overflows.load(Relaxed), u64::from(connection));
    }
    assert_eq!(stats.status("").stalls, 0);
}

/// Frames from before the break have a gap, which the next peer could not see.
#[tokio::test]
async fn the_peer_after_a_break_gets_no_older_frames() {
    let (lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    guest.set_nonblocking(true).expect("not blocking");
    let stats = Arc::new(LaneStats::default());
    let mut lane = outgoing(port, source, &stats);
    lane.limits.timeout = Duration::from_mins(1);
    let (requests, mut events) = spawn_outgoing(lane).expect("spawned");
    let _slow = lab.connect().await;
    assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
    // Until the outbox has no room. Then the lane does not read the source, which fills.
    let frame = vec![7; 60_000];
    while stats.queued_bytes.load(Relaxed) < 256 * 1024 || guest.send(&frame).is_ok() {
        let _ = guest.send(&frame);
        tokio::task::yield_now().await;
    }
    // The next peer connects before the first connection ends.
    let mut next = lab.connect().await;
    requests.send(OutgoingRequest::Break { connection: 1 }).await.expect("it lives");
    assert!(matches!(events.recv().await, Some(LaneEvent::Down)));
    assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
    guest.send(&[9; 60]).expect("there is room again");
    assert_eq!(record(&mut next).await, [9; 60]);
    assert!(stats.status("").lost_bytes > 256 * 1024);
}

#[tokio::test]
async fn a_cut_counts_the_frames_before_it_and_finish_gives_back_the_rest() {
    let (lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    let stats = Arc::new(LaneStats::default());
    let (requests, mut events) = spawn_outgoing(outgoing(port, source, &stats)).expect("spawned");
    let mut peer = lab.connect().await;
    assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
    for n in 0..5u8 {
        guest.send(&[n; 60]).expect("sent");
    }
    let (reply, sent) = oneshot::channel();
    requests.send(OutgoingRequest::Cut(reply)).await.expect("it lives");
    assert_eq!(sent.await, Ok(5), "all frames so far are before the cut");
    for n in 0..5u8 {
        assert_eq!(record(&mut peer).await, [n; 60]);
    }
    let (reply, unsent) = oneshot::channel();
    requests.send(OutgoingRequest::Finish(reply)).await.expect("it lives");
    assert_eq!(unsent.await.expect("an answer").len(), 0);
    assert_eq!(peer.read(&mut [0; 1]).await.expect("readable"), 0, "the connection is closed");
}

#[tokio::test]
async fn without_a_peer_frames_are_dropped_and_counted() {
    let (_lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    let stats = Arc::new(LaneStats::default());
    let (requests, _events) = spawn_outgoing(outgoing(port, source, &stats)).expect("spawned");
    guest.send(&[1; 60]).expect("sent");
    let deadline = Instant::now() + Duration::from_secs(5);
    while stats.status("").dropped_no_peer == 0 && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!(stats.status("").dropped_no_peer, 1);
    let (reply, sent) = oneshot::channel();
    requests.send(OutgoingRequest::Cut(reply)).await.expect("it lives");
    assert_eq!(sent.await, Ok(0));
}

#[tokio::test]
async fn an_impossible_length_closes_the_connection_and_the_next_one_works() {
    let (lab, port) = Lab::port().await;
    let stats = Arc::new(LaneStats::default());
    let mut events = spawn_incoming::<FrameRecords>(port, false, stats.clone());
    for length in [69_633, u32::MAX] {
        let mut peer = lab.connect().await;
        assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
        peer.write_all(&length.to_be_bytes()).await.expect("written");
        assert!(matches!(events.recv().await, Some(LaneEvent::Down)));
        assert_eq!(peer.read(&mut [0; 1]).await.unwrap_or_default(), 0, "it is closed");
    }
    let mut peer = lab.connect().await;
    assert!(matches!(events.recv().await, Some(LaneEvent::Up)));
    peer.write_all(&[0, 0, 0, 0]).await.expect("written");
    peer.write_all(&[&[0, 0, 0, 60][..], &[9; 60]].concat()).await.expect("written");
    let Some(LaneEvent::Frames(frames)) = events.recv().await else { panic!("no frame") };
    assert_eq!(frames.len(), 1);
    let bad = stats.status("").bad_records;
    assert_eq!((bad.oversized, bad.empty), (2, 1));
}

#[tokio::test]
async fn from_end_to_end_every_frame_arrives_once_and_in_order() {
    const FRAMES: u32 = 20_000;
    let (lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    let stats = Arc::new(LaneStats::default());
    let (_requests, _events) = spawn_outgoing(outgoing(port, source, &stats)).expect("spawned");
    let endpoint = format!("unix:{}", lab.path.display()).parse().expect("an endpoint");
    let port = Port::open(endpoint).await.expect("nothing to bind");
    let mut arriving = spawn_incoming::<FrameRecords>(port, false, Arc::default());
    assert!(matches!(arriving.recv().await, Some(LaneEvent::Up)));
    let sender = std::thread::spawn(move || {
        for n in 0..FRAMES {
            // Now and then a frame that is too long to be copied on its way.
            let len = if n % 7 == 0 { 60_000 - n as usize } else { 60 + n as usize * 7 % 1400 };
            let mut bytes = vec![0; len];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            guest.send(&bytes).expect("sent");
        }
    });
    let mut next = 0;
    while next < FRAMES {
        let Some(LaneEvent::Frames(frames)) = arriving.recv().await else { panic!("no frame") };
        for frame in frames {
            assert_eq!(frame.ethernet()[..4], next.to_be_bytes(), "frame {next}");
            next += 1;
        }
    }
    sender.join().expect("it sent all");
}

/// A frame with data in a connection.
fn segment(seq: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 9], 64)
        .tcp(80, 5000, seq, 60_000)
        .write(&mut bytes, &[7; 1000])
        .expect("a Vec takes everything");
    bytes
}

#[tokio::test]
async fn digests_go_in_the_place_of_frames_and_frames_when_they_are_asked_for() {
    let (lab, port) = Lab::port().await;
    let (guest, source) = pipe();
    let digester = Some(Digester::new(false, 1 << 20, Arc::default()));
    let lane = Outgoing { digester, ..outgoing(port, source, &Arc::default()) };
    let (requests, _events) = spawn_outgoing(lane).expect("spawned");
    let endpoint = format!("unix:{}", lab.path.display()).parse().expect("an endpoint");
    let port = Port::open(endpoint).await.expect("nothing to bind");
    let mut arriving = spawn_incoming::<ReturnedRecords>(port, false, Arc::default());
    let mut next = async || loop {
        match arriving.recv().await {
            Some(LaneEvent::Frames(mut all)) => return all.remove(0),
            Some(_) => {}
            None => panic!("the lane has ended"),
        }
    };
    assert!(matches!(next().await, ReturnedRecord::Key(_)));
    guest.send(&[1; 60]).expect("sent");
    assert!(matches!(next().await, ReturnedRecord::Whole(frame) if frame.ethernet() == [1; 60]));
    guest.send(&segment(1)).expect("sent");
    assert!(matches!(next().await, ReturnedRecord::Digest { wire_len: 50..150, .. }));
    requests.send(OutgoingRequest::Answer(vec![1])).await.expect("the lane lives");
    let frame = Frame::new(segment(1).into(), 0);
    assert_eq!(next().await, ReturnedRecord::Answer { index: 1, frame });
    requests.send(OutgoingRequest::Answer(vec![0])).await.expect("the lane lives");
    assert_eq!(next().await, ReturnedRecord::Answer { index: 0, frame: None });
}

/// A reader that did not ask for digests, as a QEMU, refuses them.
#[tokio::test]
async fn a_lane_of_frames_takes_no_digests() {
    let (lab, port) = Lab::port().await;
    let stats = Arc::new(LaneStats::default());
    let mut arriving = spawn_incoming::<FrameRecords>(port, false, stats.clone());
    let mut stream = lab.connect().await;
    stream.write_all(&0x8000_0010_u32.to_be_bytes()).await.expect("written");
    assert!(matches!(arriving.recv().await, Some(LaneEvent::Up)));
    assert!(matches!(arriving.recv().await, Some(LaneEvent::Down)));
    assert_eq!(stats.status("").bad_records.oversized, 1);
}

#[tokio::test]
async fn a_digest_that_is_none_ends_the_connection() {
    let (lab, port) = Lab::port().await;
    let stats = Arc::new(LaneStats::default());
    let mut arriving = spawn_incoming::<ReturnedRecords>(port, false, stats.clone());
    let mut stream = lab.connect().await;
    stream.write_all(&0x8000_0003_u32.to_be_bytes()).await.expect("written");
    stream.write_all(b"abc").await.expect("written");
    assert!(matches!(arriving.recv().await, Some(LaneEvent::Up)));
    assert!(matches!(arriving.recv().await, Some(LaneEvent::Down)));
    assert_eq!(stats.status("").bad_records.garbled, 1);
}
