//! The secondary's half: feeds the guest the primary's input, returns its output to the primary,
//! and puts the guest on the network when the primary is gone.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use colo_proxy_engine::pair::takeover::{Takeover, TakeoverDeciders};
use colo_proxy_engine::pair::{BATCH, Role, Secondary as SecondaryHalf};
use colo_proxy_engine::record::FrameRecords;

use super::announce::Addresses;
use super::busy_poll::BusyPoll;
use super::kept_input::KeptInput;
use super::offsets;
use super::permission::Permission;
use super::setup::{
    attach, detach, find, lengthen_queue, next_peer_event, open_port, reattach, sleep_until, system,
};
use super::trace::Trace;
use super::translator::Translator;
use super::{InstanceError, asked_to_stop};
use crate::colo_frame::{self, ColoFrame, ColoFrameEvent};
use crate::config::{Guest, SideConfig};
use crate::datapath::capture::CaptureKind;
use crate::datapath::{DatapathEvent, DatapathEvents};
use crate::endpoint::Port;
use crate::error_chain::chain;
use crate::gate::Gate;
use crate::gate::batch::read_gate;
use crate::gate::readable::{Drained, Readable};
use crate::kernel_lane::{self, KernelLane};
use crate::lane::control::{Peer, PeerCounters, Traffic};
use crate::lane::{self, LaneEvent, LaneStats, OutgoingRequest};
use crate::link::{Link, LinkEvent, LinkWatch};
use crate::name::Claim;
use crate::status::{self, Question, Reply, Request};
use colo_proxy_engine::digest::DigesterStats;
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::message::ControlMessage;

mod control;
mod failover;
mod output;
mod report;

use self::output::{Seen, choose_capture, spawn_output, take_cut};

pub(super) async fn run(
    guest: Guest,
    dir: &Path,
    mut stopped: watch::Receiver<bool>,
    ready: oneshot::Sender<()>,
) -> Result<(), InstanceError> {
    let (mut secondary, mut inputs) = SecondaryTask::start(guest, dir).await?;
    // Nobody waiting means that the daemon is ending; then `stopped` says so too.
    let _ = ready.send(());
    let ended = tokio::select! {
        ended = secondary.serve(&mut inputs) => ended,
        () = asked_to_stop(&mut stopped) => Ok(()),
    };
    ended.and(secondary.end(&mut inputs).await)
}

/// Everything that the instance waits for.
struct Inputs {
    /// `None` after a failover: input comes from the network then.
    mirror: Option<mpsc::Receiver<LaneEvent>>,
    /// Input that the kernel sent back because its offset is not known.
    held: Readable,
    offsets: Readable,
    trace: Trace,
    output: mpsc::Receiver<LaneEvent>,
    output_requests: mpsc::Sender<OutgoingRequest>,
    peer: Option<Peer>,
    lane: KernelLane,
    frame: Box<dyn ColoFrame>,
    permission: Permission,
    questions: mpsc::Receiver<Question>,
    link: LinkWatch,
    /// Only dropped, to remove the socket.
    _socket: status::SocketFile,
}

