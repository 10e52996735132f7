//! The kernel lane of an instance: opened when the daemons meet, used when both have opened it, closed
//! when they lose each other.
//!
//! The streams stay connected beside it. They carry the frames whenever the peer's end is not open. If
//! an end receives nothing through the lane although the peer is sending, it closes the lane and tells
//! the peer. Then the streams carry the frames until the daemons meet again.

mod back_off;
mod drops;
mod kernel_queries;
mod open;
mod questions;
mod report;
mod slots;

use std::io;
use std::sync::Arc;

use tokio::time::{Interval, MissedTickBehavior};

use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::log_limit::LogLimit;
use colo_proxy_engine::pair::Role;
use colo_proxy_engine::pair::message::{ControlMessage, SLOT, TunnelOffer};

use self::back_off::BackOff;
use self::drops::DropWatch;
use self::kernel_queries::KernelQueries;
use self::slots::{SlotOver, Slots};
use crate::config::{Guest, LaneKind};
use crate::datapath::{Datapath, DatapathError};
use crate::error_chain::chain;
use crate::gate::batch::{drain_gate, read_gate};
use crate::gate::readable::Readable;
use crate::gate::{Gate, GateError};
use crate::lane::control::PeerEvent;
use crate::random::random_u64;
use crate::tunnel::{self, LinkAnswer, Tunnel, TunnelError, Underlay};

/// Why a kernel lane cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum KernelLaneError {
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
}

/// Names the attempt that the system refused.
fn system(action: &'static str) -> impl FnOnce(io::Error) -> KernelLaneError {
    move |source| KernelLaneError::System { action, source }
}

/// Reasons why a lane is not open.
const NOT_MET_YET: &str = "the peer has not connected yet";
const NO_PEER: &str = "the peer is not connected";
const CLOSED_THERE: &str = "the other host has closed its end; its status says why";

fn nothing_arrives(port: u16) -> String {
    format!(
        "no frame arrives through the tunnel although the peer sends; is UDP port {port} open \
         between the hosts?"
    )
}

/// Frames for the peer go through the lane.
fn is_used(datapath: &Datapath) -> bool {
    datapath.settings().lane_ifindex != 0
}

