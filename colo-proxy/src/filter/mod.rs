//! QEMU's filters on a guest's TAP, each as a process of its own: mirror, redirector, rewriter.
//!
//! Any of QEMU's parts can be replaced by one of these, because the sockets between them are QEMU's.
//! The kernel programs handle the frames ([`crate::datapath::filter`]). This room has the sockets, the
//! guest's TAP, which comes and goes, and the answers to the operator.

pub(crate) mod options;
mod outlet;
mod rewriter;
mod stream;
mod token;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

pub use self::options::{FilterKind, FilterOptions, FilterOptionsError, FilterQueue};
use crate::colo_frame::ColoFrameError;
use crate::datapath::DatapathError;
use crate::endpoint::EndpointError;
use crate::gate::GateError;
use crate::link::LinkError;
use crate::name::NameError;
use crate::status::StatusError;

/// Why a filter could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error(transparent)]
    Options(#[from] FilterOptionsError),
    #[error(
        "{command} {id} is running as pid {pid}; end it; or, for a second one on this TAP, give it an id \
         of its own (--id)"
    )]
    IdInUse { command: &'static str, id: String, pid: String },
    #[error(transparent)]
    Name(NameError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    ColoFrame(#[from] ColoFrameError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error("cannot create {}", path.display())]
    RuntimeDir { path: PathBuf, source: std::io::Error },
    #[error("cannot {what}")]
    System { what: &'static str, source: std::io::Error },
    #[error(
        "no free token: {tries} gates in a row had the token of another filter in this network \
         namespace; try again, or end filters that are not needed"
    )]
    NoToken { tries: usize },
    #[error("the kernel programs have no ring of events: this build is broken")]
    NoEvents,
}

impl FilterError {
    /// The remedy, if the module that failed knows one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Gate(error) => error.hint(),
            Self::Datapath(error) => error.hint(),
            _ => None,
        }
    }

    /// The id is in use, or cannot be claimed.
    fn of_name(command: &'static str) -> impl FnOnce(NameError) -> Self {
        move |error| match error {
            NameError::InUse { name, pid, .. } => Self::IdInUse { command, id: name, pid },
            other @ NameError::File { .. } => Self::Name(other),
        }
    }
}

/// Filters until `stop` is done, then takes the programs off. Calls `started` when they are attached
/// and every listening endpoint takes connections.
pub async fn run(
    options: FilterOptions,
    dir: &Path,
    started: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), FilterError> {
    options.check()?;
    std::fs::create_dir_all(dir)
        .map_err(|source| FilterError::RuntimeDir { path: dir.into(), source })?;
    match options.kind.clone() {
        FilterKind::Mirror { outdev } => {
            stream::run(options, None, Some(outdev), dir, started, stop).await
        }
        FilterKind::Redirector { indev, outdev } => {
            stream::run(options, indev, outdev, dir, started, stop).await
        }
        FilterKind::Rewriter { colo_frame } => {
            rewriter::run(options, colo_frame.as_ref(), dir, started, stop).await
        }
    }
}

/// Names what was attempted when the system refused it.
fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> FilterError {
    move |source| FilterError::System { what, source }
}

/// The answer to an operator who wants the guest of a filter protected.
fn protects_nobody(command: &str) -> String {
    format!("a {command} makes no checkpoints; ask the one that compares on the primary's host")
}

/// Names and numbers for the log.
fn line(counts: &BTreeMap<String, u64>) -> String {
    let all: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    if all.is_empty() { "nothing came".into() } else { all.join(", ") }
}
