//! The flags. Their doc comments are the text of `--help`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use colo_proxy::colo_compare::CompareOptions;
use colo_proxy::config::{
    CheckpointConfig, ColoFrameKind, ConfigError, Guest, GuestLimits, LaneKind, OnDeath,
    OnSecondaryLost, ReturnKind, SideConfig, TakeoverConfig,
};
use colo_proxy::datapath::capture::CaptureKind;
use colo_proxy::endpoint::Endpoint;
use colo_proxy::offline::{AlignmentKind, GuestAddress};
use colo_proxy::tunnel;

use super::filter::{MirrorArgs, RedirectorArgs, RewriterArgs};
use super::state_dir::StateDir;

/// The network proxy of a fault-tolerant pair of virtual machines (COLO)
///
/// Runs beside QEMU on each of two hosts, as root.
///
/// An endpoint EP is unix:PATH or tcp:HOST:PORT. With ,server it listens, else it connects and
/// retries. With ,nodelay the kernel does not collect small writes.
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
        /// TOML file with one [[guest]] table for each guest of this host
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        state_dir: StateDir,
    },
    /// Compare the guests' output between QEMU's sockets, in the place of its colo-compare object
    ///
    /// Needs no root.
    ColoCompare(ColoCompareArgs),
    /// Copy a guest's frames to a socket, in the place of QEMU's filter-mirror object
    FilterMirror(MirrorArgs),
    /// Send a guest's frames to a socket, or inject frames from one, in the place of QEMU's
    /// filter-redirector object
    FilterRedirector(RedirectorArgs),
    /// Translate a secondary guest's TCP numbers, in the place of QEMU's filter-rewriter object
    FilterRewriter(RewriterArgs),
    /// Show the state of the running instances
    Status {
        /// Show only this instance; a netdev will do if only one instance has it
        instance: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the last differences between the guests
    Divergences(DivergencesArgs),
    /// Carry the translation of open connections to the next pair
    ///
    /// After a failover the open connections depend on it. When the surviving guest is to be
    /// protected again, export on its host. Import on the host of the new secondary before the first
    /// checkpoint ends.
    Offsets {
        #[command(subcommand)]
        command: OffsetsCommand,
    },
    /// Print QEMU's arguments that fit a configuration
    QemuArgs {
        /// The configuration file, as for `run`
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only for this guest: its name or its netdev
        guest: Option<String>,
        /// The network side on the other host: a colo-proxy, or QEMU's own filters, whose arguments
        /// are printed too
        #[arg(long, value_enum, default_value_t = PeerKind::Ours)]
        peer: PeerKind,
    },
    /// Protect a primary's guest: bring both QEMUs into COLO
    ///
    /// Waits until the pair is protected. Needs --colo-frame qmp:ENDPOINT on both hosts, and a
    /// secondary's QEMU that waits for the migration (-incoming).
    Protect {
        /// The instance as `status` shows it; a netdev will do if only one instance has it
        instance: String,
        /// Where the secondary's QEMU waits, in the place of the configured address: tcp:HOST:PORT,
        /// or another URI to which QEMU can migrate
        #[arg(long, value_name = "URI")]
        migrate: Option<String>,
        /// Seconds to wait for the pair; the work goes on after a timeout
        #[arg(long, value_name = "S", default_value_t = 120)]
        timeout: u32,
    },
    /// Go on without the other host: a secondary takes over, a primary goes on unprotected
    ///
    /// First make sure that the other guest no longer answers the network. If quorum or fence is
    /// configured, it is asked. The daemon refuses what it knows to be wrong.
    Failover {
        /// The instance as `status` shows it; a netdev will do if only one instance has it
        instance: String,
        /// Ask nobody, and do it whatever the daemon knows: two guests may answer the network, and
        /// clients may meet a guest that has forgotten what they were told
        #[arg(long)]
        force: bool,
    },
    /// Compare two captures: would these guests have needed checkpoints?
    ///
    /// Two equal guests do the same work, and each is captured on its TAP (tcpdump -i tap0 -s 0 -w
    /// FILE), as pcap or pcapng. Needs no root.
    ///
    /// The exit code is 0 if the guests' output is the same, 1 if it differs, and 2 if the captures
    /// cannot be compared.
    Diff(DiffArgs),
}

