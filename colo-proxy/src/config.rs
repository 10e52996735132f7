//! What the operator asks for: one [`Guest`] per protected VM, from a TOML file or from flags.
//!
//! ```toml
//! [[guest]]
//! name = "web"                       # the instance; the netdev's name when left out
//! role = "primary"
//! netdev = "tap0"
//! mirror = "tcp:0.0.0.0:9003,server"
//! secondary_in = "tcp:0.0.0.0:9004,server"
//! control = "tcp:0.0.0.0:9005,server"
//! colo_frame = "script:/etc/colo-proxy/frame"
//! ```

mod checkpoints;
mod limits;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use self::checkpoints::{CheckpointsTable, TakeoverTable};
use self::limits::{LimitsTable, Ms};
use crate::datapath::capture::CaptureKind;
use crate::endpoint::{Address, Endpoint, EndpointError};
use crate::error_chain::chain;
pub use colo_proxy_engine::pair::{OnDeath, OnSecondaryLost, Role};

pub use self::checkpoints::{Checkpoints, Takeover};
pub use self::limits::{KEYS, Key, Limits, PeerLimits};

/// The longest instance name: it becomes a directory and a socket.
const NAME_MAX: usize = 64;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    #[error("guest `{name}`: {what}")]
    Guest { name: String, what: String },
    /// The same, of a guest in a file; the line is that of its `[[guest]]`.
    #[error("{}:{line}: guest `{name}`: {what}", path.display())]
    GuestInFile { path: PathBuf, line: usize, name: String, what: String },
    #[error("the configuration {} names no [[guest]]", path.display())]
    Empty { path: PathBuf },
}

impl ConfigError {
    /// Says where the guest is described.
    fn in_file(self, path: &Path, line: usize) -> Self {
        match self {
            Self::Guest { name, what } => Self::GuestInFile { path: path.into(), line, name, what },
            other => other,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    guest: Vec<Spanned<GuestTable>>,
}

/// One `[[guest]]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestTable {
    name: Option<String>,
    role: Role,
    netdev: String,
    mirror: Endpoint,
    secondary_in: Option<Endpoint>,
    secondary_out: Option<Endpoint>,
    control: Option<Endpoint>,
    colo_frame: Option<ColoFrameKind>,
    migrate: Option<String>,
    #[serde(default)]
    checkpoints: CheckpointsTable,
    #[serde(default)]
    takeover: TakeoverTable,
    quick_ack: Option<bool>,
    #[serde(default)]
    vnet_hdr_support: bool,
    #[serde(default)]
    on_death: OnDeath,
    on_secondary_lost: Option<OnSecondaryLost>,
    capture: Option<CaptureKind>,
    #[serde(rename = "return")]
    returns: Option<ReturnKind>,
    #[serde(default)]
    lane: LaneKind,
    lane_port: Option<u16>,
    // These may stand in `limits` as well.
    secondary_timeout_ms: Option<Ms>,
    compare_timeout_ms: Option<Ms>,
    mirror_queue_bytes: Option<usize>,
    held_frames_max: Option<usize>,
    held_bytes_max: Option<usize>,
    flows_max: Option<usize>,
    #[serde(default)]
    limits: LimitsTable,
}

/// The way of the frames between the two hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LaneKind {
    /// The connections `mirror` and `secondary_in` or `secondary_out`: nothing is lost, and either
    /// end may be a QEMU's.
    #[default]
    Stream,
    /// A tunnel between the two kernels, past the daemons, for a link that the hosts have to
    /// themselves. Where it cannot be had the streams carry the frames, and the log says why.
    Kernel,
    /// The tunnel where the peer has one too and the link takes the guest's frames whole; else the
    /// streams.
    Auto,
}

/// What the secondary returns of its guest's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ReturnKind {
    /// The frames.
    #[default]
    Frames,
    /// Of what it has said in connections, digests, which are shorter. For a link between the hosts that
    /// is slower than the guest; goes by the stream.
    Digest,
}

