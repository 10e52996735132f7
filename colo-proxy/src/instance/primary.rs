//! The primary's half: mirrors the guest's input, holds its output, and lets go what may leave.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};

use colo_proxy_engine::compare::Engine;
use colo_proxy_engine::digest::{ReturnedRecord, ReturnedRecords};
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::message::ControlMessage;
use colo_proxy_engine::pair::primary::PeerLane;
use colo_proxy_engine::pair::protection::{LossPolicy, Protection};
use colo_proxy_engine::pair::{
    BATCH, OutputPath, Primary as PrimaryHalf, PrimaryLimits, ProgramMode, Role,
};

use super::busy_poll::BusyPoll;
use super::offsets;
use super::permission::{Answer, Permission};
use super::setup::{
    attach, detach, find, lengthen_queue, next_peer_event, open_port, reattach, sleep_until, system,
};
use super::{InstanceError, asked_to_stop};
use crate::colo_frame::{self, ColoFrame, ColoFrameEvent};
use crate::config::{Guest, SideConfig};
use crate::datapath::Datapath;
use crate::datapath::capture::GateCapture;
use crate::endpoint::Port;
use crate::error_chain::chain;
use crate::gate::batch::read_gate;
use crate::gate::readable::{Drained, Readable};
use crate::gate::{Gate, Written};
use crate::kernel_lane::{self, KernelLane, LaneChange, LaneGuest};
use crate::lane::control::{Peer, PeerCounters, PeerEvent, Traffic};
use crate::lane::{self, LaneEvent, LaneStats, Outgoing, OutgoingRequest};
use crate::link::{Link, LinkEvent, LinkWatch};
use crate::name::Claim;
use crate::random::random_u64;
use crate::status::{self, Question, Reply, Request};

mod divergences;
mod report;

/// How long the end waits for the secondary to hear of it.
const DISCLAIM_MAX: Duration = Duration::from_millis(500);
/// Time between two looks whether a process that is ending has let go of the guest's TAP.
const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn run(
    guest: Guest,
    dir: &Path,
    mut stopped: watch::Receiver<bool>,
    ready: oneshot::Sender<()>,
) -> Result<(), InstanceError> {
    let (mut primary, mut inputs) = PrimaryTask::start(guest, dir).await?;
    // Nobody waiting means that the daemon is ending; then `stopped` says so too.
    let _ = ready.send(());
    let ended = tokio::select! {
        ended = primary.serve(&mut inputs) => ended,
        () = asked_to_stop(&mut stopped) => Ok(()),
    };
    let stays =
        offsets::is_needed(&primary.claim.name, &primary.kernel.datapath, &inputs.link).await;
    ended.and(primary.end(stays, &mut inputs).await)
}

/// Everything that the instance waits for.
struct Inputs {
    output: Readable,
    mirror: mpsc::Receiver<LaneEvent>,
    secondary: mpsc::Receiver<LaneEvent<ReturnedRecord>>,
    peer: Option<Peer>,
    lane: KernelLane,
    frame: Box<dyn ColoFrame>,
    permission: Permission,
    questions: mpsc::Receiver<Question>,
    link: LinkWatch,
    /// Only dropped, to remove the socket.
    _socket: status::SocketFile,
    /// Only dropped, to end the mirror task.
    _mirror_requests: mpsc::Sender<OutgoingRequest>,
}

/// What was decided, and what it is carried out with.
struct PrimaryTask {
    guest: Guest,
    claim: Claim,
    half: PrimaryHalf,
    kernel: PrimaryKernel,
    mirror_endpoint: String,
    secondary_endpoint: String,
    stats: Stats,
    netdev: Option<Link>,
}

#[derive(Debug, Default)]
struct Stats {
    mirror: Arc<LaneStats>,
    secondary: Arc<LaneStats>,
    peer: PeerCounters,
    busy: BusyPoll,
    /// Frames of a TAP that came back which passed before our programs were on it.
    unguarded: u64,
}

impl Stats {
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
    /// Frames the kernel did not take back from us.
    release_failed: u64,
}

