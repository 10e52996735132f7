//! The takeover: whether the guest may, and how it gets onto the network.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use colo_proxy_engine::pair::secondary::TakeoverStep;
use colo_proxy_engine::pair::takeover::{TakeoverAction, TakeoverPermission};

use super::{Inputs, SecondaryTask};
use crate::colo_frame::ColoFrameCommand;
use crate::gate::Written;
use crate::instance::permission::{PermissionAnswer, PermissionRefusal};
use crate::instance::{InstanceError, offsets};
use crate::lane::OutgoingRequest;
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::ProgramMode;

impl SecondaryTask {
    pub(super) async fn on_timeout(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        match self.half.on_timeout(Instant::now(), &mut self.translator) {
            Some(action) => self.act(action, inputs).await,
            None => Ok(()),
        }
    }

    pub(super) async fn act(
        &mut self,
        action: TakeoverAction,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        let name = &self.claim.name;
        match action {
            TakeoverAction::Ask => inputs.permission.ask(),
            TakeoverAction::TakeOver => self.fail_over(inputs).await?,
            TakeoverAction::TellUnreachable => log::error!(
                "{name}: primary lost and this guest's QEMU is unreachable, so no automatic takeover. If \
                 this guest is running and the primary's is certainly stopped, run: colo-proxy \
                 failover {name}"
            ),
            TakeoverAction::TellOperator => log::error!(
                "{name}: primary lost, and neither fence nor quorum is configured, so no automatic \
                 takeover. If the primary's guest is certainly stopped, run: colo-proxy failover {name}"
            ),
            TakeoverAction::TellStale => log::error!(
                "{name}: primary lost, and this guest is not its equal because the pair was not \
                 protected, so no automatic takeover. A takeover would break connections and may bring \
                 back old data. If that is better than no service, run: colo-proxy failover {name}"
            ),
        }
        Ok(())
    }

    pub(super) async fn on_permission(
        &mut self,
        answer: PermissionAnswer,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        if let Err(why) = &answer {
            log::error!("{}: not taking over from the lost primary: {why}", self.claim.name);
        }
        let permission = match answer {
            Ok(()) => TakeoverPermission::Granted,
            Err(PermissionRefusal::Fence(_)) => TakeoverPermission::NotFenced,
            Err(PermissionRefusal::Quorum(_)) => TakeoverPermission::Denied,
        };
        match self.half.takeover.on_permission(Instant::now(), permission) {
            Some(action) if self.half.waits_for_primary() => self.act(action, inputs).await,
            _ => Ok(()),
        }
    }

    /// The guest takes over: it answers the network from here on.
    pub(super) async fn fail_over(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        let step = self.half.take_over(Instant::now());
        if step == TakeoverStep::Done {
            return Ok(());
        }
        let instance = self.claim.name.clone();
        inputs.frame.command(&ColoFrameCommand::TakeOver { instance });
        if step == TakeoverStep::Later {
            return Ok(());
        }
        // One word in a map: from the next frame on, the guest's output passes, translated.
        self.translator.datapath.set_mode(ProgramMode::FailedOver)?;
        self.half.on_taken_over();
        log::warn!("{}: taken over; the guest is on the network", self.claim.name);
        self.tell_if_taken_over(inputs.control.as_ref());
        inputs.lanes.mirror = None;
        let (reply, unsent) = oneshot::channel();
        let asked = inputs.lanes.output_requests.send(OutgoingRequest::Finish(reply)).await;
        if let (Ok(()), Ok(unsent)) = (asked, unsent.await) {
            for frame in &unsent {
                self.release(frame);
            }
        }
        inputs.lane.end(&mut self.translator.datapath).await;
        let (now, now_ns) = (Instant::now(), offsets::monotonic_ns());
        let speakers = self.translator.datapath.speakers();
        let announcements = self.addresses.lock().map(|mut known| {
            for (speaker, seen_ns) in &speakers {
                let age = Duration::from_nanos(now_ns.saturating_sub(*seen_ns));
                known.add(now.checked_sub(age).unwrap_or(now), speaker);
            }
            known.announcements(now)
        });
        for frame in announcements.unwrap_or_default() {
            self.release(&frame);
            self.stats.announced += 1;
        }
        self.half.replay_all(&mut self.translator);
        Ok(())
    }

    /// It is known now with which state the guest resumes, for which a takeover may have waited.
    pub(super) async fn fail_over_if_pending(
        &mut self,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        match self.half.take_pending_takeover() {
            Some(action) => self.act(action, inputs).await,
            None => Ok(()),
        }
    }

    /// Sends a frame as the guest's.
    pub(super) fn release(&mut self, frame: &Frame) {
        // A gate without header takes no partial checksum. TCP repeats a frame that is lost here.
        if !matches!(self.output_gate.write_frame(frame), Ok(Written::Sent)) {
            self.stats.release_failed += 1;
        }
    }
}
