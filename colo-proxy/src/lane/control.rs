//! The control lane of an instance: a task that keeps it connected and beating.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, MissedTickBehavior};
use tokio_util::codec::{Framed, LinesCodec};

use colo_proxy_engine::pair::Role;
use colo_proxy_engine::pair::message::{
    COUNTERS, HEARTBEAT, LINE_MAX, Message, TunnelOffer, VERSION,
};

use super::stats::LaneStats;
use crate::endpoint::{Port, Stream};
use crate::error_chain::chain;
use crate::tunnel::Underlay;

/// Messages that may wait in either direction.
const WAITING_MAX: usize = 64;

/// The lanes whose frames are told to the peer.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    pub(crate) sent: Arc<LaneStats>,
    pub(crate) received: Arc<LaneStats>,
}

impl Traffic {
    fn message(&self) -> Message {
        Message::Counters {
            sent: self.sent.frames.load(Relaxed),
            received: self.received.frames.load(Relaxed),
        }
    }
}

/// What the peer has told of its lanes, as `status` shows it.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct PeerCounters {
    sent: u64,
    received: u64,
}

impl PeerCounters {
    /// Takes a message that tells of them; gives back any other.
    pub(crate) fn take(&mut self, message: Message) -> Option<Message> {
        let Message::Counters { sent, received } = message else { return Some(message) };
        *self = Self { sent, received };
        None
    }
}

/// What the lane tells its owner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PeerEvent {
    /// The other half of the pair has said who it is.
    Up {
        /// Where both ends can open the kernel lane: what the primary has offered, and the way
        /// between the two.
        lane: Option<(TunnelOffer, Underlay)>,
    },
    Message(Message),
    /// `was_silent`: it said nothing for as long as it may; else its connection ended.
    Down {
        was_silent: bool,
    },
}

/// The owner's end of the control lane.
#[derive(Debug)]
pub(crate) struct ControlLane {
    messages: mpsc::Sender<QueuedMessage>,
    /// What may take its time, and must not be in the way of the others.
    bulk: mpsc::Sender<QueuedMessage>,
    /// The last conversation that is to end, if any.
    break_off: watch::Sender<u64>,
    events: mpsc::Receiver<PeerEvent>,
    /// The conversation that the owner knows of. Another one may have begun since: what is said now is
    /// not for that.
    conversation: u64,
}

/// What is said in a conversation, and in which one: they are counted from 1, as they come [up].
///
/// [up]: PeerEvent::Up
#[derive(Debug)]
struct QueuedMessage {
    message: Message,
    conversation: u64,
}

impl ControlLane {
    /// Starts the task. A peer that says nothing for `silence_max` is disconnected.
    /// `offer` is the kernel lane that this end can open.
    pub(crate) fn spawn(
        port: Port,
        role: Role,
        silence_max: Duration,
        traffic: Traffic,
        offer: Option<TunnelOffer>,
    ) -> Self {
        let (messages, from_owner) = mpsc::channel(WAITING_MAX);
        let (bulk, bulk_from_owner) = mpsc::channel(1);
        let (break_off, breaks) = watch::channel(0);
        let (events, receiver) = mpsc::channel(WAITING_MAX);
        let from_owner = FromOwner { messages: from_owner, bulk: bulk_from_owner, breaks };
        let terms = ControlTerms { role, silence_max, traffic, offer };
        tokio::spawn(keep(port, terms, from_owner, events));
        Self { messages, bulk, break_off, events: receiver, conversation: 0 }
    }

    /// What the lane tells next; `None` when its task has ended. Can be cancelled without losing
    /// anything.
    pub(crate) async fn next_event(&mut self) -> Option<PeerEvent> {
        let event = self.events.recv().await?;
        self.conversation += u64::from(matches!(event, PeerEvent::Up { .. }));
        Some(event)
    }

    /// Says `message` in the conversation that the owner has heard of last, which is nobody's any more
    /// where that is over; `false` where the lane does not keep up.
    ///
    /// What is told of the kernel lane is told once, and the peer counts on it: without a count it finds
    /// no loss, and without the word that this end is closed it sends for ever. Where that finds no room
    /// the conversation ends, and with it the kernel lane at both ends, for which a checkpoint is made.
    pub(crate) fn send(&self, message: Message) -> bool {
        let is_of_lane = message.is_of_lane();
        let conversation = self.conversation;
        let is_sent = self.messages.try_send(QueuedMessage { message, conversation }).is_ok();
        if is_of_lane && !is_sent {
            self.break_off.send_replace(conversation);
        }
        is_sent
    }