impl OutputPath for PrimaryKernel {
    fn set_mode(&mut self, mode: ProgramMode) {
        if let Err(error) = self.datapath.set_mode(mode) {
            log::error!("{}: {}", self.name, chain(&error));
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

impl PrimaryTask {
    async fn start(guest: Guest, dir: &Path) -> Result<(Self, Inputs), InstanceError> {
        let SideConfig::Primary { mirror, secondary_in, on_secondary_lost } = guest.side.clone()
        else {
            return Err(InstanceError::Ended);
        };
        let (link, netdev, claim) = find(&guest, dir).await?;
        let (mirror_endpoint, secondary_endpoint) = (mirror.to_string(), secondary_in.to_string());
        let mirror = Port::open(mirror).await?;
        let secondary = Port::open(secondary_in).await?;
        let peer = open_port(guest.control.as_ref()).await?;
        let frame = colo_frame::start_for(&guest, &claim.name).await?;
        // A leftover of its tunnel goes before the programs that guard it.
        let lane = KernelLane::new(&guest, &claim.name).await?;
        let attached = attach(&guest, &claim.name, netdev).await?;
        let (output_gate, input_gate) = (attached.output_gate, attached.input_gate);
        for gate in [&output_gate, &input_gate] {
            gate.set_up()?;
        }
        lengthen_queue(&link, netdev, &guest.limits.peer).await;
        let (socket, questions) = status::serve(dir, &claim.name)?;
        let timeout = guest.limits.peer.timeout;
        let (vnet_hdr, stats) = (guest.vnet_hdr_support, Stats::new(&guest));
        let (mirror_requests, mirror) = spawn_mirror(&guest, mirror, &input_gate, &stats)?;
        let returned = stats.secondary.clone();
        let secondary = lane::spawn_incoming::<ReturnedRecords>(secondary, vnet_hdr, returned);
        let traffic = Traffic { sent: stats.mirror.clone(), received: stats.secondary.clone() };
        let inputs = Inputs {
            output: Readable::new(&*output_gate).map_err(system("watch the output gate"))?,
            mirror,
            secondary,
            peer: peer.map(|port| Peer::spawn(port, Role::Primary, timeout, traffic, lane.offer())),
            lane,
            frame,
            permission: Permission::new(&guest, &claim.name),
            questions,
            link,
            _socket: socket,
            _mirror_requests: mirror_requests,
        };
        let policy =
            LossPolicy { timeout, on_lost: on_secondary_lost, fences: !guest.takeover.is_manual() };
        let protection = Protection::new(Instant::now(), policy)
            .after(attached.was_off, attached.datapath.taken_over());
        let seed = random_u64().map_err(system("read random bytes"))?;
        let primary = Self {
            half: PrimaryHalf::new(
                claim.name.clone(),
                Engine::new(guest.limits.compare.clone(), seed),
                protection,
                seed.rotate_left(32) ^ u64::from(std::process::id()),
                guest.control.is_some(),
            )
            .limited(limits(&guest))
            .on_death(guest.on_death),
            kernel: PrimaryKernel {
                name: claim.name.clone(),
                datapath: attached.datapath,
                output_gate,
                input_gate,
                release_failed: 0,
            },
            claim,
            mirror_endpoint,
            secondary_endpoint,
            stats,
            netdev: Some(netdev),
            guest,
        };
        Ok((primary, inputs))
    }

    async fn serve(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        let mut frames = Vec::with_capacity(BATCH);
        let mut slots_over = kernel_lane::slots_over();
        let mut returned = Vec::with_capacity(BATCH);
        loop {
            // Before anything else: the sooner output is taken after a stop, the surer it is covered.
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
                read = inputs.output.read(|| read_gate(&self.kernel.output_gate, &mut frames)), if has_room => {
                    read.map_err(system("read the output gate"))?;
                    self.on_output(&mut frames);
                    self.stats.busy.on_frames(self.half.waiting());
                }
                read = inputs.lane.read_returned(lane_epoch, &mut returned), if takes_returned => {
                    read.map_err(system("read a return gate"))?;
                    self.half.on_returned(Instant::now(), &mut returned);
                    self.stats.busy.on_frames(self.half.waiting());
                }
                Some(event) = inputs.secondary.recv(), if takes_secondary => {
                    self.on_secondary(event);
                }
                Some(event) = inputs.mirror.recv() => {
                    self.on_lane(PeerLane::Mirror, matches!(event, LaneEvent::Up));
                }
                event = next_peer_event(inputs.peer.as_mut()) => {
                    let is_up = matches!(event, PeerEvent::Up { .. });
                    self.on_lane_peer(&event, inputs).await;
                    self.on_peer(event, &inputs.lane);
                    if is_up && self.half.has_pair() {
                        self.tell_offsets(inputs.peer.as_ref());
                    }
                }
                event = inputs.frame.next_event() => self.on_frame_event(&event, inputs),
                answer = inputs.permission.next() => self.on_permission(answer),
                Some((request, reply)) = inputs.questions.recv() => {
                    let answer = self.answer(request, inputs).await;
                    // Whoever asked may be gone.
                    let _ = reply.send(answer);
                }
                event = inputs.link.next() => self.on_link(event, &inputs.link).await,
                _ = slots_over.tick(), if inputs.lane.is_open() => {
                    let change = inputs.lane.on_slot_over(&mut self.kernel.datapath).await;
                    self.on_lane_change(change);
                }
                () = tokio::time::sleep(LOOK), if self.half.may_be_dead() => {
                    if inputs.link.get().await.is_none_or(|link| !link.held) {
                        self.half.on_guest_dead(&mut self.kernel);
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

    fn on_frame_event(&mut self, event: &ColoFrameEvent, inputs: &Inputs) {
        if *event == ColoFrameEvent::CheckpointBegan {
            let epoch = self.kernel.datapath.settings().lane_epoch;
            self.half.dropped_stale(inputs.lane.drop_other(epoch));
        }
        self.half.on_colo_frame_event(Instant::now(), event, &mut self.kernel);
        if *event == ColoFrameEvent::PairReady {
            self.tell_offsets(inputs.peer.as_ref());
        }
    }

    /// Guest output, in the order in which the guest sent it.
    fn on_output(&mut self, frames: &mut Vec<Frame>) {
        self.half.on_output(Instant::now(), frames, &mut self.kernel);
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

    /// What the control lane tells of the kernel lane.
    async fn on_lane_peer(&mut self, event: &PeerEvent, inputs: &mut Inputs) {
        let guest = LaneGuest { mtu: self.netdev.map(|link| link.mtu), is_stopped: false };
        let change = inputs.lane.on_peer(event, guest, &mut self.kernel.datapath).await;
        if change.is_cut_off && !matches!(event, PeerEvent::Message(_)) {
            self.half.on_lane_gone();
            self.queue(change.reply);
            return;
        }
        self.on_lane_change(change);
    }

    fn on_lane_change(&mut self, change: LaneChange) {
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
            PeerEvent::Up { .. } | PeerEvent::Down { .. } => {
                self.on_lane(PeerLane::Control, matches!(event, PeerEvent::Up { .. }));
            }
            PeerEvent::Message(message) => match self.stats.peer.take(message) {
                // Those of the kernel lane have been heard above.
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
                Some(ControlMessage::ProtectionKnown { protected }) => {
                    let now = Instant::now();
                    self.half.on_protection_known(now, protected, &mut self.kernel);
                }
                Some(ControlMessage::TookOver) => self.half.on_taken_over(&mut self.kernel),
                Some(ControlMessage::CheckpointWanted) => {
                    self.half.on_checkpoint_wanted(Instant::now());
                }
                Some(other) => log::debug!("control lane: {other:?} is not for a primary"),
            },
        }
    }

    /// The secondary was fenced, or could not be.
    fn on_permission(&mut self, answer: Answer) {
        let is_done = answer.is_ok();
        if let Err(why) = answer {
            log::error!("{}: the secondary is not fenced: {why}; output is held", self.claim.name);
        }
        self.half.on_fenced(Instant::now(), is_done, &mut self.kernel);
    }

    /// A new secondary is about to become a copy of this guest, which may be the survivor of an
    /// earlier pair: then it needs the translation of the connections that were open there.
    fn tell_offsets(&self, peer: Option<&Peer>) {
        let name = &self.claim.name;
        match (offsets::messages(name, &self.kernel.datapath), peer) {
            (Ok(messages), _) if messages.is_empty() => {}
            (Ok(messages), Some(peer)) => peer.send_all(messages),
            (Ok(_), None) => log::warn!(
                "{name}: connections of an earlier pair are translated here, and without a control \
                 lane only `colo-proxy offsets` tells the secondary"
            ),
            (Err(error), _) => log::error!("{name}: {}", chain(&error)),
        }
    }

    async fn on_link(&mut self, event: LinkEvent, watch: &LinkWatch) {
        let (name, netdev) = (&self.claim.name, &self.guest.netdev);
        let LinkEvent::Arrived(link) = event else {
            log::warn!("{name}: {netdev} is gone; waiting for it to come back");
            self.netdev = None;
            return;
        };
        let datapath = &mut self.kernel.datapath;
        let attach = |ifindex| datapath.set_netdev(ifindex).map_err(InstanceError::from);
        match reattach(watch, link, &self.guest.limits.peer, attach).await {
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

    /// Does what was decided.
    fn carry_out(&mut self, inputs: &mut Inputs) {
        let half = &mut self.half;
        half.release_some(&mut self.kernel);
        half.collect_requests(Instant::now());
        while let Some(command) = half.next_command() {
            inputs.frame.command(&command);
        }
        if half.take_fence_due() {
            inputs.permission.ask();
        }
        while let Some(message) = half.next_message() {
            if inputs.peer.as_ref().is_some_and(|peer| peer.send(message.clone())) {
                continue;
            }
            if !half.on_untold(message) {
                log::warn!("{}: the control lane takes no messages", self.claim.name);
            }
        }
    }

    async fn answer(&mut self, request: Request, inputs: &mut Inputs) -> Reply {
        match request {
            Request::Status => self.report(inputs).await,
            Request::Protect { .. } if self.half.protection().is_taken_over() => {
                Reply::Error(format!(
                    "{}: the secondary takes over from this guest, or has; end the other one and \
                     restart this daemon if it is to serve from here",
                    self.claim.name
                ))
            }
            Request::Protect { migrate } => match inputs.frame.protect(migrate.as_deref()) {
                Ok(message) => {
                    self.half.begin_protection_again();
                    Reply::Done(format!("{}: {message}", self.claim.name))
                }
                Err(why) => Reply::Error(why),
            },
            Request::Divergences { frames } => self.report_divergences(frames),
            Request::Failover => {
                self.half.end_protection(Instant::now(), &mut self.kernel);
                Reply::Done(format!("{}: unprotected; the guest goes on alone", self.claim.name))
            }
            Request::ExportOffsets => offsets::export(&self.claim.name, &self.kernel.datapath),
            Request::ImportOffsets { text } => {
                offsets::import(&self.claim.name, &mut self.kernel.datapath, &text)
            }
        }
    }

    /// The operator ends protection: what is held leaves, and the guest's network is as it was; but
    /// for the programs where they stay, because they translate what an earlier pair has opened. A
    /// guest whose place the secondary has taken stays off the network.
    async fn end(mut self, stays: bool, inputs: &mut Inputs) -> Result<(), InstanceError> {
        if self.half.protection().is_taken_over() {
            if let Some(netdev) = self.netdev {
                inputs.link.set_up(netdev.ifindex, false).await?;
                let name = &self.claim.name;
                log::warn!(
                    "{name}: {} is down, to keep this guest off the network",
                    self.guest.netdev
                );
            }
            inputs.lane.end(&mut self.kernel.datapath).await;
            return detach(self.kernel.datapath).await;
        }
        self.half.release_all(&mut self.kernel);
        if let Some(peer) = &mut inputs.peer {
            disclaim(peer).await;
        }
        self.half.finish(Instant::now(), &mut self.kernel);
        inputs.lane.end(&mut self.kernel.datapath).await;
        if stays {
            return Ok(());
        }
        detach(self.kernel.datapath).await
    }
}

/// The limits of the primary's half.
fn limits(guest: &Guest) -> PrimaryLimits {
    PrimaryLimits {
        unsorted: guest.limits.unsorted,
        digest: guest.limits.digest,
        output_queue_frames: guest.limits.peer.gate_queue_frames,
        disclaim_timeout: guest.limits.peer.timeout,
        ..PrimaryLimits::default()
    }
}

/// The guest goes on alone: before that, the secondary has to know that it is not to take over. One that
/// comes back meanwhile has to be told again.
async fn disclaim(peer: &mut Peer) {
    const UNPROTECTED: ControlMessage = ControlMessage::Protection { protected: false };
    if !peer.send(UNPROTECTED) {
        return;
    }
    let known = async {
        while let Some(event) = peer.next_event().await {
            match event {
                PeerEvent::Message(ControlMessage::ProtectionKnown { protected: false }) => {
                    return;
                }
                PeerEvent::Up { .. } => drop(peer.send(UNPROTECTED)),
                PeerEvent::Down { .. } | PeerEvent::Message(_) => {}
            }
        }
    };
    if tokio::time::timeout(DISCLAIM_MAX, known).await.is_err() {
        log::warn!("the secondary does not say that it knows of the end of protection");
    }
}

/// Everything that goes to the guest goes to the secondary as well.
fn spawn_mirror(
    guest: &Guest,
    port: Port,
    input_gate: &Arc<Gate>,
    stats: &Stats,
) -> Result<(mpsc::Sender<OutgoingRequest>, mpsc::Receiver<LaneEvent>), InstanceError> {
    let busy = stats.busy.clone();
    lane::spawn_outgoing(Outgoing {
        port,
        source: Box::new(GateCapture::new(input_gate.clone())),
        vnet_hdr: guest.vnet_hdr_support,
        limits: guest.limits.peer,
        stats: stats.mirror.clone(),
        observe: Box::new(move |_| busy.on_frame()),
        digester: None,
    })
    .map_err(system("watch the input gate"))
}
