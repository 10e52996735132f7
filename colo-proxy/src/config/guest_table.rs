//! One `[[guest]]` as it is written, and the guest that it makes.
//!
//! The doc comments of the fields are the descriptions in the schema and the meanings in
//! docs/reference/configuration.md. `x-role` is the only role that uses the key, `x-required` says
//! that this role cannot do without it, and `x-type` is a type that JSON Schema has no word for.

use std::collections::{BTreeMap, BTreeSet};

use colo_proxy_engine::pair::{OnDeath, OnSecondaryLost, Role};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::checkpoints::{CheckpointsTable, TakeoverTable};
use super::error::ConfigError;
use super::guest::{Guest, SideConfig};
use super::kinds::{ColoFrameKind, LaneKind, ReturnKind};
use super::limits::{GuestLimits, LimitsTable, Ms};
use crate::datapath::capture::CaptureKind;
use crate::endpoint::Endpoint;

/// The configuration of the guests of one host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "colo-proxy configuration")]
pub(super) struct ConfigFile {
    /// The guests of this host, one table for each.
    #[serde(default)]
    #[schemars(with = "Vec<GuestTable>", length(min = 1))]
    pub(super) guest: Vec<Spanned<GuestTable>>,
}

/// One `[[guest]]` as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestTable {
    /// The instance: its directory below `/sys/fs/bpf/colo-proxy`, its socket in `/run/colo-proxy`,
    /// its name in `status`.
    #[schemars(
        regex(pattern = "^[A-Za-z0-9_@-]{1,64}$"),
        extend("x-type" = "text, 1 to 64 letters, digits, `-`, `_`, `@`"),
        extend("x-default" = "the netdev's name"),
    )]
    name: Option<String>,
    /// Which half of the pair this host is.
    role: Role,
    /// The guest's TAP, which QEMU owns.
    #[schemars(length(min = 1, max = 15), extend("x-type" = "text, 1 to 15 characters"))]
    netdev: String,
    /// Lane for the guest's input.
    #[schemars(with = "String", extend("x-type" = "[endpoint](#endpoints)"))]
    mirror: Endpoint,
    /// Lane on which the secondary guest's output arrives.
    #[schemars(
        with = "Option<String>",
        extend("x-type" = "endpoint", "x-role" = "primary", "x-required" = true)
    )]
    secondary_in: Option<Endpoint>,
    /// Lane on which this guest's output goes to the primary.
    #[schemars(
        with = "Option<String>",
        extend("x-type" = "endpoint", "x-role" = "secondary", "x-required" = true)
    )]
    secondary_out: Option<Endpoint>,
    /// Lane between two colo-proxy daemons: epochs, heartbeats, counters; without it the peer may
    /// be a QEMU.
    #[schemars(with = "Option<String>", extend("x-type" = "endpoint"))]
    control: Option<Endpoint>,
    /// Who makes checkpoints; without it nobody does, and output that needs one stays held.
    #[schemars(with = "Option<String>", extend("x-type" = "[driver](#drivers)"))]
    colo_frame: Option<ColoFrameKind>,
    /// Where the secondary's QEMU waits (its `-incoming`): on the primary for `protect`, on the
    /// secondary for `qemu-args`.
    #[schemars(extend("x-type" = "URI"))]
    migrate: Option<String>,
    /// Frames on the lanes carry a virtio-net header; the same on both hosts.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    vnet_hdr_support: bool,
    /// Make a route with `quickack` to the secondary's QEMU, which takes 40 ms from each checkpoint:
    /// see [QEMU's COLO-frame](qemu.md#the-40-ms).
    #[schemars(extend("default" = true, "x-role" = "primary"))]
    quick_ack: Option<bool>,
    /// The guest's network when the daemon dies: no output leaves, or the guest goes on unprotected;
    /// a secondary is refused `"pass"`.
    #[serde(default)]
    #[schemars(extend("default" = "hold"))]
    on_death: OnDeath,
    /// Held output when the secondary has been gone for `secondary_timeout_ms`: it leaves
    /// unprotected, or stays held for the secondary or an operator.
    #[schemars(extend("default" = "release", "x-role" = "primary"))]
    on_secondary_lost: Option<OnSecondaryLost>,
    /// How the frames travel: see [Lanes](../guides/lanes.md).
    #[serde(default)]
    #[schemars(extend("default" = "stream"))]
    lane: LaneKind,
    /// Port of the kernel lane's tunnel; the primary's value counts.
    #[schemars(extend("default" = crate::tunnel::PORT, "x-unit" = "UDP port"))]
    lane_port: Option<u16>,
    /// How the guest's output is read; `"auto"` is AF_XDP if it can take every frame; both need
    /// `vnet_hdr_support` and `lane = "stream"`.
    #[schemars(extend("default" = "gate", "x-role" = "secondary"))]
    capture: Option<CaptureKind>,
    /// Whether the guest's output goes to the primary as frames, or as digests where that is
    /// shorter.
    #[serde(rename = "return")]
    #[schemars(extend("default" = "frames", "x-role" = "secondary"))]
    returns: Option<ReturnKind>,
    // These keys may stand in `limits` as well.
    secondary_timeout_ms: Option<Ms>,
    compare_timeout_ms: Option<Ms>,
    mirror_queue_bytes: Option<usize>,
    held_frames_max: Option<usize>,
    held_bytes_max: Option<usize>,
    flows_max: Option<usize>,
    /// When a COLO-frame that is driven by `qmp:` makes checkpoints.
    #[serde(default)]
    checkpoints: CheckpointsTable,
    /// Who may go on without the other guest.
    #[serde(default)]
    takeover: TakeoverTable,
    /// Bounds of everything that can grow.
    #[serde(default)]
    limits: LimitsTable,
}

