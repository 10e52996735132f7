//! One of QEMU's filters on a TAP, until a signal ends it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use colo_proxy::config::{ColoFrameKind, PeerLimits};
use colo_proxy::endpoint::Endpoint;
use colo_proxy::filter::{self, FilterKind, FilterOptions, FilterQueue};
use colo_proxy::status::RUNTIME_DIR;

use super::daemon::Signals;

/// What every filter has: QEMU's properties of the same names.
#[derive(Debug, clap::Args)]
struct Shared {
    /// Name of this filter; filter-KIND@IFACE where it is left out
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The guest's TAP, which QEMU owns
    #[arg(long, value_name = "IFACE")]
    netdev: String,
    /// Frames to handle: tx (towards the guest), rx (from the guest) or all
    #[arg(long, value_name = "QUEUE", default_value = "all")]
    queue: FilterQueue,
}

/// What those with sockets have.
#[derive(Debug, clap::Args)]
struct Sockets {
    /// Frames on the sockets carry a virtio-net header
    #[arg(long)]
    vnet_hdr_support: bool,
    /// How long the peer of outdev may read nothing before the link is declared broken; not QEMU's
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    peer_timeout: u64,
    /// Octets that may wait for the peer of outdev; not QEMU's
    #[arg(long, value_name = "N", default_value_t = 33_554_432, value_parser = clap::value_parser!(u64).range(139_264..=1 << 40))]
    queue_bytes: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct MirrorArgs {
    #[command(flatten)]
    shared: Shared,
    /// Socket to which the copies go
    #[arg(long, value_name = "EP")]
    outdev: Endpoint,
    #[command(flatten)]
    sockets: Sockets,
}

#[derive(Debug, clap::Args)]
pub(super) struct RedirectorArgs {
    #[command(flatten)]
    shared: Shared,
    /// Socket from which frames are injected behind this filter
    #[arg(long, value_name = "EP")]
    indev: Option<Endpoint>,
    /// Socket to which frames go, instead of to where they were going
    #[arg(long, value_name = "EP")]
    outdev: Option<Endpoint>,
    #[command(flatten)]
    sockets: Sockets,
}

#[derive(Debug, clap::Args)]
pub(super) struct RewriterArgs {
    #[command(flatten)]
    shared: Shared,
    /// Who tells of checkpoints and failovers: qmp:ENDPOINT (this guest's QEMU listens there),
    /// script:PATH or instant; not QEMU's, whose filters are told inside the process
    #[arg(long, value_name = "DRIVER")]
    colo_frame: Option<ColoFrameKind>,
}

fn options(shared: Shared, sockets: Option<&Sockets>, kind: FilterKind) -> FilterOptions {
    let mut limits = PeerLimits::default();
    if let Some(sockets) = sockets {
        limits.timeout = Duration::from_millis(sockets.peer_timeout);
        limits.queue_bytes = sockets.queue_bytes as usize;
    }
    FilterOptions {
        id: shared.id,
        netdev: shared.netdev,
        queue: shared.queue,
        vnet_hdr_support: sockets.is_some_and(|sockets| sockets.vnet_hdr_support),
        limits,
        kind,
    }
}

impl From<MirrorArgs> for FilterOptions {
    fn from(args: MirrorArgs) -> Self {
        options(args.shared, Some(&args.sockets), FilterKind::Mirror { outdev: args.outdev })
    }
}

impl From<RedirectorArgs> for FilterOptions {
    fn from(args: RedirectorArgs) -> Self {
        let RedirectorArgs { shared, indev, outdev, sockets } = args;
        options(shared, Some(&sockets), FilterKind::Redirector { indev, outdev })
    }
}

impl From<RewriterArgs> for FilterOptions {
    fn from(args: RewriterArgs) -> Self {
        options(args.shared, None, FilterKind::Rewriter { colo_frame: args.colo_frame })
    }
}

pub(super) fn serve(options: FilterOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let what = format!("cannot run {} on {}", options.kind.command(), options.netdev);
    runtime.block_on(async {
        // Before the first program is attached: a signal must not leave it behind.
        let mut signals = Signals::new()?;
        let started = || eprintln!("colo-proxy: ready");
        let served = filter::run(options, Path::new(RUNTIME_DIR), started, signals.next());
        served.await.context(what)
    })
}