/// Ticks at the end of every slot.
pub(crate) fn slots_over() -> Interval {
    let mut ticks = tokio::time::interval(SLOT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The epoch of the guest's output. The output of a guest that a checkpoint has stopped belongs to the
/// epoch before that checkpoint.
pub(crate) fn epoch_in_force(datapath: &Datapath, is_stopped: bool) -> u32 {
    datapath.epoch().wrapping_sub(u32::from(is_stopped))
}

/// Changes of the lane that the owner has to act on.
#[derive(Debug, Default)]
pub(crate) struct LaneChange {
    /// For the peer.
    pub(crate) reply: Option<ControlMessage>,
    /// Frames of the peer that were lost.
    pub(crate) lost: u64,
    /// The lane was in use and is closed now. The frames that were under way are lost.
    pub(crate) is_cut_off: bool,
}

/// The facts about the guest that a lane needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneGuest {
    /// The MTU of its TAP.
    pub(crate) mtu: Option<u32>,
    /// A checkpoint has stopped it, and its input is queued.
    pub(crate) is_stopped: bool,
}

/// One end of the lane, open or not.
pub(crate) struct KernelLane {
    name: String,
    role: Role,
    kind: LaneKind,
    offer: Option<TunnelOffer>,
    queue_frames: u32,
    /// Ticks for which a peer that sends may seem silent. If the whole link is down, the control lane
    /// is lost within this time. Then the lane closes with the control lane, and opens again with it.
    silent_ticks: u32,
    open: Option<OpenLane>,
    /// Why it is not open.
    why: String,
    /// Frames of the peer that were lost, while it was open before.
    lost_before: u64,
    /// Frames that came and were dropped behind it, while it was open before.
    dropped_before: u64,
    loss_log: LogLimit,
}

struct OpenLane {
    tunnel: Tunnel,
    underlay: Underlay,
    channel: TunnelOffer,
    /// On a primary: the gates through which the secondary's output comes, by the parity of its epoch.
    returns: Option<[ReturnGate; 2]>,
    slots: Slots,
    drops: DropWatch,
    /// Drops behind the lane that are not reported yet.
    back_off: BackOff,
    queries: KernelQueries<Vec<(u32, LinkAnswer)>>,
    /// Ticks since the last look.
    ticks: u32,
    /// Frames that had arrived before the last question.
    arrived_at_look: u64,
    /// The owner has written to the guest since the last question.
    has_written: bool,
}

struct ReturnGate {
    gate: Arc<Gate>,
    ready: Readable,
}

impl KernelLane {
    /// Removes the tunnel that a dead daemon has left, and opens nothing yet.
    pub(crate) async fn new(guest: &Guest, name: &str) -> Result<Self, KernelLaneError> {
        let is_wanted = guest.lane != LaneKind::Stream;
        let removed = tunnel::remove_leftover(&tunnel::name(name)).await;
        if is_wanted {
            removed?;
        }
        let offer = TunnelOffer {
            vni: random_u64().map_err(system("read random bytes"))? as u32 & tunnel::VNI_MASK,
            port: guest.lane_port,
        };
        Ok(Self {
            name: name.into(),
            role: guest.role(),
            kind: guest.lane,
            offer: is_wanted.then_some(offer),
            queue_frames: guest.limits.peer.gate_queue_frames,
            silent_ticks: guest.limits.peer.timeout.div_duration_f32(SLOT) as u32,
            open: None,
            why: NOT_MET_YET.into(),
            lost_before: 0,
            dropped_before: 0,
            loss_log: LogLimit::default(),
        })
    }

    /// The offer for the peer. `None` if the configuration asks for no kernel lane.
    pub(crate) fn offer(&self) -> Option<TunnelOffer> {
        self.offer
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Handles an event of the control lane.
    pub(crate) async fn on_peer(
        &mut self,
        event: &PeerEvent,
        guest: LaneGuest,
        datapath: &mut Datapath,
    ) -> LaneChange {
        let mut change = LaneChange::default();
        match event {
            PeerEvent::Up { lane } if self.offer.is_some() => {
                change.is_cut_off = self.close(NO_PEER, datapath).await;
                let is_open = self.try_open(*lane, guest, datapath).await;
                let epoch = epoch_in_force(datapath, guest.is_stopped);
                change.reply = Some(ControlMessage::Lane { open: is_open, epoch });
            }
            PeerEvent::Down { .. } => change.is_cut_off = self.close(NO_PEER, datapath).await,
            PeerEvent::Message(ControlMessage::Lane { open: true, epoch }) => {
                self.log(self.begin_use(*epoch, datapath));
            }
            PeerEvent::Message(ControlMessage::Lane { open: false, .. }) => {
                change.is_cut_off = self.abandon(CLOSED_THERE, datapath).await;
            }
            PeerEvent::Message(ControlMessage::LaneCount { slot, sent }) => {
                change.lost = self.on_count(*slot, *sent, datapath);
            }
            PeerEvent::Up { .. } | PeerEvent::Message(_) => {}
        }
        change
    }

    async fn try_open(
        &mut self,
        lane: Option<(TunnelOffer, Underlay)>,
        guest: LaneGuest,
        datapath: &mut Datapath,
    ) -> bool {
        let Some((channel, underlay)) = lane else {
            self.why = "the peer offers no kernel lane, or the control lane is not over TCP".into();
            log::info!("{}: no kernel lane: {}", self.name, self.why);
            return false;
        };
        let opened = self.open(channel, underlay, guest, datapath).await;
        let Err(error) = opened else { return true };
        self.why = chain(&error);
        self.log_why();
        self.log(tunnel::remove_leftover(&tunnel::name(&self.name)).await);
        self.log(datapath.close_lane());
        false
    }

    /// Only an operator who has asked for the kernel lane gets an error.
    fn log_why(&self) {
        let (name, why) = (&self.name, &self.why);
        if self.kind == LaneKind::Kernel {
            log::error!("{name}: no kernel lane, so the streams carry the frames: {why}");
        } else {
            log::info!("{name}: no kernel lane, so the streams carry the frames: {why}");
        }
    }

    /// The peer's end is open.
    fn begin_use(&self, epoch: u32, datapath: &mut Datapath) -> Result<(), DatapathError> {
        let Some(open) = &self.open else { return Ok(()) };
        if self.role == Role::Primary {
            datapath.set_lane_epoch(epoch)?;
        }
        datapath.use_lane(true)?;
        let (name, tunnel) = (&self.name, open.tunnel.name());
        log::info!("{name}: frames for the other host go through tunnel {tunnel}");
        Ok(())
    }

    fn on_count(&mut self, slot: u32, sent: u64, datapath: &mut Datapath) -> u64 {
        if self.is_open() {
            // The programs must refuse late frames before the counters are read: frames that they
            // refuse do not count.
            self.log(datapath.set_lane_reported(slot));
        }
        let (Some(open), Ok(counters)) = (&mut self.open, datapath.lane_counters()) else {
            return 0;
        };
        let lost = open.slots.on_count(slot, sent, &counters);
        self.log_loss(lost);
        lost
    }

    /// The owner has dropped frames that came through the lane.
    pub(crate) fn on_dropped(&mut self, frames: u64) {
        if let Some(open) = &mut self.open {
            open.drops.dropped += frames;
            open.back_off.on_loss(frames);
        }
        self.log_loss(frames);
    }

    /// The owner has written frames to the guest. The TAP may have dropped some, as it may drop frames
    /// that come through the lane.
    pub(crate) fn on_written(&mut self, has_written: bool) {
        if let Some(open) = &mut self.open {
            open.has_written |= has_written;
        }
    }

    fn log_loss(&mut self, lost: u64) {
        if lost > 0
            && let Some(more) = self.loss_log.admit(std::time::Instant::now())
        {
            let name = &self.name;
            log::warn!("{name}: kernel lane: {lost} frames of the other host were lost{more}");
        }
    }

    /// A slot is over.
    pub(crate) async fn on_slot_over(&mut self, datapath: &mut Datapath) -> LaneChange {
        let (Some(open), Ok(counters)) = (&mut self.open, datapath.lane_counters()) else {
            return LaneChange::default();
        };
        let before = open.slots.present();
        let SlotOver { message, lost, is_silent } = open.slots.on_tick(datapath.epoch(), &counters);
        let (present, port) = (open.slots.present(), open.channel.port);
        if present != before {
            self.log(datapath.set_lane_slot(present));
        }
        self.log_loss(lost);
        let mut change = LaneChange { reply: message, lost, is_cut_off: false };
        let gone = self.look().err().map(|error| chain(&error));
        change.lost += self.dropped_behind();
        self.ask(datapath);
        if let Some(why) = gone.or_else(|| is_silent.then(|| nothing_arrives(port))) {
            self.give_up(&why, &mut change, datapath).await;
        }
        change
    }

    /// Closes a lane that does not work, and tells the peer.
    async fn give_up(&mut self, why: &str, change: &mut LaneChange, datapath: &mut Datapath) {
        change.is_cut_off = self.abandon(why, datapath).await;
        change.reply = Some(ControlMessage::Lane { open: false, epoch: datapath.epoch() });
    }

    /// Waits for the secondary's output of its present epoch, and reads a batch of it.
    pub(crate) async fn read_returned(&self, epoch: u32, into: &mut Vec<Frame>) -> io::Result<()> {
        match self.gate_of(epoch) {
            Some(ReturnGate { gate, ready }) => ready.read(|| read_gate(gate, into)).await,
            None => std::future::pending().await,
        }
    }

    fn gate_of(&self, epoch: u32) -> Option<&ReturnGate> {
        let [even, odd] = self.open.as_ref()?.returns.as_ref()?;
        Some(if epoch & 1 == 0 { even } else { odd })
    }

    /// The secondary's output of `epoch` counts from here on. Drops the frames of the epoch before that
    /// are left, and returns their number.
    pub(crate) fn begin_epoch(&self, epoch: u32, datapath: &mut Datapath) -> u64 {
        self.log(datapath.set_lane_epoch(epoch));
        self.drop_other(epoch)
    }

    /// Drops the frames in the gate of the other parity, and returns their number. A program that was
    /// running when the epoch changed may put a frame there later, so the owner does this again before
    /// the next epoch.
    pub(crate) fn drop_other(&self, epoch: u32) -> u64 {
        let Some(ReturnGate { gate, .. }) = self.gate_of(epoch.wrapping_add(1)) else { return 0 };
        let mut dropped = 0;
        drain_gate(gate, self.queue_frames, |_| dropped += 1);
        dropped
    }

    /// The instance is ending, or its guest has taken over.
    pub(crate) async fn end(&mut self, datapath: &mut Datapath) {
        self.close(NO_PEER, datapath).await;
    }

    /// Closes as [`Self::close`], while the peer is connected: the log says why.
    async fn abandon(&mut self, why: &str, datapath: &mut Datapath) -> bool {
        let was_open = self.is_open();
        let was_used = self.close(why, datapath).await;
        if was_open {
            self.log_why();
        }
        was_used
    }

    /// Gives the frames back to the streams and removes the tunnel. `true` if the tunnel was in use.
    async fn close(&mut self, why: &str, datapath: &mut Datapath) -> bool {
        let Some(open) = self.open.take() else { return false };
        let was_used = is_used(datapath);
        self.lost_before += open.slots.lost;
        self.dropped_before += open.drops.dropped;
        why.clone_into(&mut self.why);
        // The streams have to carry the frames before the tunnel goes, and the tunnel has to go before
        // the programs that guard it.
        self.log(datapath.use_lane(false));
        self.log(open.tunnel.close().await);
        self.log(datapath.close_lane());
        was_used
    }

    /// A failure leaves the frames on the path that they had. So the daemon goes on, and the log says
    /// what failed.
    fn log<E: std::error::Error + 'static>(&self, done: Result<(), E>) {
        if let Err(error) = done {
            log::error!("{}: kernel lane: {}", self.name, chain(&error));
        }
    }
}
