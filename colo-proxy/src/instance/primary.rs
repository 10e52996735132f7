//! The primary's half: mirrors the guest's input, holds its output, and lets go what may leave.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use super::cut::Cut;
use super::lanes::{self, BATCH, LaneEvent, LaneStats, Outgoing, OutgoingRequest};
use super::log_limit::LogLimit;
use super::peer::{Peer, PeerCounters, PeerEvent, Traffic};
use super::protection::{Action, Protection, State};
use super::readable::{Drained, Readable};
use super::wiring::{
    GATE_QUEUE_LEN, Kernel, attach, find, lengthen_queue, next_peer_event, open_port, read_gate,
    reattach, sleep_until, system,
};
use super::{InstanceError, asked_to_stop};
use crate::colo_frame::{self, ColoFrame, Command, Event};
use crate::compare::{Engine, Output, Reason, Side};
use crate::config::{Guest, Role, SideConfig};
use crate::control::Message;
use crate::datapath::capture::GateCapture;
use crate::datapath::{Datapath, Mode};
use crate::endpoint::Port;
use crate::frame::Frame;
use crate::gate::{Gate, Written};
use crate::link::{Link, LinkEvent, LinkWatch};
use crate::name::Claim;
use crate::status::{self, Question, Reply, Request};

mod report;

pub(super) async fn run(
    guest: Guest,
    dir: &Path,
    mut stopped: watch::Receiver<bool>,
    ready: oneshot::Sender<()>,
) -> Result<(), InstanceError> {
    let (mut primary, mut inputs) = Primary::start(guest, dir).await?;
    // Nobody waiting means that the daemon is ending; then `stopped` says so too.
    let _ = ready.send(());
    let ended = tokio::select! {
        ended = primary.serve(&mut inputs) => ended,
        () = asked_to_stop(&mut stopped) => Ok(()),
    };
    ended.and(primary.end())
}

/// Everything that the instance waits for.
struct Inputs {
    output: Readable,
    mirror: mpsc::Receiver<LaneEvent>,
    secondary: mpsc::Receiver<LaneEvent>,
    peer: Option<Peer>,
    frame: Box<dyn ColoFrame>,
    questions: mpsc::Receiver<Question>,
    link: LinkWatch,
    /// Only dropped, to remove the socket.
    _socket: status::SocketFile,
    /// Only dropped, to end the mirror task.
    _mirror_requests: mpsc::Sender<OutgoingRequest>,
}

/// The state, and the places where decisions are carried out.
struct Primary {
    guest: Guest,
    claim: Claim,
    datapath: Datapath,
    output_gate: Arc<Gate>,
    input_gate: Arc<Gate>,
    mirror_endpoint: String,
    secondary_endpoint: String,
    engine: Engine,
    out: Output,
    protection: Protection,
    stats: Stats,
    mirror_up: bool,
    secondary_up: bool,
    /// Of the control lane; one that is not configured counts as up.
    peer_up: bool,
    netdev: Option<Link>,
    epoch: u64,
    /// Tells our epochs from those of an earlier daemon; random.
    session: u64,
    cut: Cut,
    /// A checkpoint has begun and is not done yet.
    checkpoint_running: bool,
    request_log: LogLimit,
    /// A command for the COLO-frame that could not be given where it arose.
    commands: VecDeque<Command>,
    /// A message for the peer, likewise.
    messages: VecDeque<Message>,
}

#[derive(Debug, Default)]
struct Stats {
    mirror: Arc<LaneStats>,
    secondary: Arc<LaneStats>,
    peer: PeerCounters,
    /// Frames the kernel did not take back from us.
    release_failed: u64,
    released_unprotected: u64,
    /// Frames of the secondary that came while protection was off.
    secondary_ignored: u64,
    checkpoints_ignored: u64,
    /// Frames of a TAP that came back which passed before our programs were on it.
    unguarded: u64,
    resyncs: u64,
}

