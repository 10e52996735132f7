//! The kernel lane of an instance: opened when both daemons have met, used when both have opened it,
//! closed when they lose each other.
//!
//! The streams stay connected beside it. They carry the frames until the peer says that its end is
//! open, and again where it is not. An end that finds that nothing comes by the lane closes it, and
//! says so; then the streams carry the frames until the daemons meet again.

mod back_off;
mod drops;
mod kernel_queries;
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
use self::slots::{Over, Slots};
use crate::config::{Guest, LaneKind};
use crate::datapath::{Datapath, DatapathError, LanePlan};
use crate::error_chain::chain;
use crate::gate::batch::{drain_gate, read_gate};
use crate::gate::readable::Readable;
use crate::gate::{Gate, GateError, GateOptions};
use crate::lane::control::PeerEvent;
use crate::random::random_u64;
use crate::status::{KernelLaneReport, TunnelReport};
use crate::tunnel::{self, Asker, Seen, Tunnel, TunnelError, Underlay};

/// Why a kernel lane cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum KernelLaneError {
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
}

/// Names what was attempted when the system refused it.
fn system(what: &'static str) -> impl FnOnce(io::Error) -> KernelLaneError {
    move |source| KernelLaneError::System { what, source }
}

/// Ticks between two looks at the tunnel and at what is behind it. A look takes a few requests to the
/// kernel, and a loss in the tunnel is found no sooner. It is longer where the kernel is slow to answer.
const LOOK_TICKS: u32 = 4;

/// Why a lane is not open.
const NOT_THERE: &str = "the peer is not there";
const CLOSED_THERE: &str = "the other host has closed its end; its status says why";

fn nothing_arrives(port: u16) -> String {
    format!(
        "nothing of what the peer sent by the tunnel has arrived; is UDP port {port} open between \
         the hosts?"
    )
}

/// What asks after the tunnel of this guest, and the interfaces behind it.
fn queries(name: String) -> io::Result<KernelQueries<Vec<(u32, Seen)>>> {
    let (mut asker, mut log) = (None, LogLimit::default());
    KernelQueries::start(move |ifindexes| {
        let (answer, failed) = ask(&mut asker, Asker::new, |asker| asker.links(ifindexes));
        if answer.is_none()
            && let Some(more) = log.admit(std::time::Instant::now())
        {
            let why = failed.map(|error| format!(": {}", chain(&error))).unwrap_or_default();
            log::warn!(
                "{name}: kernel lane: the kernel does not tell of its interfaces{why}; asking anew{more}"
            );
        }
        answer.unwrap_or_else(|| tunnel::unknown(ifindexes))
    })
}

/// What `asker` answers, or why there is none. One that knows nothing at all may have lost its
/// connection, and the next question is for another.
fn ask<A, E>(
    asker: &mut Option<A>,
    make: impl FnOnce() -> Result<A, E>,
    links: impl FnOnce(&A) -> Vec<(u32, Seen)>,
) -> (Option<Vec<(u32, Seen)>>, Option<E>) {
    let present = match asker.take().map_or_else(make, Ok) {
        Ok(present) => present,
        Err(error) => return (None, Some(error)),
    };
    let answer = links(&present);
    if answer.iter().all(|(_, seen)| *seen == Seen::Unknown) {
        return (None, None);
    }
    *asker = Some(present);
    (Some(answer), None)
}

/// Frames for the peer go by the lane.
fn is_used(datapath: &Datapath) -> bool {
    datapath.settings().lane_ifindex != 0
}

