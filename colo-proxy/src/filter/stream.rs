//! A mirror or a redirector: between the guest's TAP and the sockets.

mod out;
mod report;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use self::out::{LOOK, Out};
use super::{FilterError, Kind, Options, line, token};
use crate::datapath::filter::{FilterPath, FilterPlan};
use crate::endpoint::{Endpoint, Port};
use crate::error_chain::chain;
use crate::gate::{Gate, GateOptions, Written};
use crate::instance::setup::{lengthen_queue, reattach};
use crate::lane::{self, LaneEvent, LaneStats};
use crate::link::{Link, LinkEvent, LinkWatch};
use crate::name::{Claim, claim_filter};
use crate::status::{self, Question, Reply, Request};
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::record::FrameRecords;

pub(super) async fn run(
    options: Options,
    indev: Option<Endpoint>,
    outdev: Option<Endpoint>,
    dir: &Path,
    started: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), FilterError> {
    let (mut filter, mut inputs) = Filter::start(options, indev, outdev, dir).await?;
    started();
    tokio::select! {
        never = filter.serve(&mut inputs) => match never {},
        () = stop => {}
    }
    filter.end(inputs).await
}

/// Everything that the filter waits for.
struct Inputs {
    indev: Option<mpsc::Receiver<LaneEvent>>,
    outdev: Option<mpsc::Receiver<LaneEvent>>,
    questions: mpsc::Receiver<Question>,
    link: LinkWatch,
    /// Only dropped, to remove the socket.
    _socket: status::SocketFile,
}

struct Filter {
    options: Options,
    claim: Claim,
    path: FilterPath,
    outdev: Option<Out>,
    indev: Option<In>,
    netdev: Option<Link>,
    /// Frames of a TAP that came back which passed before our programs were on it.
    unguarded: u64,
}

/// The way from `indev`.
struct In {
    endpoint: String,
    gate: Gate,
    stats: Arc<LaneStats>,
    /// Frames that the kernel had no room for.
    refused: u64,
    /// Frames that are not what their virtio-net header says.
    malformed: u64,
}

impl In {
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

impl Filter {
    /// The programs are attached last: what fails before leaves the guest's network as it is.
    async fn start(
        mut options: Options,
        indev: Option<Endpoint>,
        outdev: Option<Endpoint>,
        dir: &Path,
    ) -> Result<(Self, Inputs), FilterError> {
        if indev.is_none() {
            // Nothing is added to what the guest gets, so its queue is not ours to change.
            options.limits.guest_queue_frames = 0;
        }
        let (link, netdev) = LinkWatch::start(&options.netdev).await?;
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
                let (out, events) = Out::open(&options, &claim.name, endpoint, &taken).await?;
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
        let path = attach(&options, &claim.name, netdev, outdev.as_ref(), indev.as_ref())?;
        lengthen_queue(&link, netdev, &options.limits).await;
        if path.taken_over() {
            log::info!("{}: took over what a dead process had left", claim.name);
        }
        let inputs =
            Inputs { indev: in_events, outdev: out_events, questions, link, _socket: socket };
        let netdev = Some(netdev);
        Ok((Self { options, claim, path, outdev, indev, netdev, unguarded: 0 }, inputs))
    }

    async fn serve(&mut self, inputs: &mut Inputs) -> std::convert::Infallible {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let connected = self.outdev.as_ref().is_some_and(Out::is_connected);
            tokio::select! {
                event = next_event(inputs.indev.as_mut()) => self.on_indev(event),
                event = next_event(inputs.outdev.as_mut()) => {
                    self.on_outdev(&event, &inputs.link).await;
                }
                Some((request, reply)) = inputs.questions.recv() => {
                    let answer = self.answer(request, &inputs.link).await;
                    // Whoever asked may be gone.
                    let _ = reply.send(answer);
                }
                event = inputs.link.next() => self.on_link(event, &inputs.link).await,
                _ = look.tick(), if connected => self.look_for_losses(&inputs.link).await,
            }
        }
    }

    fn on_indev(&mut self, event: LaneEvent) {
        let Some(indev) = &mut self.indev else { return };
        match event {
            LaneEvent::Frames(frames) => indev.inject(&frames),
            LaneEvent::Up => log::info!("{}: indev is connected", self.claim.name),
            LaneEvent::Down => log::warn!("{}: indev is gone", self.claim.name),
        }
    }

