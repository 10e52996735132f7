//! `colo-proxy` as a child on a host, and its reports.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::network::{HostSide, Lab, LabHost, LabSlot};
use crate::phrases;
use crate::process::{Process, eventually, program};

/// The time from the start to the word `ready`.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// The time that `status` and `failover` may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const MIRROR_PORT: u16 = 9003;
pub(crate) const SECONDARY_PORT: u16 = 9004;
pub(crate) const CONTROL_PORT: u16 = 9005;

/// The flags of a pair of daemons.
#[derive(Clone, Debug)]
pub struct PairOptions {
    /// Virtio-net headers on the wire between the hosts.
    pub vnet_hdr: bool,
    /// Whether there is a control lane between the daemons.
    pub control: bool,
    /// Whether the primary listens, as in QEMU's documentation, or the secondary.
    pub primary_listens: bool,
    /// `--colo-frame`. The secondary also has one if it is a QEMU.
    pub colo_frame: String,
    /// `--lane`; empty if the configuration has it.
    pub lane: &'static str,
    /// `--return` of the secondary.
    pub returns: String,
}

/// Names what the secondaries of a whole test return, if that is not the frames.
const RETURN: &str = "COLO_PROXY_RETURN";

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            vnet_hdr: true,
            control: true,
            primary_listens: true,
            colo_frame: "instant".into(),
            lane: "stream",
            returns: std::env::var(RETURN).unwrap_or_else(|_| "frames".to_owned()),
        }
    }
}

impl PairOptions {
    /// The endpoint of one lane, as `side` writes it.
    pub fn endpoint(&self, side: HostSide, port: u16) -> String {
        let listener = if self.primary_listens { HostSide::Primary } else { HostSide::Secondary };
        let server = if side == listener { ",server" } else { "" };
        format!("tcp:{}:{port}{server},nodelay", listener.replication())
    }

    /// A `[[guest]]` of a configuration file for the TAP of `slot`, with further lines. Every slot
    /// has ports of its own.
    pub fn config(&self, side: HostSide, slot: LabSlot, more: &str) -> String {
        let port = |port| port + 10 * u16::from(slot.0);
        let (role, back) = match side {
            HostSide::Primary => ("primary", "secondary_in"),
            HostSide::Secondary => ("secondary", "secondary_out"),
        };
        let lane = |name, at| format!("{name} = \"{}\"\n", self.endpoint(side, port(at)));
        let mut text = format!("[[guest]]\nrole = \"{role}\"\nnetdev = \"{}\"\n", slot.tap());
        text += &lane("mirror", MIRROR_PORT);
        text += &lane(back, SECONDARY_PORT);
        if self.control {
            text += &lane("control", CONTROL_PORT);
        }
        if let Some(frame) = self.frame(side) {
            text += "colo_frame = \"";
            text += frame;
            text += "\"\n";
        }
        let lane = match self.lane {
            "" => String::new(),
            lane => format!("lane = \"{lane}\"\n"),
        };
        let returns =
            self.returns(side).map_or_else(String::new, |kind| format!("return = \"{kind}\"\n"));
        text + &lane + &returns + &format!("vnet_hdr_support = {}\n{more}\n", self.vnet_hdr)
    }

    /// A secondary has a COLO-frame only if that is a QEMU.
    fn frame(&self, side: HostSide) -> Option<&str> {
        let frame = self.colo_frame.as_str();
        (side == HostSide::Primary || frame.starts_with("qmp:")).then_some(frame)
    }

    /// The value of `--return` for `side`, if it needs one. Digests need a control lane.
    fn returns(&self, side: HostSide) -> Option<&str> {
        let is_said = side == HostSide::Secondary && self.control && self.returns != "frames";
        is_said.then_some(self.returns.as_str())
    }

    fn arguments(&self, host: &LabHost) -> Vec<String> {
        let side = host.side;
        let (role, back) = match side {
            HostSide::Primary => ("primary", "--secondary-in"),
            HostSide::Secondary => ("secondary", "--secondary-out"),
        };
        let mut arguments: Vec<String> = [role, "--netdev", "tap0"].map(Into::into).into();
        let mut lane = |flag: &str, port| {
            arguments.extend([flag.to_owned(), self.endpoint(side, port)]);
        };
        lane("--mirror", MIRROR_PORT);
        lane(back, SECONDARY_PORT);
        if self.control {
            lane("--control", CONTROL_PORT);
        }
        arguments.extend(self.frame(side).map(|frame| format!("--colo-frame={frame}")));
        arguments.extend(["--lane".to_owned(), self.lane.to_owned()]);
        arguments.extend(self.returns(side).map(|returns| format!("--return={returns}")));
        arguments.extend(self.vnet_hdr.then(|| "--vnet-hdr-support".to_owned()));
        arguments
    }
}

