//! How a running daemon is asked: one unix socket an instance, one JSON line each way.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::name::is_in_this_namespace;

/// Where sockets and locks of running instances are.
pub const RUNTIME_DIR: &str = "/run/colo-proxy";
/// The longest question: a text of [`crate::offsets`], with room for what quoting it adds. Only root
/// can ask.
const REQUEST_MAX: u64 = crate::offsets::TEXT_MAX as u64 * 3 / 2;
/// The longest answer that is taken: many times what the differences of an instance come to, whose
/// bounds are in `instance::primary`.
const ANSWER_MAX: u64 = 64 << 20;
/// How long an answer may take before the daemon counts as hung.
const ANSWER: Duration = Duration::from_secs(5);

/// What went wrong when an instance was asked, or when it opened its socket.
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
}

/// A question to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    Status,
    Failover,
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
    Status(serde_json::Value),
    Divergences(serde_json::Value),
    Done(String),
    /// A text of [`crate::offsets`].
    Offsets(String),
    Error(String),
}

impl Reply {
    /// The divergences of a part that does not compare. Nobody need ask which do.
    pub(crate) fn no_divergences(instance: &str, role: impl Serialize, netdev: &str) -> Self {
        Self::Divergences(serde_json::json!({
            "instance": instance,
            "role": role,
            "netdev": netdev,
            "pid": std::process::id(),
            "divergences_total": 0,
            "divergences": [],
        }))
    }
}

/// What `colo-proxy status` shows of either role. Counts are frames and bytes since the start.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub instance: String,
    pub role: crate::config::Role,
    pub netdev: String,
    pub netdev_present: bool,
    pub pid: u32,
    /// Primary: waiting, protected, resync, unprotected. Secondary: protected, failed-over.
    pub mode: String,
    /// Checkpoints done since the start.
    pub epoch: u64,
    /// Connections known.
    pub flows: u64,
    pub held_frames: u64,
    pub held_bytes: u64,
    pub compared_frames: u64,
    pub compared_bytes: u64,
    pub released_frames: u64,
    pub released_bytes: u64,
    pub divergences: u64,
    /// Checkpoints asked for, by reason.
    pub checkpoints: BTreeMap<String, u64>,
    /// Frames that did not go on, by reason; zeros are left out.
    pub drops: BTreeMap<String, u64>,
    /// Everything that one role has and the other has not.
    pub detail: serde_json::Value,
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
        Err(error) => Reply::Error(format!("`{}` is no request: {error}", line.trim())),
    };
    let text = serde_json::to_string(&reply).unwrap_or_default();
    // Whoever asked may be gone.
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

/// The instance that an operator means by `name`: its own name, or a netdev. Where two network
/// namespaces of this machine have such a netdev, the one in ours is meant.
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
    match serde_json::from_str(&text) {
        Ok(Reply::Error(message)) => Err(refused(message)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(refused(format!("its answer cannot be read: {error}"))),
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

#[cfg(test)]
mod tests {
    use super::{Reply, Request, StatusError, ask, find, running, serve};

    #[tokio::test]
    async fn an_instance_is_listed_found_asked_and_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, mut questions) = serve(dir.path(), "tap0@hosta").expect("it listens");
        assert_eq!(running(dir.path()).expect("listed"), ["tap0@hosta"]);
        assert_eq!(find(dir.path(), "tap0").expect("found"), "tap0@hosta");
        let at = dir.path().to_owned();
        let asked = tokio::task::spawn_blocking(move || ask(&at, "tap0@hosta", &Request::Failover));
        let (request, reply) = questions.recv().await.expect("a question");
        assert_eq!(request, Request::Failover);
        reply.send(Reply::Done("on its own".into())).expect("it waits");
        assert_eq!(
            asked.await.expect("no panic").expect("answered"),
            Reply::Done("on its own".into())
        );
        drop(file);
        assert!(matches!(find(dir.path(), "tap0"), Err(StatusError::Unknown { .. })));
    }

    #[tokio::test]
    async fn an_answer_with_many_frames_comes_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_file, mut questions) = serve(dir.path(), "tap0").expect("it listens");
        let at = dir.path().to_owned();
        let request = Request::Divergences { frames: true };
        let asked = tokio::task::spawn_blocking({
            let request = request.clone();
            move || ask(&at, "tap0", &request)
        });
        let (got, reply) = questions.recv().await.expect("a question");
        assert_eq!(got, request);
        let answer = Reply::Divergences("0f".repeat(4 << 20).into());
        reply.send(answer.clone()).expect("it waits");
        assert_eq!(asked.await.expect("no panic").expect("answered"), answer);
    }

    #[tokio::test]
    async fn a_name_that_means_two_instances_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let _a = serve(dir.path(), "tap0").expect("it listens");
        let _b = serve(dir.path(), "tap0@hostb").expect("it listens");
        assert!(matches!(find(dir.path(), "tap0"), Err(StatusError::Ambiguous { .. })));
        assert_eq!(find(dir.path(), "tap0@hostb").expect("one"), "tap0@hostb");
    }
}
