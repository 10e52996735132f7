//! The primary's half: mirrors the guest's input, holds its output, and lets go what may leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use colo_proxy_engine::digest::ReturnedRecord;
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::primary::{FenceOrder, Intake, PeerLane};
use colo_proxy_engine::pair::protection::{ProtectionRefusal, ProtectionState};
use colo_proxy_engine::pair::{BATCH, OutputPath, Primary as PrimaryHalf, ProgramMode};
use futures_util::FutureExt;
use tokio::sync::mpsc;

use self::control::{DisclaimEnd, disclaim};
use super::InstanceError;
use super::busy_poll::BusyPoll;
use super::half::{HalfInputs, HalfTask, LeftPrograms, answer, next_control_event};
use super::mode_history::ModeHistory;
use super::permission::PermissionAnswer;
use super::record_file::RecordFile;
use super::{InstanceDirs, offsets, system};
use crate::colo_frame::{ColoFrameEvent, OutputTaken};
use crate::config::Guest;
use crate::datapath::Datapath;
use crate::deadline::sleep_until;
use crate::error_chain::chain;
use crate::gate::batch::read_gate;
use crate::gate::readable::{Drained, Readable};
use crate::gate::{Gate, Written};
use crate::guest_tap::GuestTap;
use crate::kernel_lane;
use crate::lane::control::PeerCounters;
use crate::lane::{LaneEvent, LaneStats, OutgoingRequest};
use crate::link::LinkEvent;
use crate::name::Claim;
use crate::status::Reply;

mod control;
mod divergences;
mod report;
mod start;

/// Time between two looks whether a process that is ending has let go of the guest's TAP.
const LOOK: Duration = Duration::from_millis(5);

/// Everything that a primary waits for.
type Inputs = HalfInputs<PrimaryLaneInputs>;

/// What only a primary waits for.
pub(super) struct PrimaryLaneInputs {
    output: Readable,
    mirror: mpsc::Receiver<LaneEvent>,
    secondary: mpsc::Receiver<LaneEvent<ReturnedRecord>>,
    /// Only dropped, to end the mirror task.
    _mirror_requests: mpsc::Sender<OutgoingRequest>,
}

/// What decides, and what its decisions are carried out with.
pub(super) struct PrimaryTask {
    guest: Guest,
    claim: Claim,
    half: PrimaryHalf,
    kernel: PrimaryKernel,
    mirror_endpoint: String,
    secondary_endpoint: String,
    stats: PrimaryStats,
    history: ModeHistory,
}

#[derive(Debug, Default)]
struct PrimaryStats {
    mirror: Arc<LaneStats>,
    secondary: Arc<LaneStats>,
    peer: PeerCounters,
    busy: BusyPoll,
}

impl PrimaryStats {
    fn new(guest: &Guest) -> Self {
        Self { busy: BusyPoll::spawn(guest.limits.peer.busy_poll), ..Self::default() }
    }
}

/// The kernel's half.
struct PrimaryKernel {
    name: String,
    datapath: Datapath,
    output_gate: Arc<Gate>,
    input_gate: Arc<Gate>,
    /// Released frames that the kernel did not take.
    release_failed: u64,
}

impl OutputPath for PrimaryKernel {
    fn set_mode(&mut self, mode: ProgramMode) {
        if let Err(error) = self.datapath.set_mode(mode) {
            log::error!(
                "{}: the programs do not change to {mode:?}: {}. Restart this daemon",
                self.name,
                chain(&error)
            );
        }
    }

    fn read_output(&mut self, into: &mut Vec<Frame>) -> bool {
        matches!(read_gate(&self.output_gate, into), Ok(((), Drained::No)))
    }

    fn release(&mut self, frame: &Frame) {
        match self.output_gate.write_frame(frame) {
            Ok(Written::Sent) => {}
            Ok(Written::WouldBlock | Written::Malformed) | Err(_) => self.release_failed += 1,
        }
    }

    fn acknowledge(&mut self, frame: &Frame) {
        self.release(frame);
    }
}

impl HalfTask for PrimaryTask {
    type Lanes = PrimaryLaneInputs;

    async fn start(guest: Guest, dirs: &InstanceDirs) -> Result<(Self, Inputs), InstanceError> {
        // Large, and made once: not for the stack.
        Box::pin(Self::attach(guest, dirs)).await
    }

