//! What both halves of a pair do alike: they start, serve until they are asked to end, answer the
//! operator, and end.

use colo_proxy_engine::pair::service_record::ServiceRecord;
use tokio::sync::{mpsc, oneshot, watch};

use super::permission::PermissionTask;
use super::programs::{AttachedPrograms, attach, detach};
use super::record_file::RecordFile;
use super::{InstanceDirs, InstanceError, asked_to_stop, offsets};
use crate::colo_frame::{self, ColoFrame};
use crate::config::Guest;
use crate::datapath::Datapath;
use crate::endpoint::{Endpoint, Port};
use crate::guest_tap::GuestTap;
use crate::kernel_lane::KernelLane;
use crate::lane::control::{ControlLane, LaneTraffic, PeerEvent};
use crate::name::{self, Claim};
use crate::status::{self, Question, Reply, Request};

/// One half of a pair, as its task serves it.
pub(super) trait HalfTask: Sized {
    /// What only this half waits for.
    type Lanes;

    /// Attaches and listens.
    async fn start(
        guest: Guest,
        dirs: &InstanceDirs,
    ) -> Result<(Self, HalfInputs<Self::Lanes>), InstanceError>;

    /// Serves; returns only when it cannot go on.
    async fn serve(&mut self, inputs: &mut HalfInputs<Self::Lanes>) -> Result<(), InstanceError>;

    /// The name under which the guest is served.
    fn name(&self) -> &str;

    fn datapath(&mut self) -> &mut Datapath;

    /// What `status` shows.
    async fn status(&self, inputs: &HalfInputs<Self::Lanes>) -> Reply;

    /// The operator wants the guest protected again, by the secondary that waits at `migrate`.
    fn protect(&mut self, migrate: Option<&str>, inputs: &mut HalfInputs<Self::Lanes>) -> Reply;

    /// The operator wants the guest of this host to go on without the other one. `forced`: whatever this
    /// daemon knows.
    async fn failover(&mut self, forced: bool, inputs: &mut HalfInputs<Self::Lanes>) -> Reply;

    fn divergences(&self, with_frames: bool) -> Reply;

    /// Leaves the guest's network as it is to be without this daemon, but for the programs.
    async fn leave(
        &mut self,
        inputs: &mut HalfInputs<Self::Lanes>,
    ) -> Result<LeftPrograms, InstanceError>;

    fn into_datapath(self) -> Datapath;
}

/// What becomes of the programs when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftPrograms {
    /// They are taken off.
    Detached,
    /// They stay on the guest's TAP, for the next daemon.
    Attached,
}

/// Everything that a half waits for; `L` is what only this one does.
pub(super) struct HalfInputs<L> {
    pub(super) lanes: L,
    pub(super) control: Option<ControlLane>,
    pub(super) lane: KernelLane,
    pub(super) frame: Box<dyn ColoFrame>,
    pub(super) permission: PermissionTask,
    pub(super) record: RecordFile,
    pub(super) questions: mpsc::Receiver<Question>,
    pub(super) tap: GuestTap,
    /// Only dropped, to remove the socket.
    _socket: status::SocketFile,
}

/// Serves `guest` until it is asked to stop.
pub(super) async fn run<T: HalfTask>(
    guest: Guest,
    dirs: &InstanceDirs,
    mut stopped: watch::Receiver<bool>,
    ready: oneshot::Sender<()>,
) -> Result<(), InstanceError> {
    let (mut half, mut inputs) = T::start(guest, dirs).await?;
    // Nobody waiting means that the daemon is ending; then `stopped` says so too.
    let _ = ready.send(());
    let ended = tokio::select! {
        ended = half.serve(&mut inputs) => ended,
        () = asked_to_stop(&mut stopped) => Ok(()),
    };
    ended.and(end(half, &mut inputs).await)
}

/// The kernel lane goes before the programs, which guard it.
async fn end<T: HalfTask>(
    mut half: T,
    inputs: &mut HalfInputs<T::Lanes>,
) -> Result<(), InstanceError> {
    let programs = half.leave(inputs).await?;
    inputs.lane.end(half.datapath()).await;
    match programs {
        LeftPrograms::Attached => Ok(()),
        LeftPrograms::Detached => detach(half.into_datapath()).await,
    }
}

