//! What every answer begins with.

use std::fmt;

use colo_proxy_engine::pair::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::filter::options::FilterKind;
use crate::guest_tap::TapState;

/// The version of the answers to `status` and `divergences`. A field that is new needs no other
/// version if it has `#[serde(default)]`. A field that goes, or changes its meaning, needs one.
pub const SCHEMA: u32 = 1;

/// Which instance answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceHead {
    /// The version of this answer. A reader refuses another version than its own.
    pub schema: u32,
    /// The name of the instance.
    pub instance: String,
    /// The guest's TAP.
    pub netdev: String,
    /// The TAP exists.
    pub netdev_present: bool,
    /// The process of the daemon.
    pub pid: u32,
}

impl InstanceHead {
    /// Of an instance of this process.
    pub(crate) fn new(instance: &str, netdev: &str, tap: TapState) -> Self {
        Self {
            schema: SCHEMA,
            instance: instance.into(),
            netdev: netdev.into(),
            netdev_present: tap != TapState::Gone,
            pid: std::process::id(),
        }
    }
}

/// What an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceRole {
    /// The primary's half of a pair.
    Primary,
    /// The secondary's half of a pair.
    Secondary,
    /// A stand-alone mirror.
    FilterMirror,
    /// A stand-alone redirector.
    FilterRedirector,
    /// A stand-alone rewriter.
    FilterRewriter,
}

impl From<Role> for InstanceRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Primary => Self::Primary,
            Role::Secondary => Self::Secondary,
        }
    }
}

impl From<&FilterKind> for InstanceRole {
    fn from(kind: &FilterKind) -> Self {
        match kind {
            FilterKind::Mirror { .. } => Self::FilterMirror,
            FilterKind::Redirector { .. } => Self::FilterRedirector,
            FilterKind::Rewriter { .. } => Self::FilterRewriter,
        }
    }
}

impl fmt::Display for InstanceRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::FilterMirror => "filter-mirror",
            Self::FilterRedirector => "filter-redirector",
            Self::FilterRewriter => "filter-rewriter",
        })
    }
}
