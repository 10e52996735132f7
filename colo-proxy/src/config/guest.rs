//! One protected guest on this host, and which keys contradict each other.

use colo_proxy_engine::pair::{OnDeath, OnSecondaryLost, Role};

use super::checkpoints::{CheckpointConfig, TakeoverConfig};
use super::error::ConfigError;
use super::kinds::{ColoFrameKind, LaneKind, ReturnKind};
use super::limits::GuestLimits;
use crate::datapath::capture::CaptureKind;
use crate::endpoint::{Endpoint, EndpointAddress};

/// The longest name of an instance: it becomes a directory and a socket.
const NAME_MAX: usize = 64;
/// The longest name of an interface: IFNAMSIZ without the terminating zero.
const NETDEV_MAX: usize = 15;

/// One protected guest on this host.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The name of the instance: its directory below bpffs, its socket, its name in `status`.
    /// Without one it is made of the netdev's name.
    pub name: Option<String>,
    pub netdev: String,
    pub control: Option<Endpoint>,
    pub colo_frame: Option<ColoFrameKind>,
    /// Where the secondary's QEMU waits for the migration, as QEMU writes it.
    pub migrate: Option<String>,
    pub checkpoints: CheckpointConfig,
    pub takeover: TakeoverConfig,
    /// The secondary's QEMU acknowledges the migration's segments at once.
    pub quick_ack: bool,
    /// Frames on the lanes carry virtio-net headers. Without them frames are plain: split into
    /// segments, with complete checksums.
    pub vnet_hdr_support: bool,
    pub lane: LaneKind,
    /// UDP port of the tunnel; the primary's value counts.
    pub lane_port: u16,
    pub on_death: OnDeath,
    /// Limits of the other role have their defaults.
    pub limits: GuestLimits,
    pub side: SideConfig,
}

/// Settings that only one role has.
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
    /// The sockets of this guest, by key. One peer, or one QEMU, is at the other end of each.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (&'static str, &Endpoint)> {
        let lanes = match &self.side {
            SideConfig::Primary { mirror, secondary_in, .. } => {
                [("mirror", mirror), ("secondary_in", secondary_in)]
            }
            SideConfig::Secondary { mirror, secondary_out, .. } => {
                [("mirror", mirror), ("secondary_out", secondary_out)]
            }
        };
        let frame = match &self.colo_frame {
            Some(ColoFrameKind::Qmp(endpoint) | ColoFrameKind::Xen(endpoint)) => Some(endpoint),
            _ => None,
        };
        let control = self.control.as_ref().map(|endpoint| ("control", endpoint));
        let frame = frame.map(|endpoint| ("colo_frame", endpoint));
        lanes.into_iter().chain(control).chain(frame)
    }

    pub fn role(&self) -> Role {
        match self.side {
            SideConfig::Primary { .. } => Role::Primary,
            SideConfig::Secondary { .. } => Role::Secondary,
        }
    }

    /// The name of the instance if the operator chose one, else the netdev's.
    pub fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.netdev)
    }

    /// It is a secondary that returns digests.
    pub(crate) fn returns_digests(&self) -> bool {
        matches!(self.side, SideConfig::Secondary { returns: ReturnKind::Digest, .. })
    }

    /// Refuses settings that contradict each other. Replaces the values "auto" that another key
    /// decides.
    pub fn check(mut self) -> Result<Self, ConfigError> {
        let name = self.shown().to_owned();
        if let Some(what) = self.contradiction() {
            return Err(ConfigError::Guest { name, what: what.into() });
        }
        self.decide();
        Ok(self)
    }

    fn contradiction(&self) -> Option<&'static str> {
        if !self.name.as_deref().is_none_or(valid_name) {
            return Some("a name is 1 to 64 letters, digits, `-`, `_` or `@`");
        }
        if !valid_netdev(&self.netdev) {
            return Some("netdev is not the name of a network interface (1 to 15 characters)");
        }
        if self.role() == Role::Secondary && self.on_death == OnDeath::Pass {
            return Some(
                "on_death = \"pass\" is for a primary: if the secondary's daemon died, a second \
                 live guest would be on the network; use on_death = \"hold\"",
            );
        }
        if self.returns_digests() && self.control.is_none() {
            return Some(
                "return = \"digest\" needs a control lane, on which the primary asks for the bytes \
                 behind a digest; set control",
            );
        }
        if self.returns_digests() && self.lane == LaneKind::Kernel {
            return Some(
                "return = \"digest\" is not for the kernel lane, because no kernel program can make \
                 digests; use lane = \"stream\"",
            );
        }
        if self.lane == LaneKind::Kernel && !self.has_control_over_tcp() {
            return Some(
                "lane = \"kernel\" needs a control lane over TCP, which carries the address of the \
                 other host and the losses of the tunnel; set control",
            );
        }
        if self.has_kernel_lane() && self.capture() == Some(CaptureKind::AfXdp) {
            return Some(
                "capture = \"af-xdp\" takes frames before they reach the kernel lane; use capture \
                 = \"gate\" or lane = \"stream\"",
            );
        }
        None
    }

    fn decide(&mut self) {
        if self.returns_digests() {
            self.lane = LaneKind::Stream;
        }
        if self.has_kernel_lane() && self.capture() == Some(CaptureKind::Auto) {
            log::info!(
                "{}: the gate captures the guest's output, because AF_XDP would take frames before \
                 they reach the kernel lane; lane = \"stream\" permits AF_XDP",
                self.shown()
            );
            if let SideConfig::Secondary { capture, .. } = &mut self.side {
                *capture = CaptureKind::Gate;
            }
        }
    }

    /// Frames may travel by the kernel lane.
    fn has_kernel_lane(&self) -> bool {
        self.lane != LaneKind::Stream && !self.returns_digests()
    }

    fn capture(&self) -> Option<CaptureKind> {
        match self.side {
            SideConfig::Primary { .. } => None,
            SideConfig::Secondary { capture, .. } => Some(capture),
        }
    }

    fn has_control_over_tcp(&self) -> bool {
        let over_tcp =
            |endpoint: &Endpoint| matches!(endpoint.address, EndpointAddress::Tcp { .. });
        self.control.as_ref().is_some_and(over_tcp)
    }
}

pub(crate) fn valid_netdev(name: &str) -> bool {
    (1..=NETDEV_MAX).contains(&name.len()) && !name.contains(['/', ' '])
}

pub(crate) fn valid_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_@".contains(c))
}
