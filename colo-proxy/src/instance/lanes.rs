//! The two directions of a lane: frames that come from the peer, and frames that go to it.
//!
//! Each is a task of its own that connects, again and again, and is never in anybody's way: what
//! goes out waits in a bounded queue, and a peer that does not read for its timeout is
//! disconnected, so that it cannot stop the guest. One that reads too slowly is disconnected where
//! the owner asks for that ([`OutgoingRequest::Break`]).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::readable::{Drained, Readable};
use crate::config::PeerLimits;
use crate::datapath::capture::{CaptureBackend, CaptureStats};
use crate::digest::Digester;
use crate::endpoint::{Port, Stream};
use crate::error_chain::chain;
use crate::frame::Frame;
use crate::lane::{BadRecords, Carried, LaneError, Outbox, RecordReader, Records};

/// Frames taken from a source in one go.
pub(crate) const BATCH: usize = 64;
/// Batches that may wait between a lane and its reader; TCP holds the peer back beyond that.
const WAITING_BATCHES: usize = 8;

/// What a lane has carried and lost. Counted by its task, read by `status`.
#[derive(Debug, Default)]
pub(crate) struct LaneStats {
    pub(crate) connected: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) queued_bytes: AtomicU64,
    /// Frames that found no peer.
    pub(crate) dropped_no_peer: AtomicU64,
    /// Octets that a connection took with it.
    pub(crate) lost_bytes: AtomicU64,
    /// Connections closed because the peer did not read.
    pub(crate) stalls: AtomicU64,
    /// Connections closed because the owner said that frames had found no room.
    pub(crate) overflows: AtomicU64,
    empty: AtomicU64,
    runt: AtomicU64,
    vnet_hdr_len: AtomicU64,
    oversized: AtomicU64,
    cut: AtomicU64,
    garbled: AtomicU64,
    /// Of a lane to the peer: what its source has read and lost.
    capture: Mutex<CaptureStats>,
}

/// [`LaneStats`] at one moment.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LaneStatus {
    pub endpoint: String,
    pub connected: bool,
    pub connections: u64,
    pub frames: u64,
    pub bytes: u64,
    pub queued_bytes: u64,
    pub dropped_no_peer: u64,
    pub lost_bytes: u64,
    pub stalls: u64,
    pub bad_records: BadRecords,
    pub capture: CaptureStats,
}

impl LaneStats {
    pub(crate) fn status(&self, endpoint: &str) -> LaneStatus {
        LaneStatus {
            endpoint: endpoint.into(),
            connected: self.connected.load(Relaxed) != 0,
            connections: self.connections.load(Relaxed),
            frames: self.frames.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            queued_bytes: self.queued_bytes.load(Relaxed),
            dropped_no_peer: self.dropped_no_peer.load(Relaxed),
            lost_bytes: self.lost_bytes.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
            capture: *self.capture.lock().unwrap_or_else(PoisonError::into_inner),
            bad_records: BadRecords {
                empty: self.empty.load(Relaxed),
                runt: self.runt.load(Relaxed),
                vnet_hdr_len: self.vnet_hdr_len.load(Relaxed),
                oversized: self.oversized.load(Relaxed),
                cut: self.cut.load(Relaxed),
                garbled: self.garbled.load(Relaxed),
            },
        }
    }

    fn set_bad(&self, bad: BadRecords) {
        self.empty.store(bad.empty, Relaxed);
        self.runt.store(bad.runt, Relaxed);
        self.vnet_hdr_len.store(bad.vnet_hdr_len, Relaxed);
        self.oversized.store(bad.oversized, Relaxed);
        self.cut.store(bad.cut, Relaxed);
        self.garbled.store(bad.garbled, Relaxed);
    }

    fn set_connected(&self, connected: bool) {
        self.connected.store(u64::from(connected), Relaxed);
        self.connections.fetch_add(u64::from(connected), Relaxed);
    }
}

/// What a lane tells its owner, in the order in which it happened.
#[derive(Debug)]
pub(crate) enum LaneEvent<T = Frame> {
    Up,
    Frames(Vec<T>),
    Down,
}

/// Starts the task that reads from the peer.
pub(crate) fn spawn_incoming<R: Records>(
    port: Port,
    vnet_hdr: bool,
    stats: Arc<LaneStats>,
) -> mpsc::Receiver<LaneEvent<R::Item>> {
    let (events, receiver) = mpsc::channel(WAITING_BATCHES);
    let reader = R::reader(vnet_hdr);
    let incoming = Incoming { records: R::default(), reader, stats, events };
    tokio::spawn(incoming.run(port));
    receiver
}

struct Incoming<R: Records> {
    records: R,
    reader: RecordReader,
    stats: Arc<LaneStats>,
    events: mpsc::Sender<LaneEvent<R::Item>>,
}