/// Who makes the checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColoFrameKind {
    /// Every request is answered as done at once; no state is copied.
    Instant,
    /// A command that speaks JSON lines.
    Script(PathBuf),
    /// The QEMU whose QMP socket is there.
    Qmp(Endpoint),
    /// Whoever speaks the protocol of QEMU's `notify_dev` there.
    Xen(Endpoint),
}

impl FromStr for ColoFrameKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "instant" => Ok(Self::Instant),
            Some(("script", path)) if !path.is_empty() => Ok(Self::Script(path.into())),
            Some(("qmp", socket)) => match socket.parse::<Endpoint>() {
                Ok(endpoint) if endpoint.server => Err(format!(
                    "`{text}`: QEMU listens (-qmp {},server=on,wait=off), and colo-proxy connects",
                    socket.split(',').next().unwrap_or_default()
                )),
                Ok(endpoint) => Ok(Self::Qmp(endpoint)),
                Err(error) => Err(chain(&error)),
            },
            Some(("xen", socket)) => {
                socket.parse().map(Self::Xen).map_err(|error: EndpointError| chain(&error))
            }
            _ => Err(format!(
                "`{text}` is no COLO-frame; expected qmp:ENDPOINT, xen:ENDPOINT, script:PATH or \
                 instant"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for ColoFrameKind {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One protected guest on this host.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The instance's name: its directory under bpffs, its socket, its place in `status`. `None`
    /// where it was not chosen; then it is derived from the netdev.
    pub name: Option<String>,
    pub netdev: String,
    pub control: Option<Endpoint>,
    pub colo_frame: Option<ColoFrameKind>,
    /// Where the secondary's QEMU waits for the migration, as QEMU writes it.
    pub migrate: Option<String>,
    pub checkpoints: Checkpoints,
    pub takeover: Takeover,
    /// Have the secondary's messages acknowledged at once on the way of the migration.
    pub quick_ack: bool,
    /// The wire carries virtio-net headers; without them frames are plain: segmented, and with
    /// complete checksums.
    pub vnet_hdr_support: bool,
    pub lane: LaneKind,
    /// UDP port of the tunnel; the primary's counts.
    pub lane_port: u16,
    pub on_death: OnDeath,
    /// Those of the other role are what they are by default.
    pub limits: Limits,
    pub side: SideConfig,
}

/// What only one half has.
#[derive(Clone, Debug)]
pub enum SideConfig {
    Primary {
        mirror: Endpoint,
        secondary_in: Endpoint,
        on_secondary_lost: OnSecondaryLost,
    },
    Secondary {
        mirror: Endpoint,
        secondary_out: Endpoint,
        capture: CaptureKind,
        returns: ReturnKind,
    },
}

impl Guest {
    pub fn role(&self) -> Role {
        match self.side {
            SideConfig::Primary { .. } => Role::Primary,
            SideConfig::Secondary { .. } => Role::Secondary,
        }
    }

    /// It is a secondary that returns digests.
    pub(crate) fn returns_digests(&self) -> bool {
        matches!(self.side, SideConfig::Secondary { returns: ReturnKind::Digest, .. })
    }

    /// Refuses what is only wrong together, and puts the gate in the place of `capture = "auto"` beside
    /// a kernel lane, where `AF_XDP` cannot serve.
    pub fn check(mut self) -> Result<Self, ConfigError> {
        let shown = self.name.clone().unwrap_or_else(|| self.netdev.clone());
        let fail = |what: &str| Err(ConfigError::Guest { name: shown.clone(), what: what.into() });
        if let Some(name) = &self.name
            && !valid_name(name)
        {
            return fail("a name is 1 to 64 letters, digits, `-`, `_` or `@`");
        }
        if !valid_netdev(&self.netdev) {
            return fail("netdev is not the name of a network interface (1 to 15 characters)");
        }
        if self.role() == Role::Secondary && self.on_death == OnDeath::Pass {
            return fail(
                "on_death = \"pass\" would put a second live guest on the network when the \
                 secondary's daemon dies; a secondary always holds",
            );
        }
        if self.returns_digests() {
            if self.control.is_none() {
                return fail(
                    "return = \"digest\" needs a control lane: on it the primary asks for what a \
                     digest does not tell",
                );
            }
            if self.lane == LaneKind::Kernel {
                return fail(
                    "return = \"digest\" is not for the kernel lane, in which no program can make \
                     digests; use lane = \"stream\"",
                );
            }
            self.lane = LaneKind::Stream;
        }
        if self.lane == LaneKind::Kernel && !self.has_control_over_tcp() {
            return fail(
                "lane = \"kernel\" needs a control lane over TCP: it tells where the other host is, \
                 and what the tunnel has lost",
            );
        }
        if self.lane != LaneKind::Stream
            && let SideConfig::Secondary { capture, .. } = &mut self.side
        {
            match capture {
                CaptureKind::AfXdp => {
                    return fail(
                        "capture = \"af-xdp\" takes frames before they reach the kernel lane",
                    );
                }
                CaptureKind::Auto => {
                    log::info!(
                        "{shown}: the gate captures: AF_XDP takes frames before they reach the \
                         kernel lane (lane = \"stream\" would let it)"
                    );
                    *capture = CaptureKind::Gate;
                }
                CaptureKind::Gate => {}
            }
        }
        Ok(self)
    }

    fn has_control_over_tcp(&self) -> bool {
        let over_tcp = |endpoint: &Endpoint| matches!(endpoint.address, Address::Tcp { .. });
        self.control.as_ref().is_some_and(over_tcp)
    }
}

pub(crate) fn valid_netdev(name: &str) -> bool {
    // IFNAMSIZ, with its terminating zero.
    (1..=15).contains(&name.len()) && !name.contains(['/', ' '])
}

pub(crate) fn valid_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_@".contains(c))
}

/// Reads the guests of a configuration file.
pub fn read(path: &Path) -> Result<Vec<Guest>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(&text, path)
}

