//! The status socket: a client asks a running instance, with one JSON line each way.
//!
//! An answer to `status` or `divergences` has the types of the submodules. The daemon writes them and
//! the command reads them, so that both always mean the same.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::error_chain::chain;
use crate::name::is_in_this_namespace;

mod colo_frame;
mod divergences;
mod filter;
mod guest;
mod head;
mod kernel;
mod primary;
mod secondary;
#[cfg(test)]
mod tests;
mod thread;

pub use self::colo_frame::{
    ColoFrameReport, PausesReport, QemuCheckpoints, QemuReport, QemuState, QmpReport,
    QuickAckReport, XenReport,
};
pub use self::divergences::{
    DivergenceReport, Divergences, FlowReport, FoundDivergence, FrameReport, ListedDivergence,
};
pub use self::filter::{
    OutdevStatus, RewriterDetail, RewriterFrames, RewriterMode, RewriterStatus, StreamFilterDetail,
    StreamFilterFrames, StreamFilterMode, StreamFilterStatus,
};
pub(crate) use self::guest::shown_mode;
pub use self::guest::{GuestStatus, ModeReport, RecordReport};
pub use self::head::{InstanceHead, InstanceRole, SCHEMA};
pub use self::kernel::{FlowTableReport, KernelLaneReport, TunnelReport};
pub use self::primary::{PrimaryDetail, PrimaryLanes, PrimaryStatus};
pub use self::secondary::{KeptInputReport, SecondaryDetail, SecondaryLanes, SecondaryStatus};
pub use self::thread::BusyPollReport;
pub use crate::lane::control::PeerCounters;
pub use crate::lane::stats::LaneStatus;

/// Where sockets and locks of running instances are.
pub const RUNTIME_DIR: &str = "/run/colo-proxy";
/// The longest question, in bytes: a text of [`crate::offsets`], with room for the quoting. Only root
/// can ask.
const REQUEST_MAX: u64 = crate::offsets::TEXT_MAX as u64 * 3 / 2;
/// The longest answer that is read, in bytes. The differences of an instance take far less. Their bounds
/// are in `instance::primary`.
const ANSWER_MAX: u64 = 64 << 20;
/// If an answer takes longer, the daemon counts as hung.
const ANSWER: Duration = Duration::from_secs(5);

/// An instance could not be asked, or could not open its socket.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("cannot listen on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot list the running instances in {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("no instance {name} is running; running: {running}")]
    Unknown { name: String, running: String },
    #[error("{name} means more than one instance: {running}; name one of them")]
    Ambiguous { name: String, running: String },
    #[error("instance {name} does not answer on {}", path.display())]
    Ask { name: String, path: PathBuf, source: io::Error },
    #[error("instance {name}: {message}")]
    Refused { name: String, message: String },
    #[error(
        "instance {name}: the answer of its daemon has schema {found}, and this command reads schema \
         {SCHEMA}; use the colo-proxy of the same version as the daemon, or restart the daemon with \
         this one"
    )]
    Schema { name: String, found: u32 },
    #[error(
        "instance {name}: the answer of its daemon names no schema, so the daemon is older than this \
         command, which reads schema {SCHEMA}; restart the daemon with this colo-proxy"
    )]
    NoSchema { name: String },
    #[error(
        "instance {name}: the answer of its daemon cannot be read; are the daemon and this command of \
         the same version?"
    )]
    Read { name: String, source: serde_json::Error },
}

/// A question to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    Status,
    /// Go on without the other host; with `force`, whatever the daemon knows.
    Failover {
        #[serde(default)]
        force: bool,
    },
    /// Bring the guest and the secondary that waits at `migrate` into COLO.
    Protect {
        migrate: Option<String>,
    },
    /// The connections that are translated, as [`crate::offsets`] writes them.
    ExportOffsets,
    /// Makes those connections known.
    ImportOffsets {
        text: String,
    },
    /// The differences that are remembered; with `frames`, as far as they are, with their frames.
    Divergences {
        frames: bool,
    },
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Status(Box<Status>),
    Divergences(Divergences),
    Done(String),
    /// A text of [`crate::offsets`].
    Offsets(String),
    Error(String),
}

impl Reply {
    /// The divergences of a part that does not compare.
    pub(crate) fn no_divergences(
        instance: &str,
        role: impl Into<InstanceRole>,
        netdev: &str,
    ) -> Self {
        Self::Divergences(Divergences::none(instance, role.into(), netdev))
    }
}

/// The version of an answer, whatever else is in it.
#[derive(Deserialize)]
struct AnswerVersion {
    schema: Option<u32>,
}

/// The answers that have a version.
#[derive(Deserialize)]
struct ReplyVersion {
    #[serde(alias = "divergences")]
    status: Option<AnswerVersion>,
}

