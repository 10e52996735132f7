//! Flags and their meaning.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use colo_proxy::colo_compare::CompareOptions;
use colo_proxy::config::{
    Checkpoints, ColoFrameKind, ConfigError, Guest, LaneKind, Limits, OnDeath, OnSecondaryLost,
    ReturnKind, SideConfig, Takeover,
};
use colo_proxy::datapath::capture::CaptureKind;
use colo_proxy::endpoint::Endpoint;
use colo_proxy::offline::{Address, Align};
use colo_proxy::tunnel;

use super::filter::{MirrorArgs, RedirectorArgs, RewriterArgs};

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
    /// Compare between QEMU's sockets, in the place of its colo-compare object; needs no root
    ColoCompare(ColoCompareArgs),
    /// Copy a guest's frames to a socket, in the place of QEMU's filter-mirror object
    FilterMirror(MirrorArgs),
    /// Take a guest's frames to a socket, or bring them from one, in the place of QEMU's
    /// filter-redirector object
    FilterRedirector(RedirectorArgs),
    /// Translate a secondary guest's TCP numbers, in the place of QEMU's filter-rewriter object
    FilterRewriter(RewriterArgs),
    /// Show what the running instances do
    Status {
        /// Only this one: an instance, or a netdev where only one instance has it
        instance: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// List the last differences between the guests
    Divergences(DivergencesArgs),
    /// Take the translation of open connections to the next pair
    ///
    /// After a failover the connections that were open depend on it. When the guest that survived is
    /// protected again: export on its host, and import on the host of the new secondary before the
    /// first checkpoint is over.
    Offsets {
        #[command(subcommand)]
        command: OffsetsCommand,
    },
    /// Print the lines of QEMU's command line that fit a configuration
    QemuArgs {
        /// As for `run`
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only of this guest
        guest: Option<String>,
        /// Who does the network side on the other host: ours, or qemu, whose lines are printed too
        #[arg(long, value_enum, default_value_t = PeerKind::Ours)]
        peer: PeerKind,
    },
    /// Make a primary's guest a protected one: bring QEMU and the secondary's into COLO
    ///
    /// Needs --colo-frame qmp:ENDPOINT on both hosts, and a secondary's QEMU that waits (-incoming).
    /// Waits until the pair is protected.
    Protect {
        /// An instance as `status` names it, or a netdev where only one instance has it
        instance: String,
        /// Where the secondary's QEMU waits, in the place of the configured one: tcp:HOST:PORT or
        /// whatever else QEMU can migrate to
        #[arg(long, value_name = "URI")]
        migrate: Option<String>,
        /// Give up waiting after this long; what was begun goes on
        #[arg(long, value_name = "S", default_value_t = 120)]
        timeout: u32,
    },
    /// The other host is gone: the secondary takes over, a primary goes on unprotected
    ///
    /// Make sure that the other guest no longer answers the network first.
    Failover {
        /// An instance as `status` names it, or a netdev where only one instance has it
        instance: String,
    },
    /// Compare two captures: would these guests have needed checkpoints?
    ///
    /// Both captures are of the same work done by two equal guests, taken each on its guest's TAP
    /// (tcpdump -i tap0 -w FILE), in pcap or pcapng. Needs no root.
    /// Ends with 0 where the guests' output is the same, with 1 where it is not, and with 2 where
    /// the captures cannot be compared.
    Diff(DiffArgs),
}

/// Who does the network side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum PeerKind {
    Ours,
    Qemu,
}

