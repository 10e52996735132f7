//! `colo-proxy` as a child on a host, and what it says of itself.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::network::{Host, Lab, Side};
use crate::process::{Process, eventually, program};

/// From the start to the word `ready`.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// How long `status` and `failover` may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
const MIRROR_PORT: u16 = 9003;
const SECONDARY_PORT: u16 = 9004;
const CONTROL_PORT: u16 = 9005;

/// How a pair of daemons is set up by flags.
#[derive(Clone, Debug)]
pub struct PairOptions {
    /// Virtio-net headers on the wire between the hosts.
    pub vnet_hdr: bool,
    /// The lane between the daemons themselves.
    pub control: bool,
    /// Which end listens: the primary's, as in QEMU's documentation, or the secondary's.
    pub primary_listens: bool,
    /// `--colo-frame`, on both.
    pub colo_frame: String,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self { vnet_hdr: true, control: true, primary_listens: true, colo_frame: "instant".into() }
    }
}

impl PairOptions {
    /// The endpoint of one lane, as `side` writes it.
    pub fn endpoint(&self, side: Side, port: u16) -> String {
        let listener = if self.primary_listens { Side::Primary } else { Side::Secondary };
        let server = if side == listener { ",server" } else { "" };
        format!("tcp:{}:{port}{server},nodelay", listener.replication())
    }

    fn arguments(&self, host: &Host) -> Vec<String> {
        let side = host.side;
        let (role, back) = match side {
            Side::Primary => ("primary", "--secondary-in"),
            Side::Secondary => ("secondary", "--secondary-out"),
        };
        let mut arguments: Vec<String> = [role, "--netdev", &host.tap].map(Into::into).into();
        let mut lane = |flag: &str, port| {
            arguments.extend([flag.to_owned(), self.endpoint(side, port)]);
        };
        lane("--mirror", MIRROR_PORT);
        lane(back, SECONDARY_PORT);
        if self.control {
            lane("--control", CONTROL_PORT);
        }
        if side == Side::Primary {
            arguments.extend(["--colo-frame".to_owned(), self.colo_frame.clone()]);
        }
        arguments.extend(self.vnet_hdr.then(|| "--vnet-hdr-support".to_owned()));
        arguments
    }
}

/// A running `colo-proxy`.
#[derive(Debug)]
pub struct Daemon {
    pub process: Process,
    asker: Asker,
}

/// Asks a daemon what `colo-proxy status` shows; can be shared with a thread that watches.
#[derive(Clone, Debug)]
pub struct Asker {
    place: Place,
    pid: u32,
}

/// Where a command of a host runs.
#[derive(Clone, Debug)]
struct Place {
    namespaces: Arc<[File]>,
}

impl Place {
    fn of(host: &Host) -> Result<Self> {
        let namespaces = host.namespaces().into_iter().map(File::try_clone);
        let namespaces: Vec<File> =
            namespaces.collect::<Result<_, _>>().context("duplicating a namespace's handle")?;
        Ok(Self { namespaces: namespaces.into() })
    }

    fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        let namespaces: Vec<&File> = self.namespaces.iter().collect();
        Process::spawn(name, command, &namespaces)
    }
}

/// The program under test.
pub fn binary() -> Result<PathBuf> {
    program("colo-proxy", "COLO_PROXY_BIN")
}

impl Daemon {
    /// Starts it on `host` without waiting.
    pub fn spawn<A: AsRef<OsStr>>(host: &Host, arguments: &[A]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        let place = Place::of(host)?;
        let process = place.spawn(&format!("colo-proxy {}", host.side.letter()), command)?;
        let asker = Asker { place, pid: process.pid() };
        Ok(Self { process, asker })
    }

