//! A mirror or a redirector: between the guest's TAP and the sockets.

mod out;
mod report;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use self::out::{LOOK, OutdevLane};
use super::{FilterError, FilterKind, FilterOptions, line, token};
use crate::datapath::filter::{FilterPath, FilterPlan};
use crate::endpoint::{Endpoint, Port};
use crate::gate::{Gate, GateOptions, Written};
use crate::guest_tap::GuestTap;
use crate::lane::{self, LaneEvent, LaneStats};
use crate::link::LinkEvent;
use crate::name::{Claim, claim_filter};
use crate::status::{self, Question, Reply, Request};
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::record::FrameRecords;

pub(super) async fn run(
    options: FilterOptions,
    indev: Option<Endpoint>,
    outdev: Option<Endpoint>,
    dir: &Path,
    started: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), FilterError> {
    let (mut filter, mut inputs) = StreamFilter::start(options, indev, outdev, dir).await?;
    started();
    tokio::select! {
        never = filter.serve(&mut inputs) => match never {},
        () = stop => {}
    }
    filter.end(inputs).await
}

/// Everything that the filter waits for.
struct StreamInputs {
    indev: Option<mpsc::Receiver<LaneEvent>>,
    outdev: Option<mpsc::Receiver<LaneEvent>>,
    questions: mpsc::Receiver<Question>,
    tap: GuestTap,
    /// Only dropped, to remove the socket.
    _socket: status::SocketFile,
}

struct StreamFilter {
    options: FilterOptions,
    claim: Claim,
    path: FilterPath,
    outdev: Option<OutdevLane>,
    indev: Option<IndevLane>,
}

/// The way from `indev`.
struct IndevLane {
    endpoint: String,
    gate: Gate,
    stats: Arc<LaneStats>,
    /// Frames that the kernel had no room for.
    refused: u64,
    /// Frames that are not what their virtio-net header says.
    malformed: u64,
}

impl IndevLane {
    fn inject(&mut self, frames: &[Frame]) {
        for frame in frames {
            match self.gate.write_frame(frame) {
                Ok(Written::Sent) => {}
                Ok(Written::Malformed) => self.malformed += 1,
                Ok(Written::WouldBlock) | Err(_) => self.refused += 1,
            }
        }
    }
}

impl StreamFilter {
    /// Attaches the programs last: an error before that leaves the guest's network as it is.
    async fn start(
        options: FilterOptions,
        indev: Option<Endpoint>,
        outdev: Option<Endpoint>,
        dir: &Path,
    ) -> Result<(Self, StreamInputs), FilterError> {
        // Without an indev nothing is added to what the guest gets, and its queue is not ours to change.
        let queue_frames = indev.as_ref().map_or(0, |_| options.limits.guest_queue_frames);
        let (mut tap, netdev_ifindex) = GuestTap::find(&options.netdev, queue_frames).await?;
        let command = options.kind.command();
        let claim = claim_filter(
            dir,
            options.id.as_deref(),
            command,
            &options.netdev,
            FilterPath::is_foreign,
        )
        .map_err(FilterError::of_name(command))?;
        let taken = FilterPath::taken_tokens(&claim.name)?;
        let (outdev, out_events) = match outdev {
            Some(endpoint) => {
                let (out, events) =
                    OutdevLane::open(&options, &claim.name, endpoint, &taken).await?;
                (Some(out), Some(events))
            }
            None => (None, None),
        };
        let (indev, in_events) = match indev {
            Some(endpoint) => {
                let (input, events) = open_in(&options, endpoint, &taken).await?;
                (Some(input), Some(events))
            }
            None => (None, None),
        };
        let (socket, questions) = status::serve(dir, &claim.name)?;
        let path = attach(&options, &claim.name, netdev_ifindex, outdev.as_ref(), indev.as_ref())?;
        tap.on_guarded(&claim.name).await;
        if path.taken_over() {
            log::info!("{}: took over the programs of a dead process", claim.name);
        }
        let inputs =
            StreamInputs { indev: in_events, outdev: out_events, questions, tap, _socket: socket };
        Ok((Self { options, claim, path, outdev, indev }, inputs))
    }