impl<R: Records> Incoming<R> {
    async fn run(mut self, mut port: Port) {
        loop {
            let stream = tokio::select! {
                stream = port.next() => stream,
                () = self.events.closed() => return,
            };
            self.stats.set_connected(true);
            let ended = self.serve(stream).await;
            self.stats.set_bad(self.reader.bad);
            self.stats.set_connected(false);
            self.reader.reset();
            self.records.reset();
            match ended {
                Some(error) => log::warn!("{}: {}", port.endpoint(), chain(&error)),
                None => return,
            }
            if self.events.send(LaneEvent::Down).await.is_err() {
                return;
            }
        }
    }

    /// Returns why the connection ended, or `None` when the owner is gone.
    async fn serve(&mut self, mut stream: Stream) -> Option<LaneError> {
        self.events.send(LaneEvent::Up).await.ok()?;
        loop {
            tokio::select! {
                filled = self.reader.fill(&mut stream) => if let Err(error) = filled { return Some(error) },
                () = self.events.closed() => return None,
            }
            loop {
                let mut batch = Vec::new();
                let refused = self.take_batch(&mut batch).err();
                let full = batch.len() == BATCH;
                let frames = batch.iter().filter(|item| item.is_frame()).count();
                self.stats.frames.fetch_add(frames as u64, Relaxed);
                let bytes = batch.iter().map(|item| item.wire_len() as u64).sum();
                self.stats.bytes.fetch_add(bytes, Relaxed);
                self.stats.set_bad(self.reader.bad);
                if !batch.is_empty() {
                    self.events.send(LaneEvent::Frames(batch)).await.ok()?;
                }
                if let Some(error) = refused {
                    return Some(error);
                }
                if !full {
                    break;
                }
            }
        }
    }

    fn take_batch(&mut self, into: &mut Vec<R::Item>) -> Result<(), LaneError> {
        while into.len() < BATCH {
            match self.records.next(&mut self.reader)? {
                Some(item) => into.push(item),
                None => break,
            }
        }
        Ok(())
    }
}

/// What a lane to the peer is made of.
pub(crate) struct Outgoing {
    pub(crate) port: Port,
    pub(crate) source: Box<dyn CaptureBackend>,
    pub(crate) vnet_hdr: bool,
    pub(crate) limits: PeerLimits,
    pub(crate) stats: Arc<LaneStats>,
    /// Sees every frame that goes into the lane.
    pub(crate) observe: Box<dyn FnMut(&Frame) + Send>,
    /// Sends digests in the place of frames.
    pub(crate) digester: Option<Digester>,
}

/// What the owner may ask of a lane to the peer.
pub(crate) enum OutgoingRequest {
    /// Take everything from the source that is there now, then say how many frames have gone into
    /// the current connection.
    Mark(oneshot::Sender<u64>),
    /// Close the connection for good, and give back what was captured and not read yet, where it
    /// can still be sent as the guest's.
    Finish(oneshot::Sender<Vec<Frame>>),
    /// Read from here instead.
    Source(Box<dyn CaptureBackend>),
    /// Take everything from the source that is there now, and say when the peer has been sent it.
    /// No answer comes where the connection is lost first.
    Flush(oneshot::Sender<()>),
    /// Frames of the source found no room in its queue: close this connection, the n-th of the
    /// lane, because its peer will never get them. Nothing is done where that one has ended.
    Break { connection: u64 },
    /// The peer wants these frames of the current connection whole: it has their digests.
    Answer(Vec<u32>),
}

impl std::fmt::Debug for OutgoingRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mark(_) => "Mark",
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
    let (events, receiver) = mpsc::channel(WAITING_BATCHES);
    let (requests, from_owner) = mpsc::channel(1);
    let outbox = Outbox::new(lane.vnet_hdr, lane.limits.queue_bytes);
    let sent = 0;
    tokio::spawn(Sender { lane, ready, outbox, sent, requests: from_owner, events }.run());
    Ok((requests, receiver))
}

struct Sender {
    lane: Outgoing,
    ready: Readable,
    outbox: Outbox,
    /// Frames queued for the current connection since it was made.
    sent: u64,
    requests: mpsc::Receiver<OutgoingRequest>,
    events: mpsc::Sender<LaneEvent>,
}

/// Why a connection, or the task, ended.
enum Ended {
    Connection(String),
    Owner,
}