/// Reads the guests of a configuration in `text`; `path` is its name in messages.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Guest>, ConfigError> {
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = position(text, start);
        let message = in_plain_words(error.message());
        ConfigError::Syntax { path: path.into(), line, column, message }
    })?;
    if file.guest.is_empty() {
        return Err(ConfigError::Empty { path: path.into() });
    }
    let mut seen = BTreeSet::new();
    let mut guests = Vec::new();
    for table in file.guest {
        let (line, _) = position(text, table.span().start);
        let guest = convert(table.into_inner())
            .and_then(|guest| alone(guest, &mut seen))
            .map_err(|error| error.in_file(path, line))?;
        guests.push(guest);
    }
    Ok(guests)
}

/// Refuses a guest whose name or netdev another one has.
fn alone(guest: Guest, seen: &mut BTreeSet<String>) -> Result<Guest, ConfigError> {
    let name = guest.name.as_ref().unwrap_or(&guest.netdev);
    if !seen.insert(name.clone()) || !seen.insert(format!("netdev {}", guest.netdev)) {
        let what = "another guest has this name or this netdev".into();
        return Err(ConfigError::Guest { name: name.clone(), what });
    }
    Ok(guest)
}

impl GuestTable {
    /// A key that is set and that only the other role uses, and that role: it would be ignored,
    /// and whoever wrote it believes that it is not.
    fn misplaced(&self) -> Option<(&'static str, &'static str)> {
        let (keys, role) = match self.role {
            Role::Primary => (self.of_secondary().to_vec(), "secondary"),
            Role::Secondary => (self.of_primary().to_vec(), "primary"),
        };
        keys.into_iter().find_map(|(key, is_set)| is_set.then_some((key, role)))
    }