impl Primary {
    async fn start(guest: Guest, dir: &Path) -> Result<(Self, Inputs), InstanceError> {
        let SideConfig::Primary { mirror, secondary_in, on_secondary_lost, limits } =
            guest.side.clone()
        else {
            return Err(InstanceError::Ended);
        };
        let (link, netdev, claim) = find(&guest, dir).await?;
        let (mirror_endpoint, secondary_endpoint) = (mirror.to_string(), secondary_in.to_string());
        let mirror = Port::open(mirror).await?;
        let secondary = Port::open(secondary_in).await?;
        let peer = open_port(guest.control.as_ref()).await?;
        let frame = colo_frame::start(guest.colo_frame.as_ref())?;
        let Kernel { datapath, output_gate, input_gate } = attach(&guest, &claim.name, netdev)?;
        output_gate.set_up()?;
        input_gate.set_up()?;
        lengthen_queue(&link, netdev).await;
        let (socket, questions) = status::serve(dir, &claim.name)?;

        let stats = Stats::default();
        let vnet_hdr = guest.vnet_hdr_support;
        let (mirror_requests, mirror) =
            spawn_mirror(&guest, mirror, &input_gate, stats.mirror.clone())?;
        let secondary = lanes::spawn_incoming(secondary, vnet_hdr, stats.secondary.clone());
        let inputs = Inputs {
            output: Readable::new(&*output_gate).map_err(system("watch the output gate"))?,
            mirror,
            secondary,
            peer: peer.map(|port| {
                let traffic =
                    Traffic { sent: stats.mirror.clone(), received: stats.secondary.clone() };
                Peer::spawn(port, Role::Primary, guest.secondary_timeout, traffic)
            }),
            frame,
            questions,
            link,
            _socket: socket,
            _mirror_requests: mirror_requests,
        };
        let now = Instant::now();
        let protection = Protection::new(now, guest.secondary_timeout, on_secondary_lost);
        let seed = seed().map_err(system("read random octets"))?;
        let primary = Self {
            claim,
            datapath,
            output_gate,
            input_gate,
            mirror_endpoint,
            secondary_endpoint,
            session: seed.rotate_left(32) ^ u64::from(std::process::id()),
            engine: Engine::new(limits, seed),
            out: Output::default(),
            protection,
            stats,
            mirror_up: false,
            secondary_up: false,
            peer_up: guest.control.is_none(),
            netdev: Some(netdev),
            epoch: 0,
            cut: Cut::default(),
            checkpoint_running: false,
            request_log: LogLimit::default(),
            commands: VecDeque::new(),
            messages: VecDeque::new(),
            guest,
        };
        Ok((primary, inputs))
    }

    async fn serve(&mut self, inputs: &mut Inputs) -> Result<(), InstanceError> {
        let mut frames = Vec::with_capacity(BATCH);
        loop {
            let deadline = self.poll_timeout();
            tokio::select! {
                read = inputs.output.read(|| read_gate(&self.output_gate, &mut frames)), if self.engine.has_room() => {
                    read.map_err(system("read the output gate"))?;
                    self.on_output(&mut frames);
                }
                Some(event) = inputs.secondary.recv(), if self.engine.has_room_for(Side::Secondary) => {
                    self.on_secondary(event);
                }
                Some(event) = inputs.mirror.recv() => self.on_mirror(&event),
                event = next_peer_event(inputs.peer.as_mut()) => self.on_peer(event),
                event = inputs.frame.next_event() => self.on_frame_event(&event),
                Some((request, reply)) = inputs.questions.recv() => {
                    let answer = self.answer(request, inputs).await;
                    // Whoever asked may be gone.
                    let _ = reply.send(answer);
                }
                event = inputs.link.next() => self.on_link(event, &inputs.link).await,
                () = sleep_until(deadline) => self.on_timeout(),
            }
            self.carry_out(inputs);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.engine.poll_timeout(), self.protection.poll_timeout()].into_iter().flatten().min()
    }

    fn on_timeout(&mut self) {
        let now = Instant::now();
        self.engine.on_timeout(now, &mut self.out);
        let action = self.protection.on_timeout(now);
        self.act(action);
    }

    /// Guest output, in the order in which the guest sent it.
    fn on_output(&mut self, frames: &mut Vec<Frame>) {
        let now = Instant::now();
        if self.protection.state() == State::Unprotected {
            if !self.protection.is_exposed() && frames.iter().any(|frame| self.engine.is_compared(frame)) {
                self.protection.expose();
                self.set_mode(Mode::Off);
            }
            self.stats.released_unprotected += frames.len() as u64;
            self.out.release.append(frames);
            return;
        }
        for frame in frames.drain(..) {
            self.engine.on_frame(now, Side::Primary, frame, &mut self.out);
        }
    }