/// The network side on the other host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum PeerKind {
    /// A colo-proxy
    Ours,
    /// QEMU's own filters
    Qemu,
}

#[derive(Debug, clap::Args)]
pub(super) struct DivergencesArgs {
    /// List only this instance; a netdev will do if only one instance has it
    pub(super) instance: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Write the differing frames that are still kept to this pcapng, with comments; an existing file
    /// is replaced
    #[arg(long, value_name = "FILE")]
    pub(super) capture: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The capture of the primary guest
    pub(super) primary: PathBuf,
    /// The capture of the secondary guest
    pub(super) secondary: PathBuf,
    /// The guest's Ethernet or IP address; may be repeated [default: the Ethernet address that all
    /// frames have at one end]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) guest: Vec<GuestAddress>,
    /// How to align the clocks of the captures: absolute (the clocks agree), first (both first packets
    /// have the same time), connections (each connection was opened at the same time in both)
    /// [default: absolute if the captures overlap in time, else connections if both have the same
    /// ones, else first]
    #[arg(long, value_name = "HOW")]
    pub(super) align: Option<AlignmentKind>,
    /// Milliseconds that one guest may be behind the other
    #[arg(long, value_name = "MS", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) compare_timeout_ms: u32,
    /// Milliseconds for which a checkpoint stops both guests
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pub(super) checkpoint_ms: u32,
    /// Write the differing frames to this pcapng, with comments; an existing file is replaced
    #[arg(long, value_name = "FILE")]
    pub(super) capture: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The commands below `offsets`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum OffsetsCommand {
    /// Write the translated connections to standard output, one a line
    Export {
        /// The instance; a netdev will do if only one instance has it [default: the only running
        /// instance]
        instance: Option<String>,
    },
    /// Read the connections that another instance has exported: all of them, or none
    Import {
        /// The instance; a netdev will do if only one instance has it
        instance: String,
        /// The output of `export`; `-` for standard input
        file: PathBuf,
    },
}

/// The flags of both roles.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// The guest's TAP, which QEMU owns
    #[arg(long, value_name = "IFACE")]
    netdev: String,
    /// Lane for the guest's input
    #[arg(long, value_name = "EP")]
    mirror: Endpoint,
    /// Lane between two colo-proxy daemons: epochs, heartbeats, counters; without it the peer may be a
    /// QEMU
    #[arg(long, value_name = "EP")]
    control: Option<Endpoint>,
    /// Frames on the lanes carry a virtio-net header, as QEMU's do with `vnet_hdr_support=on`
    #[arg(long)]
    vnet_hdr_support: bool,
    /// Who makes checkpoints: qmp:ENDPOINT (the QEMU that listens there), xen:ENDPOINT (a program
    /// that speaks QEMU's `notify_dev` protocol), script:PATH (a program), or instant (answers at once,
    /// copies nothing); without it nobody does, and output that needs one stays held
    #[arg(long, value_name = "DRIVER")]
    colo_frame: Option<ColoFrameKind>,
    /// How the frames travel between the hosts
    #[arg(long, value_enum, default_value_t)]
    lane: LaneKind,
    #[command(flatten)]
    state_dir: StateDir,
}

impl PrimaryArgs {
    pub(super) fn state_dir(&self) -> StateDir {
        self.common.state_dir.clone()
    }
}