/// Answers the operator.
pub(super) async fn answer<T: HalfTask>(
    half: &mut T,
    (request, reply): Question,
    inputs: &mut HalfInputs<T::Lanes>,
) {
    let answer = match request {
        Request::Status => half.status(inputs).await,
        Request::Protect { migrate } => half.protect(migrate.as_deref(), inputs),
        Request::Divergences { frames } => half.divergences(frames),
        Request::Failover { force } => half.failover(force, inputs).await,
        Request::ExportOffsets => {
            let name = half.name().to_owned();
            offsets::export(&name, half.datapath())
        }
        Request::ImportOffsets { text } => {
            let name = half.name().to_owned();
            offsets::import(&name, half.datapath(), &text)
        }
    };
    // Who has asked may be gone.
    let _ = reply.send(answer);
}

/// A half that is attached and listens, and serves nobody yet.
pub(super) struct StartedHalf {
    pub(super) claim: Claim,
    pub(super) mirror: Port,
    /// The lane of the secondary's output.
    pub(super) output: Port,
    pub(super) programs: AttachedPrograms,
    /// Who served last, as the disk says.
    pub(super) found: Option<ServiceRecord>,
    pub(super) rest: StartedInputs,
}

/// What becomes the half's inputs.
pub(super) struct StartedInputs {
    guest: Guest,
    tap: GuestTap,
    control: Option<Port>,
    frame: Box<dyn ColoFrame>,
    lane: KernelLane,
    record: RecordFile,
}

impl StartedHalf {
    /// Attaches the programs last: an error before that leaves the guest's network as it is.
    pub(super) async fn new(
        guest: &Guest,
        dirs: &InstanceDirs,
        mirror: Endpoint,
        output: Endpoint,
    ) -> Result<Self, InstanceError> {
        let queue_frames = guest.limits.peer.guest_queue_frames;
        let (tap, netdev_ifindex) = GuestTap::find(&guest.netdev, queue_frames).await?;
        let runtime = &dirs.runtime;
        let claim =
            name::claim(runtime, guest.name.as_deref(), &guest.netdev, Datapath::is_foreign)?;
        let has_leftover = Datapath::has_leftover(&claim.name);
        let (record, found) =
            RecordFile::open(&dirs.state, &claim.name, guest.role(), has_leftover)?;
        let mirror = Port::open(mirror).await?;
        let output = Port::open(output).await?;
        let control = match &guest.control {
            Some(endpoint) => Some(Port::open(endpoint.clone()).await?),
            None => None,
        };
        let frame = colo_frame::start_for(guest, &claim.name).await?;
        // A leftover of its tunnel goes before the programs that guard it.
        let lane = KernelLane::new(guest, &claim.name).await?;
        let programs = attach(guest, &claim.name, netdev_ifindex).await?;
        let rest = StartedInputs { guest: guest.clone(), tap, control, frame, lane, record };
        Ok(Self { claim, mirror, output, programs, found, rest })
    }
}

impl StartedInputs {
    /// Lets frames through the gates, and gives the guest the queue that a pair needs.
    pub(super) async fn open_gates(
        &mut self,
        name: &str,
        programs: &AttachedPrograms,
    ) -> Result<(), InstanceError> {
        programs.open_gates()?;
        self.tap.on_guarded(name).await;
        Ok(())
    }

    /// Brings the TAP up: an earlier daemon may have taken it down to keep this guest off the network.
    pub(super) async fn bring_up(&self) -> Result<(), InstanceError> {
        Ok(self.tap.bring_up().await?)
    }

    /// Begins to speak with the peer, about whose `traffic` it is told, and with the operator.
    pub(super) fn serve<L>(
        self,
        dirs: &InstanceDirs,
        name: &str,
        traffic: LaneTraffic,
        lanes: L,
    ) -> Result<HalfInputs<L>, InstanceError> {
        let Self { guest, tap, control, frame, lane, record } = self;
        let (socket, questions) = status::serve(&dirs.runtime, name)?;
        let timeout = guest.limits.peer.timeout;
        let control = control
            .map(|port| ControlLane::spawn(port, guest.role(), timeout, traffic, lane.offer()));
        Ok(HalfInputs {
            lanes,
            control,
            lane,
            frame,
            permission: PermissionTask::new(&guest, name),
            record,
            questions,
            tap,
            _socket: socket,
        })
    }
}

/// The next event of the control lane; never comes without one.
pub(super) async fn next_control_event(control: Option<&mut ControlLane>) -> PeerEvent {
    if let Some(control) = control
        && let Some(event) = control.next_event().await
    {
        return event;
    }
    std::future::pending().await
}
