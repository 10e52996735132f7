//! The control lane of an instance: a task that connects it and sends its heartbeats.
//!
//! A *conversation* is one connection of the lane, from the moment at which both ends have introduced
//! themselves. Conversations are counted from 1. A message belongs to one of them, and is dropped if
//! that one is over.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, MissedTickBehavior};
use tokio_util::codec::{Framed, LinesCodec};

use colo_proxy_engine::pair::Role;
use colo_proxy_engine::pair::message::{
    COUNTERS, ControlMessage, HEARTBEAT, LINE_MAX, TunnelOffer, VERSION,
};

use super::stats::LaneStats;
use crate::endpoint::{Port, Stream};
use crate::error_chain::chain;
use crate::tunnel::Underlay;

/// Messages that may be queued between the owner and the task, in either direction.
const QUEUED_MESSAGES_MAX: usize = 64;

/// The counters of the lanes that the peer gets.
#[derive(Clone, Debug)]
pub(crate) struct LaneTraffic {
    pub(crate) sent: Arc<LaneStats>,
    pub(crate) received: Arc<LaneStats>,
}

impl LaneTraffic {
    fn message(&self) -> ControlMessage {
        ControlMessage::Counters {
            sent: self.sent.frames.load(Relaxed),
            received: self.received.frames.load(Relaxed),
        }
    }
}

/// The peer's counts of its lanes, as `status` shows them.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
pub struct PeerCounters {
    /// Frames that the other end has put into its lanes.
    pub sent: u64,
    /// Frames that the other end has taken from its lanes.
    pub received: u64,
}

impl PeerCounters {
    /// Takes a message with counters. Gives back any other message.
    pub(crate) fn take(&mut self, message: ControlMessage) -> Option<ControlMessage> {
        let ControlMessage::Counters { sent, received } = message else { return Some(message) };
        *self = Self { sent, received };
        None
    }
}

/// An event of the control lane for its owner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PeerEvent {
    /// A conversation begins: the other half of the pair has introduced itself.
    Up {
        /// The primary's offer and the path between the hosts, if both ends can open the kernel
        /// lane.
        lane: Option<(TunnelOffer, Underlay)>,
    },
    Message(ControlMessage),
    /// The conversation is over.
    Down {
        /// The peer was silent for too long. Otherwise its connection ended.
        was_silent: bool,
    },
}

/// The owner's end of the control lane.
#[derive(Debug)]
pub(crate) struct ControlLane {
    messages: mpsc::Sender<QueuedMessage>,
    /// Messages that may be late. They must not delay the others.
    bulk: mpsc::Sender<QueuedMessage>,
    /// The number of the last conversation that the owner wants to end, or 0.
    break_off: watch::Sender<u64>,
    events: mpsc::Receiver<PeerEvent>,
    /// The conversation that the owner knows. A later one may have begun already, and must not get
    /// messages that were meant for this one.
    conversation: u64,
}

/// A message, and the conversation that it belongs to.
#[derive(Debug)]
struct QueuedMessage {
    message: ControlMessage,
    conversation: u64,
}

impl ControlLane {
    /// Starts the task. It disconnects a peer that sends nothing for `silence_max`.
    /// `offer` is the kernel lane that this end can open.
    pub(crate) fn spawn(
        port: Port,
        role: Role,
        silence_max: Duration,
        traffic: LaneTraffic,
        offer: Option<TunnelOffer>,
    ) -> Self {
        let (messages, from_owner) = mpsc::channel(QUEUED_MESSAGES_MAX);
        let (bulk, bulk_from_owner) = mpsc::channel(1);
        let (break_off, breaks) = watch::channel(0);
        let (events, receiver) = mpsc::channel(QUEUED_MESSAGES_MAX);
        let from_owner = FromOwner { messages: from_owner, bulk: bulk_from_owner, breaks };
        let terms = ControlTerms { role, silence_max, traffic, offer };
        tokio::spawn(run(port, terms, from_owner, events));
        Self { messages, bulk, break_off, events: receiver, conversation: 0 }
    }

