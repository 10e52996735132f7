//! The guest takes over: when it may, and how it comes onto the network.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::takeover::Action;
use super::{Inputs, Secondary};
use crate::colo_frame::Command;
use crate::datapath::Mode;
use crate::frame::Frame;
use crate::gate::Written;
use crate::instance::lanes::OutgoingRequest;
use crate::instance::permission::Answer;
use crate::instance::{InstanceError, offsets};

/// How long a takeover waits for QEMU to say how the checkpoint ended that stops the guest.
const STOPPED_MAX: Duration = Duration::from_secs(2);

impl Secondary {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let takeover = self.takeover.poll_timeout().filter(|_| self.waits_for_primary());
        let all = [self.decisions.hold.poll_timeout(), takeover, self.pending_failover];
        all.into_iter().flatten().min()
    }

    /// It has not taken over, nor is it about to.
    pub(super) fn waits_for_primary(&self) -> bool {
        self.decisions.mode == Mode::Protected && self.pending_failover.is_none()
    }

    pub(super) async fn on_timeout(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        let now = Instant::now();
        self.decisions.hold.on_timeout(now);
        if self.pending_failover.is_some_and(|at| at <= now) {
            log::warn!("{}: QEMU does not say how its checkpoint ended", self.claim.name);
            self.decisions.on_not_copied(&mut self.hands);
            self.fail_over_if_pending(inputs).await?;
        }
        if self.waits_for_primary()
            && let Some(action) = self.takeover.on_timeout(now)
        {
            self.act(action, inputs).await?;
        }
        Ok(())
    }

    pub(super) async fn act(
        &mut self,
        action: Action,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        let name = &self.claim.name;
        match action {
            Action::Ask => inputs.permission.ask(),
            Action::TakeOver => self.fail_over(inputs).await?,
            Action::TellUnreachable => log::error!(
                "{name}: the primary is lost, and there is no connection to this guest's QEMU: if \
                 this guest lives, and the other certainly answers nobody: colo-proxy failover {name}"
            ),
            Action::TellOperator => log::error!(
                "{name}: the primary is lost, and neither fence nor quorum is configured: if its \
                 guest certainly answers nobody any more: colo-proxy failover {name}"
            ),
            Action::TellStale => log::error!(
                "{name}: the primary is lost, and this guest is not its equal: the pair was not \
                 protected. A takeover would break connections and may bring back old data; if it \
                 is better than no service: colo-proxy failover {name}"
            ),
        }
        Ok(())
    }

    pub(super) async fn on_permission(
        &mut self,
        answer: Answer,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        if let Err(why) = &answer {
            log::error!("{}: not taking over: {why}", self.claim.name);
        }
        match self.takeover.on_permission(Instant::now(), answer.as_ref().copied()) {
            Some(action) if self.waits_for_primary() => self.act(action, inputs).await,
            _ => Ok(()),
        }
    }

    /// The primary is gone: the guest answers the network from here on.
    pub(super) async fn fail_over(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        if self.decisions.mode == Mode::FailedOver {
            return Ok(());
        }
        let instance = self.claim.name.clone();
        inputs.frame.command(&Command::TakeOver { instance });
        if self.decisions.is_stopped() {
            // A guest that is stopped says nothing that could be too early or too late.
            self.pending_failover.get_or_insert(Instant::now() + STOPPED_MAX);
            return Ok(());
        }
        // One word in a map: from the next frame on, the guest's output passes, translated.
        self.hands.datapath.set_mode(Mode::FailedOver)?;
        self.decisions.failed_over();
        log::warn!("{}: failed over; the guest is on the network", self.claim.name);
        self.tell_if_taken_over(inputs.peer.as_ref());
        inputs.mirror = None;
        let (reply, unsent) = oneshot::channel();
        let asked = inputs.output_requests.send(OutgoingRequest::Finish(reply)).await;
        if let (Ok(()), Ok(unsent)) = (asked, unsent.await) {
            for frame in &unsent {
                self.release(frame);
            }
        }
        inputs.lane.end(&mut self.hands.datapath).await;
        let (now, now_ns) = (Instant::now(), offsets::monotonic_ns());
        let speakers = self.hands.datapath.speakers();
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
        self.decisions.replay_all(&mut self.hands);
        Ok(())
    }

    /// It is known now with which state the guest goes on.
    pub(super) async fn fail_over_if_pending(
        &mut self,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        match self.pending_failover.take() {
            Some(_) => self.fail_over(inputs).await,
            None => Ok(()),
        }
    }

    /// Sends a frame as the guest's.
    pub(super) fn release(&mut self, frame: &Frame) {
        // A gate without header takes no partial checksum; TCP repeats what is lost here.
        if !matches!(self.output_gate.write_frame(frame), Ok(Written::Sent)) {
            self.stats.release_failed += 1;
        }
    }
}
