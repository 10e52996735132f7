use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A primary's lane, the socket of its secondary, and the directory of the socket's file.
async fn connected() -> (ControlLane, UnixStream, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("control");
    let endpoint = format!("unix:{},server", path.display()).parse().expect("an endpoint");
    let port = Port::open(endpoint).await.expect("it listens");
    let traffic = LaneTraffic { sent: Arc::default(), received: Arc::default() };
    let mut peer = ControlLane::spawn(port, Role::Primary, TIMEOUT, traffic, None);
    let mut stream = UnixStream::connect(&path).await.expect("it listens");
    let line = hello(VERSION, "secondary").line() + "\n";
    stream.write_all(line.as_bytes()).await.expect("it reads");
    assert_eq!(peer.next_event().await, Some(PeerEvent::Up { lane: None }));
    (peer, stream, dir)
}

/// Sends until the lane takes no more, because the other end does not read.
async fn fill(peer: &ControlLane) {
    let long = ControlMessage::Offsets { text: "x".repeat(LINE_MAX / 2) };
    while peer.send(long.clone()) {
        tokio::task::yield_now().await;
    }
}

async fn ended(mut stream: UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut all)).await;
    read.expect("the lane closes it").expect("a socket");
    all
}

#[tokio::test]
async fn a_count_that_finds_no_room_ends_the_conversation() {
    let (mut peer, stream, dir) = connected().await;
    fill(&peer).await;
    assert!(!peer.send(ControlMessage::LaneCount { slot: 1, sent: 2 }));
    ended(stream).await;
    assert_eq!(peer.next_event().await, Some(PeerEvent::Down { was_silent: false }));
    // The order to end was for this conversation, and not for the next one.
    let mut next = UnixStream::connect(dir.path().join("control")).await.expect("it listens");
    let line = hello(VERSION, "secondary").line() + "\n";
    next.write_all(line.as_bytes()).await.expect("it reads");
    assert_eq!(peer.next_event().await, Some(PeerEvent::Up { lane: None }));
    assert!(peer.send(ControlMessage::LaneCount { slot: 1, sent: 2 }));
    let mut said = String::new();
    while !said.contains("lane-count") {
        let mut bytes = [0; 1000];
        let len = tokio::time::timeout(TIMEOUT, next.read(&mut bytes)).await;
        let len = len.expect("in time").expect("a socket");
        assert_ne!(len, 0, "the conversation ended: {said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }
}

/// The owner may answer a peer whose end it has not seen yet. The next peer must not get the
/// answer.
#[tokio::test]
async fn a_message_for_the_last_peer_is_not_for_the_next() {
    let (mut peer, stream, dir) = connected().await;
    drop(stream);
    let next = UnixStream::connect(dir.path().join("control")).await.expect("it listens");
    let mut lines = Framed::new(next, codec());
    // The task talks to the next peer already. The owner has not read the events yet.
    let first = lines.next().await.expect("a line").expect("a socket");
    assert!(first.contains("hello"), "{first}");
    lines.send(hello(VERSION, "secondary").line()).await.expect("it reads");
    let deadline = Instant::now() + TIMEOUT;
    while peer.events.len() < 2 {
        assert!(Instant::now() < deadline, "no Down and Up");
        tokio::task::yield_now().await;
    }
    peer.send(ControlMessage::Lane { open: true, epoch: 1 });
    peer.send_all(vec![ControlMessage::Offsets { text: "1".into() }]);
    assert_eq!(peer.next_event().await, Some(PeerEvent::Down { was_silent: false }));
    peer.send(ControlMessage::Lane { open: true, epoch: 2 });
    assert_eq!(peer.next_event().await, Some(PeerEvent::Up { lane: None }));
    peer.send_all(vec![ControlMessage::Offsets { text: "3".into() }]);
    assert!(peer.send(ControlMessage::Lane { open: true, epoch: 3 }));
    let mut lines_read = Vec::new();
    while lines_read.len() < 2 {
        let line = tokio::time::timeout(TIMEOUT, lines.next()).await.expect("in time");
        let line = line.expect("a line").expect("a socket");
        lines_read.extend((line.contains("lane\"") || line.contains("offsets")).then_some(line));
    }
    assert!(lines_read.iter().all(|line| line.contains('3')), "{lines_read:?}");
}

/// A peer that writes many short lines must leave the thread to other tasks in between.
#[tokio::test]
async fn a_flood_of_lines_lets_others_have_their_turn() {
    const LINES: usize = 40_000;
    let (mut peer, mut stream, _dir) = connected().await;
    let lines = "1\n".repeat(LINES) + &ControlMessage::CheckpointWanted.line() + "\n";
    // All lines are there before the lane's task reads.
    let written = stream.write_all(lines.as_bytes()).now_or_never();
    written.expect("room for it").expect("a socket");
    let (mut turns, deadline) = (0, Instant::now() + TIMEOUT);
    while peer.events.is_empty() {
        assert!(Instant::now() < deadline, "the last line does not come");
        tokio::task::yield_now().await;
        turns += 1;
    }
    let wanted = PeerEvent::Message(ControlMessage::CheckpointWanted);
    assert_eq!(peer.next_event().await, Some(wanted));
    assert!(turns >= LINES / 256, "{turns} turns");
}

/// The twin: a message that is not about the kernel lane is sent again later, or is not needed.
#[tokio::test]
async fn another_message_that_finds_no_room_does_not() {
    let (mut peer, mut stream, _dir) = connected().await;
    fill(&peer).await;
    assert!(!peer.send(ControlMessage::GuestGone));
    let mut bytes = vec![0; LINE_MAX];
    let mut more = true;
    while more {
        let read = stream.read(&mut bytes);
        more = match tokio::time::timeout(HEARTBEAT / 2, read).await {
            Ok(len) => len.expect("a socket") > 0,
            Err(_) => break,
        };
    }
    assert!(more, "the conversation ended");
    assert!(peer.events.try_recv().is_err(), "it goes on");
}

fn hello(version: u32, role: &str) -> ControlMessage {
    ControlMessage::Hello { version, role: role.into(), lane: None }
}

#[test]
fn only_the_other_half_that_says_so_first_is_heard() {
    let mut introduction = Introduction::default();
    let epoch = ControlMessage::Epoch { session: 1, epoch: 1 };
    assert!(introduction.check(&epoch, Role::Secondary).is_err(), "before hello");
    assert!(introduction.check(&hello(VERSION, "secondary"), Role::Secondary).is_err());
    assert!(introduction.check(&hello(VERSION + 1, "primary"), Role::Secondary).is_err());
    assert!(introduction.check(&hello(VERSION, "primary"), Role::Secondary).is_ok());
    assert!(introduction.check(&epoch, Role::Secondary).is_ok());
}