    async fn on_outdev(&mut self, event: &LaneEvent, link: &LinkWatch) {
        let without_peer = self.without_peer();
        let Some(out) = &mut self.outdev else { return };
        match event {
            LaneEvent::Frames(_) => {}
            LaneEvent::Up => out.on_up(link).await,
            LaneEvent::Down => out.on_down(without_peer),
        }
    }

    async fn look_for_losses(&mut self, link: &LinkWatch) {
        if let Some(out) = &mut self.outdev {
            out.look_for_losses(link).await;
        }
    }

    fn without_peer(&self) -> &'static str {
        match self.options.kind {
            Kind::Mirror { .. } => "frames pass, and are mirrored to nobody",
            _ => "frames that are to be redirected are dropped",
        }
    }

    async fn on_link(&mut self, event: LinkEvent, watch: &LinkWatch) {
        let (id, netdev) = (self.claim.name.clone(), self.options.netdev.clone());
        let LinkEvent::Arrived(link) = event else {
            log::warn!("{id}: {netdev} is gone; waiting for it to come back");
            self.netdev = None;
            return;
        };
        let path = &mut self.path;
        let attach = |ifindex| path.set_netdev(ifindex).map_err(FilterError::from);
        match reattach(watch, link, &self.options.limits, attach).await {
            Ok(passed) => {
                self.unguarded += passed;
                self.netdev = Some(link);
                log::info!("{id}: {netdev} is back, and attached again");
            }
            // It went again at once: the next one is tried like this one.
            Err(error) => {
                log::error!("{id}: {netdev} is back but not attached: {}", chain(&error));
            }
        }
    }

    async fn answer(&self, request: Request, link: &LinkWatch) -> Reply {
        let command = self.options.kind.command();
        match request {
            Request::Status => self.report(link).await,
            Request::Divergences { .. } => {
                Reply::no_divergences(&self.claim.name, &self.options.kind, &self.options.netdev)
            }
            Request::Failover => Reply::Error(format!(
                "a {command} does not fail over; end it, and frames pass as without it"
            )),
            Request::Protect { .. } => Reply::Error(super::protects_nobody(command)),
            Request::ExportOffsets | Request::ImportOffsets { .. } => {
                Reply::Error(format!("a {command} translates nothing"))
            }
        }
    }

    /// The guest's network is as if there had been no filter; what was taken from it by then is
    /// delivered, if the peer takes it.
    async fn end(mut self, inputs: Inputs) -> Result<(), FilterError> {
        let id = &self.claim.name;
        let detached = self.path.detach();
        if let Some(out) = &self.outdev {
            out.flush().await;
        }
        if matches!(&self.options.kind, Kind::Redirector { outdev: Some(_), .. }) {
            log::warn!(
                "{id}: detached; what it redirected on {} (queue {}) passes again",
                self.options.netdev,
                self.options.queue
            );
        }
        log::info!("{id}: ended: {}", line(&self.counts(&inputs.link).await));
        Ok(detached?)
    }
}

fn attach(
    options: &Options,
    id: &str,
    netdev: Link,
    outdev: Option<&Out>,
    indev: Option<&In>,
) -> Result<FilterPath, FilterError> {
    let mut path = FilterPath::attach(&FilterPlan {
        id,
        kind: options.kind.word(),
        queue: options.queue.bits(),
        netdev_ifindex: netdev.ifindex,
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
    options: &Options,
    endpoint: Endpoint,
    taken: &[u32],
) -> Result<(In, mpsc::Receiver<LaneEvent>), FilterError> {
    let text = endpoint.to_string();
    let port = Port::open(endpoint).await?;
    let gate = open_gate("colo-in%d", options, taken)?;
    let stats = Arc::new(LaneStats::default());
    let events =
        lane::spawn_incoming::<FrameRecords>(port, options.vnet_hdr_support, Arc::clone(&stats));
    Ok((In { endpoint: text, gate, stats, refused: 0, malformed: 0 }, events))
}

fn open_gate(name_template: &str, options: &Options, taken: &[u32]) -> Result<Gate, FilterError> {
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
