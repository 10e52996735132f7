//! Frames to the peer.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use colo_proxy_engine::digest::Digester;
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::BATCH;
use colo_proxy_engine::record::Outbox;
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::io::write;
use super::limits::PeerLimits;
use super::stats::LaneStats;
use super::{LaneEvent, QUEUED_BATCHES_MAX};
use crate::datapath::capture::CaptureBackend;
use crate::endpoint::{Endpoint, Port, Stream};
use crate::error_chain::chain;
use crate::gate::readable::{Drained, Readable};
use crate::random::random_bytes;

/// Pause after a read that failed. The next one will probably fail too.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// The parts of a lane to the peer.
pub(crate) struct Outgoing {
    pub(crate) port: Port,
    pub(crate) source: Box<dyn CaptureBackend>,
    pub(crate) vnet_hdr: bool,
    pub(crate) limits: PeerLimits,
    pub(crate) stats: Arc<LaneStats>,
    /// Called with every frame that goes into the lane.
    pub(crate) observe: Box<dyn FnMut(&Frame) + Send>,
    /// If present, digests go in the place of frames.
    pub(crate) digester: Option<Digester>,
}

/// A request of the owner to a lane to the peer.
pub(crate) enum OutgoingRequest {
    /// Makes a cut: takes all frames that are in the source now, and answers how many frames have
    /// gone into the current connection.
    Cut(oneshot::Sender<u64>),
    /// Closes the connection for good, and answers with the captured frames that nobody has read yet.
    /// It answers with none if they are not the guest's own frames any more.
    Finish(oneshot::Sender<Vec<Frame>>),
    /// Reads from this source from now on.
    Source(Box<dyn CaptureBackend>),
    /// Takes all frames that are in the source now, and answers when they are sent to the peer. No
    /// answer comes if the connection is lost first.
    Flush(oneshot::Sender<()>),
    /// Closes the n-th connection of the lane, because the queue of the source has lost frames that
    /// its peer will never get. Nothing happens if that connection has ended already.
    Break { connection: u64 },
    /// Sends these frames of the current connection whole. The peer has only their digests, and wants
    /// the frames.
    Answer(Vec<u32>),
}

impl std::fmt::Debug for OutgoingRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cut(_) => "Cut",
            Self::Finish(_) => "Finish",
            Self::Source(_) => "Source",
            Self::Flush(_) => "Flush",
            Self::Break { .. } => "Break",
            Self::Answer(_) => "Answer",
        })
    }
}

/// Starts the task that sends the frames of a source to the peer.
pub(crate) fn spawn_outgoing(
    lane: Outgoing,
) -> std::io::Result<(mpsc::Sender<OutgoingRequest>, mpsc::Receiver<LaneEvent>)> {
    let ready = Readable::new(lane.source.poll_fd())?;
    let (events, receiver) = mpsc::channel(QUEUED_BATCHES_MAX);
    let (requests, from_owner) = mpsc::channel(1);
    let outbox = Outbox::new(lane.vnet_hdr, lane.limits.queue_bytes);
    let sent = 0;
    let task = OutgoingTask { lane, ready, outbox, sent, requests: from_owner, events };
    tokio::spawn(task.run());
    Ok((requests, receiver))
}

struct OutgoingTask {
    lane: Outgoing,
    ready: Readable,
    outbox: Outbox,
    /// Frames that were queued for the current connection so far.
    sent: u64,
    requests: mpsc::Receiver<OutgoingRequest>,
    events: mpsc::Sender<LaneEvent>,
}

/// Why a connection ended.
enum SendingEnd {
    /// Another connection follows.
    ConnectionEnded(String),
    /// The owner has finished or is gone, so the task ends too.
    OwnerDone,
}

