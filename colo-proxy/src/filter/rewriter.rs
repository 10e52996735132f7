//! A rewriter alone on a guest's TAP: the translation of the secondary, without its lanes.

mod report;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use colo_proxy_engine::pair::repeat::SharedRepeater;
use colo_proxy_engine::pair::secondary::TakeoverStep;
use colo_proxy_engine::pair::service_record::RecordKeeper;
use colo_proxy_engine::pair::takeover::{Takeover, TakeoverDeciders};
use colo_proxy_engine::pair::{BATCH, ProgramMode, Role, Secondary};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::{FilterError, FilterOptions, line, system, token};
use crate::colo_frame::{
    self, ColoFrame, ColoFrameCommand, ColoFrameEvent, ColoFrameTerms, OutputTaken,
};
use crate::config::{ColoFrameKind, GuestLimits};
use crate::datapath::filter::FilterPath;
use crate::datapath::{Datapath, DatapathEvent, DatapathEvents, RewriterPlan};
use crate::deadline::sleep_until;
use crate::error_chain::chain;
use crate::gate::GateOptions;
use crate::gate::batch::read_gate;
use crate::gate::readable::{Drained, Readable};
use crate::guest_tap::GuestTap;
use crate::instance::offsets;
use crate::instance::trace::ProgramLog;
use crate::instance::translator::Translator;
use crate::link::LinkEvent;
use crate::name::{Claim, claim_filter};
use crate::status::{self, Question, Reply, Request};

pub(super) async fn run(
    options: FilterOptions,
    colo_frame: Option<&ColoFrameKind>,
    dir: &Path,
    started: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), FilterError> {
    let (mut rewriter, mut inputs) = Rewriter::start(options, colo_frame, dir).await?;
    started();
    let ended = tokio::select! {
        ended = rewriter.serve(&mut inputs) => ended,
        () = stop => Ok(()),
    };
    ended.and(rewriter.end(&inputs).await)
}

/// Everything that the rewriter waits for.
struct RewriterInputs {
    /// Input that the kernel sent back because its offset is not known.
    held: Readable,
    offsets: Readable,
    trace: ProgramLog,
    frame: Box<dyn ColoFrame>,
    questions: mpsc::Receiver<Question>,
    tap: GuestTap,
    /// Only dropped, to remove the socket.
    _socket: status::SocketFile,
}

struct Rewriter {
    options: FilterOptions,
    claim: Claim,
    half: Secondary,
    translator: Translator,
    events: DatapathEvents,
}

impl Rewriter {
    /// Attaches the programs last: an error before that leaves the guest's network as it is.
    async fn start(
        options: FilterOptions,
        colo_frame: Option<&ColoFrameKind>,
        dir: &Path,
    ) -> Result<(Self, RewriterInputs), FilterError> {
        let limits = GuestLimits::default();
        let queue_frames = limits.peer.guest_queue_frames;
        let (mut tap, netdev_ifindex) = GuestTap::find(&options.netdev, queue_frames).await?;
        let command = options.kind.command();
        let id = options.id.as_deref();
        let claim = claim_filter(dir, id, command, &options.netdev, FilterPath::is_foreign)
            .map_err(FilterError::of_name(command))?;
        // The COLO-frame reports the checkpoints and the failover of the secondary's QEMU.
        let terms = ColoFrameTerms::of_part(&claim.name, Role::Secondary, false);
        let frame = colo_frame::start(colo_frame, terms).await?;
        let (socket, questions) = status::serve(dir, &claim.name)?;
        // Early input goes back as it came, with its offloads.
        let whole = GateOptions {
            name_template: "colo-in%d".into(),
            vnet_hdr: true,
            queue_len: limits.peer.gate_queue_frames,
        };
        let gate = token::open_gate(&whole, &FilterPath::taken_tokens(&claim.name)?)?;
        let mut datapath = Datapath::attach_rewriter(&RewriterPlan {
            id: &claim.name,
            netdev_ifindex,
            gate_ifindex: gate.ifindex(),
            limits: limits.translation,
        })?;
        if let Err(error) = gate.set_up() {
            datapath.detach()?;
            return Err(error.into());
        }
        tap.on_guarded(&claim.name).await;
        let events = datapath.take_events().ok_or(FilterError::NoEvents)?;
        let inputs = RewriterInputs {
            held: Readable::new(&gate).map_err(system("watch the gate"))?,
            offsets: Readable::new(&events).map_err(system("watch the events"))?,
            trace: ProgramLog::new(datapath.take_log())
                .map_err(system("watch the programs' log"))?,
            frame,
            questions,
            tap,
            _socket: socket,
        };
        let id = claim.name.clone();
        if datapath.taken_over() {
            log::info!("{id}: took over the programs of a dead process");
        }
        if datapath.mode() == ProgramMode::FailedOver {
            log::warn!(
                "{id}: continuing after a failover: known connections are translated, new ones are not"
            );
        }
        let rewriter = Self {
            half: Secondary::new(
                id.clone(),
                datapath.mode(),
                // Only the COLO-frame and the operator decide here.
                Takeover::new(TakeoverDeciders::default(), RecordKeeper::in_memory(), false),
                SharedRepeater::new(limits.repeat),
                limits.input,
            ),
            translator: Translator::new(id, datapath, Arc::new(gate), &limits),
            options,
            claim,
            events,
        };
        Ok((rewriter, inputs))
    }

