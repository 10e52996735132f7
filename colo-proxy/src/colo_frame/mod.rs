//! The COLO-frame: it copies the primary's state over the secondary.
//!
//! The proxy requests a checkpoint. A driver reports when one begins (the primary is paused, and no
//! output of the old epoch comes after this) and when it is done (the secondary has received all of
//! the state). It also reports when this host is to fail over.
//!
//! On the secondary's host, a driver reports `checkpoint-done` when the guest has the primary's state,
//! before the guest resumes. From then on the guest's numbers are the network's, and a failover must
//! not depend on whether the primary lived to say so.

mod instant;
mod qmp;
mod script;
mod xen;

use std::future::Future;
use std::pin::Pin;

pub use colo_proxy_engine::pair::event::{ColoFrameCommand, ColoFrameEvent};

use crate::config::{CheckpointConfig, ColoFrameKind, Guest, Role};
use crate::endpoint::{EndpointError, Port};
use crate::status::ColoFrameReport;

/// Why a driver could not start.
#[derive(Debug, thiserror::Error)]
pub enum ColoFrameError {
    #[error("cannot start the COLO-frame script {path}: is it executable?")]
    Start { path: String, source: std::io::Error },
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

/// The next event of a driver; never ends, and can be dropped without losing one.
pub type NextEvent<'a> = Pin<Box<dyn Future<Output = ColoFrameEvent> + Send + 'a>>;

/// The guest's output up to the stop of a checkpoint was taken.
///
/// The handler of [`ColoFrameEvent::CheckpointBegan`] returns it, for [`ColoFrame::output_taken`]. If it
/// is lost, so is the checkpoint: a driver that waits for it never learns that the output was taken while
/// the guest stood still, and the checkpoint covers nothing.
#[derive(Debug)]
#[must_use = "the COLO-frame has to know: pass it to `ColoFrame::output_taken`"]
pub struct OutputTaken(());

impl OutputTaken {
    /// To be called behind the last of that output: on a primary it was given to the engine; on a
    /// secondary its cut was taken.
    pub(crate) fn after_checkpoint_began() -> Self {
        Self(())
    }
}

/// A driver.
pub trait ColoFrame: Send {
    /// Passes a command on; must not block.
    fn command(&mut self, command: &ColoFrameCommand);
    /// Waits for the next event.
    fn next_event(&mut self) -> NextEvent<'_>;
    /// The output of the checkpoint that began last was taken. A driver for which that changes nothing
    /// need not care.
    fn output_taken(&mut self, _taken: OutputTaken) {}
    /// Makes a pair with the secondary that waits at `uri`, or at the configured place. Says how it began,
    /// or why it cannot. The result comes as events.
    fn protect(&mut self, _uri: Option<&str>) -> Result<String, String> {
        Err("cannot protect: this COLO-frame driver makes no pairs; configure qmp:".into())
    }
    /// What `status` shows.
    fn report(&self) -> ColoFrameReport;
    /// Counters for the last line of a `colo-compare`.
    fn counts(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Facts about an instance for its driver.
#[derive(Clone, Debug)]
pub struct ColoFrameTerms {
    pub instance: String,
    pub role: Role,
    /// Where the secondary's QEMU waits for the migration.
    pub migrate: Option<String>,
    pub checkpoints: CheckpointConfig,
    pub quick_ack: bool,
    /// The sockets between QEMU and its filters carry virtio-net headers.
    pub vnet_hdr: bool,
}

impl ColoFrameTerms {
    /// For a part that has no configuration.
    pub fn of_part(instance: &str, role: Role, vnet_hdr: bool) -> Self {
        let checkpoints = CheckpointConfig::default();
        Self {
            instance: instance.into(),
            role,
            migrate: None,
            checkpoints,
            quick_ack: true,
            vnet_hdr,
        }
    }

    /// For `guest`, which is served as `instance`.
    pub fn of(guest: &Guest, instance: &str) -> Self {
        Self {
            instance: instance.into(),
            role: guest.role(),
            migrate: guest.migrate.clone(),
            checkpoints: guest.checkpoints,
            quick_ack: guest.quick_ack,
            vnet_hdr: guest.vnet_hdr_support,
        }
    }
}

/// Starts the configured driver. Without one, requests are not answered, and the log says so.
pub async fn start(
    kind: Option<&ColoFrameKind>,
    terms: ColoFrameTerms,
) -> Result<Box<dyn ColoFrame>, ColoFrameError> {
    Ok(match kind {
        None => Box::new(NoDriver),
        Some(ColoFrameKind::Instant) => Box::new(instant::InstantDriver::default()),
        Some(ColoFrameKind::Script(path)) => {
            Box::new(script::ScriptDriver::start(&terms.instance, path)?)
        }
        Some(ColoFrameKind::Qmp(endpoint)) => {
            Box::new(qmp::QmpDriver::open(endpoint.clone(), terms).await?)
        }
        Some(ColoFrameKind::Xen(endpoint)) => {
            let port = Port::open(endpoint.clone()).await?;
            Box::new(xen::XenDriver::new(terms.instance, port, terms.vnet_hdr))
        }
    })
}

/// The same for the driver of `guest`, which is served as `instance`.
pub async fn start_for(
    guest: &Guest,
    instance: &str,
) -> Result<Box<dyn ColoFrame>, ColoFrameError> {
    start(guest.colo_frame.as_ref(), ColoFrameTerms::of(guest, instance)).await
}

/// No COLO-frame.
struct NoDriver;

impl ColoFrame for NoDriver {
    fn command(&mut self, command: &ColoFrameCommand) {
        if let ColoFrameCommand::RequestCheckpoint { instance, reasons, .. } = command {
            let reasons = reasons.join(", ");
            log::warn!(
                "{instance}: a checkpoint is needed, and no COLO-frame is configured to make one, so \
                 held output stays held ({reasons}). Configure one (colo_frame), or end protection"
            );
        }
    }

    fn next_event(&mut self) -> NextEvent<'_> {
        Box::pin(std::future::pending())
    }

    fn report(&self) -> ColoFrameReport {
        ColoFrameReport::None
    }
}