impl Sender {
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
                Ended::Owner => return,
                Ended::Connection(why) => log::warn!("{}: {why}", self.lane.port.endpoint()),
            }
            if self.events.send(LaneEvent::Down).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a peer; what the guest sends meanwhile has nowhere to go.
    async fn without_peer(&mut self) -> Option<Stream> {
        let mut frames = Vec::with_capacity(BATCH);
        loop {
            let Self { lane, ready, requests, events, .. } = self;
            tokio::select! {
                stream = lane.port.next() => return Some(stream),
                read = ready.read(|| read_batch(&mut *lane.source, &mut frames)) => {
                    gone_on_error(read).await;
                    lane.stats.dropped_no_peer.fetch_add(frames.len() as u64, Relaxed);
                    frames.clear();
                }
                request = requests.recv() => match request {
                    Some(OutgoingRequest::Mark(reply)) => {
                        // What was captured so far is of before the mark, and has nowhere to go.
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

    async fn with_peer(&mut self, stream: Stream) -> Ended {
        let mut flush = None;
        let (mut from_peer, mut to_peer) = tokio::io::split(stream);
        if let Err(error) = self.begin_digests() {
            return Ended::Connection(format!("no key for digests: {error}"));
        }
        let mut frames = Vec::with_capacity(BATCH);
        let mut progress = Instant::now();
        loop {
            let Self { lane, ready, outbox, requests, .. } = &mut *self;
            let stalled = progress + lane.limits.timeout;
            tokio::select! {
                written = outbox.write(&mut to_peer), if !outbox.is_empty() => {
                    if let Err(error) = written {
                        return Ended::Connection(format!("writing failed: {error}"));
                    }
                    progress = Instant::now();
                }
                read = ready.read(|| read_batch(&mut *lane.source, &mut frames)), if outbox.has_room() => {
                    gone_on_error(read).await;
                    if outbox.is_empty() {
                        progress = Instant::now();
                    }
                    self.queue(&mut frames);
                }
                () = closed(&mut from_peer) => {
                    return Ended::Connection("the peer closed the connection".into());
                }
                () = tokio::time::sleep_until(stalled), if !outbox.is_empty() => {
                    lane.stats.stalls.fetch_add(1, Relaxed);
                    return Ended::Connection("the peer does not read; closing the connection".into());
                }
                request = requests.recv() => match request {
                    Some(OutgoingRequest::Mark(reply)) => self.mark(reply),
                    Some(OutgoingRequest::Flush(reply)) => {
                        let mut frames = self.drain();
                        self.queue(&mut frames);
                        flush = Some(reply);
                    }
                    Some(OutgoingRequest::Finish(reply)) => { self.finish(reply); return Ended::Owner }
                    Some(OutgoingRequest::Source(source)) => self.read_from(source),
                    Some(OutgoingRequest::Break { connection }) => {
                        if lane.stats.connections.load(Relaxed) == connection {
                            return self.overflowed();
                        }
                    }
                    Some(OutgoingRequest::Answer(wanted)) => {
                        if lane.digester.as_mut().is_some_and(|digester| !digester.want(&wanted)) {
                            return Ended::Connection("the peer asks for too many frames".into());
                        }
                    }
                    None => return Ended::Owner,
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

    /// What the source still has lies around the gap: the next peer must not take it for a whole.
    fn overflowed(&mut self) -> Ended {
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
        Ended::Connection("the peer reads too slowly; closing the connection".into())
    }

    fn queue(&mut self, frames: &mut Vec<Frame>) {
        let Outgoing { stats, observe, source, digester, .. } = &mut self.lane;
        let capture = source.stats();
        *stats.capture.lock().unwrap_or_else(PoisonError::into_inner) = capture;
        for frame in frames.drain(..) {
            observe(&frame);
            let digest = digester.as_mut().and_then(|all| all.digest(self.sent, &frame));
            let bytes = if let Some((mark, record)) = digest {
                self.outbox.push_marked(mark, &record);
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
            let (mark, record) = digester.begin(super::random_octets()?);
            self.outbox.push_marked(mark, &record);
        }
        Ok(())
    }

    /// Sends frames that the peer has asked for, as far as there is room.
    fn answer(&mut self) {
        let Some(digester) = &mut self.lane.digester else { return };
        while self.outbox.has_room()
            && let Some((mark, record)) = digester.next_answer()
        {
            self.outbox.push_marked(mark, &record);
            self.lane.stats.bytes.fetch_add(record.len() as u64, Relaxed);
        }
    }

    fn mark(&mut self, reply: oneshot::Sender<u64>) {
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
            Err(error) => log::error!("watching the guest's output failed: {error}"),
        }
    }

    /// Everything captured that is there now; a guest that goes on sending must not keep us here.
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

/// A gate only fails when its interface was deleted under us; the owner sees that by itself.
async fn gone_on_error(read: std::io::Result<()>) {
    if let Err(error) = read {
        log::error!("reading captured frames failed: {error}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Ends when the peer closes; it has nothing to say on this lane.
async fn closed(from: &mut ReadHalf<Stream>) {
    let mut ignored = [0; 256];
    while matches!(from.read(&mut ignored).await, Ok(1..)) {}
}

#[cfg(test)]
mod tests;
