//! Frames from the peer.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use colo_proxy_engine::pair::BATCH;
use colo_proxy_engine::record::{LaneRecord as _, RecordError, RecordReader, RecordStream};
use tokio::sync::mpsc;

use super::io::fill;
use super::stats::LaneStats;
use super::{LaneEvent, QUEUED_BATCHES_MAX};
use crate::endpoint::{Port, Stream};
use crate::error_chain::chain;

/// Starts the task that reads from the peer.
pub(crate) fn spawn_incoming<R: RecordStream>(
    port: Port,
    vnet_hdr: bool,
    stats: Arc<LaneStats>,
) -> mpsc::Receiver<LaneEvent<R::Item>> {
    let (events, receiver) = mpsc::channel(QUEUED_BATCHES_MAX);
    let reader = R::reader(vnet_hdr);
    let task = IncomingTask { records: R::default(), reader, stats, events };
    tokio::spawn(task.run(port));
    receiver
}

struct IncomingTask<R: RecordStream> {
    records: R,
    reader: RecordReader,
    stats: Arc<LaneStats>,
    events: mpsc::Sender<LaneEvent<R::Item>>,
}

impl<R: RecordStream> IncomingTask<R> {
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
                Some(error) => {
                    let (endpoint, why) = (port.endpoint(), chain(&error));
                    log::warn!("{endpoint}: the connection ended: {why}. It has to be made again");
                }
                None => return,
            }
            if self.events.send(LaneEvent::Down).await.is_err() {
                return;
            }
        }
    }

    /// Returns the error that ended the connection, or `None` if the owner is gone.
    async fn serve(&mut self, mut stream: Stream) -> Option<RecordError> {
        self.events.send(LaneEvent::Up).await.ok()?;
        loop {
            tokio::select! {
                filled = fill(&mut self.reader, &mut stream) => if let Err(error) = filled { return Some(error) },
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

    fn take_batch(&mut self, into: &mut Vec<R::Item>) -> Result<(), RecordError> {
        while into.len() < BATCH {
            match self.records.next(&mut self.reader)? {
                Some(item) => into.push(item),
                None => break,
            }
        }
        Ok(())
    }
}