    async fn serve(&mut self, inputs: &mut StreamInputs) -> std::convert::Infallible {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let connected = self.outdev.as_ref().is_some_and(OutdevLane::is_connected);
            tokio::select! {
                event = next_event(inputs.indev.as_mut()) => self.on_indev(event),
                event = next_event(inputs.outdev.as_mut()) => {
                    self.on_outdev(&event, &inputs.tap).await;
                }
                Some((request, reply)) = inputs.questions.recv() => {
                    let answer = self.answer(request, &inputs.tap).await;
                    // Who has asked may be gone.
                    let _ = reply.send(answer);
                }
                event = inputs.tap.next_event() => self.on_tap(event, &mut inputs.tap).await,
                _ = look.tick(), if connected => self.look_for_losses(&inputs.tap).await,
            }
        }
    }

    fn on_indev(&mut self, event: LaneEvent) {
        let Some(indev) = &mut self.indev else { return };
        match event {
            LaneEvent::Frames(frames) => indev.inject(&frames),
            LaneEvent::Up => log::info!("{}: indev is connected", self.claim.name),
            LaneEvent::Down => {
                log::warn!(
                    "{}: indev is down; nothing is injected until it connects",
                    self.claim.name
                );
            }
        }
    }

    async fn on_outdev(&mut self, event: &LaneEvent, tap: &GuestTap) {
        let without_peer = self.without_peer();
        let Some(out) = &mut self.outdev else { return };
        match event {
            LaneEvent::Frames(_) => {}
            LaneEvent::Up => out.on_up(tap.links()).await,
            LaneEvent::Down => out.on_down(without_peer),
        }
    }

    async fn look_for_losses(&mut self, tap: &GuestTap) {
        if let Some(out) = &mut self.outdev {
            out.look_for_losses(tap.links()).await;
        }
    }

    fn without_peer(&self) -> &'static str {
        match self.options.kind {
            FilterKind::Mirror { .. } => "frames pass, and are not mirrored",
            _ => "frames that it would redirect are dropped",
        }
    }

    async fn on_tap(&mut self, event: LinkEvent, tap: &mut GuestTap) {
        let path = &mut self.path;
        tap.on_event(event, |ifindex| path.set_netdev(ifindex).map_err(FilterError::from)).await;
    }

    async fn answer(&self, request: Request, tap: &GuestTap) -> Reply {
        let command = self.options.kind.command();
        match request {
            Request::Status => self.report(tap).await,
            Request::Divergences { .. } => {
                Reply::no_divergences(&self.claim.name, &self.options.kind, &self.options.netdev)
            }
            Request::Failover { .. } => Reply::Error(format!(
                "a {command} does not fail over; end it if frames are to pass as without it"
            )),
            Request::Protect { .. } => Reply::Error(super::protects_nobody(command)),
            Request::ExportOffsets | Request::ImportOffsets { .. } => {
                Reply::Error(format!("a {command} translates nothing"))
            }
        }
    }

    /// The guest's network is as if there had been no filter. Frames that were taken by then are
    /// delivered, if the peer takes them.
    async fn end(mut self, inputs: StreamInputs) -> Result<(), FilterError> {
        let id = &self.claim.name;
        let detached = self.path.detach();
        if let Some(out) = &self.outdev {
            out.flush().await;
        }
        if matches!(&self.options.kind, FilterKind::Redirector { outdev: Some(_), .. }) {
            log::warn!(
                "{id}: detached; traffic that it redirected on {} (queue {}) passes again",
                self.options.netdev,
                self.options.queue
            );
        }
        log::info!("{id}: ended: {}", line(&self.counts(&inputs.tap).await));
        Ok(detached?)
    }
}

fn attach(
    options: &FilterOptions,
    id: &str,
    netdev_ifindex: u32,
    outdev: Option<&OutdevLane>,
    indev: Option<&IndevLane>,
) -> Result<FilterPath, FilterError> {
    let mut path = FilterPath::attach(&FilterPlan {
        id,
        kind: options.kind.word(),
        queue: options.queue.bits(),
        netdev_ifindex,
        out_gate_ifindex: outdev.map(|out| out.gate.ifindex()),
        in_gate_ifindex: indev.map(|input| input.gate.ifindex()),
    })?;
    let out = outdev.map_or(Ok(()), |out| out.gate.set_up());
    if let Err(error) = out.and_then(|()| indev.map_or(Ok(()), |input| input.gate.set_up())) {
        path.detach()?;
        return Err(error.into());
    }
    Ok(path)
}

async fn open_in(
    options: &FilterOptions,
    endpoint: Endpoint,
    taken: &[u32],
) -> Result<(IndevLane, mpsc::Receiver<LaneEvent>), FilterError> {
    let text = endpoint.to_string();
    let port = Port::open(endpoint).await?;
    let gate = open_gate("colo-in%d", options, taken)?;
    let stats = Arc::new(LaneStats::default());
    let events =
        lane::spawn_incoming::<FrameRecords>(port, options.vnet_hdr_support, Arc::clone(&stats));
    Ok((IndevLane { endpoint: text, gate, stats, refused: 0, malformed: 0 }, events))
}

fn open_gate(
    name_template: &str,
    options: &FilterOptions,
    taken: &[u32],
) -> Result<Gate, FilterError> {
    token::open_gate(
        &GateOptions {
            name_template: name_template.into(),
            vnet_hdr: options.vnet_hdr_support,
            queue_len: options.limits.gate_queue_frames,
        },
        taken,
    )
}

async fn next_event(lane: Option<&mut mpsc::Receiver<LaneEvent>>) -> LaneEvent {
    if let Some(lane) = lane
        && let Some(event) = lane.recv().await
    {
        return event;
    }
    std::future::pending().await
}
