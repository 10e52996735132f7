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
    #[error("the configuration names no [[guest]]")]
    Empty,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    guest: Vec<GuestTable>,
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
    #[serde(default)]
    on_secondary_lost: OnSecondaryLost,
    #[serde(default)]
    capture: CaptureKind,
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
        limits: Limits,
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
        if self.secondary_timeout.is_zero() {
            return fail("secondary_timeout_ms must be above 0");
        }
        if self.lane_queue_bytes < 2 * crate::frame::FRAME_MAX {
            return fail("mirror_queue_bytes must leave room for two frames (139264)");
        }
        Ok(self)
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

fn parse(text: &str, path: &Path) -> Result<Vec<Guest>, ConfigError> {
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = position(text, start);
        let message = with_suggestion(error.message());
        ConfigError::Syntax { path: path.into(), line, column, message }
    })?;
    if file.guest.is_empty() {
        return Err(ConfigError::Empty);
    }
    let guests: Vec<Guest> = file.guest.into_iter().map(convert).collect::<Result<_, _>>()?;
    let mut seen = BTreeSet::new();
    for guest in &guests {
        let name = guest.name.as_ref().unwrap_or(&guest.netdev);
        if !seen.insert(name.clone()) || !seen.insert(format!("netdev {}", guest.netdev)) {
            let what = "another guest has this name or this netdev".into();
            return Err(ConfigError::Guest { name: name.clone(), what });
        }
    }
    Ok(guests)
}

fn convert(table: GuestTable) -> Result<Guest, ConfigError> {
    let shown = table.name.clone().unwrap_or_else(|| table.netdev.clone());
    let fail = |what: &str| ConfigError::Guest { name: shown.clone(), what: what.into() };
    let side = match table.role {
        Role::Primary => {
            if table.secondary_out.is_some() || table.capture != CaptureKind::Gate {
                return Err(fail("secondary_out and capture are for role = \"secondary\""));
            }
            let secondary_in = table.secondary_in.ok_or_else(|| fail("secondary_in is missing"))?;
            let mut limits = Limits::default();
            set(&mut limits.compare_timeout, table.compare_timeout_ms.map(Duration::from_millis));
            set(&mut limits.frames_max, table.held_frames_max);
            set(&mut limits.bytes_max, table.held_bytes_max);
            set(&mut limits.flows_max, table.flows_max);
            let on_secondary_lost = table.on_secondary_lost;
            SideConfig::Primary { mirror: table.mirror, secondary_in, on_secondary_lost, limits }
        }
        Role::Secondary => {
            if table.secondary_in.is_some() {
                return Err(fail("secondary_in is for role = \"primary\""));
            }
            let secondary_out =
                table.secondary_out.ok_or_else(|| fail("secondary_out is missing"))?;
            SideConfig::Secondary { mirror: table.mirror, secondary_out, capture: table.capture }
        }
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
