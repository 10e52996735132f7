//! The configuration: one [`Guest`] for each protected VM, from a TOML file or from flags.
//!
//! ```toml
//! [[guest]]
//! name = "web"                       # the instance; the default is the netdev's name
//! role = "primary"
//! netdev = "tap0"
//! mirror = "tcp:10.0.9.1:9003,server"
//! secondary_in = "tcp:10.0.9.1:9004,server"
//! control = "tcp:10.0.9.1:9005,server"
//! colo_frame = "script:/etc/colo-proxy/frame"
//! ```

mod checkpoints;
mod error;
mod guest;
mod guest_table;
mod kinds;
mod limits;
mod schema;

use std::path::Path;

pub use colo_proxy_engine::pair::{OnDeath, OnSecondaryLost, Role};

pub use self::checkpoints::{CheckpointConfig, TakeoverConfig};
pub use self::error::ConfigError;
pub use self::guest::{Guest, SideConfig};
pub(crate) use self::guest::{valid_name, valid_netdev};
use self::guest_table::{ConfigFile, KnownGuests};
pub use self::kinds::{ColoFrameKind, LaneKind, ReturnKind};
pub use self::limits::{GuestLimits, KEYS, LimitKey};
pub use self::schema::schema;
pub use crate::lane::PeerLimits;

/// Reads the guests of a configuration file.
pub fn read(path: &Path) -> Result<Vec<Guest>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(&text, path)
}

/// Reads the guests of a configuration in `text`; `path` is its name in messages.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Guest>, ConfigError> {
    let file: ConfigFile = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = position(text, start);
        let message = in_plain_words(error.message());
        ConfigError::Syntax { path: path.into(), line, column, message }
    })?;
    if file.guest.is_empty() {
        return Err(ConfigError::Empty { path: path.into() });
    }
    let mut known = KnownGuests::default();
    let mut guests = Vec::new();
    for table in file.guest {
        let (line, _) = position(text, table.span().start);
        let guest = table
            .into_inner()
            .into_guest()
            .and_then(|guest| known.add(&guest).map(|()| guest))
            .map_err(|error| error.in_file(path, line))?;
        guests.push(guest);
    }
    Ok(guests)
}

/// Line and column of the byte at `at`, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before.len() - line_start + 1)
}

/// Serde's message for a reader who does not know Rust's types. For an unknown name it has the
/// nearest known one, not all of them.
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
        return format!("{complaint}; put it into [guest.limits]");
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