/// The status of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum Status {
    /// The primary's half of a pair.
    Primary(Box<PrimaryStatus>),
    /// The secondary's half of a pair.
    Secondary(Box<SecondaryStatus>),
    /// A stand-alone mirror.
    FilterMirror(Box<StreamFilterStatus>),
    /// A stand-alone redirector.
    FilterRedirector(Box<StreamFilterStatus>),
    /// A stand-alone rewriter.
    FilterRewriter(Box<RewriterStatus>),
}

/// What `colo-proxy status --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusList {
    /// One for each instance that answered.
    pub instances: Vec<Status>,
}

/// What `colo-proxy divergences --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DivergencesList {
    /// One for each instance that answered.
    pub instances: Vec<Divergences>,
}

/// A question with the place for its answer.
pub type Question = (Request, oneshot::Sender<Reply>);

/// Answers questions about an instance until the receiver is dropped.
pub fn serve(
    dir: &Path,
    name: &str,
) -> Result<(SocketFile, mpsc::Receiver<Question>), StatusError> {
    let path = dir.join(format!("{name}.sock"));
    let fail = |source| StatusError::Listen { path: path.clone(), source };
    // The lock of the instance is ours, so a socket that is there is a dead daemon's.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(fail)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    let (questions, receiver) = mpsc::channel(4);
    tokio::spawn(accept(listener, questions));
    Ok((SocketFile(path), receiver))
}

/// The socket's file, removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn accept(listener: UnixListener, questions: mpsc::Sender<Question>) {
    loop {
        tokio::select! {
            peer = listener.accept() => if let Ok((stream, _)) = peer {
                tokio::spawn(answer(stream, questions.clone()));
            },
            () = questions.closed() => return,
        }
    }
}

async fn answer(stream: tokio::net::UnixStream, questions: mpsc::Sender<Question>) {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(from.take(REQUEST_MAX));
    let read = tokio::time::timeout(ANSWER, reader.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(1..))) {
        return;
    }
    let reply = match serde_json::from_str(&line) {
        Ok(request) => ask_instance(request, &questions).await,
        Err(error) => {
            Reply::Error(format!("`{}` is not a request: {}", line.trim(), chain(&error)))
        }
    };
    let text = serde_json::to_string(&reply).unwrap_or_default();
    // The client may be gone.
    let _ = to.write_all(format!("{text}\n").as_bytes()).await;
}

async fn ask_instance(request: Request, questions: &mpsc::Sender<Question>) -> Reply {
    let (reply, answer) = oneshot::channel();
    let asked = questions.send((request, reply)).await;
    match (asked, answer.await) {
        (Ok(()), Ok(reply)) => reply,
        _ => Reply::Error("the instance is ending".into()),
    }
}

/// The instances that run on this host.
pub fn running(dir: &Path) -> Result<Vec<String>, StatusError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StatusError::List { path: dir.into(), source }),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".sock")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// The instance that an operator means by `name`: its own name, or a netdev. If two network namespaces
/// of this machine have that netdev, the one in ours is meant.
pub fn find(dir: &Path, name: &str) -> Result<String, StatusError> {
    let all = running(dir)?;
    let shown = || if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    let matches: Vec<&String> = all
        .iter()
        .filter(|running| *running == name || running.split('@').next() == Some(name))
        .collect();
    let here: Vec<&String> =
        matches.iter().filter(|running| is_in_this_namespace(dir, running)).copied().collect();
    match (matches.as_slice(), here.as_slice()) {
        ([one], _) | (_, [one]) => Ok((*one).clone()),
        ([], _) => Err(StatusError::Unknown { name: name.into(), running: shown() }),
        _ => Err(StatusError::Ambiguous { name: name.into(), running: shown() }),
    }
}

/// Asks the instance `name`.
pub fn ask(dir: &Path, name: &str, request: &Request) -> Result<Reply, StatusError> {
    let path = dir.join(format!("{name}.sock"));
    let text = exchange(&path, request).map_err(|source| StatusError::Ask {
        name: name.into(),
        path: path.clone(),
        source,
    })?;
    let refused = |message| StatusError::Refused { name: name.into(), message };
    check_version(name, &text)?;
    match serde_json::from_str(&text) {
        Ok(Reply::Error(message)) => Err(refused(message)),
        Ok(reply) => Ok(reply),
        Err(source) => Err(StatusError::Read { name: name.into(), source }),
    }
}

/// Refuses an answer that means something else to its writer than to us. An answer that has another
/// form altogether is for the reader to refuse.
fn check_version(name: &str, answer: &str) -> Result<(), StatusError> {
    let name = || name.to_owned();
    match serde_json::from_str(answer) {
        Ok(ReplyVersion { status: Some(AnswerVersion { schema: None }) }) => {
            Err(StatusError::NoSchema { name: name() })
        }
        Ok(ReplyVersion { status: Some(AnswerVersion { schema: Some(found) }) })
            if found != SCHEMA =>
        {
            Err(StatusError::Schema { name: name(), found })
        }
        _ => Ok(()),
    }
}

fn exchange(path: &Path, request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(serde_json::to_string(request)?.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut text = String::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut text)?;
    Ok(text)
}