    /// The next event of the lane. `None` after its task has ended. Can be cancelled without losing an
    /// event.
    pub(crate) async fn next_event(&mut self) -> Option<PeerEvent> {
        let event = self.events.recv().await?;
        self.conversation += u64::from(matches!(event, PeerEvent::Up { .. }));
        Some(event)
    }

    /// Queues `message` for the conversation that the owner knows. `false` if there is no room, because
    /// the peer takes messages too slowly. A message for a conversation that is over reaches nobody.
    ///
    /// A message about the kernel lane is sent once, and the peer relies on it. Without a count, the
    /// peer finds no loss. Without the news that this end is closed, it sends into the tunnel for ever.
    /// If there is no room for one, the conversation ends, and the kernel lane at both ends with it. A
    /// checkpoint then repairs the loss.
    pub(crate) fn send(&self, message: ControlMessage) -> bool {
        let is_of_lane = message.is_of_lane();
        let conversation = self.conversation;
        let is_sent = self.messages.try_send(QueuedMessage { message, conversation }).is_ok();
        if is_of_lane && !is_sent {
            self.break_off.send_replace(conversation);
        }
        is_sent
    }

    /// Sends `messages` one after the other. Each one lets the messages of [`Self::send`] go first.
    pub(crate) fn send_all(&self, messages: Vec<ControlMessage>) {
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

/// The task's ends of the owner's channels.
struct FromOwner {
    messages: mpsc::Receiver<QueuedMessage>,
    bulk: mpsc::Receiver<QueuedMessage>,
    breaks: watch::Receiver<u64>,
}

/// An order of the owner to the task.
enum OwnerOrder {
    Send(ControlMessage),
    BreakOff,
}

impl FromOwner {
    /// The next order for `conversation`. Drops orders for other ones. `None` if the owner is gone. Can
    /// be cancelled without losing an order.
    async fn next(&mut self, conversation: Option<u64>) -> Option<OwnerOrder> {
        loop {
            let (meant_for, order) = tokio::select! {
                biased;
                Ok(()) = self.breaks.changed() => {
                    (*self.breaks.borrow_and_update(), OwnerOrder::BreakOff)
                }
                message = self.messages.recv() => message.map(OwnerOrder::of)?,
                Some(message) = self.bulk.recv() => OwnerOrder::of(message),
            };
            if Some(meant_for) == conversation {
                return Some(order);
            }
        }
    }
}

impl OwnerOrder {
    fn of(queued: QueuedMessage) -> (u64, Self) {
        (queued.conversation, Self::Send(queued.message))
    }
}

async fn run(
    mut port: Port,
    terms: ControlTerms,
    mut messages: FromOwner,
    events: mpsc::Sender<PeerEvent>,
) {
    let mut conversations = 0;
    loop {
        let stream = tokio::select! {
            stream = port.next() => stream,
            // No conversation matches `None`, so this returns only when the owner is gone.
            _ = messages.next(None) => return,
        };
        let mut introduction = Introduction { done: false, number: conversations + 1 };
        let ConversationEnd { why, was_silent } =
            converse(stream, &terms, &mut introduction, &mut messages, &events).await;
        conversations += u64::from(introduction.done);
        if introduction.done && events.send(PeerEvent::Down { was_silent }).await.is_err() {
            return;
        }
        log::warn!(
            "control lane {}: the connection ended: {why}. It has to be made again",
            port.endpoint()
        );
    }
}

/// The conditions of this end for every conversation.
struct ControlTerms {
    role: Role,
    silence_max: Duration,
    traffic: LaneTraffic,
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

fn silent(why: String) -> ConversationEnd {
    ConversationEnd { why, was_silent: true }
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
    let hello = ControlMessage::Hello { version: VERSION, role: role.to_string(), lane: offer };
    if let Err(error) = lines.send(hello.line()).await {
        return ended(format!("sending failed: {}", chain(&error)));
    }
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counters = tokio::time::interval(COUNTERS);
    counters.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_line_at = Instant::now();
    loop {
        let outgoing = tokio::select! {
            line = lines.next() => {
                let line = match line {
                    Some(Ok(line)) => line,
                    Some(Err(error)) => return ended(format!("reading failed: {}", chain(&error))),
                    None => return ended("the peer closed the connection"),
                };
                last_line_at = Instant::now();
                // Many more lines may have been read already, and other tasks need the thread too.
                tokio::task::consume_budget().await;
                if let Err(why) = pass_on(&line, terms, underlay, introduction, events).await {
                    return ended(why);
                }
                continue;
            }
            order = messages.next(introduction.conversation()) => match order {
                Some(OwnerOrder::Send(message)) => message,
                Some(OwnerOrder::BreakOff) => return ended("the peer takes messages too slowly"),
                None => return ended("the instance is ending"),
            },
            _ = beat.tick() => ControlMessage::Heartbeat,
            _ = counters.tick() => traffic.message(),
            () = tokio::time::sleep_until(last_line_at + silence_max) => {
                let silence_ms = silence_max.as_millis();
                return silent(format!("the peer has sent nothing for {silence_ms} ms"));
            }
            () = events.closed() => return ended("the instance is ending"),
        };
        match tokio::time::timeout(silence_max, lines.send(outgoing.line())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ended(format!("sending failed: {}", chain(&error))),
            Err(_) => {
                let silence_ms = silence_max.as_millis();
                return silent(format!("the peer has read nothing for {silence_ms} ms"));
            }
        }
    }
}

/// Whether the peer on a connection has introduced itself.
#[derive(Debug, Default)]
struct Introduction {
    done: bool,
    /// The number of the conversation that begins with the introduction.
    number: u64,
}

impl Introduction {
    /// The conversation of this connection, once there is one.
    fn conversation(&self) -> Option<u64> {
        self.done.then_some(self.number)
    }

    /// The first message must name the sender, and the sender must be the other half of a pair.
    fn check(&mut self, message: &ControlMessage, role: Role) -> Result<(), String> {
        match message {
            ControlMessage::Hello { version, .. } if *version != VERSION => Err(format!(
                "the peer speaks version {version} of the control lane, and this host version \
                     {VERSION}; install the same colo-proxy on both hosts"
            )),
            ControlMessage::Hello { role: peer, .. } if *peer == role.opposite().to_string() => {
                self.done = true;
                Ok(())
            }
            ControlMessage::Hello { role: peer, .. } => {
                let wanted = role.opposite();
                Err(format!(
                    "the peer says that it is a {peer}, but a {role} needs a {wanted}; check the \
                     roles and the addresses of both hosts"
                ))
            }
            _ if self.done => Ok(()),
            other => Err(format!("the peer began with {other:?} instead of hello")),
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
        // A later version may have more messages.
        Err(error) => {
            log::debug!("control lane: ignored a line of the peer: {}", chain(&error));
            return Ok(());
        }
    };
    let known = introduction.done;
    introduction.check(&message, terms.role)?;
    let event = match message {
        ControlMessage::Hello { lane, .. } if !known => {
            PeerEvent::Up { lane: terms.agreed(lane).zip(underlay) }
        }
        ControlMessage::Heartbeat | ControlMessage::Hello { .. } => return Ok(()),
        message => PeerEvent::Message(message),
    };
    events.send(event).await.map_err(|_| "ending".into())
}

impl ControlTerms {
    /// The kernel lane, if both ends have offered one. The primary's offer counts.
    fn agreed(&self, theirs: Option<TunnelOffer>) -> Option<TunnelOffer> {
        let (ours, theirs) = (self.offer?, theirs?);
        Some(if self.role == Role::Primary { ours } else { theirs })
    }
}

#[cfg(test)]
mod tests;
