//! Runs one of QEMU's filters on a TAP until a signal ends it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use colo_proxy::config::{ColoFrameKind, PeerLimits};
use colo_proxy::endpoint::Endpoint;
use colo_proxy::filter::{self, FilterKind, FilterOptions, FilterQueue};
use colo_proxy::status::RUNTIME_DIR;

use super::daemon::Signals;

/// The flags of every filter: QEMU's properties of the same names.
#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Name of this filter [default: filter-KIND@IFACE]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The guest's TAP, which QEMU owns
    #[arg(long, value_name = "IFACE")]
    netdev: String,
    /// Frames to handle: tx (towards the guest), rx (from the guest) or all
    #[arg(long, value_name = "QUEUE", default_value = "all")]
    queue: FilterQueue,
}

/// The flags of filters with sockets.
#[derive(Debug, clap::Args)]
struct SocketArgs {
    /// Frames on the sockets carry a virtio-net header
    #[arg(long)]
    vnet_hdr_support: bool,
    /// Milliseconds that the peer of outdev may read nothing before it is disconnected; not a
    /// property of QEMU
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    peer_timeout: u64,
    /// Bytes that may wait for the peer of outdev; not a property of QEMU
    #[arg(long, value_name = "N", default_value_t = 33_554_432, value_parser = clap::value_parser!(u64).range(139_264..=1 << 40))]
    queue_bytes: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct MirrorArgs {
    #[command(flatten)]
    common: FilterArgs,
    /// Socket to which the copies go
    #[arg(long, value_name = "EP")]
    outdev: Endpoint,
    #[command(flatten)]
    sockets: SocketArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct RedirectorArgs {
    #[command(flatten)]
    common: FilterArgs,
    /// Socket from which frames are injected behind this filter
    #[arg(long, value_name = "EP")]
    indev: Option<Endpoint>,
    /// Socket to which frames go, in the place of their destination
    #[arg(long, value_name = "EP")]
    outdev: Option<Endpoint>,
    #[command(flatten)]
    sockets: SocketArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct RewriterArgs {
    #[command(flatten)]
    common: FilterArgs,
    /// Who reports checkpoints and failovers: qmp:ENDPOINT (this guest's QEMU listens there),
    /// script:PATH (a program), or instant; not a property of QEMU, whose own filter learns
    /// of them inside the process
    #[arg(long, value_name = "DRIVER")]
    colo_frame: Option<ColoFrameKind>,
}

fn options(common: FilterArgs, sockets: Option<&SocketArgs>, kind: FilterKind) -> FilterOptions {
    let mut limits = PeerLimits::default();
    if let Some(sockets) = sockets {
        limits.timeout = Duration::from_millis(sockets.peer_timeout);
        limits.queue_bytes = sockets.queue_bytes as usize;
    }
    FilterOptions {
        id: common.id,
        netdev: common.netdev,
        queue: common.queue,
        vnet_hdr_support: sockets.is_some_and(|sockets| sockets.vnet_hdr_support),
        limits,
        kind,
    }
}

impl From<MirrorArgs> for FilterOptions {
    fn from(args: MirrorArgs) -> Self {
        options(args.common, Some(&args.sockets), FilterKind::Mirror { outdev: args.outdev })
    }
}

impl From<RedirectorArgs> for FilterOptions {
    fn from(args: RedirectorArgs) -> Self {
        let RedirectorArgs { common, indev, outdev, sockets } = args;
        options(common, Some(&sockets), FilterKind::Redirector { indev, outdev })
    }
}

impl From<RewriterArgs> for FilterOptions {
    fn from(args: RewriterArgs) -> Self {
        options(args.common, None, FilterKind::Rewriter { colo_frame: args.colo_frame })
    }
}

pub(super) fn serve(options: FilterOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let attempt = format!("cannot run {} on {}", options.kind.command(), options.netdev);
    runtime.block_on(async {
        // Signals are caught before the first program is attached, so that none is left behind.
        let mut signals = Signals::new()?;
        let started = || eprintln!("colo-proxy: ready");
        let served = filter::run(options, Path::new(RUNTIME_DIR), started, signals.next());
        served.await.context(attempt)
    })
}
