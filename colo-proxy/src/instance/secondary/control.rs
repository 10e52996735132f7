//! Messages of the control lane, as a secondary receives and sends them.

use std::time::Instant;

use super::{Inputs, SecondaryTask, take_cut};
use crate::colo_frame::ColoFrameCommand;
use crate::instance::offsets;
use crate::kernel_lane::{LaneChange, LaneGuest, epoch_in_force};
use crate::lane::OutgoingRequest;
use crate::lane::control::{ControlLane, PeerEvent};
use colo_proxy_engine::pair::InputPath as _;
use colo_proxy_engine::pair::message::ControlMessage;
use colo_proxy_engine::pair::secondary::CutAnswer;
use colo_proxy_engine::pair::service_message::ServiceMessage;
use colo_proxy_engine::pair::takeover::Takeover;

impl SecondaryTask {
    pub(super) async fn on_peer(&mut self, event: PeerEvent, inputs: &mut Inputs) {
        self.on_lane_peer(&event, inputs).await;
        match event {
            PeerEvent::Up { .. } => {
                log::info!("{}: the primary is connected", self.claim.name);
                self.half.decide(Instant::now(), Takeover::on_peer_up);
            }
            PeerEvent::Down { was_silent } => {
                log::warn!(
                    "{}: the control lane to the primary is down: {}",
                    self.claim.name,
                    if was_silent { "the primary is silent" } else { "the connection ended" }
                );
                let now = Instant::now();
                self.half.decide(now, |takeover| takeover.on_peer_down(was_silent));
                let instance = self.claim.name.clone();
                inputs.frame.command(&ColoFrameCommand::PeerLost { instance });
            }
            PeerEvent::Message(message) => match self.stats.peer.take(message) {
                // Messages of the kernel lane were handled above.
                None | Some(ControlMessage::Lane { .. } | ControlMessage::LaneCount { .. }) => {}
                Some(ControlMessage::Epoch { session, epoch }) => {
                    self.new_epoch((session, epoch), inputs).await;
                }
                Some(ControlMessage::Offsets { text }) if !self.half.has_taken_over() => {
                    offsets::on_message(&self.claim.name, &mut self.translator.datapath, &text);
                }
                Some(ControlMessage::FramesWanted { frames }) => {
                    // A lane that is ending answers nobody.
                    let _ =
                        inputs.lanes.output_requests.send(OutgoingRequest::Answer(frames)).await;
                }
                Some(other) => match ServiceMessage::of(&other) {
                    Some(message) => self.on_service_message(message),
                    None => log::debug!(
                        "control lane: ignored a message that is not for a secondary: {other:?}"
                    ),
                },
            },
        }
    }

    /// Messages about the kernel lane. A guest that has taken over needs it no more.
    async fn on_lane_peer(&mut self, event: &PeerEvent, inputs: &mut Inputs) {
        if self.half.has_taken_over() {
            return;
        }
        let is_stopped = self.half.is_stopped();
        let guest = LaneGuest { mtu: inputs.tap.link().map(|link| link.mtu), is_stopped };
        if matches!(event, PeerEvent::Up { .. } | PeerEvent::Down { .. }) {
            // The kernel lane ends here, if not before. That costs a checkpoint anyway.
            let _ = self.translator.backlog.take_untold();
        }
        let was_used = self.translator.lane_is_used();
        let change = inputs.lane.on_peer(event, guest, &mut self.translator.datapath).await;
        if !was_used && self.translator.lane_is_used() {
            self.half.on_lane_used();
        }
        self.on_lane_change(change, inputs.control.as_ref());
    }

    pub(super) fn on_lane_change(&self, change: LaneChange, control: Option<&ControlLane>) {
        self.tell(change.reply, control);
        let loss = (change.lost > 0).then_some(ControlMessage::LaneLoss { frames: change.lost });
        self.tell(loss, control);
    }

    pub(super) fn tell(&self, message: Option<ControlMessage>, control: Option<&ControlLane>) {
        if let (Some(message), Some(control)) = (message, control)
            && !control.send(message)
        {
            log::warn!(
                "{}: the control lane is full; a message to the primary is lost",
                self.claim.name
            );
        }
    }

    /// The guest is the primary's copy now: its numbers are the network's, and its output up to the cut
    /// belongs to the older epoch.
    async fn new_epoch(&mut self, of: (u64, u64), inputs: &Inputs) {
        let cut = self.half.on_epoch(Instant::now(), of, &mut self.translator);
        let sent = match cut {
            CutAnswer::None => return,
            CutAnswer::Known(sent) => sent,
            CutAnswer::Take => match take_cut(inputs).await {
                Some(sent) => sent,
                None => return,
            },
        };
        if let Some(control) = &inputs.control {
            let lane_epoch = inputs
                .lane
                .is_open()
                .then(|| epoch_in_force(&self.translator.datapath, self.half.is_stopped()));
            control.send(ControlMessage::EpochDone { epoch: of.1, sent, lane_epoch });
        }
    }

    fn on_service_message(&mut self, message: ServiceMessage) {
        if message == ServiceMessage::GuestGone
            && let Some(more) = self.gone_log.admit(Instant::now())
        {
            log::warn!("{}: the primary reports that its guest is dead{more}", self.claim.name);
        }
        self.half.decide(Instant::now(), |takeover| takeover.on_message(message));
    }
}