struct SecondaryTask {
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
    netdev: Option<Link>,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Stats {
    mirror: Arc<LaneStats>,
    output: Arc<LaneStats>,
    peer: PeerCounters,
    busy: BusyPoll,
    /// Where digests are returned in the place of frames.
    digests: Option<Arc<DigesterStats>>,
    announced: u64,
    release_failed: u64,
    /// Frames of a TAP that came back which passed before our programs were on it.
    unguarded: u64,
}

impl Stats {
    fn new(guest: &Guest) -> Self {
        let busy = BusyPoll::spawn(guest.limits.peer.busy_poll);
        Self { busy, digests: guest.returns_digests().then(Arc::default), ..Self::default() }
    }
}

impl SecondaryTask {
    async fn start(guest: Guest, dir: &Path) -> Result<(Self, Inputs), InstanceError> {
        let SideConfig::Secondary { mirror, secondary_out, capture, .. } = guest.side.clone()
        else {
            return Err(InstanceError::Ended);
        };
        let (link, netdev, claim) = find(&guest, dir).await?;
        let (mirror_endpoint, output_endpoint) = (mirror.to_string(), secondary_out.to_string());
        let mirror = Port::open(mirror).await?;
        let output = Port::open(secondary_out).await?;
        let peer = open_port(guest.control.as_ref()).await?;
        let frame = colo_frame::start_for(&guest, &claim.name).await?;
        // A leftover of its tunnel goes before the programs that guard it.
        let lane = KernelLane::new(&guest, &claim.name).await?;
        let attached = attach(&guest, &claim.name, netdev).await?;
        let (mut datapath, output_gate) = (attached.datapath, attached.output_gate);
        let input_gate = attached.input_gate;
        let events = datapath.take_events().ok_or(InstanceError::Ended)?;
        let source = choose_capture(capture, &guest.netdev, &output_gate, &mut datapath)?;
        output_gate.set_up()?;
        input_gate.set_up()?;
        lengthen_queue(&link, netdev, &guest.limits.peer).await;
        // An earlier daemon may have taken it down to keep this guest off the network.
        link.set_up(netdev.ifindex, true).await?;
        let (socket, questions) = status::serve(dir, &claim.name)?;

        let (vnet_hdr, stats) = (guest.vnet_hdr_support, Stats::new(&guest));
        let addresses = Arc::new(Mutex::new(Addresses::default()));
        let capture_name = source.name();
        let kept_input = KeptInput::new(guest.limits.repeat);
        let mirror = lane::spawn_incoming::<FrameRecords>(mirror, vnet_hdr, stats.mirror.clone());
        let seen = Seen { addresses: addresses.clone(), kept_input: kept_input.clone() };
        let (output_requests, output) = spawn_output(&guest, output, source, &stats, seen)?;
        let traffic = Traffic { sent: stats.output.clone(), received: stats.mirror.clone() };
        let inputs = Inputs {
            mirror: Some(mirror),
            held: Readable::new(&*input_gate).map_err(system("watch the input gate"))?,
            offsets: Readable::new(&events).map_err(system("watch the events"))?,
            trace: Trace::new(datapath.take_log()).map_err(system("watch the programs' log"))?,
            output,
            output_requests,
            peer: peer.map(|port| {
                let timeout = guest.limits.peer.timeout;
                Peer::spawn(port, Role::Secondary, timeout, traffic, lane.offer())
            }),
            lane,
            frame,
            permission: Permission::new(&guest, &claim.name),
            questions,
            link,
            _socket: socket,
        };
        let deciders = TakeoverDeciders {
            fence: guest.takeover.fence.is_some(),
            quorum: guest.takeover.quorum.is_some(),
        };
        let takeover = Takeover::new(deciders, guest.limits.peer.timeout);
        let secondary = Self {
            half: SecondaryHalf::new(
                claim.name.clone(),
                datapath.mode(),
                takeover,
                kept_input.repeater(),
                guest.limits.input,
            ),
            kept_input,
            translator: Translator::new(claim.name.clone(), datapath, input_gate, &guest.limits),
            output_gate,
            guest,
            claim,
            events,
            capture,
            capture_name,
            mirror_endpoint,
            output_endpoint,
            addresses,
            netdev: Some(netdev),
            stats,
        };
        Ok((secondary, inputs))
    }