#[derive(Debug, clap::Args)]
pub(super) struct DivergencesArgs {
    /// Only of this one: an instance, or a netdev where only one instance has it
    pub(super) instance: Option<String>,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
    /// Write the frames that differ, as far as they are still kept, with comments to this pcapng;
    /// a file that is there is replaced
    #[arg(long, value_name = "FILE")]
    pub(super) capture: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The capture of the primary guest
    pub(super) primary: PathBuf,
    /// The capture of the secondary guest
    pub(super) secondary: PathBuf,
    /// The guest's Ethernet or IP address, as often as it has some; without it, the Ethernet
    /// address that all frames have at one end
    #[arg(long, value_name = "ADDRESS")]
    pub(super) guest: Vec<Address>,
    /// How the clocks of the captures go together: absolute (they are the same), first (the first
    /// packets are of the same time), connections (those that both have were opened at the same
    /// time); without it, absolute if the captures overlap in time, else connections if both have
    /// the same, else first
    #[arg(long, value_name = "HOW")]
    pub(super) align: Option<Align>,
    /// How long one guest may be behind the other
    #[arg(long, value_name = "MS", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) compare_timeout_ms: u32,
    /// For how long a checkpoint would stop the guests
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pub(super) checkpoint_ms: u32,
    /// Write the frames that differ, with comments, to this pcapng; a file that is there is
    /// replaced
    #[arg(long, value_name = "FILE")]
    pub(super) capture: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What `offsets` can do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum OffsetsCommand {
    /// Write the translated connections to standard output, one a line
    Export {
        /// An instance, or a netdev where only one instance has it; the only one that is running
        instance: Option<String>,
    },
    /// Make connections known that another instance has exported; all of them, or none
    Import {
        /// An instance, or a netdev where only one instance has it
        instance: String,
        /// What `export` has written; `-` for standard input
        file: PathBuf,
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
    /// Who makes checkpoints: qmp:ENDPOINT (a QEMU that listens there), script:PATH, or instant
    /// (answers at once, copies nothing)
    #[arg(long, value_name = "DRIVER")]
    colo_frame: Option<ColoFrameKind>,
    /// The way of the frames: the streams above; a tunnel from kernel to kernel, for a link that the
    /// two hosts have to themselves; or that where both ends can
    #[arg(long, value_enum, default_value_t)]
    lane: LaneKind,
}

#[derive(Debug, clap::Args)]
pub(super) struct PrimaryArgs {
    #[command(flatten)]
    shared: Shared,
    /// Lane on which the secondary guest's output comes
    #[arg(long, value_name = "EP")]
    secondary_in: Endpoint,
    /// Where the secondary's QEMU waits for the guest, for `protect`: what its -incoming says
    #[arg(long, value_name = "URI")]
    migrate: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct SecondaryArgs {
    #[command(flatten)]
    shared: Shared,
    /// Lane on which this guest's output goes to the primary
    #[arg(long, value_name = "EP")]
    secondary_out: Endpoint,
    /// What of it goes there: the frames, or digests of what is said in connections, for a link
    /// that is slower than the guest
    #[arg(long = "return", value_enum, default_value_t)]
    returns: ReturnKind,
}

/// QEMU's properties of the same names, with its defaults; zero is refused.
#[derive(Debug, clap::Args)]
pub(super) struct ColoCompareArgs {
    /// Socket on which the primary guest's output comes
    #[arg(long, value_name = "EP")]
    primary_in: Endpoint,
    /// Socket on which the secondary guest's output comes
    #[arg(long, value_name = "EP")]
    secondary_in: Endpoint,
    /// Socket to which the primary's frames go that may leave
    #[arg(long, value_name = "EP")]
    outdev: Endpoint,
    /// Channel to the COLO-frame that makes checkpoints, as --colo-frame xen:EP; without either
    /// nobody is asked for one, and what needs one stays held
    #[arg(long, value_name = "EP", conflicts_with = "colo_frame")]
    notify_dev: Option<Endpoint>,
    /// Who makes checkpoints; not QEMU's: qmp:ENDPOINT (the primary's QEMU listens there),
    /// xen:ENDPOINT, script:PATH or instant
    #[arg(long, value_name = "DRIVER")]
    colo_frame: Option<ColoFrameKind>,
    /// Frames on the sockets carry a virtio-net header
    #[arg(long)]
    vnet_hdr_support: bool,
    /// How long a frame may wait for the other guest's before a checkpoint is asked for
    #[arg(long, value_name = "MS", default_value = "3000", value_parser = at_least_one())]
    compare_timeout: u64,
    /// How much later than that it may be noticed; here it is noticed when it is due, so this has
    /// no further effect
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = at_least_one())]
    expired_scan_cycle: u64,
    /// Frames of one flow that are held; when there are as many, a checkpoint is asked for and the
    /// socket is left alone until it has come
    #[arg(long, value_name = "N", default_value = "1024", value_parser = at_least_one())]
    max_queue_size: u64,
    /// How long the secondary may be gone before held output is released and the guest goes on
    /// unprotected; not QEMU's
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

impl Shared {
    fn guest(self, migrate: Option<String>, side: SideConfig) -> Result<Guest, ConfigError> {
        Guest {
            name: None,
            netdev: self.netdev,
            control: self.control,
            colo_frame: self.colo_frame,
            migrate,
            checkpoints: Checkpoints::default(),
            takeover: Takeover::default(),
            quick_ack: true,
            vnet_hdr_support: self.vnet_hdr_support,
            lane: self.lane,
            lane_port: tunnel::PORT,
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
        args.shared.guest(args.migrate, side)
    }
}

impl TryFrom<SecondaryArgs> for Guest {
    type Error = ConfigError;

    fn try_from(args: SecondaryArgs) -> Result<Self, ConfigError> {
        let side = SideConfig::Secondary {
            mirror: args.shared.mirror.clone(),
            secondary_out: args.secondary_out,
            capture: CaptureKind::default(),
            returns: args.returns,
        };
        args.shared.guest(None, side)
    }
}
