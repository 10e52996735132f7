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

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::compare::Limits;
use crate::datapath::capture::CaptureKind;
pub use crate::datapath::{OnDeath, Role};
use crate::endpoint::Endpoint;

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
    #[serde(default)]
    vnet_hdr_support: bool,
    #[serde(default)]
    on_death: OnDeath,
    on_secondary_lost: Option<OnSecondaryLost>,
    capture: Option<CaptureKind>,
    secondary_timeout_ms: Option<u64>,
    compare_timeout_ms: Option<u64>,
    mirror_queue_bytes: Option<usize>,
    held_frames_max: Option<usize>,
    held_bytes_max: Option<usize>,
    flows_max: Option<usize>,
}

/// What becomes of held output when the secondary is gone for `secondary_timeout_ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnSecondaryLost {
    /// It leaves, and the guest goes on unprotected.
    #[default]
    Release,
    /// It waits for the secondary, or for an operator.
    Hold,
}

/// Who makes the checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColoFrameKind {
    /// Every request is answered as done at once; no state is copied.
    Instant,
    /// A command that speaks JSON lines.
    Script(PathBuf),
}

impl FromStr for ColoFrameKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "instant" => Ok(Self::Instant),
            Some(("script", path)) if !path.is_empty() => Ok(Self::Script(path.into())),
            _ => Err(format!("`{text}` is no COLO-frame; expected instant or script:PATH")),
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
    /// The wire carries virtio-net headers; without them frames are plain: segmented, and with
    /// complete checksums.
    pub vnet_hdr_support: bool,
    pub on_death: OnDeath,
    /// A peer that is gone for longer is lost.
    pub secondary_timeout: Duration,
    /// Octets that may wait for the peer on an outgoing lane.
    pub lane_queue_bytes: usize,
    pub side: SideConfig,
}

/// What only one half has.
#[derive(Clone, Debug)]
pub enum SideConfig {
    Primary {
        mirror: Endpoint,
        secondary_in: Endpoint,
        on_secondary_lost: OnSecondaryLost,
        limits: Box<Limits>,
    },
    Secondary {
        mirror: Endpoint,
        secondary_out: Endpoint,
        capture: CaptureKind,
    },
}

/// Octets that may wait for a peer unless the configuration says otherwise.
pub const LANE_QUEUE_BYTES: usize = 32 << 20;
/// `secondary_timeout_ms` unless the configuration says otherwise.
pub const SECONDARY_TIMEOUT: Duration = Duration::from_secs(1);

impl Guest {
    pub fn role(&self) -> Role {
        match self.side {
            SideConfig::Primary { .. } => Role::Primary,
            SideConfig::Secondary { .. } => Role::Secondary,
        }
    }

    /// Refuses what is only wrong together.
    pub fn check(self) -> Result<Self, ConfigError> {
        let shown = self.name.clone().unwrap_or_else(|| self.netdev.clone());
        let fail = |what: &str| Err(ConfigError::Guest { name: shown.clone(), what: what.into() });
        if let Some(name) = &self.name
            && !valid_name(name)
        {
            return fail("a name is 1 to 64 letters, digits, `-`, `_` or `@`");
        }
        // IFNAMSIZ, with its terminating zero.
        if self.netdev.is_empty() || self.netdev.len() > 15 || self.netdev.contains(['/', ' ']) {
            return fail("netdev is not the name of a network interface (1 to 15 characters)");
        }
        if self.role() == Role::Secondary && self.on_death == OnDeath::Pass {
            return fail(
                "on_death = \"pass\" would put a second live guest on the network when the \
                 secondary's daemon dies; a secondary always holds",
            );
        }
        if let Some(key) = self.zero() {
            return fail(&format!("{key} must be above 0"));
        }
        if self.lane_queue_bytes < 2 * crate::frame::FRAME_MAX {
            return fail("mirror_queue_bytes must leave room for two frames (139264)");
        }
        Ok(self)
    }