/// A running `colo-proxy`.
#[derive(Debug)]
pub struct Daemon {
    pub process: Process,
    asker: StatusAsker,
}

/// Asks a daemon for what `colo-proxy status` shows. A thread that watches can share it.
#[derive(Clone, Debug)]
pub struct StatusAsker {
    place: Place,
    pid: u32,
}

/// Where a host's commands run.
#[derive(Clone, Debug)]
struct Place(Arc<PlaceOfHost>);

#[derive(Debug)]
struct PlaceOfHost {
    namespaces: Vec<File>,
    /// Where daemons remember who serves.
    state_dir: PathBuf,
}

impl Place {
    fn of(host: &LabHost) -> Result<Self> {
        let namespaces = host.namespaces().into_iter().map(File::try_clone);
        let namespaces: Vec<File> =
            namespaces.collect::<Result<_, _>>().context("duplicating a namespace's handle")?;
        Ok(Self(Arc::new(PlaceOfHost { namespaces, state_dir: host.state.path().into() })))
    }

    fn spawn(&self, name: &str, mut command: Command) -> Result<Process> {
        command.env("STATE_DIRECTORY", &self.0.state_dir);
        let namespaces: Vec<&File> = self.0.namespaces.iter().collect();
        Process::spawn(name, command, &namespaces)
    }
}

/// The program under test.
pub fn binary() -> Result<PathBuf> {
    program("colo-proxy", "COLO_PROXY_BIN")
}

impl Daemon {
    /// Starts the program on `host` and does not wait.
    pub fn spawn<A: AsRef<OsStr>>(host: &LabHost, arguments: &[A]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        let place = Place::of(host)?;
        let process = place.spawn(&format!("colo-proxy {}", host.side.letter()), command)?;
        let asker = StatusAsker { place, pid: process.pid() };
        Ok(Self { process, asker })
    }