    /// Starts one half of a pair and waits until it is ready.
    pub fn start(lab: &Lab, side: Side, options: &PairOptions) -> Result<Self> {
        let host = lab.host(side);
        let daemon = Self::spawn(host, &options.arguments(host))?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    pub fn wait_ready(&self) -> Result<()> {
        self.process.wait_for("ready", READY_TIMEOUT).map(drop)
    }

    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// `colo-proxy status --json`, the part about this daemon's only instance.
    pub fn status(&self) -> Result<Status> {
        self.with_log(self.asker.status())
    }

    /// The same for each of its instances.
    pub fn statuses(&self) -> Result<Vec<Status>> {
        self.with_log(self.asker.statuses())
    }

    /// `colo-proxy failover` of this daemon's only instance.
    pub fn failover(&self) -> Result<()> {
        let instance = self.status()?.text("instance")?;
        self.with_log(run_at(&self.asker.place, &["failover", &instance])).map(drop)
    }

    /// Waits until the status is as `wanted` says.
    pub fn wait_status(
        &self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = None;
        let found = eventually(what, timeout, || {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(Some(status));
            }
            last = Some(status);
            Ok(None)
        });
        found.with_context(|| {
            format!("the last status was {last:#?}, and the log\n{}", self.process.stderr())
        })
    }

    /// Waits until the pair is protected.
    pub fn wait_protected(&self) -> Result<Status> {
        self.wait_status("protected", READY_TIMEOUT, |status| {
            status.mode().is_ok_and(|mode| mode == "protected")
        })
    }

    fn with_log<T>(&self, asked: Result<T>) -> Result<T> {
        asked.with_context(|| {
            format!("asking {}, whose log is\n{}", self.process.name(), self.process.stderr())
        })
    }
}

impl Asker {
    pub fn status(&self) -> Result<Status> {
        self.statuses()?.into_iter().next().context("the daemon has no instance")
    }

    pub fn statuses(&self) -> Result<Vec<Status>> {
        let text = run_at(&self.place, &["status", "--json"])?;
        let value = serde_json::from_str(&text).with_context(|| format!("reading `{text}`"))?;
        let mut found = Vec::new();
        collect(&value, self.pid, &mut found);
        Ok(found)
    }
}

/// Runs `colo-proxy` on `host` until it ends by itself, and returns its stdout; an error with its
/// stderr where it fails.
pub fn run(host: &Host, arguments: &[&str]) -> Result<String> {
    run_at(&Place::of(host)?, arguments)
}

fn run_at(place: &Place, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = place.spawn(&format!("colo-proxy {}", arguments.join(" ")), command)?;
    let mut text = String::new();
    if let Some(mut stdout) = process.take_stdout() {
        std::io::Read::read_to_string(&mut stdout, &mut text).context("reading its stdout")?;
    }
    let status = process.wait(ASK_TIMEOUT)?;
    ensure!(status.success(), "{}: {status}: {}", process.name(), process.stderr_to_end());
    Ok(text)
}

/// Every object with this process's `pid`, wherever in the answer it is.
fn collect(value: &Value, pid: u32, found: &mut Vec<Status>) {
    match value {
        Value::Object(object) if object.get("pid").and_then(Value::as_u64) == Some(pid.into()) => {
            found.push(Status(value.clone()));
        }
        Value::Object(object) => object.values().for_each(|value| collect(value, pid, found)),
        Value::Array(array) => array.iter().for_each(|value| collect(value, pid, found)),
        _ => {}
    }
}

/// What `colo-proxy status --json` says of an instance.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    pub fn text(&self, key: &str) -> Result<String> {
        match self.0.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            other => bail!("status: `{key}` is {other:?}"),
        }
    }

    pub fn number(&self, key: &str) -> Result<u64> {
        let value = self.0.get(key).and_then(Value::as_u64);
        value.with_context(|| format!("status: `{key}` is {:?}", self.0.get(key)))
    }

    pub fn mode(&self) -> Result<String> {
        self.text("mode")
    }

    /// Checkpoints asked for, by reason.
    pub fn checkpoints(&self) -> BTreeMap<String, u64> {
        self.counts("checkpoints")
    }

    /// Frames that did not go on, by reason.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        self.counts("drops")
    }

    fn counts(&self, key: &str) -> BTreeMap<String, u64> {
        let object = self.0.get(key).and_then(Value::as_object).into_iter().flatten();
        object
            .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}