    fn of_secondary(&self) -> [(&'static str, bool); 3] {
        [
            ("secondary_out", self.secondary_out.is_some()),
            ("capture", self.capture.is_some()),
            ("return", self.returns.is_some()),
        ]
    }

    fn of_primary(&self) -> [(&'static str, bool); 3] {
        [
            ("quick_ack", self.quick_ack.is_some()),
            ("secondary_in", self.secondary_in.is_some()),
            ("on_secondary_lost", self.on_secondary_lost.is_some()),
        ]
    }

    fn limits(&self) -> Result<Limits, String> {
        let mut table = self.limits.clone();
        macro_rules! also {
            ($($key:ident)*) => {
                $(LimitsTable::also(stringify!($key), &mut table.$key, self.$key)?;)*
            };
        }
        also!(secondary_timeout_ms compare_timeout_ms mirror_queue_bytes);
        also!(held_frames_max held_bytes_max flows_max);
        table.read(self.role)
    }
}

fn convert(table: GuestTable) -> Result<Guest, ConfigError> {
    let shown = table.name.clone().unwrap_or_else(|| table.netdev.clone());
    let fail = |what: String| ConfigError::Guest { name: shown.clone(), what };
    let missing = |key: &str| fail(format!("{key} is missing"));
    if let Some((key, role)) = table.misplaced() {
        return Err(fail(format!("{key} is for role = \"{role}\"")));
    }
    let limits = table.limits().map_err(fail)?;
    let checkpoints = table.checkpoints.read().map_err(fail)?;
    let takeover = table.takeover.clone().read().map_err(fail)?;
    let mirror = table.mirror;
    let side = match table.role {
        Role::Primary => SideConfig::Primary {
            mirror,
            secondary_in: table.secondary_in.ok_or_else(|| missing("secondary_in"))?,
            on_secondary_lost: table.on_secondary_lost.unwrap_or_default(),
        },
        Role::Secondary => SideConfig::Secondary {
            mirror,
            secondary_out: table.secondary_out.ok_or_else(|| missing("secondary_out"))?,
            capture: table.capture.unwrap_or_default(),
            returns: table.returns.unwrap_or_default(),
        },
    };
    Guest {
        name: table.name,
        netdev: table.netdev,
        control: table.control,
        colo_frame: table.colo_frame,
        migrate: table.migrate,
        checkpoints,
        takeover,
        quick_ack: table.quick_ack.unwrap_or(true),
        vnet_hdr_support: table.vnet_hdr_support,
        lane: table.lane,
        lane_port: table.lane_port.unwrap_or(crate::tunnel::PORT),
        on_death: table.on_death,
        limits,
        side,
    }
    .check()
}

/// Line and column of octet `at`, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before.len() - line_start + 1)
}

/// Serde's complaint for somebody who does not know Rust's types, with the nearest name in the
/// place of all known ones.
fn in_plain_words(message: &str) -> String {
    for (rust_type, max) in [("u32", u64::from(u32::MAX)), ("u64", u64::MAX), ("usize", u64::MAX)] {
        if let Some(found) = message.strip_suffix(&format!(", expected {rust_type}")) {
            return format!("{found}, expected a whole number from 0 to {max}");
        }
    }
    let complaint = message.split(", expected").next().unwrap_or(message);
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown ").then(|| quoted.next()).flatten();
    if unknown.is_some_and(|unknown| KEYS.iter().any(|key| key.name == unknown)) {
        return format!("{complaint}; it belongs into [guest.limits]");
    }
    let nearest = unknown.and_then(|unknown| {
        quoted
            .map(|known| (strsim::jaro_winkler(unknown, known), known))
            .filter(|(score, _)| *score > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0))
    });
    match nearest {
        Some((_, known)) => format!("{complaint}; did you mean `{known}`?"),
        None => message.into(),
    }
}

#[cfg(test)]
mod tests;