    /// The first key that is 0 and means nothing then.
    fn zero(&self) -> Option<&'static str> {
        let of_both = ("secondary_timeout_ms", self.secondary_timeout.is_zero());
        let of_primary = match &self.side {
            SideConfig::Primary { limits, .. } => [
                ("compare_timeout_ms", limits.compare_timeout.is_zero()),
                ("held_frames_max", limits.frames_max == 0),
                ("held_bytes_max", limits.bytes_max == 0),
                ("flows_max", limits.flows_max == 0),
            ]
            .to_vec(),
            SideConfig::Secondary { .. } => Vec::new(),
        };
        let zero = |(key, zero): (&'static str, bool)| zero.then_some(key);
        std::iter::once(of_both).chain(of_primary).find_map(zero)
    }
}

fn valid_name(name: &str) -> bool {
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
        let message = with_suggestion(error.message());
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

    fn of_secondary(&self) -> [(&'static str, bool); 2] {
        [("secondary_out", self.secondary_out.is_some()), ("capture", self.capture.is_some())]
    }

    fn of_primary(&self) -> [(&'static str, bool); 6] {
        [
            ("secondary_in", self.secondary_in.is_some()),
            ("on_secondary_lost", self.on_secondary_lost.is_some()),
            ("compare_timeout_ms", self.compare_timeout_ms.is_some()),
            ("held_frames_max", self.held_frames_max.is_some()),
            ("held_bytes_max", self.held_bytes_max.is_some()),
            ("flows_max", self.flows_max.is_some()),
        ]
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        set(&mut limits.compare_timeout, self.compare_timeout_ms.map(Duration::from_millis));
        set(&mut limits.frames_max, self.held_frames_max);
        set(&mut limits.bytes_max, self.held_bytes_max);
        set(&mut limits.flows_max, self.flows_max);
        limits
    }
}

fn convert(table: GuestTable) -> Result<Guest, ConfigError> {
    let shown = table.name.clone().unwrap_or_else(|| table.netdev.clone());
    let fail = |what: String| ConfigError::Guest { name: shown.clone(), what };
    let missing = |key: &str| fail(format!("{key} is missing"));
    if let Some((key, role)) = table.misplaced() {
        return Err(fail(format!("{key} is for role = \"{role}\"")));
    }
    let limits = Box::new(table.limits());
    let mirror = table.mirror;
    let side = match table.role {
        Role::Primary => SideConfig::Primary {
            mirror,
            secondary_in: table.secondary_in.ok_or_else(|| missing("secondary_in"))?,
            on_secondary_lost: table.on_secondary_lost.unwrap_or_default(),
            limits,
        },
        Role::Secondary => SideConfig::Secondary {
            mirror,
            secondary_out: table.secondary_out.ok_or_else(|| missing("secondary_out"))?,
            capture: table.capture.unwrap_or_default(),
        },
    };
    Guest {
        name: table.name,
        netdev: table.netdev,
        control: table.control,
        colo_frame: table.colo_frame,
        vnet_hdr_support: table.vnet_hdr_support,
        on_death: table.on_death,
        secondary_timeout: table
            .secondary_timeout_ms
            .map_or(SECONDARY_TIMEOUT, Duration::from_millis),
        lane_queue_bytes: table.mirror_queue_bytes.unwrap_or(LANE_QUEUE_BYTES),
        side,
    }
    .check()
}

fn set<T>(value: &mut T, configured: Option<T>) {
    if let Some(configured) = configured {
        *value = configured;
    }
}

/// Line and column of octet `at`, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before.len() - line_start + 1)
}

/// Adds "did you mean" to serde's complaint about an unknown name.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown ").then(|| quoted.next()).flatten();
    let nearest = unknown.and_then(|unknown| {
        quoted
            .map(|known| (strsim::jaro_winkler(unknown, known), known))
            .filter(|(score, _)| *score > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0))
    });
    match nearest {
        Some((_, known)) => format!("{message}; did you mean `{known}`?"),
        None => message.into(),
    }
}

#[cfg(test)]
mod tests;