    async fn serve(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        let mut frames = Vec::with_capacity(BATCH);
        let mut slots_over = kernel_lane::slots_over();
        let mut returned = Vec::with_capacity(BATCH);
        loop {
            // Before anything else: the sooner output is taken after a stop, the surer a checkpoint covers it.
            if let Some(event) = inputs.frame.next_event().now_or_never() {
                self.on_frame_event(&event, inputs);
                self.carry_out(inputs);
                continue;
            }
            let deadline = self.half.poll_timeout();
            let has_room = self.half.engine().has_room();
            let takes_secondary = self.half.takes_secondary();
            let takes_returned = takes_secondary && !self.half.sorts();
            let lane_epoch = self.kernel.datapath.settings().lane_epoch;
            tokio::select! {
                read = inputs.lanes.output.read(|| read_gate(&self.kernel.output_gate, &mut frames)), if has_room => {
                    read.map_err(system("read the output gate"))?;
                    self.on_output(&mut frames);
                    self.stats.busy.on_frames(self.half.waiting());
                }
                read = inputs.lane.read_returned(lane_epoch, &mut returned), if takes_returned => {
                    read.map_err(system("read a return gate"))?;
                    self.half.on_returned(Instant::now(), Intake::All(&mut returned));
                    self.stats.busy.on_frames(self.half.waiting());
                }
                Some(event) = inputs.lanes.secondary.recv(), if takes_secondary => {
                    self.on_secondary(event);
                }
                Some(event) = inputs.lanes.mirror.recv() => {
                    self.on_lane(PeerLane::Mirror, matches!(event, LaneEvent::Up));
                }
                event = next_control_event(inputs.control.as_mut()) => {
                    self.on_control_event(event, inputs).await;
                }
                event = inputs.frame.next_event() => self.on_frame_event(&event, inputs),
                answer = inputs.permission.next() => self.on_permission(answer),
                is_done = inputs.record.next() => {
                    self.half.on_recorded(Instant::now(), is_done, &mut self.kernel);
                }
                Some(question) = inputs.questions.recv() => answer(self, question, inputs).await,
                event = inputs.tap.next_event() => self.on_tap(event, &mut inputs.tap).await,
                _ = slots_over.tick(), if inputs.lane.is_open() => {
                    let change = inputs.lane.on_slot_over(&mut self.kernel.datapath).await;
                    self.on_lane_change(change);
                }
                () = tokio::time::sleep(LOOK), if self.half.may_be_dead() => {
                    if !inputs.tap.is_open().await {
                        self.half.on_guest_dead(Instant::now(), &mut self.kernel);
                    }
                }
                () = sleep_until(deadline) => {
                    self.half.on_timeout(Instant::now(), &mut self.kernel);
                }
                // Not at once: the other tasks of this thread have their turn.
                () = tokio::task::yield_now(), if self.half.is_releasing() => {}
            }
            self.carry_out(inputs);
        }
    }

    fn name(&self) -> &str {
        &self.claim.name
    }

    fn datapath(&mut self) -> &mut Datapath {
        &mut self.kernel.datapath
    }

    fn into_datapath(self) -> Datapath {
        self.kernel.datapath
    }

    async fn status(&self, inputs: &Inputs) -> Reply {
        self.report(inputs).await
    }

    fn divergences(&self, with_frames: bool) -> Reply {
        self.report_divergences(with_frames)
    }

    fn protect(&mut self, migrate: Option<&str>, inputs: &mut Inputs) -> Reply {
        if let Some(why) = self.protect_refusal() {
            return Reply::Error(why);
        }
        match inputs.frame.protect(migrate) {
            Ok(message) => {
                self.half.begin_protection_again(Instant::now(), &mut self.kernel);
                Reply::Done(format!("{}: {message}", self.claim.name))
            }
            Err(why) => Reply::Error(why),
        }
    }