    /// Sends `messages` one after the other, as the lane takes them and nothing else is to be sent.
    pub(crate) fn send_all(&self, messages: Vec<Message>) {
        let (lane, conversation) = (self.bulk.clone(), self.conversation);
        tokio::spawn(async move {
            for message in messages {
                if lane.send(QueuedMessage { message, conversation }).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// What the owner wants sent.
struct FromOwner {
    messages: mpsc::Receiver<QueuedMessage>,
    bulk: mpsc::Receiver<QueuedMessage>,
    breaks: watch::Receiver<u64>,
}

/// What the task is to do next.
enum NextStep {
    Send(Message),
    BreakOff,
}

impl FromOwner {
    /// What is next in `conversation`, for which whatever was meant for another one means nothing;
    /// `None` when the owner is gone. Can be cancelled without losing anything.
    async fn next(&mut self, conversation: Option<u64>) -> Option<NextStep> {
        loop {
            let (said, next) = tokio::select! {
                biased;
                Ok(()) = self.breaks.changed() => {
                    (*self.breaks.borrow_and_update(), NextStep::BreakOff)
                }
                message = self.messages.recv() => message.map(NextStep::of)?,
                Some(message) = self.bulk.recv() => NextStep::of(message),
            };
            if Some(said) == conversation {
                return Some(next);
            }
        }
    }
}

impl NextStep {
    fn of(said: QueuedMessage) -> (u64, Self) {
        (said.conversation, Self::Send(said.message))
    }
}

async fn keep(
    mut port: Port,
    terms: ControlTerms,
    mut messages: FromOwner,
    events: mpsc::Sender<PeerEvent>,
) {
    let mut conversations = 0;
    loop {
        let stream = tokio::select! {
            stream = port.next() => stream,
            // Nobody is there to be told anything, so this waits for the owner's end.
            _ = messages.next(None) => return,
        };
        let mut introduction = Introduction { done: false, number: conversations + 1 };
        let ConversationEnd { why, was_silent } =
            converse(stream, &terms, &mut introduction, &mut messages, &events).await;
        conversations += u64::from(introduction.done);
        if introduction.done && events.send(PeerEvent::Down { was_silent }).await.is_err() {
            return;
        }
        log::warn!("control lane {}: {why}", port.endpoint());
    }
}

/// What both ends keep to.
struct ControlTerms {
    role: Role,
    silence_max: Duration,
    traffic: Traffic,
    offer: Option<TunnelOffer>,
}

/// Why a connection ended.
struct ConversationEnd {
    why: String,
    was_silent: bool,
}

fn ended(why: impl Into<String>) -> ConversationEnd {
    ConversationEnd { why: why.into(), was_silent: false }
}

async fn converse(
    stream: Stream,
    terms: &ControlTerms,
    introduction: &mut Introduction,
    messages: &mut FromOwner,
    events: &mpsc::Sender<PeerEvent>,
) -> ConversationEnd {
    let ControlTerms { role, silence_max, ref traffic, offer } = *terms;
    let underlay = stream.underlay();
    let mut lines = Framed::new(stream, codec());
    let hello = Message::Hello { version: VERSION, role: role.to_string(), lane: offer };
    if let Err(error) = lines.send(hello.line()).await {
        return ended(format!("sending failed: {}", chain(&error)));
    }
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counters = tokio::time::interval(COUNTERS);
    counters.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let outgoing = tokio::select! {
            line = lines.next() => {
                let line = match line {
                    Some(Ok(line)) => line,
                    Some(Err(error)) => return ended(format!("reading failed: {}", chain(&error))),
                    None => return ended("the peer closed the connection"),
                };
                heard = Instant::now();
                // Of what has been read there may be many lines more, and others want the thread.
                tokio::task::consume_budget().await;
                if let Err(why) = pass_on(&line, terms, underlay, introduction, events).await {
                    return ended(why);
                }
                continue;
            }
            said = messages.next(introduction.conversation()) => match said {
                Some(NextStep::Send(message)) => message,
                Some(NextStep::BreakOff) => return ended("the peer takes messages too slowly"),
                None => return ended("the instance is ending"),
            },
            _ = beat.tick() => Message::Heartbeat,
            _ = counters.tick() => traffic.message(),
            () = tokio::time::sleep_until(heard + silence_max) => {
                let why = format!("no heartbeat for {} ms", silence_max.as_millis());
                return ConversationEnd { why, was_silent: true };
            }
            () = events.closed() => return ended("the instance is ending"),
        };
        match tokio::time::timeout(silence_max, lines.send(outgoing.line())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ended(format!("sending failed: {}", chain(&error))),
            Err(_) => {
                return ConversationEnd { why: "the peer does not read".into(), was_silent: true };
            }
        }
    }
}

/// What is known of the peer on a connection.
#[derive(Debug, Default)]
struct Introduction {
    done: bool,
    /// Of the conversation that it begins.
    number: u64,
}

impl Introduction {
    /// The conversation of this connection, once there is one.
    fn conversation(&self) -> Option<u64> {
        self.done.then_some(self.number)
    }

    /// The first message must say who speaks, and that must be the other half of a pair.
    fn check(&mut self, message: &Message, role: Role) -> Result<(), String> {
        match message {
            Message::Hello { version, .. } if *version != VERSION => {
                Err(format!("the peer speaks version {version} of the control lane, not {VERSION}"))
            }
            Message::Hello { role: peer, .. } if *peer == role.opposite().to_string() => {
                self.done = true;
                Ok(())
            }
            Message::Hello { role: peer, .. } => {
                Err(format!("the peer says that it is a {peer}; a {role} wants the other half"))
            }
            _ if self.done => Ok(()),
            other => Err(format!("the peer began with {other:?} and not with hello")),
        }
    }
}

/// The codec of the lane.
fn codec() -> LinesCodec {
    LinesCodec::new_with_max_length(LINE_MAX)
}

async fn pass_on(
    line: &str,
    terms: &ControlTerms,
    underlay: Option<Underlay>,
    introduction: &mut Introduction,
    events: &mpsc::Sender<PeerEvent>,
) -> Result<(), String> {
    let message = match serde_json::from_str(line) {
        Ok(message) => message,
        // A later version may say more.
        Err(error) => {
            log::debug!("control lane: a line was ignored: {}", chain(&error));
            return Ok(());
        }
    };
    let known = introduction.done;
    introduction.check(&message, terms.role)?;
    let event = match message {
        Message::Hello { lane, .. } if !known => {
            PeerEvent::Up { lane: terms.agreed(lane).zip(underlay) }
        }
        Message::Heartbeat | Message::Hello { .. } => return Ok(()),
        message => PeerEvent::Message(message),
    };
    events.send(event).await.map_err(|_| "ending".into())
}

impl ControlTerms {
    /// The lane of which both ends have spoken: the primary's.
    fn agreed(&self, theirs: Option<TunnelOffer>) -> Option<TunnelOffer> {
        let (ours, theirs) = (self.offer?, theirs?);
        Some(if self.role == Role::Primary { ours } else { theirs })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// A lane to a secondary that listens, and who has connected to it.
    async fn connected() -> (ControlLane, UnixStream, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control");
        let endpoint = format!("unix:{},server", path.display()).parse().expect("an endpoint");
        let port = Port::open(endpoint).await.expect("it listens");
        let traffic = Traffic { sent: Arc::default(), received: Arc::default() };
        let mut peer = ControlLane::spawn(port, Role::Primary, TIMEOUT, traffic, None);
        let mut stream = UnixStream::connect(&path).await.expect("it listens");
        let line = hello(VERSION, "secondary").line() + "\n";
        stream.write_all(line.as_bytes()).await.expect("it reads");
        assert_eq!(peer.next_event().await, Some(PeerEvent::Up { lane: None }));
        (peer, stream, dir)
    }

    /// Until the lane takes no more, because whoever has connected does not read.
    async fn fill(peer: &ControlLane) {
        let long = Message::Offsets { text: "x".repeat(LINE_MAX / 2) };
        while peer.send(long.clone()) {
            tokio::task::yield_now().await;
        }
    }

    async fn ended(mut stream: UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        let read = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut all)).await;
        read.expect("it ends").expect("a socket");
        all
    }

    #[tokio::test]
    async fn a_count_that_finds_no_room_ends_the_conversation() {
        let (mut peer, stream, dir) = connected().await;
        fill(&peer).await;
        assert!(!peer.send(Message::LaneCount { slot: 1, sent: 2 }));
        ended(stream).await;
        assert_eq!(peer.next_event().await, Some(PeerEvent::Down { was_silent: false }));
        // That was for this conversation, and not for the next.
        let mut next = UnixStream::connect(dir.path().join("control")).await.expect("it listens");
        let line = hello(VERSION, "secondary").line() + "\n";
        next.write_all(line.as_bytes()).await.expect("it reads");
        assert_eq!(peer.next_event().await, Some(PeerEvent::Up { lane: None }));
        assert!(peer.send(Message::LaneCount { slot: 1, sent: 2 }));
        let mut said = String::new();
        while !said.contains("lane-count") {
            let mut octets = [0; 1000];
            let len = tokio::time::timeout(TIMEOUT, next.read(&mut octets)).await;
            let len = len.expect("in time").expect("a socket");
            assert_ne!(len, 0, "the conversation ended: {said}");
            said.push_str(&String::from_utf8_lossy(&octets[..len]));
        }
    }

    /// An owner that answers a peer of which it has not heard yet that it is gone answers nobody: the
    /// next one must not take that for its own.
    #[tokio::test]
    async fn a_word_for_the_last_peer_is_not_for_the_next() {
        let (mut peer, stream, dir) = connected().await;
        drop(stream);
        let next = UnixStream::connect(dir.path().join("control")).await.expect("it listens");
        let mut lines = Framed::new(next, codec());
        // It is being talked to; the owner has not looked yet.
        let first = lines.next().await.expect("a line").expect("a socket");
        assert!(first.contains("hello"), "{first}");
        lines.send(hello(VERSION, "secondary").line()).await.expect("it reads");
        let deadline = Instant::now() + TIMEOUT;
        while peer.events.len() < 2 {
            assert!(Instant::now() < deadline, "no Down and Up");
            tokio::task::yield_now().await;
        }
        peer.send(Message::Lane { open: true, epoch: 1 });
        peer.send_all(vec![Message::Offsets { text: "1".into() }]);
        assert_eq!(peer.next_event().await, Some(PeerEvent::Down { was_silent: false }));
        peer.send(Message::Lane { open: true, epoch: 2 });
        assert_eq!(peer.next_event().await, Some(PeerEvent::Up { lane: None }));
        peer.send_all(vec![Message::Offsets { text: "3".into() }]);
        assert!(peer.send(Message::Lane { open: true, epoch: 3 }));
        let mut said = Vec::new();
        while said.len() < 2 {
            let line = tokio::time::timeout(TIMEOUT, lines.next()).await.expect("in time");
            let line = line.expect("a line").expect("a socket");
            said.extend((line.contains("lane\"") || line.contains("offsets")).then_some(line));
        }
        assert!(said.iter().all(|line| line.contains('3')), "{said:?}");
    }

    /// Whoever writes many short lines, of whatever, must not keep the thread from others.
    #[tokio::test]
    async fn a_flood_of_lines_lets_others_have_their_turn() {
        const LINES: usize = 40_000;
        let (mut peer, mut stream, _dir) = connected().await;
        let lines = "1\n".repeat(LINES) + &Message::CheckpointWanted.line() + "\n";
        // All of it is there before the lane's task looks.
        let written = stream.write_all(lines.as_bytes()).now_or_never();
        written.expect("room for it").expect("a socket");
        let (mut turns, deadline) = (0, Instant::now() + TIMEOUT);
        while peer.events.is_empty() {
            assert!(Instant::now() < deadline, "the last line does not come");
            tokio::task::yield_now().await;
            turns += 1;
        }
        let wanted = PeerEvent::Message(Message::CheckpointWanted);
        assert_eq!(peer.next_event().await, Some(wanted));
        assert!(turns >= LINES / 256, "{turns} turns");
    }

    /// The twin: what is no lane's is told again, or is not needed.
    #[tokio::test]
    async fn another_message_that_finds_no_room_does_not() {
        let (mut peer, mut stream, _dir) = connected().await;
        fill(&peer).await;
        assert!(!peer.send(Message::TookOver));
        let mut octets = vec![0; LINE_MAX];
        let mut more = true;
        while more {
            let read = stream.read(&mut octets);
            more = match tokio::time::timeout(HEARTBEAT / 2, read).await {
                Ok(len) => len.expect("a socket") > 0,
                Err(_) => break,
            };
        }
        assert!(more, "the conversation ended");
        assert!(peer.events.try_recv().is_err(), "it goes on");
    }

    fn hello(version: u32, role: &str) -> Message {
        Message::Hello { version, role: role.into(), lane: None }
    }

    #[test]
    fn only_the_other_half_that_says_so_first_is_heard() {
        let mut introduction = Introduction::default();
        let epoch = Message::Epoch { session: 1, epoch: 1 };
        assert!(introduction.check(&epoch, Role::Secondary).is_err(), "before hello");
        assert!(introduction.check(&hello(VERSION, "secondary"), Role::Secondary).is_err());
        assert!(introduction.check(&hello(VERSION + 1, "primary"), Role::Secondary).is_err());
        assert!(introduction.check(&hello(VERSION, "primary"), Role::Secondary).is_ok());
        assert!(introduction.check(&epoch, Role::Secondary).is_ok());
    }
}