/// Ticks at the end of every slot.
pub(crate) fn slots_over() -> Interval {
    let mut ticks = tokio::time::interval(SLOT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The epoch of the guest's output: of a guest that is stopped, not that of the checkpoint which is
/// being made.
pub(crate) fn epoch_in_force(datapath: &Datapath, is_stopped: bool) -> u32 {
    datapath.epoch().wrapping_sub(u32::from(is_stopped))
}

/// What the owner has to do.
#[derive(Debug, Default)]
pub(crate) struct LaneChange {
    /// For the peer.
    pub(crate) reply: Option<ControlMessage>,
    /// Frames of the peer that were lost.
    pub(crate) lost: u64,
    /// The lane was in use and is closed now: what was under way is lost.
    pub(crate) is_cut_off: bool,
}

/// What a lane has to know of the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneGuest {
    /// Of its TAP.
    pub(crate) mtu: Option<u32>,
    /// It is to be given the primary's state, and its input waits.
    pub(crate) is_stopped: bool,
}

/// One end of the lane, open or not.
pub(crate) struct KernelLane {
    name: String,
    role: Role,
    kind: LaneKind,
    offer: Option<TunnelOffer>,
    queue_frames: u32,
    /// Ticks for which a peer that sends may seem silent: if it is the link that is down, the control
    /// lane is lost meanwhile, and a lane that is closed with it is opened again.
    silent_ticks: u32,
    open: Option<Open>,
    /// Why it is not open.
    why: String,
    /// Frames of the peer that were lost, while it was open before.
    lost_before: u64,
    /// Frames that came and were dropped behind it, likewise.
    dropped_before: u64,
    loss_log: LogLimit,
}

struct Open {
    tunnel: Tunnel,
    underlay: Underlay,
    channel: TunnelOffer,
    /// On a primary: by which the secondary's output comes, by the parity of its epoch.
    returns: Option<[Return; 2]>,
    slots: Slots,
    drops: DropWatch,
    /// What was dropped behind it, and has yet to be told of.
    back_off: BackOff,
    queries: KernelQueries<Vec<(u32, Seen)>>,
    /// Since the last look.
    ticks: u32,
    /// All that had come when it was asked last what is dropped behind.
    looked_at: u64,
    /// The owner has written to the guest since.
    has_written: bool,
}

struct Return {
    gate: Arc<Gate>,
    ready: Readable,
}

impl KernelLane {
    /// Removes what a dead daemon has left, and opens nothing yet.
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
            why: "the peer has not been met".into(),
            lost_before: 0,
            dropped_before: 0,
            loss_log: LogLimit::default(),
        })
    }

    /// What to tell the peer of it.
    pub(crate) fn offer(&self) -> Option<TunnelOffer> {
        self.offer
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes what the control lane tells of this one.
    pub(crate) async fn on_peer(
        &mut self,
        event: &PeerEvent,
        guest: LaneGuest,
        datapath: &mut Datapath,
    ) -> LaneChange {
        let mut change = LaneChange::default();
        match event {
            PeerEvent::Up { lane } if self.offer.is_some() => {
                change.is_cut_off = self.close(NOT_THERE, datapath).await;
                let is_open = self.try_open(*lane, guest, datapath).await;
                let epoch = epoch_in_force(datapath, guest.is_stopped);
                change.reply = Some(ControlMessage::Lane { open: is_open, epoch });
            }
            PeerEvent::Down { .. } => change.is_cut_off = self.close(NOT_THERE, datapath).await,
            PeerEvent::ControlMessage(ControlMessage::Lane { open: true, epoch }) => {
                self.log(self.begin_use(*epoch, datapath));
            }
            PeerEvent::ControlMessage(ControlMessage::Lane { open: false, .. }) => {
                change.is_cut_off = self.abandon(CLOSED_THERE, datapath).await;
            }
            PeerEvent::ControlMessage(ControlMessage::LaneCount { slot, sent }) => {
                change.lost = self.on_count(*slot, *sent, datapath);
            }
            PeerEvent::Up { .. } | PeerEvent::ControlMessage(_) => {}
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
            self.why = "the peer has no kernel lane, or is not reached over TCP".into();
            log::info!("{}: no kernel lane: {}", self.name, self.why);
            return false;
        };
        let opened = self.open(channel, underlay, guest, datapath).await;
        let Err(error) = opened else { return true };
        self.why = chain(&error);
        self.tell_why();
        self.log(tunnel::remove_leftover(&tunnel::name(&self.name)).await);
        self.log(datapath.close_lane());
        false
    }

    fn tell_why(&self) {
        let (name, why) = (&self.name, &self.why);
        if self.kind == LaneKind::Kernel {
            log::error!("{name}: no kernel lane, the streams carry the frames: {why}");
        } else {
            log::info!("{name}: no kernel lane: {why}");
        }
    }

    async fn open(
        &mut self,
        channel: TunnelOffer,
        underlay: Underlay,
        guest: LaneGuest,
        datapath: &mut Datapath,
    ) -> Result<(), KernelLaneError> {
        underlay.check(guest.mtu.unwrap_or_default())?;
        let tunnel = Tunnel::open(&tunnel::name(&self.name), &underlay, channel).await?;
        let returns = match self.role {
            Role::Primary => Some([self.open_return()?, self.open_return()?]),
            Role::Secondary => None,
        };
        let ifindex = |returns: &[Return; 2]| [0, 1].map(|i: usize| returns[i].gate.ifindex());
        datapath.open_lane(&LanePlan {
            tunnel_ifindex: tunnel.ifindex(),
            return_gate_ifindex: returns.as_ref().map(ifindex).unwrap_or_default(),
            frame_max: underlay.frame_max(),
        })?;
        for Return { gate, .. } in returns.iter().flatten() {
            gate.set_up()?;
        }
        let slot = datapath.settings().lane_slot.wrapping_add(1);
        datapath.set_lane_slot(slot)?;
        let slots =
            Slots::new(slot, datapath.epoch(), self.silent_ticks, &datapath.lane_counters()?);
        datapath.send_lane_input_to_gate(guest.is_stopped)?;
        tunnel.set_up().await?;
        let mut drops = DropWatch::default();
        // Without a beginning nobody could tell what is dropped from here on.
        drops.look(tunnel.links(&self.behind(datapath)).await?);
        let queries =
            queries(self.name.clone()).map_err(system("start a thread for the tunnel"))?;
        self.open = Some(Open {
            tunnel,
            underlay,
            channel,
            returns,
            slots,
            drops,
            back_off: BackOff::default(),
            queries,
            ticks: 0,
            looked_at: 0,
            has_written: false,
        });
        Ok(())
    }

    fn open_gate(&self) -> Result<Arc<Gate>, GateError> {
        let name_template = "colo-ret%d".into();
        let options = GateOptions { name_template, vnet_hdr: true, queue_len: self.queue_frames };
        Ok(Arc::new(Gate::open(&options)?))
    }

    fn open_return(&self) -> Result<Return, KernelLaneError> {
        let gate = self.open_gate()?;
        let ready = Readable::new(&*gate).map_err(system("watch a return gate"))?;
        Ok(Return { gate, ready })
    }

    /// The peer's end is open.
    fn begin_use(&self, epoch: u32, datapath: &mut Datapath) -> Result<(), DatapathError> {
        let Some(open) = &self.open else { return Ok(()) };
        if self.role == Role::Primary {
            datapath.set_lane_epoch(epoch)?;
        }
        datapath.use_lane(true)?;
        log::info!("{}: frames for the other host go by {}", self.name, open.tunnel.name());
        Ok(())
    }

    fn on_count(&mut self, slot: u32, sent: u64, datapath: &mut Datapath) -> u64 {
        if self.is_open() {
            // First: what is refused from here on is not counted.
            self.log(datapath.set_lane_reported(slot));
        }
        let (Some(open), Ok(counters)) = (&mut self.open, datapath.lane_counters()) else {
            return 0;
        };
        let lost = open.slots.on_count(slot, sent, &counters);
        self.tell_loss(lost);
        lost
    }

    /// The owner has dropped frames that came by the lane.
    pub(crate) fn on_dropped(&mut self, frames: u64) {
        if let Some(open) = &mut self.open {
            open.drops.dropped += frames;
            open.back_off.on_loss(frames);
        }
        self.tell_loss(frames);
    }

    /// The owner has written frames to the guest, where they may have been dropped like those which
    /// come by the lane.
    pub(crate) fn on_written(&mut self, has_written: bool) {
        if let Some(open) = &mut self.open {
            open.has_written |= has_written;
        }
    }

    fn tell_loss(&mut self, lost: u64) {
        if lost > 0
            && let Some(more) = self.loss_log.admit(std::time::Instant::now())
        {
            log::warn!("{}: {lost} frames of the other host were lost{more}", self.name);
        }
    }

    /// A slot is over.
    pub(crate) async fn on_slot_over(&mut self, datapath: &mut Datapath) -> LaneChange {
        let (Some(open), Ok(counters)) = (&mut self.open, datapath.lane_counters()) else {
            return LaneChange::default();
        };
        let before = open.slots.present();
        let Over { message, lost, is_silent } = open.slots.on_tick(datapath.epoch(), &counters);
        let (present, port) = (open.slots.present(), open.channel.port);
        if present != before {
            self.log(datapath.set_lane_slot(present));
        }
        self.tell_loss(lost);
        let mut change = LaneChange { reply: message, lost, is_cut_off: false };
        let gone = self.look().err().map(|error| chain(&error));
        change.lost += self.dropped_behind();
        self.ask(datapath);
        if let Some(why) = gone.or_else(|| is_silent.then(|| nothing_arrives(port))) {
            self.give_up(&why, &mut change, datapath).await;
        }
        change
    }

    /// Whether the tunnel is there, and what was dropped behind it, where that was answered.
    fn look(&mut self) -> Result<(), TunnelError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(answer) = open.queries.answer() else { return Ok(()) };
        let Some(((_, tunnel), behind)) = answer.split_first() else { return Ok(()) };
        let gone = open.tunnel.check(*tunnel);
        // Of an idle lane that was not asked.
        let is_asked = !behind.is_empty();
        let dropped = if is_asked { open.drops.look(behind.iter().copied()) } else { 0 };
        open.back_off.on_loss(dropped);
        self.tell_loss(dropped);
        gone
    }

    /// What is to be told of now. A guest's input can be lost for as long as it is slow; on a primary
    /// it is the secondary's output, for which a client waits.
    fn dropped_behind(&mut self) -> u64 {
        let Some(open) = &mut self.open else { return 0 };
        match self.role {
            Role::Primary => open.back_off.take(),
            Role::Secondary => open.back_off.on_tick(),
        }
    }

    /// Asks that, where it is due.
    fn ask(&mut self, datapath: &Datapath) {
        let behind = self.behind(datapath);
        let Some(open) = &mut self.open else { return };
        open.ticks += 1;
        if open.ticks < LOOK_TICKS || open.queries.is_asking() {
            return;
        }
        open.ticks = 0;
        // A frame is dropped as it comes, or not: an idle lane need not ask. What comes while nobody
        // has answered yet is for the next question.
        let arrived = open.slots.arrived();
        let has_come = std::mem::replace(&mut open.looked_at, arrived) != arrived;
        let is_idle = !std::mem::take(&mut open.has_written) && !has_come;
        let mut ifindexes = vec![open.tunnel.ifindex()];
        if !is_idle || open.drops.is_owed {
            ifindexes.extend(behind);
        }
        open.queries.ask(ifindexes);
    }

    /// The interfaces into which the programs put what has come by the lane.
    fn behind(&self, datapath: &Datapath) -> [u32; 2] {
        let settings = datapath.settings();
        match self.role {
            Role::Primary => settings.return_gate_ifindex,
            Role::Secondary => [settings.netdev_ifindex, settings.input_gate_ifindex],
        }
    }

    /// The lane is of no use.
    async fn give_up(&mut self, why: &str, change: &mut LaneChange, datapath: &mut Datapath) {
        change.is_cut_off = self.abandon(why, datapath).await;
        change.reply = Some(ControlMessage::Lane { open: false, epoch: datapath.epoch() });
    }

    /// Waits for the secondary's output of its present epoch, and reads a batch of it.
    pub(crate) async fn read_returned(&self, epoch: u32, into: &mut Vec<Frame>) -> io::Result<()> {
        match self.gate_of(epoch) {
            Some(Return { gate, ready }) => ready.read(|| read_gate(gate, into)).await,
            None => std::future::pending().await,
        }
    }

    fn gate_of(&self, epoch: u32) -> Option<&Return> {
        let [even, odd] = self.open.as_ref()?.returns.as_ref()?;
        Some(if epoch & 1 == 0 { even } else { odd })
    }

    /// The secondary's output of `epoch` counts from here on. Returns how many frames of the one
    /// before were left.
    pub(crate) fn begin_epoch(&self, epoch: u32, datapath: &mut Datapath) -> u64 {
        self.log(datapath.set_lane_epoch(epoch));
        self.drop_other(epoch)
    }

    /// Drops what lies in the gate of the other epochs. A program that was under way when the epoch
    /// changed may have put a frame there since, so this is done again before the next one.
    pub(crate) fn drop_other(&self, epoch: u32) -> u64 {
        let Some(Return { gate, .. }) = self.gate_of(epoch.wrapping_add(1)) else { return 0 };
        let mut dropped = 0;
        drain_gate(gate, self.queue_frames, |_| dropped += 1);
        dropped
    }

    /// The instance is ending, or its guest has taken over.
    pub(crate) async fn end(&mut self, datapath: &mut Datapath) {
        self.close(NOT_THERE, datapath).await;
    }

    /// As [`Self::close`], where the peer is there and somebody should know.
    async fn abandon(&mut self, why: &str, datapath: &mut Datapath) -> bool {
        let was_open = self.is_open();
        let was_used = self.close(why, datapath).await;
        if was_open {
            self.tell_why();
        }
        was_used
    }

    /// Frames go by the streams again, and the tunnel is gone. `true` where frames have gone by it.
    async fn close(&mut self, why: &str, datapath: &mut Datapath) -> bool {
        let Some(open) = self.open.take() else { return false };
        let was_used = is_used(datapath);
        self.lost_before += open.slots.lost;
        self.dropped_before += open.drops.dropped;
        why.clone_into(&mut self.why);
        // Frames go by the streams before the tunnel goes, and it goes before its guards.
        self.log(datapath.use_lane(false));
        self.log(open.tunnel.close().await);
        self.log(datapath.close_lane());
        was_used
    }

    /// What `status` shows.
    pub(crate) fn report(&self, datapath: &Datapath) -> KernelLaneReport {
        let why = match (&self.open, &self.offer) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(self.why.clone()),
            (None, None) => Some("not asked for".to_owned()),
        };
        let counters = datapath.lane_counters().unwrap_or_default();
        KernelLaneReport {
            open: self.open.is_some(),
            used: self.open.is_some() && is_used(datapath),
            why,
            tunnel: self.open.as_ref().map(|open| TunnelReport {
                tunnel: open.tunnel.name().to_owned(),
                local: open.underlay.local,
                remote: open.underlay.remote,
                mtu: open.underlay.mtu,
                vni: open.channel.vni,
                port: open.channel.port,
                sent_frames: counters.sent.iter().sum(),
                received_frames: counters.received.iter().sum(),
            }),
            lost_frames: self.lost(),
            dropped_frames: self.dropped(),
        }
    }

    /// Frames of the peer that were lost in the tunnel.
    pub(crate) fn lost(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.slots.lost).saturating_add(self.lost_before)
    }

    /// Frames of the peer that came by the tunnel and were dropped behind it.
    pub(crate) fn dropped(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.drops.dropped).saturating_add(self.dropped_before)
    }

    /// The gates by which frames come, for whoever counts what they have dropped.
    pub(crate) fn gates(&self) -> impl Iterator<Item = &str> {
        let returns = self.open.iter().filter_map(|open| open.returns.as_ref());
        returns.flatten().map(|of| of.gate.name())
    }

    /// What fails here leaves the frames on the way that they had; the log has to say so.
    fn log<E: std::error::Error + 'static>(&self, done: Result<(), E>) {
        if let Err(error) = done {
            log::error!("{}: kernel lane: {}", self.name, chain(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise it would know nothing for ever.
    #[test]
    fn one_who_knows_nothing_any_more_is_not_asked_again() {
        let (mut asker, mut made) = (None, 0);
        let mut round = |links: &[(u32, Seen)]| {
            let make = || {
                made += 1;
                Ok::<_, ()>(made)
            };
            let (answer, _) = ask(&mut asker, make, |_| links.to_vec());
            (answer.is_some(), made)
        };
        let known = [(1, Seen::Gone), (2, Seen::Unknown)];
        assert_eq!(round(&known), (true, 1));
        assert_eq!(round(&known), (true, 1));
        assert_eq!(round(&tunnel::unknown(&[1, 2])), (false, 1));
        assert_eq!(round(&known), (true, 2), "another one");
        assert_eq!(round(&[]), (false, 2));
        assert_eq!(
            ask(&mut None::<u32>, || Err("no socket"), |_| vec![]),
            (None, Some("no socket"))
        );
    }
}