    async fn failover(&mut self, forced: bool, inputs: &mut Inputs) -> Reply {
        if !forced && let Some(refusal) = self.half.protection().refusal() {
            return Reply::Error(self.failover_refusal(refusal));
        }
        self.half.end_protection(Instant::now(), forced, &mut self.kernel);
        self.carry_out(inputs);
        // The operator waits for the disk, and for nobody else.
        while inputs.record.is_writing() {
            let Some(is_done) = inputs.record.next_soon().await else { break };
            self.half.on_recorded(Instant::now(), is_done, &mut self.kernel);
            self.carry_out(inputs);
        }
        let name = &self.claim.name;
        Reply::Done(match self.half.protection().state() {
            ProtectionState::Unprotected => format!("{name}: unprotected; the guest goes on alone"),
            _ => format!(
                "{name}: the guest goes on alone as soon as it is certain that the other one does not \
                 take over; `colo-proxy status {name}` shows when"
            ),
        })
    }

    /// The operator ends protection: held output leaves, and the guest's network is as it was. Programs
    /// stay that translate connections of an earlier pair. A guest stays off the network if the
    /// secondary's has taken its place.
    async fn leave(&mut self, inputs: &mut Inputs) -> Result<LeftPrograms, InstanceError> {
        if self.half.protection().is_taken_over() {
            inputs.tap.take_down().await?;
            return Ok(LeftPrograms::Detached);
        }
        let stays = offsets::is_needed(&self.claim.name, &self.kernel.datapath, &inputs.tap).await;
        self.half.release_all(&mut self.kernel);
        match self.disclaim(inputs).await {
            DisclaimEnd::TakenOver => {
                inputs.tap.take_down().await?;
                return Ok(LeftPrograms::Detached);
            }
            // The next daemon asks before this guest serves.
            DisclaimEnd::Unconfirmed if self.secondary_takes_over_by_itself() => {
                return Ok(LeftPrograms::Attached);
            }
            DisclaimEnd::Confirmed | DisclaimEnd::Unconfirmed => {}
        }
        self.record_end(&mut inputs.record).await;
        // Output that comes now is released as well.
        self.half.finish(Instant::now(), &mut self.kernel);
        Ok(if stays { LeftPrograms::Attached } else { LeftPrograms::Detached })
    }
}

impl PrimaryTask {
    /// Why `protect` would be wrong now.
    fn protect_refusal(&self) -> Option<String> {
        let (name, protection) = (&self.claim.name, self.half.protection());
        (protection.is_taken_over() && !protection.can_serve_again()).then(|| {
            format!(
                "{name}: the secondary takes over from this guest, or has taken over. If this guest is \
                 to serve, stop the other one and run: colo-proxy failover --force {name}"
            )
        })
    }

    fn failover_refusal(&self, refusal: ProtectionRefusal) -> String {
        let name = &self.claim.name;
        let why = match refusal {
            ProtectionRefusal::TakenOver => "the other host has taken over from this guest",
            ProtectionRefusal::GuestDead => {
                "this guest is dead, and the other host is to take over from it"
            }
            ProtectionRefusal::NewGuest => {
                "this guest has been started since the pair was protected, and the other host's guest \
                 may know what this one has forgotten"
            }
        };
        format!(
            "{name}: refused, because {why}. If this guest is to serve all the same, stop the other one \
             and run: colo-proxy failover --force {name}"
        )
    }

    /// Tells the secondary, before this daemon ends, that it must not take over.
    async fn disclaim(&self, inputs: &mut Inputs) -> DisclaimEnd {
        let notice = self.half.protection().last_notice();
        let ended = match &mut inputs.control {
            Some(control) => disclaim(control, notice).await,
            None => DisclaimEnd::Unconfirmed,
        };
        if ended == DisclaimEnd::Unconfirmed && self.half.protection().may_be_taken_over() {
            let name = &self.claim.name;
            if self.secondary_takes_over_by_itself() {
                log::error!(
                    "{name}: the secondary has not confirmed that it takes over no more, and it may do so \
                     by itself, so this guest's output stays held. Start this daemon again, or, if the \
                     other guest is certainly stopped: rm -r /sys/fs/bpf/colo-proxy/{name}"
                );
            } else {
                log::warn!(
                    "{name}: protection has ended, and the secondary has not confirmed it. Look at its \
                     `colo-proxy status`: it must not take over"
                );
            }
        }
        ended
    }

    /// The secondary may take over, and needs no operator for it.
    fn secondary_takes_over_by_itself(&self) -> bool {
        self.half.protection().may_be_taken_over() && !self.guest.takeover.is_manual()
    }

