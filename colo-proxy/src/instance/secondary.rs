//! The secondary's half: feeds the guest the primary's input, returns its output to the primary,
//! and puts the guest on the network when the primary is gone.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use colo_proxy_engine::digest::DigesterStats;
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::log_limit::LogLimit;
use colo_proxy_engine::pair::message::ControlMessage;
use colo_proxy_engine::pair::takeover::{Takeover, TakeoverOrder};
use colo_proxy_engine::pair::{BATCH, Role, Secondary as SecondaryHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use self::output::{choose_capture, take_cut};
use super::announce::Addresses;
use super::busy_poll::BusyPoll;
use super::half::{HalfInputs, HalfTask, LeftPrograms, answer, next_control_event};
use super::kept_input::KeptInput;
use super::mode_history::ModeHistory;
use super::trace::ProgramLog;
use super::translator::Translator;
use super::{InstanceDirs, InstanceError, offsets, system};
use crate::colo_frame::{ColoFrameEvent, OutputTaken};
use crate::config::Guest;
use crate::datapath::capture::CaptureKind;
use crate::datapath::{Datapath, DatapathEvent, DatapathEvents};
use crate::deadline::sleep_until;
use crate::error_chain::chain;
use crate::gate::Gate;
use crate::gate::batch::read_gate;
use crate::gate::readable::{Drained, Readable};
use crate::kernel_lane;
use crate::lane::control::{ControlLane, PeerCounters};
use crate::lane::{LaneEvent, LaneStats, OutgoingRequest};
use crate::link::LinkEvent;
use crate::name::Claim;
use crate::status::Reply;

mod control;
mod failover;
mod output;
mod report;
mod start;

/// Everything that a secondary waits for.
type Inputs = HalfInputs<SecondaryLaneInputs>;

/// What only a secondary waits for.
pub(super) struct SecondaryLaneInputs {
    /// `None` after a failover: input comes from the network then.
    mirror: Option<mpsc::Receiver<LaneEvent>>,
    /// Input that the kernel sent back because its offset is not known.
    held: Readable,
    offsets: Readable,
    trace: ProgramLog,
    output: mpsc::Receiver<LaneEvent>,
    output_requests: mpsc::Sender<OutgoingRequest>,
}

pub(super) struct SecondaryTask {
    guest: Guest,
    claim: Claim,
    half: SecondaryHalf,
    kept_input: KeptInput,
    translator: Translator,
    output_gate: Arc<Gate>,
    events: DatapathEvents,
    capture: CaptureKind,
    capture_name: &'static str,
    mirror_endpoint: String,
    output_endpoint: String,
    addresses: Arc<Mutex<Addresses>>,
    stats: SecondaryStats,
    unrecorded_log: LogLimit,
    gone_log: LogLimit,
    history: ModeHistory,
}

#[derive(Debug, Default)]
struct SecondaryStats {
    mirror: Arc<LaneStats>,
    output: Arc<LaneStats>,
    peer: PeerCounters,
    busy: BusyPoll,
    /// Where digests are returned in the place of frames.
    digests: Option<Arc<DigesterStats>>,
    announced: u64,
    release_failed: u64,
}

impl SecondaryStats {
    fn new(guest: &Guest) -> Self {
        let busy = BusyPoll::spawn(guest.limits.peer.busy_poll);
        Self { busy, digests: guest.returns_digests().then(Arc::default), ..Self::default() }
    }
}

impl HalfTask for SecondaryTask {
    type Lanes = SecondaryLaneInputs;

    async fn start(guest: Guest, dirs: &InstanceDirs) -> Result<(Self, Inputs), InstanceError> {
        // Large, and made once: not for the stack.
        Box::pin(Self::attach(guest, dirs)).await
    }

    async fn serve(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        let mut frames = Vec::with_capacity(BATCH);
        let mut slots_over = kernel_lane::slots_over();
        let mut ageing = tokio::time::interval(self.translator.datapath.ageing_interval());
        ageing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if self.half.has_taken_over() {
            log::warn!(
                "{}: continuing after a takeover; the guest is on the network",
                self.claim.name
            );
            inputs.lanes.mirror = None;
        }
        loop {
            let deadline = self.half.poll_timeout();
            let takes_input = !self.half.is_stopped();
            tokio::select! {
                event = next_lane_event(inputs.lanes.mirror.as_mut()), if takes_input => {
                    self.on_mirror(event);
                    self.translator.replay_turn(takes_input);
                }
                read = inputs.lanes.held.read(|| read_gate(&self.translator.gate, &mut frames)), if self.translator.takes_from_gate(takes_input) => {
                    read.map_err(system("read the input gate"))?;
                    self.on_input_gate(&mut frames);
                    // In a flood there is always input here, and the turn below never comes.
                    self.translator.replay_turn(takes_input);
                }
                // Not at once: the other tasks of this thread have their turn.
                () = tokio::task::yield_now(), if takes_input && self.translator.backlog.is_replaying() => {
                    self.translator.replay_some();
                }
                ready = inputs.lanes.offsets.read(|| Ok(((), Drained::Yes))) => {
                    ready.map_err(system("watch the events"))?;
                    self.on_offsets();
                }
                ready = inputs.lanes.trace.ready() => ready.map_err(system("watch the programs' log"))?,
                Some(event) = inputs.lanes.output.recv() => self.on_output_lane(&event),
                event = next_control_event(inputs.control.as_mut()) => {
                    self.on_peer(event, inputs).await;
                }
                event = inputs.frame.next_event() => self.on_frame_event(&event, inputs).await?,
                Some(question) = inputs.questions.recv() => answer(self, question, inputs).await,
                event = inputs.tap.next_event() => self.on_tap(event, inputs).await,
                answer = inputs.permission.next() => self.on_permission(&answer),
                is_done = inputs.record.next() => {
                    self.half.decide(Instant::now(), |takeover| takeover.on_recorded(is_done));
                }
                _ = slots_over.tick(), if inputs.lane.is_open() => {
                    inputs.lane.on_dropped(self.translator.backlog.take_untold());
                    inputs.lane.on_written(self.translator.take_has_written());
                    let change = inputs.lane.on_slot_over(&mut self.translator.datapath).await;
                    self.on_lane_change(change, inputs.control.as_ref());
                }
                () = sleep_until(deadline) => self.on_timeout(inputs).await?,
                () = self.kept_input.due(), if takes_input => {
                    self.half.repeat_input(Instant::now(), &mut self.translator);
                }
                _ = ageing.tick() => self.age_flows(inputs.control.as_ref()),
            }
            self.carry_out(inputs).await?;
        }
    }

    fn name(&self) -> &str {
        &self.claim.name
    }

    fn datapath(&mut self) -> &mut Datapath {
        &mut self.translator.datapath
    }

    fn into_datapath(self) -> Datapath {
        self.translator.datapath
    }

    async fn status(&self, inputs: &Inputs) -> Reply {
        self.report(inputs).await
    }

    fn divergences(&self, _with_frames: bool) -> Reply {
        Reply::no_divergences(&self.claim.name, Role::Secondary, &self.guest.netdev)
    }

    fn protect(&mut self, _migrate: Option<&str>, _inputs: &mut Inputs) -> Reply {
        Reply::Error(format!(
            "{}: this is the secondary; run this command on the primary's host",
            self.claim.name
        ))
    }

    async fn failover(&mut self, forced: bool, inputs: &mut Inputs) -> Reply {
        let name = self.claim.name.clone();
        // Without a control lane, nobody tells this daemon that its guest could take over.
        if !forced
            && inputs.control.is_some()
            && let Some(refusal) = self.half.takeover().refusal()
        {
            return Reply::Error(self.failover_refusal(refusal));
        }
        let order = if forced { TakeoverOrder::Forced } else { TakeoverOrder::Operator };
        self.half.decide(Instant::now(), |takeover| takeover.order(order));
        match self.settle_order(inputs).await {
            Ok(()) if self.half.has_taken_over() => {
                Reply::Done(format!("{name}: the guest is on the network"))
            }
            Ok(()) if self.half.is_takeover_pending() => Reply::Done(format!(
                "{name}: a checkpoint is running; the guest goes on the network when it has ended"
            )),
            Ok(()) => Reply::Done(format!(
                "{name}: the guest goes on the network as soon as quorum and fence have agreed and the \
                 record of it is written; `colo-proxy status {name}` shows when"
            )),
            Err(error) => Reply::Error(chain(&error)),
        }
    }

    /// A secondary guest must not reach the network without us, so its TAP is taken down. A guest that took
    /// over is the service: while it lives and connections depend on translation, the programs stay.
    async fn leave(&mut self, inputs: &mut Inputs) -> Result<LeftPrograms, InstanceError> {
        self.translator.replay_rest();
        if !self.half.has_taken_over() {
            inputs.tap.take_down().await?;
        } else if offsets::is_needed(&self.claim.name, &self.translator.datapath, &inputs.tap).await
        {
            return Ok(LeftPrograms::Attached);
        }
        // The reader of the guest's output has pins of its own in the directory, and goes first.
        let (reply, unsent) = oneshot::channel();
        let asked = inputs.lanes.output_requests.send(OutgoingRequest::Finish(reply)).await;
        if asked.is_ok() && unsent.await.is_ok() {
            while inputs.lanes.output.recv().await.is_some() {}
        }
        Ok(LeftPrograms::Detached)
    }
}

impl SecondaryTask {
    /// Input of the primary guest, in the order in which it came there.
    fn on_mirror(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Frames(frames) => {
                self.stats.busy.on_frames(frames.len() as u64);
                self.half.on_mirror(Instant::now(), &frames, &mut self.translator);
            }
            LaneEvent::Up => log::info!("{}: the mirror lane is connected", self.claim.name),
            LaneEvent::Down => log::warn!(
                "{}: the mirror lane is down; the guest gets no input until it is connected again",
                self.claim.name
            ),
        }
    }

    /// Early input, or input that the kernel lane brought while the guest is stopped.
    fn on_input_gate(&mut self, frames: &mut Vec<Frame>) {
        if self.translator.keeps_input() {
            frames.drain(..).for_each(|frame| self.translator.backlog.push(frame));
        } else {
            self.half.on_early_input(Instant::now(), frames, &mut self.translator);
        }
    }

    fn on_output_lane(&mut self, event: &LaneEvent) {
        let up = matches!(event, LaneEvent::Up);
        if up {
            self.half.on_output_connection();
        }
        let state = if up { "connected" } else { "down" };
        log::info!("{}: the secondary lane is {state}", self.claim.name);
    }

    /// The offset of a connection became known: its early input may go to the guest now.
    fn on_offsets(&mut self) {
        while let Some(DatapathEvent::OffsetKnown(key, _)) = self.events.next_event() {
            self.half.on_offset(&key, &mut self.translator);
        }
    }

    fn age_flows(&mut self, control: Option<&ControlLane>) {
        if !self.translator.age_flows(self.half.program_mode()) {
            return;
        }
        let asked = control.is_some_and(|control| control.send(ControlMessage::CheckpointWanted));
        log::warn!(
            "{}: the table of connections is nearly full, and all of them are in use. A checkpoint makes \
             room: {}",
            self.claim.name,
            if asked { "requested" } else { "not requested, because the primary is not connected" }
        );
    }

    /// The guest is stopped for a checkpoint: the cut says which output belongs to the epoch before.
    async fn on_stopped(&mut self, inputs: &Inputs) -> OutputTaken {
        if self.half.on_stopped(Instant::now(), &mut self.translator)
            && let Some(sent) = take_cut(inputs).await
        {
            self.half.on_cut(sent);
        }
        OutputTaken::after_checkpoint_began()
    }

    async fn on_frame_event(
        &mut self,
        event: &ColoFrameEvent,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        match event {
            ColoFrameEvent::Failover => {
                let order = TakeoverOrder::ColoFrame;
                self.half.decide(Instant::now(), |takeover| takeover.order(order));
            }
            ColoFrameEvent::CheckpointBegan => {
                let taken = self.on_stopped(inputs).await;
                inputs.frame.output_taken(taken);
            }
            ColoFrameEvent::CheckpointDone { state_copied: true, .. } => {
                if self.half.on_state_copied(Instant::now(), &mut self.translator)
                    && let Some(sent) = take_cut(inputs).await
                {
                    self.half.on_cut(sent);
                }
                self.fail_over_if_pending(inputs).await?;
            }
            ColoFrameEvent::CheckpointDone { .. } | ColoFrameEvent::CheckpointFailed { .. } => {
                self.half.on_not_copied(&mut self.translator);
                self.fail_over_if_pending(inputs).await?;
            }
            // Of a secondary's guest: the state of the next checkpoint makes up for it.
            ColoFrameEvent::Reset { .. } => {}
            ColoFrameEvent::PairReady => {
                self.half.decide(Instant::now(), |takeover| takeover.on_pair(true));
            }
            ColoFrameEvent::PairLost { reason } => {
                log::warn!("{}: no checkpoint can be made: {reason}", self.claim.name);
                self.half.decide(Instant::now(), |takeover| takeover.on_pair(false));
            }
            ColoFrameEvent::Gone { reason } => {
                log::warn!("{}: {reason}", self.claim.name);
                self.half.decide(Instant::now(), Takeover::on_unreachable);
            }
            ColoFrameEvent::Alone { reason } => {
                log::info!("{}: {reason}", self.claim.name);
                self.half.decide(Instant::now(), Takeover::on_new_guest);
            }
        }
        Ok(())
    }

    async fn on_tap(&mut self, event: LinkEvent, inputs: &mut Inputs) {
        let datapath = &mut self.translator.datapath;
        let attach = |ifindex| datapath.set_netdev(ifindex).map_err(InstanceError::from);
        if inputs.tap.on_event(event, attach).await
            && let Err(error) = self.capture_again(inputs).await
        {
            inputs.tap.on_unread();
            log::error!(
                "{}: the guest's output is not read from its new TAP: {}. Restart this daemon",
                self.claim.name,
                chain(&error)
            );
        }
    }

    /// The TAP is another one. It has to be up for this.
    async fn capture_again(&mut self, inputs: &Inputs) -> Result<(), InstanceError> {
        let datapath = &mut self.translator.datapath;
        let source = choose_capture(self.capture, &self.guest.netdev, &self.output_gate, datapath)?;
        self.capture_name = source.name();
        // After a failover the lane is closed, and output is not read any more.
        let _closed = inputs.lanes.output_requests.send(OutgoingRequest::Source(source)).await;
        Ok(())
    }
}

async fn next_lane_event(lane: Option<&mut mpsc::Receiver<LaneEvent>>) -> LaneEvent {
    if let Some(lane) = lane
        && let Some(event) = lane.recv().await
    {
        return event;
    }
    std::future::pending().await
}
