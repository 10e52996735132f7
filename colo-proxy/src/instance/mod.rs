//! One protected guest on this host: everything that belongs to it, connected, a task of one of the
//! daemon's [`GuestThreads`].
//!
//! [`primary`] and [`secondary`] are the two halves. They bring frames, events and time to the decisions
//! in [`colo_proxy_engine::pair`], and carry those out. [`half`] has what both do alike.

mod announce;
mod busy_poll;
pub(crate) mod counters;
mod half;
mod kept_input;
mod mode_history;
pub(crate) mod offsets;
mod permission;
mod primary;
mod programs;
mod record_file;
mod secondary;
mod threads;
pub(crate) mod trace;
pub(crate) mod translator;

use std::io;
use std::path::PathBuf;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use self::primary::PrimaryTask;
pub use self::record_file::RecordFileError;
use self::secondary::SecondaryTask;
pub use self::threads::GuestThreads;
use crate::colo_frame::ColoFrameError;
use crate::config::{Guest, SideConfig};
use crate::datapath::DatapathError;
use crate::endpoint::EndpointError;
use crate::error_chain::chain;
use crate::gate::GateError;
use crate::kernel_lane::KernelLaneError;
pub use crate::lane::stats::LaneStatus;
use crate::link::LinkError;
use crate::name::NameError;
use crate::status::StatusError;

/// Why an instance could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    KernelLane(#[from] KernelLaneError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    ColoFrame(#[from] ColoFrameError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Record(#[from] RecordFileError),
    #[error("cannot create {}", path.display())]
    RuntimeDir { path: PathBuf, source: io::Error },
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
    #[error("this instance ended unexpectedly")]
    Ended,
}

impl InstanceError {
    /// The remedy, if the module that failed knows one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Gate(error) => error.hint(),
            Self::Datapath(error) => error.hint(),
            _ => None,
        }
    }
}

/// The directories of the instances.
#[derive(Clone, Debug)]
pub struct InstanceDirs {
    /// Sockets and locks, which end with the daemon.
    pub runtime: PathBuf,
    /// What is remembered when the host has been off.
    pub state: PathBuf,
}

/// A running instance.
#[derive(Debug)]
pub struct Instance {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), InstanceError>>,
}

impl Instance {
    /// Attaches and listens; returns when both is done, or the error. `number` counts the instances, and
    /// says which thread serves this one.
    pub async fn start(
        guest: Guest,
        dirs: &InstanceDirs,
        threads: &GuestThreads,
        number: usize,
    ) -> Result<Self, InstanceError> {
        let runtime = &dirs.runtime;
        std::fs::create_dir_all(runtime)
            .map_err(|source| InstanceError::RuntimeDir { path: runtime.clone(), source })?;
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = oneshot::channel();
        let dirs = dirs.clone();
        let serve = move || run(guest, dirs, stopped, ready);
        let task = threads.spawn(number, serve).ok_or(InstanceError::Ended)?;
        let instance = Self { stop, task };
        match is_ready.await {
            Ok(()) => Ok(instance),
            // It ended before it was ready, and says why.
            Err(_) => Err(instance.ended().await.err().unwrap_or(InstanceError::Ended)),
        }
    }

    /// Asks it to end in good order.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// It has ended, by itself or because it was asked to.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for its end.
    pub async fn ended(self) -> Result<(), InstanceError> {
        self.task.await.unwrap_or(Err(InstanceError::Ended))
    }
}

async fn run(
    guest: Guest,
    dirs: InstanceDirs,
    stopped: watch::Receiver<bool>,
    ready: oneshot::Sender<()>,
) -> Result<(), InstanceError> {
    let netdev = guest.netdev.clone();
    let (attached, is_attached) = oneshot::channel();
    let serve = async {
        match guest.side {
            // Large, and made once: not for the stack.
            SideConfig::Primary { .. } => {
                Box::pin(half::run::<PrimaryTask>(guest, &dirs, stopped, attached)).await
            }
            SideConfig::Secondary { .. } => {
                Box::pin(half::run::<SecondaryTask>(guest, &dirs, stopped, attached)).await
            }
        }
    };
    let (ended, was_ready) = tokio::join!(serve, pass_on(is_attached, ready));
    // An instance that was never ready is reported by the one who started it. Nobody reports the end of
    // one that was, while the daemon serves other guests.
    if let Err(error) = &ended
        && was_ready
    {
        log::error!(
            "{netdev}: this guest is no longer served: {}. Mend that, and restart this daemon",
            chain(error)
        );
    }
    ended
}

/// Passes on that the instance is attached; says whether it ever was.
async fn pass_on(is_attached: oneshot::Receiver<()>, ready: oneshot::Sender<()>) -> bool {
    let attached = is_attached.await.is_ok();
    if attached {
        // The one who started us waits for it.
        let _ = ready.send(());
    }
    attached
}

/// Waits until the instance is asked to end.
async fn asked_to_stop(stopped: &mut watch::Receiver<bool>) {
    // The sender goes only with the daemon, which ends this task as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Names what was attempted when the system refused it.
fn system(what: &'static str) -> impl FnOnce(io::Error) -> InstanceError {
    move |source| InstanceError::System { what, source }
}