    fn on_secondary(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Frames(frames) => {
                let now = Instant::now();
                for frame in frames {
                    if let Some(frame) = self.cut.on_frame(frame) {
                        self.compare(now, frame);
                    }
                }
            }
            LaneEvent::Up | LaneEvent::Down => {
                self.secondary_up = matches!(event, LaneEvent::Up);
                let stale = self.cut.on_connection();
                self.engine.dropped_stale(stale);
                // The mark that is awaited has to count frames of this connection.
                self.ask_for_mark();
                self.on_peer_change();
            }
        }
    }

    /// A frame of the secondary's present epoch.
    fn compare(&mut self, now: Instant, frame: Frame) {
        if self.protection.state() == State::Unprotected {
            self.stats.secondary_ignored += 1;
        } else {
            self.engine.on_frame(now, Side::Secondary, frame, &mut self.out);
        }
    }

    /// Asks the secondary where the epoch ends on its lane, if that is not known.
    fn ask_for_mark(&mut self) {
        if let Some(epoch) = self.cut.awaited().filter(|_| self.peer_up) {
            self.messages.push_back(Message::Epoch { session: self.session, epoch });
        }
    }

    fn on_mirror(&mut self, event: &LaneEvent) {
        self.mirror_up = matches!(event, LaneEvent::Up);
        self.on_peer_change();
    }

    fn on_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Up | PeerEvent::Down => {
                self.peer_up = matches!(event, PeerEvent::Up);
                self.ask_for_mark();
                self.on_peer_change();
            }
            PeerEvent::Message(message) => match self.stats.peer.take(message) {
                None => {}
                Some(Message::EpochDone { epoch, sent }) => self.sort(epoch, sent),
                Some(other) => log::debug!("control lane: {other:?} is not for a primary"),
            },
        }
    }

    /// The secondary has told where the epoch ends on its lane.
    fn sort(&mut self, epoch: u64, sent: u64) {
        let (stale, fresh) = self.cut.on_mark(epoch, sent);
        self.engine.dropped_stale(stale);
        let now = Instant::now();
        for frame in fresh {
            self.compare(now, frame);
        }
    }

    fn on_peer_change(&mut self) {
        let up = self.mirror_up && self.secondary_up && self.peer_up;
        let action = self.protection.on_peer(Instant::now(), up);
        self.act(action);
    }

    fn on_frame_event(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::CheckpointBegan => {
                // What the guest sent before it was paused belongs to the epoch that ends here.
                self.drain_output();
                self.engine.checkpoint_began(now);
                self.checkpoint_running = true;
            }
            // Nothing says which output its state covers.
            Event::CheckpointDone { .. } if !self.checkpoint_running => {
                self.stats.checkpoints_ignored += 1;
                log::warn!("{}: a checkpoint is done that had not begun; ignored", self.claim.name);
            }
            Event::CheckpointDone { state_copied } => {
                self.checkpoint_running = false;
                self.epoch += 1;
                if *state_copied && self.guest.control.is_some() {
                    let stale = self.cut.wait_for(self.epoch);
                    self.engine.dropped_stale(stale);
                    self.ask_for_mark();
                }
                self.engine.checkpoint_done(now, &mut self.out);
                let action = self.protection.on_checkpoint_done();
                self.act(action);
            }
            Event::CheckpointFailed { reason } => {
                log::warn!("{}: the COLO-frame made no checkpoint: {reason}", self.claim.name);
                self.checkpoint_running = false;
                self.engine.checkpoint_failed(now);
            }
            Event::Failover => {
                let action = self.protection.end();
                self.act(action);
            }
        }
    }

    /// Reads what the kernel has queued by now, and no more: a guest that goes on sending must not
    /// keep us here.
    fn drain_output(&mut self) {
        let mut frames = Vec::with_capacity(BATCH);
        for _ in 0..=GATE_QUEUE_LEN as usize / BATCH {
            let read = read_gate(&self.output_gate, &mut frames);
            self.on_output(&mut frames);
            if self.protection.state() == State::Unprotected {
                self.write_released();
            }
            if !matches!(read, Ok(((), Drained::No))) {
                return;
            }
        }
    }

    fn act(&mut self, action: Option<Action>) {
        let Some(action) = action else { return };
        let state = self.protection.state();
        if action != Action::Announce {
            // A checkpoint of before covers nothing that is held from here on.
            self.checkpoint_running = false;
        }
        match action {
            Action::Announce => log::info!("{}: {}", self.claim.name, describe(state)),
            Action::Unprotect => {
                log::warn!("{}: {}", self.claim.name, describe(state));
                if self.engine.stats().held.frames > 0 {
                    self.protection.expose();
                }
                if self.protection.is_exposed() {
                    self.release_everything();
                }
                let instance = self.claim.name.clone();
                self.commands.push_back(Command::PeerLost { instance });
            }
            Action::Resync => {
                log::info!("{}: {}", self.claim.name, describe(state));
                self.set_mode(Mode::Protected);
                self.stats.resyncs += 1;
                self.engine.request_checkpoint(Instant::now(), Reason::Resync, &mut self.out);
            }
        }
    }

    /// Rule (c), in the order in which the guest sent it: what is held, then what is queued.
    fn release_everything(&mut self) {
        self.set_mode(Mode::Off);
        self.engine.release_all(Instant::now(), &mut self.out);
        self.drain_output();
    }

    fn set_mode(&mut self, mode: Mode) {
        if let Err(error) = self.datapath.set_mode(mode) {
            log::error!("{}: {error}", self.claim.name);
        }
    }

    async fn on_link(&mut self, event: LinkEvent, watch: &LinkWatch) {
        let (name, netdev) = (&self.claim.name, &self.guest.netdev);
        let LinkEvent::Arrived(link) = event else {
            log::warn!("{name}: {netdev} is gone; waiting for it to come back");
            self.netdev = None;
            return;
        };
        match reattach(watch, link, &mut self.datapath).await {
            Ok(passed) => {
                self.stats.unguarded += passed;
                self.netdev = Some(link);
                log::info!("{name}: {netdev} is back, and attached again");
            }
            // It went again at once: the next one is tried like this one.
            Err(error) => log::error!("{name}: {netdev} is back but not attached: {error}"),
        }
    }

    /// Lets go what may leave.
    fn write_released(&mut self) {
        for frame in self.out.release.drain(..).chain(self.out.acknowledgments.drain(..)) {
            match self.output_gate.write_frame(&frame) {
                Ok(Written::Sent) => {}
                Ok(Written::WouldBlock | Written::Malformed) | Err(_) => {
                    self.stats.release_failed += 1;
                }
            }
        }
    }

    /// Does what the engines decided.
    fn carry_out(&mut self, inputs: &mut Inputs) {
        self.write_released();
        if !self.out.requests.is_empty() {
            let reasons: Vec<String> =
                self.out.requests.drain(..).map(|reason| reason.to_string()).collect();
            let instance = self.claim.name.clone();
            // The guest decides how often this is: see `status` for the count.
            if let Some(more) = self.request_log.admit(Instant::now()) {
                let name = &self.claim.name;
                log::info!("{name}: asking for a checkpoint: {reasons:?} ({more} more not shown)");
            }
            self.commands.push_back(Command::RequestCheckpoint {
                instance,
                epoch: self.epoch,
                reasons,
            });
        }
        for command in self.commands.drain(..) {
            inputs.frame.command(&command);
        }
        for message in self.messages.drain(..) {
            if !inputs.peer.as_ref().is_some_and(|peer| peer.send(message)) {
                log::warn!("{}: the control lane takes no messages", self.claim.name);
            }
        }
    }

    async fn answer(&mut self, request: Request, inputs: &Inputs) -> Reply {
        match request {
            Request::Status => self.report(&inputs.link).await,
            Request::Failover => {
                let action = self.protection.end();
                self.act(action);
                Reply::Done(format!("{}: unprotected; the guest goes on alone", self.claim.name))
            }
        }
    }

    /// The operator ends protection: what is held leaves, and the guest's network is as it was.
    fn end(mut self) -> Result<(), InstanceError> {
        // What comes after is released as well; that protection had ended already is as good.
        let _ = self.protection.end();
        self.release_everything();
        self.write_released();
        self.datapath.detach()?;
        Ok(())
    }
}

/// Everything that goes to the guest goes to the secondary as well.
fn spawn_mirror(
    guest: &Guest,
    port: Port,
    input_gate: &Arc<Gate>,
    stats: Arc<LaneStats>,
) -> Result<(mpsc::Sender<OutgoingRequest>, mpsc::Receiver<LaneEvent>), InstanceError> {
    lanes::spawn_outgoing(Outgoing {
        port,
        source: Box::new(GateCapture::new(input_gate.clone())),
        vnet_hdr: guest.vnet_hdr_support,
        queue_bytes: guest.lane_queue_bytes,
        stall_timeout: guest.secondary_timeout,
        stats,
        observe: Box::new(|_| {}),
    })
    .map_err(system("watch the input gate"))
}

fn describe(state: State) -> &'static str {
    match state {
        State::Waiting => "the secondary is not there; output is held",
        State::Protected => "protected",
        State::Resync => "the secondary is back; output is held until a checkpoint",
        State::Unprotected => "UNPROTECTED: no secondary; the guest goes on alone",
    }
}

fn seed() -> std::io::Result<u64> {
    let mut octets = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut octets)?;
    Ok(u64::from_ne_bytes(octets))
}