    async fn serve(&mut self, inputs: &mut RewriterInputs) -> Result<(), FilterError> {
        let mut frames = Vec::with_capacity(BATCH);
        let mut ageing = tokio::time::interval(self.translator.datapath.ageing_interval());
        ageing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.half.poll_timeout();
            tokio::select! {
                read = inputs.held.read(|| read_gate(&self.translator.gate, &mut frames)) => {
                    read.map_err(system("read the gate"))?;
                    self.half.on_early_input(Instant::now(), &mut frames, &mut self.translator);
                }
                ready = inputs.offsets.read(|| Ok(((), Drained::Yes))) => {
                    ready.map_err(system("watch the events"))?;
                    while let Some(DatapathEvent::OffsetKnown(key, _)) = self.events.next_event() {
                        self.half.on_offset(&key, &mut self.translator);
                    }
                }
                ready = inputs.trace.ready() => ready.map_err(system("watch the programs' log"))?,
                event = inputs.frame.next_event() => {
                    if let Some(taken) = self.on_frame_event(&event)? {
                        inputs.frame.output_taken(taken);
                    }
                }
                Some((request, reply)) = inputs.questions.recv() => {
                    let answer = self.answer(request, inputs).await;
                    // Who has asked may be gone.
                    let _ = reply.send(answer);
                }
                event = inputs.tap.next_event() => self.on_tap(event, &mut inputs.tap).await,
                () = sleep_until(deadline) => self.on_timeout()?,
                _ = ageing.tick() => self.age_flows(),
            }
        }
    }

    fn on_frame_event(
        &mut self,
        event: &ColoFrameEvent,
    ) -> Result<Option<OutputTaken>, FilterError> {
        let (now, id) = (Instant::now(), &self.claim.name);
        match event {
            ColoFrameEvent::Failover => self.fail_over()?,
            // Nobody wants a cut, because there is no lane here: from now on the new numbers hold.
            ColoFrameEvent::CheckpointBegan => {
                let _no_lane = self.half.on_stopped(now, &mut self.translator);
                return Ok(Some(OutputTaken::after_checkpoint_began()));
            }
            ColoFrameEvent::CheckpointDone { state_copied: true, .. } => {
                let _no_lane = self.half.on_state_copied(now, &mut self.translator);
                self.fail_over_if_pending()?;
            }
            ColoFrameEvent::CheckpointDone { .. } | ColoFrameEvent::CheckpointFailed { .. } => {
                self.half.on_not_copied(&mut self.translator);
                self.fail_over_if_pending()?;
            }
            ColoFrameEvent::PairReady | ColoFrameEvent::Reset { .. } => {}
            ColoFrameEvent::PairLost { reason } | ColoFrameEvent::Gone { reason } => {
                log::warn!("{id}: no checkpoint can be made: {reason}");
            }
            ColoFrameEvent::Alone { reason } => log::info!("{id}: {reason}"),
        }
        Ok(None)
    }

    /// The primary is gone: new clients talk to this guest only. A guest that is stopped for a checkpoint
    /// says nothing until it is known with which state it resumes.
    fn fail_over(&mut self) -> Result<(), FilterError> {
        if self.half.take_over(Instant::now()) != TakeoverStep::Now {
            return Ok(());
        }
        self.translator.datapath.set_mode(ProgramMode::FailedOver)?;
        self.half.on_taken_over();
        self.half.replay_all(&mut self.translator);
        log::warn!("{}: failed over; known connections stay translated", self.claim.name);
        Ok(())
    }

    fn fail_over_if_pending(&mut self) -> Result<(), FilterError> {
        if self.half.take_pending_takeover() { self.fail_over() } else { Ok(()) }
    }

    fn on_timeout(&mut self) -> Result<(), FilterError> {
        // The half has no other action here, because it never met a primary.
        let is_due = self.half.on_timeout(Instant::now(), &mut self.translator);
        if is_due { self.fail_over() } else { Ok(()) }
    }

    fn age_flows(&mut self) {
        if self.translator.age_flows(self.half.program_mode()) {
            log::warn!(
                "{}: the table of connections is nearly full, and all of them are in use; only a \
                 checkpoint makes room without breaking one",
                self.claim.name
            );
        }
    }

    async fn on_tap(&mut self, event: LinkEvent, tap: &mut GuestTap) {
        let datapath = &mut self.translator.datapath;
        tap.on_event(event, |ifindex| datapath.set_netdev(ifindex).map_err(FilterError::from))
            .await;
    }

    async fn answer(&mut self, request: Request, inputs: &mut RewriterInputs) -> Reply {
        let id = self.claim.name.clone();
        match request {
            Request::Status => self.report(&inputs.tap).await,
            Request::Protect { .. } => Reply::Error(super::protects_nobody("filter-rewriter")),
            Request::Divergences { .. } => {
                Reply::no_divergences(&id, &self.options.kind, &self.options.netdev)
            }
            Request::Failover { .. } => match self.fail_over() {
                Ok(()) => {
                    inputs.frame.command(&ColoFrameCommand::TakeOver { instance: id.clone() });
                    Reply::Done(format!(
                        "{id}: known connections stay translated, new ones are not"
                    ))
                }
                Err(error) => Reply::Error(chain(&error)),
            },
            Request::ExportOffsets => offsets::export(&id, &self.translator.datapath),
            Request::ImportOffsets { text } => {
                offsets::import(&id, &mut self.translator.datapath, &text)
            }
        }
    }

    /// While the guest lives and connections depend on translation, the programs stay.
    async fn end(mut self, inputs: &RewriterInputs) -> Result<(), FilterError> {
        let id = self.claim.name.clone();
        self.half.replay_all(&mut self.translator);
        let counts = self.counts(&inputs.tap).await;
        let needed = offsets::is_needed(&id, &self.translator.datapath, &inputs.tap).await;
        let detached = if needed { Ok(()) } else { self.translator.datapath.detach() };
        log::info!("{id}: ended: {}", line(&counts));
        Ok(detached?)
    }
}
