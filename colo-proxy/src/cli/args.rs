//! Flags and their meaning.

use std::path::PathBuf;

use clap::Parser;
use colo_proxy::config::{
    ColoFrameKind, ConfigError, Guest, Limits, OnDeath, OnSecondaryLost, SideConfig,
};
use colo_proxy::datapath::capture::CaptureKind;
use colo_proxy::endpoint::Endpoint;

/// The network proxy of a fault-tolerant pair of virtual machines (COLO)
///
/// Runs beside QEMU on each of two hosts, as root. An endpoint EP is unix:PATH or tcp:HOST:PORT,
/// then optionally ,server (listen; without it connect and retry) and ,nodelay.
#[derive(Debug, Parser)]
#[command(name = "colo-proxy", version)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Protect one guest on the primary host
    Primary(PrimaryArgs),
    /// Stand by with one guest on the secondary host
    Secondary(SecondaryArgs),
    /// Serve every guest of a configuration file
    Run {
        /// TOML with one [[guest]] table for each
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show what the running instances do
    Status {
        /// Only this one: an instance, or a netdev where only one instance has it
        instance: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// The other host is gone: the secondary takes over, a primary goes on unprotected
    ///
    /// Make sure that the other guest no longer answers the network first.
    Failover {
        /// An instance as `status` names it, or a netdev where only one instance has it
        instance: String,
    },
}

/// What both roles have.
#[derive(Debug, clap::Args)]
struct Shared {
    /// The guest's TAP, which QEMU owns
    #[arg(long, value_name = "IFACE")]
    netdev: String,
    /// Lane for the guest's input
    #[arg(long, value_name = "EP")]
    mirror: Endpoint,
    /// Lane between two colo-proxy daemons: epochs, heartbeat, counters
    #[arg(long, value_name = "EP")]
    control: Option<Endpoint>,
    /// Frames on the lanes carry a virtio-net header, as QEMU's do with `vnet_hdr_support=on`
    #[arg(long)]
    vnet_hdr_support: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PrimaryArgs {
    #[command(flatten)]
    shared: Shared,
    /// Lane on which the secondary guest's output comes
    #[arg(long, value_name = "EP")]
    secondary_in: Endpoint,
    /// Who makes checkpoints: instant (answers at once, copies nothing) or script:PATH
    #[arg(long, value_name = "DRIVER")]
    colo_frame: Option<ColoFrameKind>,
}

#[derive(Debug, clap::Args)]
pub(super) struct SecondaryArgs {
    #[command(flatten)]
    shared: Shared,
    /// Lane on which this guest's output goes to the primary
    #[arg(long, value_name = "EP")]
    secondary_out: Endpoint,
}

impl Shared {
    fn guest(
        self,
        colo_frame: Option<ColoFrameKind>,
        side: SideConfig,
    ) -> Result<Guest, ConfigError> {
        Guest {
            name: None,
            netdev: self.netdev,
            control: self.control,
            colo_frame,
            vnet_hdr_support: self.vnet_hdr_support,
            on_death: OnDeath::default(),
            limits: Limits::default(),
            side,
        }
        .check()
    }
}

impl TryFrom<PrimaryArgs> for Guest {
    type Error = ConfigError;

    fn try_from(args: PrimaryArgs) -> Result<Self, ConfigError> {
        let side = SideConfig::Primary {
            mirror: args.shared.mirror.clone(),
            secondary_in: args.secondary_in,
            on_secondary_lost: OnSecondaryLost::default(),
        };
        args.shared.guest(args.colo_frame, side)
    }
}

impl TryFrom<SecondaryArgs> for Guest {
    type Error = ConfigError;

    fn try_from(args: SecondaryArgs) -> Result<Self, ConfigError> {
        let side = SideConfig::Secondary {
            mirror: args.shared.mirror.clone(),
            secondary_out: args.secondary_out,
            capture: CaptureKind::default(),
        };
        args.shared.guest(None, side)
    }
}