    async fn serve(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        let mut frames = Vec::with_capacity(BATCH);
        let mut slots_over = kernel_lane::slots_over();
        let mut ageing = tokio::time::interval(self.translator.datapath.ageing_interval());
        ageing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if self.half.has_taken_over() {
            log::warn!(
                "{}: resuming after a failover; the guest is on the network",
                self.claim.name
            );
            inputs.mirror = None;
        }
        loop {
            let deadline = self.half.poll_timeout();
            let takes_input = !self.half.is_stopped();
            tokio::select! {
                event = next_lane_event(inputs.mirror.as_mut()), if takes_input => {
                    self.on_mirror(event);
                    self.translator.replay_turn(takes_input);
                }
                read = inputs.held.read(|| read_gate(&self.translator.gate, &mut frames)), if self.translator.takes_from_gate(takes_input) => {
                    read.map_err(system("read the input gate"))?;
                    self.on_input_gate(&mut frames);
                    // In a flood there is always some, and the turn below never comes.
                    self.translator.replay_turn(takes_input);
                }
                // Not at once: the other tasks of this thread have their turn.
                () = tokio::task::yield_now(), if takes_input && self.translator.backlog.is_replaying() => {
                    self.translator.replay_some();
                }
                ready = inputs.offsets.read(|| Ok(((), Drained::Yes))) => {
                    ready.map_err(system("watch the events"))?;
                    self.on_offsets();
                }
                ready = inputs.trace.ready() => ready.map_err(system("watch the programs' log"))?,
                Some(event) = inputs.output.recv() => self.on_output_lane(&event),
                event = next_peer_event(inputs.peer.as_mut()) => {
                    self.on_peer(event, inputs).await?;
                }
                event = inputs.frame.next_event() => self.on_frame_event(&event, inputs).await?,
                Some((request, reply)) = inputs.questions.recv() => {
                    let answer = self.answer(request, inputs).await;
                    // Whoever asked may be gone.
                    let _ = reply.send(answer);
                }
                event = inputs.link.next() => self.on_link(event, inputs).await,
                answer = inputs.permission.next() => self.on_permission(answer, inputs).await?,
                _ = slots_over.tick(), if inputs.lane.is_open() => {
                    inputs.lane.on_dropped(self.translator.backlog.take_untold());
                    inputs.lane.on_written(self.translator.take_has_written());
                    let change = inputs.lane.on_slot_over(&mut self.translator.datapath).await;
                    self.on_lane_change(change, inputs.peer.as_ref());
                }
                () = sleep_until(deadline) => self.on_timeout(inputs).await?,
                () = self.kept_input.due(), if takes_input => {
                    self.half.repeat_input(Instant::now(), &mut self.translator);
                }
                _ = ageing.tick() => self.age_flows(inputs.peer.as_ref()),
            }
        }
    }

    /// Input of the primary guest, in the order in which it came there.
    fn on_mirror(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Frames(frames) => {
                self.stats.busy.on_frames(frames.len() as u64);
                self.half.on_mirror(Instant::now(), &frames, &mut self.translator);
            }
            LaneEvent::Up => log::info!("{}: the mirror is connected", self.claim.name),
            LaneEvent::Down => log::warn!("{}: the mirror is gone", self.claim.name),
        }
    }

    /// Frames that came too early, or, by the kernel lane, while the guest is stopped.
    fn on_input_gate(&mut self, frames: &mut Vec<Frame>) {
        if self.translator.keeps_input() {
            frames.drain(..).for_each(|frame| self.translator.backlog.push(frame));
        } else {
            self.half.on_held(Instant::now(), frames, &mut self.translator);
        }
    }

    fn on_output_lane(&mut self, event: &LaneEvent) {
        let up = matches!(event, LaneEvent::Up);
        if up {
            self.half.on_output_connection();
        }
        log::info!("{}: output lane {}", self.claim.name, if up { "connected" } else { "gone" });
    }

    /// The offset of a connection became known: what was held for it may go to the guest now.
    fn on_offsets(&mut self) {
        while let Some(DatapathEvent::OffsetKnown(key, _)) = self.events.next_event() {
            self.half.on_offset(&key, &mut self.translator);
        }
    }

    fn age_flows(&mut self, peer: Option<&Peer>) {
        if !self.translator.age_flows(self.half.program_mode()) {
            return;
        }
        let asked = peer.is_some_and(|peer| peer.send(ControlMessage::CheckpointWanted));
        log::warn!(
            "{}: the table of connections is nearly full of ones in use; {}",
            self.claim.name,
            if asked { "asking for a checkpoint" } else { "nobody can be asked for a checkpoint" }
        );
    }

