//! The way to `outdev`: gate, lane, and whether the peer keeps up.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::open_gate;
use crate::datapath::capture::GateCapture;
use crate::endpoint::{Endpoint, Port};
use crate::filter::outlet::OutdevState;
use crate::filter::{FilterError, FilterOptions, system};
use crate::gate::Gate;
use crate::lane::{self, LaneEvent, LaneStats, Outgoing, OutgoingRequest};
use crate::link::LinkWatch;

/// How often the gate is asked for frames that found no room in it.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// How long the end waits for a peer to take the last frames.
const END_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct OutdevLane {
    /// The filter, for the log.
    id: String,
    pub(super) endpoint: String,
    pub(super) gate: Arc<Gate>,
    pub(super) stats: Arc<LaneStats>,
    pub(super) outlet: OutdevState,
    /// When the peer last failed to keep up.
    pub(super) broken_at: Option<Instant>,
    /// Requests to the lane, which ends when this is dropped.
    requests: mpsc::Sender<OutgoingRequest>,
    timeout: Duration,
    /// Connections that there were, which is the number of the latest.
    connection: u64,
    /// [`Self::breaks`] when it was looked at last.
    breaks_seen: u64,
    /// Frames that the gate had dropped when the peer connected.
    dropped_before: u64,
    /// Frames for this connection that found no room.
    without_room: u64,
}

impl OutdevLane {
    pub(super) async fn open(
        options: &FilterOptions,
        id: &str,
        endpoint: Endpoint,
        taken: &[u32],
    ) -> Result<(Self, mpsc::Receiver<LaneEvent>), FilterError> {
        let text = endpoint.to_string();
        let port = Port::open(endpoint).await?;
        let gate = Arc::new(open_gate("colo-out%d", options, taken)?);
        let stats = Arc::new(LaneStats::default());
        let (requests, events) = lane::spawn_outgoing(Outgoing {
            port,
            source: Box::new(GateCapture::new(Arc::clone(&gate))),
            vnet_hdr: options.vnet_hdr_support,
            limits: options.limits,
            stats: Arc::clone(&stats),
            observe: Box::new(|_| {}),
            digester: None,
        })
        .map_err(system("watch the gate to outdev"))?;
        let out = Self {
            id: id.into(),
            endpoint: text,
            gate,
            stats,
            outlet: OutdevState::default(),
            broken_at: None,
            requests,
            timeout: options.limits.timeout,
            connection: 0,
            breaks_seen: 0,
            dropped_before: 0,
            without_room: 0,
        };
        Ok((out, events))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.outlet == OutdevState::Connected
    }

    /// Connections that were closed because the peer did not keep up.
    pub(super) fn breaks(&self) -> u64 {
        self.stats.stalls.load(Relaxed) + self.stats.overflows.load(Relaxed)
    }

    pub(super) async fn on_up(&mut self, link: &LinkWatch) {
        let (id, endpoint) = (&self.id, &self.endpoint);
        if self.outlet == OutdevState::Broken {
            log::warn!(
                "{id}: outdev {endpoint} is connected again, but has missed frames. Only a checkpoint \
                 protects the guest again"
            );
        } else {
            log::info!("{id}: outdev is connected");
        }
        self.connection += 1;
        self.without_room = 0;
        // Frames that were lost before are not this connection's.
        self.dropped_before = self.dropped(link).await.unwrap_or(self.dropped_before);
        self.outlet.on_up();
    }

    pub(super) fn on_down(&mut self, without_peer: &str) {
        let breaks = self.breaks();
        let broken = breaks > std::mem::replace(&mut self.breaks_seen, breaks);
        self.outlet.on_down(broken);
        let (id, endpoint) = (&self.id, &self.endpoint);
        if !broken {
            return log::warn!("{id}: outdev {endpoint} is down; {without_peer}");
        }
        self.broken_at = Some(Instant::now());
        let why = match self.without_room {
            0 => format!("has read nothing for {} ms", self.timeout.as_millis()),
            frames => format!("reads too slowly, and {frames} frames for it found no room"),
        };
        log::error!(
            "{id}: UNPROTECTED: the peer of outdev {endpoint} {why}. It was disconnected, and the frames \
             that waited for it are lost. Only a checkpoint protects the guest again"
        );
    }

    /// A peer that reads, but too slowly, never stalls. Frames for which the gate has no room are then
    /// missing in the middle of its stream, so it must get no more.
    pub(super) async fn look_for_losses(&mut self, link: &LinkWatch) {
        let Some(dropped) = self.dropped(link).await else { return };
        self.without_room = dropped.saturating_sub(self.dropped_before);
        if self.without_room > 0 {
            // A full channel still has the last request, which is the same. A closed one means that the
            // filter is ending.
            let _ = self.requests.try_send(OutgoingRequest::Break { connection: self.connection });
        }
    }

    /// Frames that the gate had no room for.
    async fn dropped(&self, link: &LinkWatch) -> Option<u64> {
        link.other(self.gate.name()).await.map(|gate| gate.tx_dropped)
    }

    /// Waits until the peer has taken the guest's frames, but not for long.
    pub(super) async fn flush(&self) {
        let (reply, flushed) = oneshot::channel();
        let asked = self.requests.send(OutgoingRequest::Flush(reply)).await;
        let wait = tokio::time::timeout(END_TIMEOUT, flushed);
        if asked.is_ok() && wait.await.is_err() {
            log::warn!(
                "{}: the peer of outdev did not take all waiting frames; they are lost",
                self.id
            );
        }
    }
}