    /// The daemon ends, and the guest goes on alone: the next daemon has to know.
    async fn record_end(&mut self, file: &mut RecordFile) {
        if file.is_writing()
            && let Some(is_done) = file.next_soon().await
        {
            self.half.on_recorded(Instant::now(), is_done, &mut self.kernel);
        }
        if let Some(record) = self.half.end_service() {
            file.write(record);
            // If it fails, the next daemon asks before its guest serves.
            let _ = file.next_soon().await;
        }
    }

    fn on_frame_event(&mut self, event: &ColoFrameEvent, inputs: &mut Inputs) {
        if *event == ColoFrameEvent::CheckpointBegan {
            let taken = self.take_output(inputs);
            inputs.frame.output_taken(taken);
            return;
        }
        self.half.on_colo_frame_event(Instant::now(), event, &mut self.kernel);
        if *event == ColoFrameEvent::PairReady {
            self.tell_offsets(inputs.control.as_ref());
        }
    }

    /// A checkpoint has begun: takes the output of both guests that belongs to the epoch before.
    fn take_output(&mut self, inputs: &Inputs) -> OutputTaken {
        let epoch = self.kernel.datapath.settings().lane_epoch;
        self.half.dropped_stale(inputs.lane.drop_other(epoch));
        let began = ColoFrameEvent::CheckpointBegan;
        self.half.on_colo_frame_event(Instant::now(), &began, &mut self.kernel);
        OutputTaken::after_checkpoint_began()
    }

    /// Guest output, in the order in which the guest sent it.
    fn on_output(&mut self, frames: &mut Vec<Frame>) {
        self.half.on_output(Instant::now(), Intake::All(frames), &mut self.kernel);
    }

    fn on_secondary(&mut self, event: LaneEvent<ReturnedRecord>) {
        match event {
            LaneEvent::Frames(frames) => {
                self.half.on_secondary(Instant::now(), frames);
                self.stats.busy.on_frames(self.half.waiting());
            }
            LaneEvent::Up | LaneEvent::Down => {
                self.on_lane(PeerLane::Secondary, matches!(event, LaneEvent::Up));
            }
        }
    }

    fn on_lane(&mut self, lane: PeerLane, up: bool) {
        self.half.on_lane(Instant::now(), lane, up, &mut self.kernel);
    }

    /// The secondary was fenced, or could not be.
    fn on_permission(&mut self, answer: PermissionAnswer) {
        let is_done = answer.is_ok();
        if let Err(why) = answer {
            log::error!(
                "{}: output is held, because the lost secondary is not fenced: {why}. If the secondary's \
                 guest is certainly stopped, run: colo-proxy failover {0}",
                self.claim.name
            );
        }
        self.half.on_fenced(Instant::now(), is_done, &mut self.kernel);
    }

    /// Does what was decided.
    fn carry_out(&mut self, inputs: &mut Inputs) {
        self.history.observe(self.half.mode(), inputs.tap.state());
        let half = &mut self.half;
        half.release_some(&mut self.kernel);
        half.collect_requests(Instant::now());
        while let Some(command) = half.next_command() {
            inputs.frame.command(&command);
        }
        while let Some(order) = half.next_fence_order() {
            match order {
                FenceOrder::Ask => inputs.permission.ask(),
                FenceOrder::Withdraw if inputs.permission.withdraw() => {
                    half.on_fenced(Instant::now(), false, &mut self.kernel);
                }
                FenceOrder::Withdraw => {}
            }
        }
        if let Some(record) = half.next_record() {
            inputs.record.write(record);
        }
        while let Some(message) = half.next_message() {
            if inputs.control.as_ref().is_some_and(|control| control.send(message.clone())) {
                continue;
            }
            if !half.on_untold(message) {
                log::warn!(
                    "{}: the control lane is full; a message to the secondary is lost",
                    self.claim.name
                );
            }
        }
    }

    async fn on_tap(&mut self, event: LinkEvent, tap: &mut GuestTap) {
        let datapath = &mut self.kernel.datapath;
        tap.on_event(event, |ifindex| datapath.set_netdev(ifindex).map_err(InstanceError::from))
            .await;
    }
}