impl SecondaryArgs {
    pub(super) fn state_dir(&self) -> StateDir {
        self.common.state_dir.clone()
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct PrimaryArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Lane on which the secondary guest's output arrives
    #[arg(long, value_name = "EP")]
    secondary_in: Endpoint,
    /// Where the secondary's QEMU waits for the migration (its -incoming), for `protect`
    #[arg(long, value_name = "URI")]
    migrate: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct SecondaryArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Lane on which this guest's output goes to the primary
    #[arg(long, value_name = "EP")]
    secondary_out: Endpoint,
    /// How this guest's output returns to the primary
    #[arg(long = "return", value_name = "KIND", value_enum, default_value_t)]
    returns: ReturnKind,
}

/// QEMU's properties of the same names, with QEMU's defaults. Zero is refused.
#[derive(Debug, clap::Args)]
pub(super) struct ColoCompareArgs {
    /// Socket on which the primary guest's output arrives
    #[arg(long, value_name = "EP")]
    primary_in: Endpoint,
    /// Socket on which the secondary guest's output arrives
    #[arg(long, value_name = "EP")]
    secondary_in: Endpoint,
    /// Socket to which the primary's released frames go
    #[arg(long, value_name = "EP")]
    outdev: Endpoint,
    /// Channel to the COLO-frame that makes checkpoints, as --colo-frame xen:EP; without either
    /// nobody makes checkpoints, and output that needs one stays held
    #[arg(long, value_name = "EP", conflicts_with = "colo_frame")]
    notify_dev: Option<Endpoint>,
    /// Who makes checkpoints: qmp:ENDPOINT (the primary's QEMU listens there), xen:ENDPOINT (a
    /// program that speaks QEMU's `notify_dev` protocol), script:PATH (a program), or instant (answers
    /// at once, copies nothing); not a property of QEMU
    #[arg(long, value_name = "DRIVER")]
    colo_frame: Option<ColoFrameKind>,
    /// Frames on the sockets carry a virtio-net header
    #[arg(long)]
    vnet_hdr_support: bool,
    /// Milliseconds that a frame is held, or that output of the secondary waits, before a checkpoint is
    /// asked for
    #[arg(long, value_name = "MS", default_value = "3000", value_parser = at_least_one())]
    compare_timeout: u64,
    /// Accepted as in QEMU, and without effect: the compare timeout is noticed when it is due
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = at_least_one())]
    expired_scan_cycle: u64,
    /// Frames of one flow that are held; at this number a checkpoint is asked for, and the socket is
    /// not read until it is done
    #[arg(long, value_name = "N", default_value = "1024", value_parser = at_least_one())]
    max_queue_size: u64,
    /// Milliseconds that the secondary may be gone before held output is released and the guest goes
    /// on unprotected; not a property of QEMU
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = at_least_one())]
    secondary_timeout: u64,
}

fn at_least_one() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=u64::from(u32::MAX))
}

impl From<ColoCompareArgs> for CompareOptions {
    fn from(args: ColoCompareArgs) -> Self {
        Self {
            primary_in: args.primary_in,
            secondary_in: args.secondary_in,
            outdev: args.outdev,
            colo_frame: args.colo_frame.or(args.notify_dev.map(ColoFrameKind::Xen)),
            vnet_hdr_support: args.vnet_hdr_support,
            compare_timeout: Duration::from_millis(args.compare_timeout),
            max_queue_size: args.max_queue_size as usize,
            secondary_timeout: Duration::from_millis(args.secondary_timeout),
        }
    }
}

impl CommonArgs {
    fn guest(self, migrate: Option<String>, side: SideConfig) -> Result<Guest, ConfigError> {
        Guest {
            name: None,
            netdev: self.netdev,
            control: self.control,
            colo_frame: self.colo_frame,
            migrate,
            checkpoints: CheckpointConfig::default(),
            takeover: TakeoverConfig::default(),
            quick_ack: true,
            vnet_hdr_support: self.vnet_hdr_support,
            lane: self.lane,
            lane_port: tunnel::PORT,
            on_death: OnDeath::default(),
            limits: GuestLimits::default(),
            side,
        }
        .check()
    }
}

impl TryFrom<PrimaryArgs> for Guest {
    type Error = ConfigError;

    fn try_from(args: PrimaryArgs) -> Result<Self, ConfigError> {
        let side = SideConfig::Primary {
            mirror: args.common.mirror.clone(),
            secondary_in: args.secondary_in,
            on_secondary_lost: OnSecondaryLost::default(),
        };
        args.common.guest(args.migrate, side)
    }
}

impl TryFrom<SecondaryArgs> for Guest {
    type Error = ConfigError;

    fn try_from(args: SecondaryArgs) -> Result<Self, ConfigError> {
        let side = SideConfig::Secondary {
            mirror: args.common.mirror.clone(),
            secondary_out: args.secondary_out,
            capture: CaptureKind::default(),
            returns: args.returns,
        };
        args.common.guest(None, side)
    }
}