    /// Starts one half of a pair and waits until it is ready.
    pub fn start(lab: &Lab, side: HostSide, options: &PairOptions) -> Result<Self> {
        let host = lab.host(side);
        let daemon = Self::spawn(host, &options.arguments(host))?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts `colo-proxy run` with this configuration and waits until it is ready.
    pub fn run_config(host: &LabHost, config: &str) -> Result<Self> {
        Self::run_config_within(host, config, READY_TIMEOUT)
    }

    /// The same, with more time: this daemon attaches to more than usual.
    pub fn run_config_within(host: &LabHost, config: &str, timeout: Duration) -> Result<Self> {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let file = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("colo-lab-{}-{file}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, config).context("writing a configuration")?;
        let daemon =
            Self::spawn(host, &[OsStr::new("run"), OsStr::new("--config"), path.as_os_str()]);
        let ready = daemon
            .and_then(|daemon| daemon.process.wait_for(phrases::READY, timeout).map(|_| daemon));
        std::fs::remove_file(&path).context("removing a configuration")?;
        ready
    }

    pub fn wait_ready(&self) -> Result<()> {
        self.process.wait_for(phrases::READY, READY_TIMEOUT).map(drop)
    }

    pub fn asker(&self) -> StatusAsker {
        self.asker.clone()
    }

    /// The part of `colo-proxy status --json` about this daemon's only instance.
    pub fn status(&self) -> Result<DaemonStatus> {
        self.with_log(self.asker.status())
    }

    /// The same for each of the daemon's instances.
    pub fn statuses(&self) -> Result<Vec<DaemonStatus>> {
        self.with_log(self.asker.statuses())
    }

    /// `colo-proxy failover` of this daemon's instance on the first TAP.
    pub fn failover(&self) -> Result<()> {
        self.with_log(run_at(&self.asker.place, &["failover", "tap0"])).map(drop)
    }

    /// The same with `--force`: whatever the daemon knows. A host that has just died is heard until its
    /// silence is noticed.
    pub fn failover_forced(&self) -> Result<()> {
        self.with_log(run_at(&self.asker.place, &["failover", "--force", "tap0"])).map(drop)
    }

    /// `colo-proxy protect` of the same instance: brings its guest, and the guest that waits at
    /// `uri`, into COLO.
    pub fn protect(&self, uri: &str) -> Result<String> {
        let arguments = ["protect", "tap0", "--migrate", uri];
        self.with_log(run_at(&self.asker.place, &arguments))
    }

    /// Waits until `wanted` accepts the status.
    pub fn wait_status(
        &self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&DaemonStatus) -> bool,
    ) -> Result<DaemonStatus> {
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
    pub fn wait_protected(&self) -> Result<DaemonStatus> {
        self.wait_status("protected", READY_TIMEOUT, |status| {
            status.mode().is_ok_and(|mode| mode == phrases::mode::PROTECTED)
        })
    }

    fn with_log<T>(&self, asked: Result<T>) -> Result<T> {
        asked.with_context(|| {
            format!("asking {}, whose log is\n{}", self.process.name(), self.process.stderr())
        })
    }
}

impl StatusAsker {
    pub fn status(&self) -> Result<DaemonStatus> {
        self.statuses()?.into_iter().next().context("the daemon has no instance")
    }

    pub fn statuses(&self) -> Result<Vec<DaemonStatus>> {
        let text = run_at(&self.place, &["status", "--json"])?;
        let value = serde_json::from_str(&text).with_context(|| format!("reading `{text}`"))?;
        let mut found = Vec::new();
        collect(&value, self.pid, &mut found);
        Ok(found)
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct CommandOutput {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command on `host` until it ends by itself.
pub fn output(host: &LabHost, command: Command) -> Result<CommandOutput> {
    output_at(&Place::of(host)?, command)
}

/// Runs `colo-proxy` on `host` until it ends by itself.
pub fn output_of<A: AsRef<OsStr>>(host: &LabHost, arguments: &[A]) -> Result<CommandOutput> {
    let mut command = Command::new(binary()?);
    command.args(arguments);
    output(host, command)
}

fn output_at(place: &Place, mut command: Command) -> Result<CommandOutput> {
    let name = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = place.spawn(&name, command)?;
    let mut stdout = String::new();
    if let Some(mut pipe) = process.take_stdout() {
        std::io::Read::read_to_string(&mut pipe, &mut stdout).context("reading its stdout")?;
    }
    let success = process.wait(ASK_TIMEOUT)?.success();
    Ok(CommandOutput { success, stdout, stderr: process.stderr_to_end() })
}

/// The stdout of `colo-proxy`, or an error if it fails.
fn run_at(place: &Place, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary()?);
    command.args(arguments);
    let CommandOutput { success, stdout, stderr } = output_at(place, command)?;
    ensure!(success, "colo-proxy {}: {stderr}", arguments.join(" "));
    Ok(stdout)
}

/// Every object with this process's `pid`, at any place in the answer.
fn collect(value: &Value, pid: u32, found: &mut Vec<DaemonStatus>) {
    match value {
        Value::Object(object) if object.get("pid").and_then(Value::as_u64) == Some(pid.into()) => {
            found.push(DaemonStatus(value.clone()));
        }
        Value::Object(object) => object.values().for_each(|value| collect(value, pid, found)),
        Value::Array(array) => array.iter().for_each(|value| collect(value, pid, found)),
        _ => {}
    }
}

/// The status of one instance in `colo-proxy status --json`.
#[derive(Clone, Debug)]
pub struct DaemonStatus(pub Value);

impl DaemonStatus {
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

    /// The requested checkpoints, by reason.
    pub fn checkpoints(&self) -> BTreeMap<String, u64> {
        self.counts("checkpoints")
    }

    /// The dropped frames, by reason.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        self.counts("drops")
    }

    /// A number at a path in `detail`, for example `/lanes/mirror/connections`.
    pub fn detail(&self, pointer: &str) -> Result<u64> {
        let value = self.0.pointer(&format!("/detail{pointer}"));
        value.and_then(Value::as_u64).with_context(|| format!("status: {pointer} is {value:?}"))
    }

    /// The last divergences in which one byte differs.
    pub fn divergences(&self) -> Vec<NamedDivergence> {
        let all = self.0.pointer("/detail/divergences").and_then(Value::as_array);
        all.into_iter().flatten().filter_map(NamedDivergence::read).collect()
    }

    fn counts(&self, key: &str) -> BTreeMap<String, u64> {
        let object = self.0.get(key).and_then(Value::as_object).into_iter().flatten();
        object
            .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// A divergence as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDivergence {
    pub flow: String,
    pub peer_port: u16,
    pub stream_offset: i64,
    pub primary_byte: u8,
    pub secondary_byte: u8,
}

impl NamedDivergence {
    fn read(value: &Value) -> Option<Self> {
        let byte = |key: &str| u8::try_from(value.get(key)?.as_u64()?).ok();
        let peer: SocketAddr = value.pointer("/flow/peer")?.as_str()?.parse().ok()?;
        Some(Self {
            flow: value.get("name")?.as_str()?.to_owned(),
            peer_port: peer.port(),
            stream_offset: value.get("stream_offset")?.as_i64()?,
            primary_byte: byte("primary_byte")?,
            secondary_byte: byte("secondary_byte")?,
        })
    }
}

impl std::fmt::Display for NamedDivergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (flow, at, a, b) =
            (&self.flow, self.stream_offset, self.primary_byte, self.secondary_byte);
        write!(f, "{flow}, byte {at}: primary {a:#04x}, secondary {b:#04x}")
    }
}
