//! The takeover: whether the guest may, and how it gets onto the network.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use colo_proxy_engine::pair::secondary::TakeoverStep;
use colo_proxy_engine::pair::takeover::{
    Takeover, TakeoverAction, TakeoverPermission, TakeoverRefusal,
};

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
        if self.half.on_timeout(Instant::now(), &mut self.translator) {
            self.fail_over(inputs).await?;
        }
        Ok(())
    }

    /// Does what was decided about a takeover.
    pub(super) async fn carry_out(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        while let Some(action) = self.half.next_takeover_action() {
            self.act(action, inputs).await?;
        }
        if let Some(record) = self.half.next_record() {
            inputs.record.write(record);
        }
        while let Some(message) = self.half.next_message() {
            self.tell(Some(message), inputs.control.as_ref());
        }
        self.history.observe(self.half.mode(), inputs.tap.state());
        Ok(())
    }

    /// Carries out an operator's order as far as nobody else is asked: the operator waits for the answer.
    pub(super) async fn settle_order(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        self.carry_out(inputs).await?;
        while inputs.record.is_writing() && !self.half.takeover().serves() {
            let Some(is_done) = inputs.record.next_soon().await else { break };
            self.half.decide(Instant::now(), |takeover| takeover.on_recorded(is_done));
            self.carry_out(inputs).await?;
            if !is_done {
                break;
            }
        }
        Ok(())
    }

    async fn act(
        &mut self,
        action: TakeoverAction,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        let name = &self.claim.name;
        match action {
            TakeoverAction::Ask => inputs.permission.ask(),
            TakeoverAction::WithdrawQuestion => {
                if inputs.permission.withdraw() {
                    self.half.decide(Instant::now(), Takeover::on_question_withdrawn);
                }
            }
            TakeoverAction::TakeOver => self.fail_over(inputs).await?,
            TakeoverAction::StepDown => self.step_down()?,
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
                 back old data. If that is better than no service, run: colo-proxy failover --force {name}"
            ),
            TakeoverAction::TellUnrecorded => {
                if let Some(more) = self.unrecorded_log.admit(Instant::now()) {
                    log::error!(
                        "{name}: no takeover, because the record of who serves is not on the disk. If \
                         this guest is to serve all the same, and the primary's is certainly stopped, \
                         run: colo-proxy failover --force {name}{more}"
                    );
                }
            }
        }
        Ok(())
    }

    /// The primary's host serves again, by an operator's word: this guest goes off the network.
    fn step_down(&mut self) -> Result<(), InstanceError> {
        self.translator.datapath.set_mode(ProgramMode::Protected)?;
        self.half.on_stepped_down();
        log::error!(
            "{}: an operator lets the primary's host serve, so this guest is off the network. To make it \
             a secondary again, start its QEMU as one and restart this daemon",
            self.claim.name
        );
        Ok(())
    }

    /// Why an order to take over is not obeyed, and what to do.
    pub(super) fn failover_refusal(&self, refusal: TakeoverRefusal) -> String {
        let name = &self.claim.name;
        let why = match refusal {
            TakeoverRefusal::PrimaryHeard => {
                "the primary's daemon is connected, so its guest serves"
            }
            TakeoverRefusal::NeverEqual => {
                "this guest was never the primary's equal, as far as this daemon knows"
            }
            TakeoverRefusal::Stale => "the primary's guest has gone on without this one",
        };
        format!(
            "{name}: refused, because {why}. If this guest is to serve all the same, stop the primary's \
             and run: colo-proxy failover --force {name}"
        )
    }

    pub(super) fn on_permission(&mut self, answer: &PermissionAnswer) {
        if let Err(why) = answer {
            log::error!("{}: not taking over from the lost primary: {why}", self.claim.name);
        }
        let permission = match answer {
            Ok(()) => TakeoverPermission::Granted,
            Err(PermissionRefusal::Fence(_)) => TakeoverPermission::NotFenced,
            Err(PermissionRefusal::Quorum(_)) => TakeoverPermission::Denied,
        };
        self.half.decide(Instant::now(), |takeover| takeover.on_permission(permission));
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
        if self.half.take_pending_takeover() {
            self.fail_over(inputs).await?;
        }
        Ok(())
    }

    /// Sends a frame as the guest's.
    pub(super) fn release(&mut self, frame: &Frame) {
        // A gate without header takes no partial checksum. TCP repeats a frame that is lost here.
        if !matches!(self.output_gate.write_frame(frame), Ok(Written::Sent)) {
            self.stats.release_failed += 1;
        }
    }
}
