//! Messages of the control lane, as a primary receives and sends them.

use std::time::{Duration, Instant};

use colo_proxy_engine::pair::message::ControlMessage;
use colo_proxy_engine::pair::primary::PeerLane;
use colo_proxy_engine::pair::service_message::ServiceMessage;
use colo_proxy_engine::pair::service_record::Server;

use super::{Inputs, PrimaryTask};
use crate::error_chain::chain;
use crate::instance::offsets;
use crate::kernel_lane::{KernelLane, LaneChange, LaneGuest};
use crate::lane::control::{ControlLane, PeerEvent};

/// How long the end waits for the secondary to confirm that protection is over.
const DISCLAIM_MAX: Duration = Duration::from_millis(500);

impl PrimaryTask {
    pub(super) async fn on_control_event(&mut self, event: PeerEvent, inputs: &mut Inputs) {
        let is_up = matches!(event, PeerEvent::Up { .. });
        self.on_lane_peer(&event, inputs).await;
        self.on_peer(event, &inputs.lane);
        if is_up && self.half.has_pair() {
            self.tell_offsets(inputs.control.as_ref());
        }
    }

    /// Messages about the kernel lane.
    async fn on_lane_peer(&mut self, event: &PeerEvent, inputs: &mut Inputs) {
        let guest = LaneGuest { mtu: inputs.tap.link().map(|link| link.mtu), is_stopped: false };
        let change = inputs.lane.on_peer(event, guest, &mut self.kernel.datapath).await;
        if change.is_cut_off && !matches!(event, PeerEvent::Message(_)) {
            self.half.on_lane_gone();
            self.queue(change.reply);
            return;
        }
        self.on_lane_change(change);
    }

    pub(super) fn on_lane_change(&mut self, change: LaneChange) {
        self.half.on_lane_loss(Instant::now(), change.lost, change.is_cut_off);
        self.queue(change.reply);
    }

    fn queue(&mut self, message: Option<ControlMessage>) {
        if let Some(message) = message {
            self.half.queue_message(message);
        }
    }

    fn on_peer(&mut self, event: PeerEvent, lane: &KernelLane) {
        match event {
            PeerEvent::Up { .. } => {
                self.half.on_conversation_begins(Instant::now(), &mut self.kernel);
            }
            PeerEvent::Down { .. } => self.on_lane(PeerLane::Control, false),
            PeerEvent::Message(message) => match self.stats.peer.take(message) {
                // Messages of the kernel lane were handled above.
                None | Some(ControlMessage::Lane { .. } | ControlMessage::LaneCount { .. }) => {}
                Some(ControlMessage::EpochDone { epoch, sent, lane_epoch }) => {
                    if let Some(lane_epoch) = lane_epoch {
                        let stale = lane.begin_epoch(lane_epoch, &mut self.kernel.datapath);
                        self.half.dropped_stale(stale);
                    }
                    self.half.on_epoch_done(Instant::now(), epoch, sent);
                }
                Some(ControlMessage::LaneLoss { frames }) => {
                    self.half.on_lane_loss(Instant::now(), frames, false);
                }
                Some(ControlMessage::CheckpointWanted) => {
                    self.half.on_checkpoint_wanted(Instant::now());
                }
                Some(other) => match ServiceMessage::of(&other) {
                    Some(message) => {
                        let now = Instant::now();
                        self.half.on_service_message(now, message, &mut self.kernel);
                    }
                    None => log::debug!(
                        "control lane: ignored a message that is not for a primary: {other:?}"
                    ),
                },
            },
        }
    }

    /// A new secondary is about to become a copy of this guest, which may be the survivor of an
    /// earlier pair: then it needs the translation of the connections that were open there.
    pub(super) fn tell_offsets(&self, control: Option<&ControlLane>) {
        let name = &self.claim.name;
        match (offsets::messages(name, &self.kernel.datapath), control) {
            (Ok(messages), _) if messages.is_empty() => {}
            (Ok(messages), Some(control)) => control.send_all(messages),
            (Ok(_), None) => log::warn!(
                "{name}: connections of an earlier pair are translated here, and there is no control \
                 lane to tell the secondary. Copy them with `colo-proxy offsets`, or they break in a \
                 failover"
            ),
            (Err(error), _) => log::error!(
                "{name}: the secondary is not told which connections of an earlier pair are translated: \
                 {}. They would break in a failover",
                chain(&error)
            ),
        }
    }
}

/// Which guest serves after a primary has said that it goes on alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DisclaimEnd {
    /// This one: the secondary has confirmed that it takes over no more.
    Confirmed,
    /// This one, and perhaps the secondary's as well: it has not answered.
    Unconfirmed,
    /// The secondary's, which has taken over meanwhile.
    TakenOver,
}

/// The guest is about to go on alone. Before that, the secondary has to know that it must not take over.
/// One that connects again meanwhile has forgotten it. `number` is that of the last notice, and
/// `generation` that of this host's record.
pub(super) async fn disclaim(
    peer: &mut ControlLane,
    (mut number, generation): (u32, u64),
) -> DisclaimEnd {
    let mut tell = |peer: &ControlLane| {
        number = number.wrapping_add(1);
        peer.send(ControlMessage::Protection { protected: false, number, generation })
            .then_some(number)
    };
    let mut told = tell(peer);
    if told.is_none() {
        return DisclaimEnd::Unconfirmed;
    }
    let known = async {
        while let Some(event) = peer.next_event().await {
            match event {
                PeerEvent::Message(ControlMessage::ProtectionKnown { number })
                    if told == Some(number) =>
                {
                    return DisclaimEnd::Confirmed;
                }
                PeerEvent::Message(ControlMessage::Standing {
                    server: Some(Server::ThisHost),
                    generation: theirs,
                }) if theirs >= generation => return DisclaimEnd::TakenOver,
                PeerEvent::Up { .. } => told = tell(peer),
                PeerEvent::Down { .. } | PeerEvent::Message(_) => {}
            }
        }
        DisclaimEnd::Unconfirmed
    };
    tokio::time::timeout(DISCLAIM_MAX, known).await.unwrap_or(DisclaimEnd::Unconfirmed)
}

#[cfg(test)]
mod tests;