impl GuestTable {
    /// A key that is set and that only the other role uses, and that role. It would be ignored, and
    /// the operator would believe that it is not.
    fn misplaced(&self) -> Option<(&'static str, Role)> {
        let other = self.role.opposite();
        let keys = match other {
            Role::Primary => [
                ("quick_ack", self.quick_ack.is_some()),
                ("secondary_in", self.secondary_in.is_some()),
                ("on_secondary_lost", self.on_secondary_lost.is_some()),
            ],
            Role::Secondary => [
                ("secondary_out", self.secondary_out.is_some()),
                ("capture", self.capture.is_some()),
                ("return", self.returns.is_some()),
            ],
        };
        keys.into_iter().find_map(|(key, is_set)| is_set.then_some((key, other)))
    }

    fn limits(&self) -> Result<GuestLimits, String> {
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

    /// The guest that this table describes, or the reason why it describes none.
    pub(super) fn into_guest(self) -> Result<Guest, ConfigError> {
        let name = self.name.clone().unwrap_or_else(|| self.netdev.clone());
        self.convert().map_err(|what| ConfigError::Guest { name, what })?.check()
    }

    fn convert(self) -> Result<Guest, String> {
        let missing = |key: &str| format!("{key} is missing");
        if let Some((key, role)) = self.misplaced() {
            return Err(format!("{key} is for role = \"{role}\""));
        }
        let limits = self.limits()?;
        let mirror = self.mirror;
        let side = match self.role {
            Role::Primary => SideConfig::Primary {
                mirror,
                secondary_in: self.secondary_in.ok_or_else(|| missing("secondary_in"))?,
                on_secondary_lost: self.on_secondary_lost.unwrap_or_default(),
            },
            Role::Secondary => SideConfig::Secondary {
                mirror,
                secondary_out: self.secondary_out.ok_or_else(|| missing("secondary_out"))?,
                capture: self.capture.unwrap_or_default(),
                returns: self.returns.unwrap_or_default(),
            },
        };
        Ok(Guest {
            name: self.name,
            netdev: self.netdev,
            control: self.control,
            colo_frame: self.colo_frame,
            migrate: self.migrate,
            checkpoints: self.checkpoints.read()?,
            takeover: self.takeover.read()?,
            quick_ack: self.quick_ack.unwrap_or(true),
            vnet_hdr_support: self.vnet_hdr_support,
            lane: self.lane,
            lane_port: self.lane_port.unwrap_or(crate::tunnel::PORT),
            on_death: self.on_death,
            limits,
            side,
        })
    }
}

/// Names, netdevs and sockets of the guests so far.
#[derive(Debug, Default)]
pub(super) struct KnownGuests {
    names: BTreeSet<String>,
    netdevs: BTreeSet<String>,
    /// The key and the guest that each socket belongs to.
    sockets: BTreeMap<String, (&'static str, String)>,
}

impl KnownGuests {
    /// Refuses a guest that shares its name, its netdev or a socket with another one.
    pub(super) fn add(&mut self, guest: &Guest) -> Result<(), ConfigError> {
        let name = guest.shown().to_owned();
        let refuse = |what| Err(ConfigError::Guest { name: name.clone(), what });
        if !self.names.insert(name.clone()) || !self.netdevs.insert(guest.netdev.clone()) {
            return refuse("another guest has this name or this netdev".into());
        }
        for (key, endpoint) in guest.sockets() {
            let socket = endpoint.address.to_string();
            if let Some((other, owner)) = self.sockets.get(&socket) {
                return refuse(format!(
                    "{key} has the socket {socket}, as {other} of guest `{owner}`; each needs one of \
                     its own"
                ));
            }
            self.sockets.insert(socket, (key, name.clone()));
        }
        Ok(())
    }
}