    async fn on_frame_event(
        &mut self,
        event: &ColoFrameEvent,
        inputs: &mut Inputs,
    ) -> Result<(), InstanceError> {
        match event {
            ColoFrameEvent::Failover => self.fail_over(inputs).await?,
            ColoFrameEvent::CheckpointBegan => {
                if self.half.on_stopped(Instant::now(), &mut self.translator)
                    && let Some(sent) = take_cut(inputs).await
                {
                    self.half.on_cut(sent);
                }
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
            ColoFrameEvent::PairReady => drop(self.half.takeover.on_pair(true)),
            ColoFrameEvent::PairLost { reason } => {
                log::warn!("{}: the COLO-frame has no pair: {reason}", self.claim.name);
                if let Some(action) =
                    self.half.takeover.on_pair(false).filter(|_| self.half.waits_for_primary())
                {
                    self.act(action, inputs).await?;
                }
            }
            ColoFrameEvent::Gone { reason } => {
                log::warn!("{}: {reason}", self.claim.name);
                self.half.takeover.on_unreachable();
            }
            ColoFrameEvent::Alone { reason } => {
                log::info!("{}: {reason}", self.claim.name);
                self.half.takeover.on_reachable();
            }
        }
        Ok(())
    }

    async fn on_link(&mut self, event: LinkEvent, inputs: &Inputs) {
        let (name, netdev) = (self.claim.name.clone(), self.guest.netdev.clone());
        let LinkEvent::Arrived(link) = event else {
            log::warn!("{name}: {netdev} is gone; waiting for it to come back");
            self.netdev = None;
            return;
        };
        match self.attach_again(link, inputs).await {
            Ok(passed) => {
                self.stats.unguarded += passed;
                self.netdev = Some(link);
                log::info!("{name}: {netdev} is back, and attached again");
            }
            // It went again at once: the next one is tried like this one.
            Err(error) => {
                log::error!("{name}: {netdev} is back but not attached: {}", chain(&error))
            }
        }
    }

    async fn attach_again(&mut self, link: Link, inputs: &Inputs) -> Result<u64, InstanceError> {
        let datapath = &mut self.translator.datapath;
        let attach = |ifindex| datapath.set_netdev(ifindex).map_err(InstanceError::from);
        let passed = reattach(&inputs.link, link, &self.guest.limits.peer, attach).await?;
        let netdev = &self.guest.netdev;
        let source =
            choose_capture(self.capture, netdev, &self.output_gate, &mut self.translator.datapath)?;
        self.capture_name = source.name();
        // After a failover the lane is closed, and output is not read any more.
        let _closed = inputs.output_requests.send(OutgoingRequest::Source(source)).await;
        Ok(passed)
    }

    async fn answer(&mut self, request: Request, inputs: &mut Inputs) -> Reply {
        match request {
            Request::Status => self.report(inputs).await,
            Request::Protect { .. } => {
                Reply::Error("this is the secondary; ask the primary's daemon".into())
            }
            Request::Divergences { .. } => {
                Reply::no_divergences(&self.claim.name, Role::Secondary, &self.guest.netdev)
            }
            Request::Failover => match self.fail_over(inputs).await {
                Ok(()) if self.half.is_takeover_pending() => Reply::Done(format!(
                    "{}: the guest goes on the network when its checkpoint has ended",
                    self.claim.name
                )),
                Ok(()) => Reply::Done(format!("{}: the guest is on the network", self.claim.name)),
                Err(error) => Reply::Error(chain(&error)),
            },
            Request::ExportOffsets => offsets::export(&self.claim.name, &self.translator.datapath),
            Request::ImportOffsets { text } => {
                offsets::import(&self.claim.name, &mut self.translator.datapath, &text)
            }
        }
    }

    /// A protected secondary guest must not speak without us, so its TAP is taken down. One that
    /// took over is the service: while it lives and connections depend on translation, the programs
    /// stay.
    async fn end(mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        self.translator.replay_rest();
        let name = &self.claim.name;
        if self.half.has_taken_over()
            && offsets::is_needed(name, &self.translator.datapath, &inputs.link).await
        {
            return Ok(());
        }
        if !self.half.has_taken_over()
            && let Some(netdev) = self.netdev
        {
            inputs.link.set_up(netdev.ifindex, false).await?;
            log::warn!("{name}: {} is down, to keep this guest off the network", self.guest.netdev);
        }
        // What reads the guest's output has things of its own in the directory, and goes first.
        let (reply, unsent) = oneshot::channel();
        let asked = inputs.output_requests.send(OutgoingRequest::Finish(reply)).await;
        if asked.is_ok() && unsent.await.is_ok() {
            while inputs.output.recv().await.is_some() {}
        }
        inputs.lane.end(&mut self.translator.datapath).await;
        detach(self.translator.datapath).await
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