impl OutgoingTask {
    async fn run(mut self) {
        loop {
            let Some(stream) = self.without_peer().await else { return };
            self.lane.stats.set_connected(true);
            if self.events.send(LaneEvent::Up).await.is_err() {
                return;
            }
            let ended = self.with_peer(stream).await;
            self.lane.stats.set_connected(false);
            self.lane.stats.lost_bytes.fetch_add(self.outbox.clear() as u64, Relaxed);
            self.sent = 0;
            match ended {
                SendingEnd::OwnerDone => return,
                SendingEnd::ConnectionEnded(why) => {
                    let endpoint = self.lane.port.endpoint();
                    log::warn!("{endpoint}: the connection ended: {why}. It has to be made again");
                }
            }
            if self.events.send(LaneEvent::Down).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a peer. Drops the frames that the guest sends meanwhile: they have nowhere to go.
    async fn without_peer(&mut self) -> Option<Stream> {
        let mut frames = Vec::with_capacity(BATCH);
        loop {
            let Self { lane, ready, requests, events, .. } = self;
            tokio::select! {
                stream = lane.port.next() => return Some(stream),
                read = ready.read(|| read_batch(&mut *lane.source, &mut frames)) => {
                    log_failure(lane.port.endpoint(), read).await;
                    lane.stats.dropped_no_peer.fetch_add(frames.len() as u64, Relaxed);
                    frames.clear();
                }
                request = requests.recv() => match request {
                    Some(OutgoingRequest::Cut(reply)) => {
                        // The captured frames belong before the cut, and have nowhere to go.
                        self.drop_waiting();
                        let _ = reply.send(0);
                    }
                    Some(OutgoingRequest::Flush(reply)) => {
                        self.drop_waiting();
                        let _ = reply.send(());
                    }
                    Some(OutgoingRequest::Finish(reply)) => { self.finish(reply); return None }
                    Some(OutgoingRequest::Source(source)) => self.read_from(source),
                    Some(OutgoingRequest::Break { .. } | OutgoingRequest::Answer(_)) => {}
                    None => return None,
                },
                () = events.closed() => return None,
            }
        }
    }

    fn drop_waiting(&mut self) {
        let dropped = self.drain().len() as u64;
        self.lane.stats.dropped_no_peer.fetch_add(dropped, Relaxed);
    }

    async fn with_peer(&mut self, stream: Stream) -> SendingEnd {
        let mut flush = None;
        let (mut from_peer, mut to_peer) = tokio::io::split(stream);
        if let Err(error) = self.begin_digests() {
            let why = format!("cannot make a key for digests: {}", chain(&error));
            return SendingEnd::ConnectionEnded(why);
        }
        let mut frames = Vec::with_capacity(BATCH);
        let mut progress = Instant::now();
        loop {
            let Self { lane, ready, outbox, requests, .. } = &mut *self;
            let stalled = progress + lane.limits.timeout;
            tokio::select! {
                written = write(outbox, &mut to_peer), if !outbox.is_empty() => {
                    if let Err(error) = written {
                        let why = format!("writing failed: {}", chain(&error));
                        return SendingEnd::ConnectionEnded(why);
                    }
                    progress = Instant::now();
                }
                read = ready.read(|| read_batch(&mut *lane.source, &mut frames)), if outbox.has_room() => {
                    log_failure(lane.port.endpoint(), read).await;
                    if outbox.is_empty() {
                        progress = Instant::now();
                    }
                    self.queue(&mut frames);
                }
                () = closed(&mut from_peer) => {
                    return SendingEnd::ConnectionEnded("the peer closed it".into());
                }
                () = tokio::time::sleep_until(stalled), if !outbox.is_empty() => {
                    lane.stats.stalls.fetch_add(1, Relaxed);
                    let silent_ms = lane.limits.timeout.as_millis();
                    let why = format!("the peer has read nothing for {silent_ms} ms");
                    return SendingEnd::ConnectionEnded(why);
                }
                request = requests.recv() => match request {
                    Some(OutgoingRequest::Cut(reply)) => self.cut(reply),
                    Some(OutgoingRequest::Flush(reply)) => {
                        let mut frames = self.drain();
                        self.queue(&mut frames);
                        flush = Some(reply);
                    }
                    Some(OutgoingRequest::Finish(reply)) => { self.finish(reply); return SendingEnd::OwnerDone }
                    Some(OutgoingRequest::Source(source)) => self.read_from(source),
                    Some(OutgoingRequest::Break { connection }) => {
                        if lane.stats.connections.load(Relaxed) == connection {
                            return self.overflowed();
                        }
                    }
                    Some(OutgoingRequest::Answer(wanted)) => {
                        if lane.digester.as_mut().is_some_and(|digester| !digester.want(&wanted)) {
                            let why = "the peer asks for too many frames at once";
                            return SendingEnd::ConnectionEnded(why.into());
                        }
                    }
                    None => return SendingEnd::OwnerDone,
                },
            }
            self.answer();
            self.lane.stats.queued_bytes.store(self.outbox.waiting_bytes() as u64, Relaxed);
            if self.outbox.is_empty()
                && let Some(reply) = flush.take()
            {
                // Nobody waits for the answer any more: then it is not needed.
                let _ = reply.send(());
            }
        }
    }

    /// Drops the frames that the source still has. Some frames between them are lost, and the next peer
    /// must not take the rest for the whole.
    fn overflowed(&mut self) -> SendingEnd {
        let (mut frames, mut lost) = (Vec::with_capacity(BATCH), 0);
        for _ in 0..=self.lane.limits.gate_queue_frames as usize / BATCH {
            let read = read_batch(&mut *self.lane.source, &mut frames);
            lost += frames.drain(..).map(|frame| frame.len() as u64).sum::<u64>();
            if !matches!(read, Ok(((), Drained::No))) {
                break;
            }
        }
        self.lane.stats.lost_bytes.fetch_add(lost, Relaxed);
        self.lane.stats.overflows.fetch_add(1, Relaxed);
        SendingEnd::ConnectionEnded("the peer reads too slowly".into())
    }

    fn queue(&mut self, frames: &mut Vec<Frame>) {
        let Outgoing { stats, observe, source, digester, .. } = &mut self.lane;
        let capture = source.stats();
        *stats.capture.lock().unwrap_or_else(PoisonError::into_inner) = capture;
        for frame in frames.drain(..) {
            observe(&frame);
            let digest = digester.as_mut().and_then(|all| all.digest(self.sent, &frame));
            let bytes = if let Some((kind, record)) = digest {
                self.outbox.push_kind(kind, &record);
                record.len()
            } else {
                self.outbox.push(&frame);
                frame.len()
            };
            self.sent += 1;
            stats.frames.fetch_add(1, Relaxed);
            stats.bytes.fetch_add(bytes as u64, Relaxed);
        }
    }

    fn begin_digests(&mut self) -> std::io::Result<()> {
        if let Some(digester) = &mut self.lane.digester {
            let (kind, record) = digester.begin(random_bytes()?);
            self.outbox.push_kind(kind, &record);
        }
        Ok(())
    }

    /// Sends frames that the peer has asked for, as long as there is room.
    fn answer(&mut self) {
        let Some(digester) = &mut self.lane.digester else { return };
        while self.outbox.has_room()
            && let Some((kind, record)) = digester.next_answer()
        {
            self.outbox.push_kind(kind, &record);
            self.lane.stats.bytes.fetch_add(record.len() as u64, Relaxed);
        }
    }

    fn cut(&mut self, reply: oneshot::Sender<u64>) {
        let mut frames = self.drain();
        self.queue(&mut frames);
        // Nobody waits for the answer any more: then it is not needed.
        let _ = reply.send(self.sent);
    }

    fn finish(&mut self, reply: oneshot::Sender<Vec<Frame>>) {
        let faithful = self.lane.source.is_faithful();
        let mut frames = self.drain();
        if !faithful {
            let lost = frames.drain(..).map(|frame| frame.len() as u64).sum();
            self.lane.stats.lost_bytes.fetch_add(lost, Relaxed);
        }
        let _ = reply.send(frames);
    }

    fn read_from(&mut self, source: Box<dyn CaptureBackend>) {
        match Readable::new(source.poll_fd()) {
            Ok(ready) => (self.ready, self.lane.source) = (ready, source),
            Err(error) => {
                let (endpoint, why) = (self.lane.port.endpoint(), chain(&error));
                log::error!(
                    "{endpoint}: cannot read the guest's output from its new source: {why}. \
                     Restart this daemon"
                );
            }
        }
    }

    /// All frames that are captured by now. The number of batches is limited, because a guest that goes
    /// on sending must not occupy the task for ever.
    fn drain(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        for _ in 0..=self.lane.limits.gate_queue_frames as usize / BATCH {
            if !matches!(read_batch(&mut *self.lane.source, &mut frames), Ok(((), Drained::No))) {
                break;
            }
        }
        frames
    }
}

fn read_batch(
    source: &mut dyn CaptureBackend,
    into: &mut Vec<Frame>,
) -> std::io::Result<((), Drained)> {
    let read = source.read_batch(BATCH, into)?;
    Ok(((), if read < BATCH { Drained::Yes } else { Drained::No }))
}

/// Logs a failed read, and pauses. A gate fails only if somebody has deleted its interface, which the
/// owner notices by itself.
async fn log_failure(endpoint: &Endpoint, read: std::io::Result<()>) {
    if let Err(error) = read {
        log::error!("{endpoint}: cannot read captured frames: {}; trying again", chain(&error));
        tokio::time::sleep(FAILURE_PAUSE).await;
    }
}

/// Ends when the peer closes. The peer sends nothing on this lane.
async fn closed(from: &mut ReadHalf<Stream>) {
    let mut ignored = [0; 256];
    while matches!(from.read(&mut ignored).await, Ok(1..)) {}
}
